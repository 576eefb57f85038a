"""The log over HTTP, to the letter of C2SP tlog-tiles, for auditors and for nobody else."""

import gzip
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint, open_checkpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.ledger.transparency_log.proof import verify_extension
from secrets_broker.ledger.transparency_log.receipt import Receipt
from secrets_broker.ledger.transparency_log.tile import (
    Tile,
    decode_bundle,
    level_tiles,
    split_hashes,
    tiles,
)
from secrets_broker.tools.postgres import Cluster
from tests.conftest import AUDITOR_KEY, VERIFIER_KEY, Database
from tests.http.client import JSON, Service
from tests.http.conftest import serving, started

KEY = VerifierKey.parse(VERIFIER_KEY)
SIZE = 600  # two full tiles, a node above each, and a partial one


def checkpoint(service: Service) -> SignedCheckpoint:
    """The published one, verified."""
    answer = service.audit("/log/checkpoint")
    assert answer.status == 200
    return open_checkpoint(answer.body.decode(), [KEY])


def settled(service: Service) -> SignedCheckpoint:
    """Once all that was recorded is signed for."""
    ((size,),) = service.database.fetch("SELECT count(*) FROM ledger.events")
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        answer = service.audit("/log/checkpoint")
        if answer.status == 200 and answer.body.decode().split("\n")[1] == str(size):
            return checkpoint(service)
        time.sleep(0.05)
    pytest.fail(f"no checkpoint of {size} events:\n{service.log.read_text()}")


@pytest.fixture(scope="module")
def log(cluster: Cluster) -> Iterator[Service]:
    """A service with a ledger of 600 events, all of them signed for."""
    with started(cluster) as running:
        running.upsert(host="log.example", purpose="ssh", password="not-a-real-password")
        for number in range(SIZE - 2):  # the first event is the ledger's own
            running.lookup({"X-Request-Id": f"r{number}"}, host="log.example", purpose="ssh")
        settled(running)
        yield running


def read(service: Service, tile: Tile) -> bytes:
    """A tile's bytes."""
    answer = service.audit(f"/log/{tile.path}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    return answer.body


def test_the_checkpoint_is_a_signed_note(log: Service) -> None:
    """text/plain in UTF-8, signed with the configured key, not cached beyond a few seconds."""
    answer = log.audit("/log/checkpoint")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "private, max-age=1"
    tree = open_checkpoint(answer.body.decode(), [KEY]).checkpoint
    assert (tree.origin, tree.size) == ("PeterNeumann", SIZE)


def test_entries_lead_to_the_signed_root(log: Service) -> None:
    """An auditor's whole work: bundles, leaf hashes, root; and the tiles are those of the tree."""
    tree = checkpoint(log).checkpoint
    entries = [
        entry for tile in level_tiles(tree.size, None) for entry in decode_bundle(read(log, tile))
    ]
    frontier, nodes = Frontier().extend(map(leaf_hash, entries))
    assert (len(entries), frontier.root()) == (tree.size, tree.root)
    hashes: dict[int | None, list[bytes]] = {0: [], 1: []}
    for tile in tiles(tree.size):
        hashes[tile.level] += split_hashes(read(log, tile))
    assert hashes == {0: [leaf_hash(entry) for entry in entries], 1: [n.hash for n in nodes]}


def test_tiles_are_for_ever_and_for_the_auditor(log: Service) -> None:
    """Immutable, and in no shared cache, since a key is needed."""
    answer = log.audit("/log/tile/0/000")
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert answer.headers["Content-Encoding"] is None
    assert len(answer.body) == 8_192


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, gzip;q=0.5", "gzip"),
        ("GZIP", "gzip"),
        ("identity", None),
        ("gzip;q=0, identity", None),
        ("gzip; q=0.000", None),
        ("br", None),
    ],
)
def test_entries_are_compressed_where_that_is_asked_for(
    log: Service, accepted: str, encoding: str | None
) -> None:
    """RFC 9110: as Accept-Encoding says; the same bytes either way."""
    answer = log.audit("/log/tile/entries/000", {"Accept-Encoding": accepted})
    plain = read(log, Tile(None, 0))
    assert answer.headers["Content-Encoding"] == encoding
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert (gzip.decompress(answer.body) if encoding else answer.body) == plain
    assert encoding is None or len(answer.body) < len(plain) / 4


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/002",
        "tile/0/002.p/89",
        "tile/0/003",
        "tile/1/000",
        "tile/1/000.p/3",
        "tile/2/000",
        "tile/2/000.p/1",
        "tile/entries/002",
        "tile/entries/003.p/1",
        "tile/0/999999",
        "tile/0/0",
        "tile/x/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000?",
        "tile/0/000?a=b",
        "tile/0/x999/x999/x999/x999/x999/999",
        "tile/63/000",
        "tile/64/000",
        "tile/",
        "tile",
        "",
        "tile/0/%2e%2e/000",
        "tile/0/000%00",
    ],
)
def test_nothing_else_is_there(log: Service, path: str) -> None:
    """Nothing past the published size, and no other way to write a tile."""
    answer = log.audit(f"/log/{path}")
    if path == "tile/0/000?":
        assert answer.status == 200  # an empty query is none
    else:
        # What is a tile's path is one that the log does not have; what is none is no path at all.
        reason = "no_such_path" if Tile.parse(path.partition("?")[0]) is None else "not_found"
        assert (answer.status, answer.json["reason"]) == (404, reason)


def test_smaller_partial_tiles_stay(log: Service) -> None:
    """A verifier that holds an earlier checkpoint finds the tiles of its tree."""
    whole = read(log, Tile(0, 2, 88))
    assert read(log, Tile(0, 2, 17)) == whole[: 17 * 32]
    assert (
        decode_bundle(read(log, Tile(None, 2, 5)))
        == decode_bundle(read(log, Tile(None, 2, 88)))[:5]
    )


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/entries/000"])
def test_the_log_is_for_auditors(log: Service, path: str) -> None:
    """Without the key, with another one, and with the internal key: 403, whatever is asked for."""
    for key in (None, "wrong", log.internal_key):
        assert log.send("GET", f"/log/{path}", key=key).status == 403
    bearer = {"Authorization": f"Bearer {AUDITOR_KEY}"}
    answer = log.send("GET", f"/log/{path}", headers=bearer, key=None)
    assert answer.status == 200


def test_the_position_of_an_answer_leads_to_a_receipt(log: Service) -> None:
    """Upsert, lookup and delete say where they are recorded; with the internal key, too."""
    answers = [
        log.upsert(host="receipt.example", purpose="ssh", password="not-a-real-password"),
        log.lookup(host="receipt.example", purpose="ssh"),
        log.delete("host=receipt.example&purpose=ssh"),
        log.lookup(host="receipt.example", purpose="ssh"),
    ]
    settled(log)
    for answer, wanted in zip(answers, ("created", "read", "deleted", "read"), strict=True):
        position = answer.headers["X-Ledger-Position"]
        path = f"/internal/audit/proof?position={position}"
        given = log.send("GET", path)
        assert given.headers["Content-Type"] == "text/plain; charset=utf-8"
        receipt = Receipt.parse(given.body.decode())
        receipt.verify([KEY])
        assert receipt.position == int(position)
        assert f'"type":"credential.{wanted}"'.encode() in (receipt.entry or b"")
        assert log.audit(path).body == given.body


def test_a_receipt_can_lead_to_an_earlier_checkpoint(log: Service) -> None:
    """One that was published, for who keeps that one."""
    receipt = Receipt.parse(
        log.audit(f"/internal/audit/proof?position=3&size={SIZE}").body.decode()
    )
    receipt.verify([KEY])
    assert receipt.checkpoint.checkpoint.size == SIZE
    assert log.audit("/internal/audit/proof?position=3&size=4000").status == 404


def test_a_position_that_is_not_signed_for_has_no_receipt(log: Service) -> None:
    """404, and when to ask again."""
    answer = log.audit("/internal/audit/proof?position=1000000")
    assert (answer.status, answer.json["reason"]) == (404, "not_found")
    assert answer.headers["Retry-After"] == "1"


def test_consistency_between_two_sizes(log: Service) -> None:
    """As RFC 9162 verifies it; without a second size, up to the published one."""
    for query in ("from=300&to=512", "from=1&to=600", "from=512"):
        answer = log.audit(f"/internal/audit/consistency?{query}").json
        roots = b64decode(answer["from_root"]), b64decode(answer["to_root"])
        proof = [b64decode(text) for text in answer["proof"]]
        verify_extension(answer["from"], answer["to"], *roots, proof)
    assert answer["to"] == settled(log).checkpoint.size
    for query in ("from=512&to=300", "from=0&to=1000000"):
        assert log.audit(f"/internal/audit/consistency?{query}").status == 404


def test_every_checkpoint_is_kept_and_paged(log: Service) -> None:
    """Oldest first, in pages; each verifies, and each extends the one before."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = log.audit(f"/internal/audit/checkpoints?limit=3{cursor}").json
        found += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    sizes = [item["size"] for item in found]
    assert sizes == sorted(set(sizes))
    assert len(sizes) > 3
    for item in found:
        assert open_checkpoint(item["note"], [KEY]).checkpoint.size == item["size"]


@pytest.mark.parametrize(
    "question",
    [
        "proof",
        "proof?position=",
        "proof?position=-1",
        "proof?position=01",
        "proof?position=1.0",
        "proof?position=1e3",
        "proof?position=9999999999999999999",
        "proof?position=%D9%A3",
        "proof?position=1&position=1",
        "proof?position=1&size=x",
        "proof?position=1&other=1",
        "consistency",
        "consistency?to=1",
        "consistency?from=x",
        "consistency?from=1&to=-1",
        "checkpoints?limit=0",
        "checkpoints?limit=1001",
        "checkpoints?limit=x",
        "checkpoints?cursor=x",
        "checkpoints?cursor=",
        "checkpoints?cursor=bm90IG91cnM",
    ],
)
def test_malformed_questions_are_refused(log: Service, question: str) -> None:
    """400 that names the field, and never the value."""
    answer = log.audit(f"/internal/audit/{question}")
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert answer.headers["Content-Type"] == JSON


def test_no_secret_is_in_the_log(log: Service) -> None:
    """Neither the password nor any ciphertext of it, in whatever form."""
    ((stored,),) = log.database.fetch(
        "SELECT password_encrypted FROM secrets.host_credentials WHERE host = 'log.example'"
    )
    everything = b"".join(read(log, tile) for tile in level_tiles(SIZE, None))
    for secret in (b"not-a-real-password", stored.encode(), b64decode(stored)):
        assert secret not in everything


def test_a_changed_row_gets_no_receipt(cluster: Cluster) -> None:
    """What is stored is held against what was signed, before a receipt of it is given out."""
    with started(cluster) as running:
        for _ in range(3):
            running.lookup(host="x", purpose="ssh")
        settled(running)
        running.database.execute(
            "ALTER TABLE ledger.events DISABLE TRIGGER ALL;"
            "UPDATE ledger.events SET actor = 'somebody else' WHERE position = 1"
        )
        assert running.audit("/internal/audit/proof?position=0").status == 200
        answer = running.audit("/internal/audit/proof?position=1")
        assert (answer.status, answer.json["reason"]) == (503, "ledger_unavailable")
        running.says("is not what was signed")


def test_a_changed_tree_gets_no_consistency_proof(cluster: Cluster) -> None:
    """What leads to the published size leads to the root that was signed, or is not given out."""
    with started(cluster) as running:
        for _ in range(3):
            running.lookup(host="x", purpose="ssh")
        settled(running)
        question = "/internal/audit/consistency?from=1"
        assert running.audit(question).status == 200
        running.database.execute(
            "ALTER TABLE ledger.events DISABLE TRIGGER ALL;"
            "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 1"
        )
        answer = running.audit(question)
        assert (answer.status, answer.json["reason"]) == (503, "ledger_unavailable")
        running.says("is not the one that was signed")


def test_before_the_first_checkpoint_there_is_none(database: Database, tmp_path: Path) -> None:
    """404; and no tile either."""
    slow = {"LEDGER_CHECKPOINT_SECONDS": "3600"}
    with serving(database.service_url, tmp_path / "log", settings=slow) as running:
        for path in ("/log/checkpoint", "/log/tile/0/000.p/1", "/log/tile/entries/000"):
            assert running.audit(path).status == 404
