"""`secrets-broker verify` on a real database that somebody changed, one thing at a time.

Who changes it is the superuser, with every trigger and every constraint out of the way.
"""

from collections.abc import Iterator

import msgspec
import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.replay.reveal import reveal
from secrets_broker.tools.verify import run_checks as running
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database
from tests.ledger.helpers import CONTEXT, login_of, lookup, record, run, upsert
from tests.tools.verify.changing import (
    KEY,
    OPERATOR,
    Copies,
    checkpoints,
    erase_names,
    history,
    unlock,
    verified,
)
from tests.tools.verify.verdicts import bad

SIZES = (1, 100, 300, 301, 302, 512, 600)


@pytest.fixture(scope="module")
def original(cluster: Cluster, keyring: Keyring) -> Iterator[tuple[Database, Copies]]:
    """A ledger that a superuser has unlocked, and what was in it."""
    with fresh_database(cluster, TEMPLATE) as made:
        history(made, keyring)
        checkpoints(made, SIZES)
        unlock(made)
        yield made, Copies(made)


@pytest.fixture
def ledger(original: tuple[Database, Copies]) -> Iterator[Database]:
    """To be changed; afterwards it is as it was."""
    database, copies = original
    yield database
    copies.put_back()


def tamper(database: Database, *statements: str) -> None:
    """Change it."""
    for statement in statements:
        database.execute(statement)


def rehashed(database: Database, position: int) -> None:
    """Give a row the leaf hash that it has now."""

    async def leaf() -> bytes:
        async with await connect(database.owner_url) as connection:
            (row,) = await read_rows(connection, position, 1)
            return leaf_hash(row.entry)

    database.execute(
        "UPDATE ledger.events SET leaf_hash = %s WHERE position = %s", run(leaf()), position
    )


def test_a_ledger_that_nobody_changed(ledger: Database) -> None:
    """Everything is checked, and nothing is wrong: with the keys, and without."""
    with_keys = verified(ledger, kms_key=KMS_KEY)
    assert (with_keys.ok, with_keys.size, with_keys.first_bad) == (True, 600, None)
    assert (with_keys.problems, with_keys.not_checked, with_keys.remarks) == ([], [], [])
    ((bodies,),) = ledger.fetch("SELECT count(*) FROM ledger.bodies")
    ((rows,),) = ledger.fetch("SELECT count(*) FROM secrets.host_credentials")
    ((data_keys,),) = ledger.fetch("SELECT count(*) FROM ledger.data_keys")
    counts = {"events": 600, "leaves": 600, "nodes": 2, "bodies": bodies, "checkpoints": 7}
    checked = with_keys.checked.items()
    assert {what: count for what, count in checked if not what.startswith("of the schema: ")} == {
        **counts,
        "signatures": 7,
        "erased data keys": 3,
        "data keys": data_keys,
        "rows of host_credentials, byte for byte": rows,
        "KEKs": 1,
        "MACs": 600,
    }
    without = verified(ledger)
    assert (without.ok, without.problems) == (True, [])
    assert "byte for byte: no SECRETS_KMS_KEY" in without.not_checked[0]
    assert without.checked["rows of host_credentials"] == rows


def test_a_lookup_of_who_calls_itself_something(database: Database, keyring: Keyring) -> None:
    """What a proven caller says in X-Service-Name is kept beside the name, and nothing else."""
    claiming = msgspec.structs.replace(CONTEXT, claim="billing")
    record(database, keyring, upsert("a"), lookup("a"), context=claiming)
    record(database, keyring, lookup("none"), context=claiming)
    assert verified(database).problems == []


def test_passwords_read_out_of_the_history(ledger: Database, keyring: Keyring) -> None:
    """`replay --reveal` discloses versions that are not live; that they did is no problem."""

    async def all_of_it() -> int:
        found = reveal(login_of(ledger.service_url, keyring), OPERATOR, Scope(50))
        return sum([len(batch) async for batch in found])

    assert run(all_of_it()) == 40
    report = verified(ledger, kms_key=KMS_KEY)
    assert (report.ok, report.problems) == (True, [])


COLUMNS = {
    "position": "position = 5000",
    "at": "at = at + interval '1 microsecond'",
    "occurred_at": "occurred_at = at",
    "credential_id": "credential_id = credential_id + 1",
    "version": "version = version + 1",
    "v": "v = 2",
    "ok": "ok = NOT ok",
    "leaf_hash": "leaf_hash = sha256('x')",
    "type": "type = 'credential.seen'",
    "actor": "actor = 'somebody'",
    "authn": "authn = 'cli'",
    "ip": "ip = NULL",
    "request_id": "request_id = ''",
    "reason": "reason = ''",
    "host": "host = host || ' '",
    "purpose": "purpose = 'http'",
    "error": "error = 'not_found'",
    "details": "details = '{}'",
    "body": """body = body || '{"also": 1}'""",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_any_column_of_an_event_that_was_changed(ledger: Database, column: str) -> None:
    """Whatever column it is, the event's position is named."""
    position = 85  # an update, which has a body
    tamper(ledger, f"UPDATE ledger.events SET {COLUMNS[column]} WHERE position = {position}")
    report = verified(ledger)
    bad(
        report, position, {"position": "missing", "v": "entry", "body": "entry"}.get(column, "leaf")
    )


def test_the_columns_are_all_there_are(database: Database) -> None:
    """A column that is added to the table is added to the test above."""
    rows = database.fetch(
        "SELECT attname::text FROM pg_attribute"
        " WHERE attrelid = 'ledger.events'::regclass AND attnum > 0"
    )
    assert {name for (name,) in rows} == {*COLUMNS, "mac"}  # the MAC is no part of the entry


@pytest.mark.parametrize("year", ["0044-03-15 BC", "0001-01-01 BC", "infinity"])
def test_a_time_that_is_written_like_another(ledger: Database, year: str) -> None:
    """A time before the year 1 is not taken for the same one after it; infinity is no time."""
    tamper(ledger, f"UPDATE ledger.events SET occurred_at = '{year}' WHERE position = 7")
    bad(verified(ledger), 7, "entry")


def test_a_row_deleted_in_the_middle(ledger: Database) -> None:
    """The position that is missing is named; what comes after is still compared."""
    tamper(ledger, "DELETE FROM ledger.events WHERE position = 130")
    report = verified(ledger)
    bad(report, 130, "missing")
    assert report.checks == {"missing"}
    assert report.checked["events"] == 599
    assert "from position 130 on" in "\n".join(report.not_checked)


def test_many_rows_deleted_in_the_middle(ledger: Database) -> None:
    """Each is named, up to a limit."""
    tamper(ledger, "DELETE FROM ledger.events WHERE position BETWEEN 10 AND 550")
    bad(verified(ledger), 10, "missing")


def test_the_newest_rows_deleted(ledger: Database) -> None:
    """The first of those that the checkpoints still know is named."""
    tamper(ledger, "DELETE FROM ledger.events WHERE position >= 590")
    report = verified(ledger)
    bad(report, 590, "checkpoint")
    assert "590 events, the checkpoint says 600: 10 of the newest are missing" in report.details()


def test_the_newest_rows_and_the_checkpoints_deleted(ledger: Database) -> None:
    """Where the last checkpoints went too, the published one and the nodes still tell."""
    tamper(
        ledger,
        "DELETE FROM ledger.events WHERE position >= 400",
        "DELETE FROM ledger.checkpoints WHERE size > 400",
    )
    report = verified(ledger)
    bad(report, 400, "node")
    assert "checkpoint" in report.checks


def test_two_rows_swapped(ledger: Database) -> None:
    """Each row fits its own leaf hash; the checkpoints on both sides say which two it was."""
    tamper(
        ledger,
        "UPDATE ledger.events SET position = -1 WHERE position = 300",
        "UPDATE ledger.events SET position = 300 WHERE position = 301",
        "UPDATE ledger.events SET position = 301 WHERE position = -1",
    )
    report = verified(ledger)
    bad(report, 300, "checkpoint")
    assert "leaf" not in report.checks


def test_an_event_inserted(ledger: Database) -> None:
    """A row that fits its own leaf hash, in the middle: everything after it has moved."""
    columns = ", ".join(name for name in COLUMNS if name != "position")
    tamper(
        ledger,
        "UPDATE ledger.events SET position = position + 1 WHERE position >= 301",
        f"INSERT INTO ledger.events (position, {columns})"
        f" SELECT 301, {columns} FROM ledger.events WHERE position = 300",
    )
    bad(verified(ledger), 301, "checkpoint")


def test_an_event_at_a_position_that_is_taken(ledger: Database) -> None:
    """Two rows of one position."""
    columns = ", ".join(name for name in COLUMNS if name != "position")
    tamper(
        ledger,
        f"INSERT INTO ledger.events (position, {columns})"
        f" SELECT 301, {columns} FROM ledger.events WHERE position = 300",
    )
    bad(verified(ledger), 301, "position")


def test_an_event_appended_by_hand(ledger: Database) -> None:
    """After the last checkpoint only the rules of the format can tell: here, of versions."""
    columns = ", ".join(name for name in COLUMNS if name not in ("position", "version"))
    tamper(
        ledger,
        f"INSERT INTO ledger.events (position, version, {columns})"
        f" SELECT 600, version + 1, {columns} FROM ledger.events WHERE position = 599",
    )
    rehashed(ledger, 600)
    report = verified(ledger)
    bad(report, 600, "credential")
    assert "names credential" in report.details()


def test_an_event_changed_together_with_its_leaf_hash(ledger: Database) -> None:
    """The checkpoints on both sides of it say which it was."""
    tamper(ledger, "UPDATE ledger.events SET reason = 'none' WHERE position = 301")
    rehashed(ledger, 301)
    report = verified(ledger)
    bad(report, 301, "checkpoint")
    assert "node" in report.checks


def test_an_event_changed_where_no_checkpoint_is_near(ledger: Database) -> None:
    """The first position that can be wrong is named, and up to where the wrong one can be."""
    tamper(ledger, "UPDATE ledger.events SET reason = 'none' WHERE position = 450")
    rehashed(ledger, 450)
    report = verified(ledger)
    bad(report, 302, "checkpoint")
    assert "from position 302 to 511" in report.details()


def test_an_event_changed_above_all_checkpoints(ledger: Database) -> None:
    """Without checkpoints the stored node still tells which 256 it is among."""
    tamper(
        ledger,
        "UPDATE ledger.events SET reason = 'none' WHERE position = 450",
        "DELETE FROM ledger.checkpoints",
        "UPDATE ledger.published SET origin = NULL, size = 0",
    )
    rehashed(ledger, 450)
    report = verified(ledger)
    bad(report, 256, "node")
    assert "from position 256 to 511" in report.details()


BODIES = {
    "replaced": "UPDATE ledger.bodies SET ciphertext = 'x'",
    "under another key": "UPDATE ledger.bodies SET key = 'x'",
    # What was erased is missed by nobody; of this one no erasure says why it is not there.
    "taken away": "DELETE FROM ledger.bodies",
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_changed(ledger: Database, what: str) -> None:
    """It is not the one that the event names, by its SHA-256 and by its data key."""
    tamper(ledger, f"{BODIES[what]} WHERE position = 17")
    bad(verified(ledger), 17, "body")


def test_a_body_of_an_event_that_has_none(ledger: Database) -> None:
    """A lookup has no body, and there is none beyond the last event."""
    tamper(ledger, "INSERT INTO ledger.bodies VALUES (50, 'x', 'x'), (700, 'x', 'x')")
    report = verified(ledger)
    bad(report, 50, "body")
    assert (600, "body") in [problem[:2] for problem in report.problems]


@pytest.mark.parametrize(
    "change", ["UPDATE ledger.nodes SET hash = sha256('x')", "DELETE FROM ledger.nodes"]
)
def test_a_node_changed_or_taken_away(ledger: Database, change: str) -> None:
    """Its first position is named, and that a signed checkpoint vouches for the entries."""
    tamper(ledger, f"{change} WHERE level = 1 AND index = 1")
    report = verified(ledger)
    bad(report, 256, "node")
    assert report.checks == {"node"}
    assert "the stored node (1, 1) is wrong or missing" in report.details()


def test_a_node_too_many(ledger: Database) -> None:
    """A node above events that are not there."""
    tamper(ledger, "INSERT INTO ledger.nodes VALUES (1, 2, sha256('x'))")
    bad(verified(ledger), 600, "node")


def test_a_checkpoint_changed(ledger: Database) -> None:
    """Its signature is not of what it says now; the last position it covers is named."""
    ((note,),) = ledger.fetch("SELECT note FROM ledger.checkpoints WHERE size = 302")
    other = note.split("\n")[2]
    ledger.execute(
        "UPDATE ledger.checkpoints SET note = replace(note, split_part(note, E'\n', 3), %s)"
        " WHERE size = 300",
        other,
    )
    report = verified(ledger)
    bad(report, 299, "signature")
    assert report.checks == {"signature", "checkpoint"}


@pytest.mark.parametrize(
    "change", ["root = sha256('x')", "size = 299", "note = 'x'", "origin = 'other.example'"]
)
def test_a_row_of_a_checkpoint_changed(ledger: Database, change: str) -> None:
    """What stands beside the note is held against the note."""
    tamper(ledger, f"UPDATE ledger.checkpoints SET {change} WHERE size = 300")
    bad(verified(ledger), 298 if "size" in change else 299, "checkpoint")


def test_a_checkpoint_signed_for_another_tree(ledger: Database) -> None:
    """A right signature, a wrong root: the first position that it can be about is named."""
    forged = SignedCheckpoint.sign(Checkpoint(KEY.name, 301, bytes(32)), KEY)
    ledger.execute(
        "UPDATE ledger.checkpoints SET note = %s, root = %s WHERE size = 301",
        str(forged),
        bytes(32),
    )
    report = verified(ledger)
    bad(report, 300, "checkpoint")
    assert report.checks == {"checkpoint"}


def test_the_published_checkpoint_moved_back(ledger: Database) -> None:
    """It must be the largest that is kept."""
    tamper(ledger, "UPDATE ledger.published SET size = 300")
    report = verified(ledger)
    bad(report, 299, "checkpoint")
    assert "not the largest" in report.details()


def test_a_ledger_rewritten_under_the_same_key(
    ledger: Database, database: Database, keyring: Keyring
) -> None:
    """All of it is consistent with itself; only the checkpoint that was kept elsewhere tells."""
    ((note,),) = ledger.fetch("SELECT note FROM ledger.checkpoints WHERE size = 301")
    kept = KeptCheckpoint(KEY.name, 301, note, source="kept.txt")
    assert verified(ledger, kept=(kept,)).ok
    record(database, keyring, *(upsert(f"h{number}") for number in range(320)))
    checkpoints(database, (1, 320))
    assert verified(database).ok
    report = verified(database, kept=(kept,))
    bad(report, 0, "since")
    assert "kept in kept.txt, has the root" in report.details()
    assert "is at or before position 300: nothing kept elsewhere says more" in report.details()
    # What was kept elsewhere earlier, and fits, narrows it.
    ((first,),) = database.fetch("SELECT note FROM ledger.checkpoints WHERE size = 1")
    earlier = KeptCheckpoint(KEY.name, 1, first, source="earlier.txt")
    bad(verified(database, kept=(kept, earlier)), 1, "since")


def test_a_ledger_shorter_than_what_was_kept(database: Database, keyring: Keyring) -> None:
    """How many events are missing, and from where."""
    record(database, keyring, *(upsert(f"h{number}") for number in range(2)))
    signed = SignedCheckpoint.sign(Checkpoint(KEY.name, 10, bytes(32)), KEY)
    report = verified(database, kept=(KeptCheckpoint(KEY.name, 10, str(signed), source="kept"),))
    bad(report, 3, "since")
    assert (
        "the ledger has 3 events, the checkpoint (kept in kept) says 10: 7 of" in report.details()
    )


def test_a_key_that_was_erased_and_is_there(ledger: Database) -> None:
    """A data key and a body that outlived their erasure: the erasure's position is named."""
    ((position, key),) = ledger.fetch(
        "SELECT position, details -> 'data_keys' ->> 0 FROM ledger.events"
        " WHERE type = 'credential.erased' ORDER BY position LIMIT 1"
    )
    tamper(
        ledger,
        f"INSERT INTO ledger.data_keys SELECT '{key}', 1, id, 'x' FROM ledger.keks",
    )
    report = verified(ledger)
    bad(report, position, "erasure")
    assert report.checks == {"erasure"}


DATA_KEY = """
    UPDATE ledger.data_keys SET {} WHERE id = (SELECT key FROM ledger.bodies WHERE position = 3)
"""


@pytest.mark.parametrize(
    "change", ["id = 'x'", "credential_id = credential_id + 1", "wrapped = wrapped || 'x'"]
)
def test_a_data_key_changed(ledger: Database, change: str) -> None:
    """One of a credential that was deleted, too: the first event under it is named."""
    tamper(ledger, DATA_KEY.format(change))
    bad(verified(ledger, kms_key=KMS_KEY), 3, "key")
    if "wrapped" not in change:
        bad(verified(ledger), 3, "key")


def test_every_column_of_a_data_key_is_looked_at(ledger: Database) -> None:
    """Also under which KEK it is said to be wrapped, and the text that tells a KEK."""
    tamper(
        ledger,
        "INSERT INTO ledger.keks SELECT 'x', provider, 'retired', canary FROM ledger.keks",
        DATA_KEY.format("kek = 'x'"),
    )
    bad(verified(ledger, kms_key=KMS_KEY), 3, "key")
    tamper(ledger, "UPDATE ledger.keks SET canary = canary || 'x'")
    bad(verified(ledger, kms_key=KMS_KEY), None, "key")


def test_a_row_of_the_projection_changed(ledger: Database) -> None:
    """With the keys any value, without them what can be seen; the last change is named."""
    ((host, position),) = ledger.fetch(
        "SELECT host, position FROM secrets.host_credentials ORDER BY position DESC LIMIT 1"
    )
    ledger.execute("UPDATE secrets.host_credentials SET username = 'x' WHERE host = %s", host)
    assert verified(ledger).ok
    bad(verified(ledger, kms_key=KMS_KEY), position, "projection")
    ledger.execute("UPDATE secrets.host_credentials SET version = 9 WHERE host = %s", host)
    bad(verified(ledger), position, "projection")
    ledger.execute("DELETE FROM secrets.host_credentials WHERE host = %s", host)
    bad(verified(ledger), position, "projection")


def test_a_row_of_a_credential_that_is_gone(ledger: Database) -> None:
    """A row that was put back after its delete: the delete is named."""
    ((position, host),) = ledger.fetch(
        "SELECT position, host FROM ledger.events WHERE type = 'credential.deleted' AND ok"
        " ORDER BY position DESC LIMIT 1"
    )
    ledger.execute(
        "INSERT INTO secrets.host_credentials"
        " (id, host, purpose, created_at, updated_at, version, position, data_key)"
        " VALUES (1, %s, 'ssh', now(), now(), 1, 1, 'x')",
        host,
    )
    bad(verified(ledger), position, "projection")


def test_what_an_auditor_may_not_read_is_said(cluster: Cluster, ledger: Database) -> None:
    """An auditor's login checks events, tree and checkpoints, and says what it could not."""
    cluster.ensure_login("auditor_login", member_of="secrets_broker_auditor")
    report = verified(ledger, url=cluster.url("auditor_login", ledger.name), kms_key=KMS_KEY)
    assert (report.ok, report.checked["signatures"]) == (True, 7)
    assert "bodies" not in report.checked
    said = "\n".join(report.not_checked)
    for word in ("ledger.bodies", "ledger.data_keys", "host_credentials"):
        assert word in said


def test_many_processes_say_the_same_as_one(
    ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that is examined by other processes: the same report, right or wrong."""
    alone = verified(ledger)
    monkeypatch.setattr(running, "ALONE", 0)
    monkeypatch.setattr(running, "RANGE", 256)
    assert verified(ledger, processes=2) == alone
    tamper(ledger, "UPDATE ledger.events SET reason = 'none' WHERE position IN (301, 520)")
    rehashed(ledger, 301)
    report = verified(ledger, processes=2)
    bad(report, 301, "checkpoint")
    assert (520, "leaf") in [problem[:2] for problem in report.problems]


def test_an_old_signing_key_still_verifies(ledger: Database) -> None:
    """After a change of the key both are given; with one of them, the other's are problems."""
    later = SigningKey(KEY.name, bytes(32))
    record(ledger, Keyring.from_kms_keys(KMS_KEY), lookup("h10"))
    checkpoints(ledger, [601], later)
    assert verified(ledger, keys=(KEY.verifier, later.verifier)).ok
    report = verified(ledger, keys=(later.verifier,))
    bad(report, 0, "signature")
    assert KEY.verifier.key_id.hex() in report.details()
    bad(verified(ledger), 600, "signature")


def test_without_any_key_signatures_are_not_checked(ledger: Database) -> None:
    """That is said; the roots are compared all the same."""
    report = verified(ledger, keys=())
    assert report.ok
    assert "signatures: no verifier key was given" in report.not_checked
    tamper(ledger, "UPDATE ledger.events SET reason = 'none' WHERE position = 301")
    rehashed(ledger, 301)
    bad(verified(ledger, keys=()), 301, "checkpoint")


def test_an_empty_ledger(database: Database) -> None:
    """Nothing is wrong with it; and it does not take the key that is at hand for its own."""
    for kms_key in None, KMS_KEY:
        report = verified(database, kms_key=kms_key)
        assert (report.ok, report.size, report.problems) == (True, 0, [])
    assert database.fetch("SELECT id FROM ledger.keks") == []


def test_erasing_while_it_is_verified(
    ledger: Database, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that is erased after the size was fixed is no problem."""
    begun = running._tasks

    def erase_first(*arguments: object) -> object:
        erase_names(ledger, keyring, ("h20", "ssh"))
        return begun(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "_tasks", erase_first)
    report = verified(ledger)
    assert (report.ok, report.problems, report.size) == (True, [], 600)


def test_a_checkpoint_that_is_published_while_it_is_verified(
    ledger: Database, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left to the next time: the published one of before is no problem then."""
    record(ledger, keyring, lookup("h10"))
    begun = running._tasks

    def publish_first(*arguments: object) -> object:
        checkpoints(ledger, [601])
        return begun(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "_tasks", publish_first)
    report = verified(ledger)
    assert (report.ok, report.problems, report.size) == (True, [], 601)
    assert report.remarks == ["the newest 1 events are under no signed checkpoint"]


def test_a_data_key_that_no_event_names(ledger: Database) -> None:
    """It is counted, at no position."""
    tamper(ledger, "INSERT INTO ledger.data_keys SELECT 'planted', 1, id, 'x' FROM ledger.keks")
    report = verified(ledger)
    bad(report, None, "key")
    assert "1 data keys are there that no event names" in report.details()


def test_storing_while_it_is_verified(
    ledger: Database, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data key that came after the size was fixed has its event, and is no problem."""
    begun = running._tasks

    def store_first(*arguments: object) -> object:
        record(ledger, keyring, upsert("new"))
        return begun(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "_tasks", store_first)
    report = verified(ledger)
    assert (report.ok, report.problems, report.size) == (True, [], 600)
