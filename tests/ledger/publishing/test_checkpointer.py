"""Checkpoints are made of what is committed, by one process at a time, and never backwards."""

import asyncio
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.event_types import LEDGER_RESTORED
from secrets_broker.ledger.publishing.checkpointer import Checkpointer
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import Continuity, Lost, last_loss
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier
from secrets_broker.ledger.transparency_log.note import Signature, SigningKey
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database
from tests.ledger.helpers import (
    BEGUN,
    append_as_it_is,
    lookup,
    record,
    run,
    send,
    upsert,
    writing,
)
from tests.ledger.publishing.checkpointers import KEY, OTHER, _make, continuing, make, tamper


def leaves(database: Database) -> list[bytes]:
    """What is stored."""
    rows = database.fetch("SELECT leaf_hash FROM ledger.events ORDER BY position")
    return [leaf for (leaf,) in rows]


@pytest.fixture
def grown(database: Database, keyring: Keyring) -> Database:
    """A ledger of 300 events."""
    record(database, keyring, upsert("a"), *[lookup("a")] * 298)
    return database


def test_it_is_the_root_of_what_is_committed(grown: Database) -> None:
    """Of the leaf hashes in their order."""
    frontier, _ = Frontier().extend(leaves(grown))
    assert make(grown) == Checkpoint("log.example", 300, frontier.root())


def test_without_growth_there_is_no_new_one(grown: Database) -> None:
    """The published one is answered, to the byte, and one is kept."""
    assert make(grown) == make(grown)
    assert grown.fetch("SELECT count(*) FROM ledger.checkpoints") == [(1,)]


def test_an_empty_ledger_has_none(database: Database) -> None:
    """There is nothing to sign."""
    assert run(_make(database.service_url)) is None


def test_many_at_once_make_one_after_the_other(grown: Database, keyring: Keyring) -> None:
    """Eight processes' worth of checkpointers over a growing ledger: each extends the last."""

    async def all_of_them() -> None:
        async with writing(grown.service_url, keyring) as writer:
            for _ in range(10):
                await asyncio.gather(
                    *(_make(grown.service_url) for _ in range(4)), send(writer, lookup("a"))
                )

    run(all_of_them())
    make(grown)
    sizes = grown.fetch("SELECT size, root FROM ledger.checkpoints ORDER BY signed_at")
    stored = leaves(grown)
    assert [size for size, _ in sizes] == sorted({size for size, _ in sizes})
    for size, root in sizes:
        assert Frontier().extend(stored[:size])[0].root() == root


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 299",
        "UPDATE ledger.nodes SET hash = sha256('x')",
        "DELETE FROM ledger.nodes",
        "DELETE FROM ledger.events WHERE position = 299",
        "UPDATE ledger.checkpoints SET note = replace(note, '300', '301')",
        "UPDATE ledger.checkpoints SET note = 'x'",
    ],
)
def test_a_ledger_that_was_changed_is_not_signed(
    grown: Database, keyring: Keyring, change: str
) -> None:
    """What does not extend the published checkpoint is not signed, and not appended to either."""
    make(grown)
    tamper(grown, change)
    with pytest.raises(LedgerMismatchError):
        record(grown, keyring, lookup("a"))
    with suppress(LedgerMismatchError):  # where it did not grow, it is not looked at again
        make(grown)
    assert grown.fetch("SELECT count(*) FROM ledger.checkpoints") == [(1,)]


def test_growth_after_a_change_is_not_signed(grown: Database, keyring: Keyring) -> None:
    """By a process that was writing before, too."""

    async def go_on() -> None:
        async with writing(grown.service_url, keyring) as writer:
            await send(writer, lookup("a"))
            await _make(grown.service_url)
            tamper(grown, "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 298")
            await send(writer, lookup("a"))
            await _make(grown.service_url)

    with pytest.raises(LedgerMismatchError, match="is of other events"):
        run(go_on())


def test_another_name_is_not_taken_by_itself(grown: Database, keyring: Keyring) -> None:
    """A service that is given another signing key says so, and signs nothing."""
    make(grown)
    record(grown, keyring, lookup("a"))
    with pytest.raises(LedgerUnavailableError, match="secrets-broker restored"):
        make(grown, OTHER)


def test_a_new_key_of_the_same_name_goes_on(grown: Database, keyring: Keyring) -> None:
    """A lost or replaced key: the old checkpoints are the old key's, the new ones the new key's."""
    make(grown)
    record(grown, keyring, lookup("a"))
    fresh = SigningKey("log.example", bytes(32))
    assert make(grown, fresh).size == 301
    notes = grown.fetch("SELECT note FROM ledger.checkpoints ORDER BY size")
    for (note,), key in zip(notes, (KEY, fresh), strict=True):
        SignedCheckpoint.parse(note).verify([key.verifier])


def test_the_task_signs_what_the_writer_wrote_last(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """It follows growth within its interval, and makes a last one as it closes."""
    file = CheckpointFile(tmp_path / "checkpoint")

    async def work() -> None:
        known = Continuity((KEY.verifier,), file)
        checkpointer = Checkpointer(database.service_url, KEY, 3_600, known)
        await checkpointer.start()
        async with writing(database.service_url, keyring) as writer:
            await send(writer, lookup("a"))
        await checkpointer.close()

    run(work())
    assert database.fetch("SELECT size FROM ledger.published") == [(BEGUN + 1,)]
    kept = file.read()
    assert kept is not None
    assert kept.checkpoint.size == BEGUN + 1


def test_a_mismatch_stops_the_writer(grown: Database, keyring: Keyring) -> None:
    """Whoever notices first: what was signed is not written past."""

    async def work() -> None:
        writer = Writer(grown.service_url, keyring, HostCredentials())
        checkpointer = Checkpointer(grown.service_url, KEY, 0.05, halt=writer.halt)
        await writer.start()
        await send(writer, lookup("a"))
        await _make(grown.service_url)
        tamper(grown, "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 298")
        await send(writer, lookup("a"))
        await checkpointer.start()
        with pytest.raises(LedgerMismatchError, match="is of other events"):
            while True:
                await send(writer, lookup("a"))
                await asyncio.sleep(0.05)
        await checkpointer.close()
        await writer.close()

    run(work())


def keep(database: Database, file: CheckpointFile, signed: SignedCheckpoint) -> None:
    """As a checkpointer keeps what is published."""

    async def once() -> None:
        async with await connect(database.service_url) as connection:
            await Continuity((KEY.verifier, OTHER.verifier), file).keep(connection, signed)

    run(once())


def test_the_file_only_goes_forward(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """Of two workers that publish one after the other, the later one's stays."""
    file = CheckpointFile(tmp_path / "checkpoint")
    signed = []
    for _ in range(3):
        record(database, keyring, lookup("a"))
        signed.append(SignedCheckpoint.sign(make(database), KEY))
    for made in (signed[1], signed[0], signed[2], signed[1]):
        keep(database, file, made)
    assert file.read() == signed[2]


def rewrite(database: Database) -> None:
    """Another history from position 5 on, whose tree fits together."""
    tamper(
        database,
        "DELETE FROM ledger.checkpoints",
        "UPDATE ledger.published SET origin = null, size = 0",
        "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 5",
        "DELETE FROM ledger.events WHERE position > 5",
    )


@pytest.mark.parametrize("signs", [True, False], ids=["it signs", "signed by another machine"])
def test_another_branch_never_replaces_what_is_kept(
    database: Database, keyring: Keyring, tmp_path: Path, *, signs: bool
) -> None:
    """However long it is: all stops, the file stays, and the checkpoint that came is evidence."""
    file = CheckpointFile(tmp_path / "checkpoint")
    known = Continuity((KEY.verifier,), file, KEY.name)
    record(database, keyring, upsert("a"), *[lookup("a")] * 9)
    keep(database, file, SignedCheckpoint.sign(make(database), KEY))
    before = file.path.read_bytes()
    rewrite(database)
    record(database, keyring, *[lookup("a")] * 20)

    async def work() -> None:
        halt = Halt(file)
        checkpointer = Checkpointer(database.service_url, KEY, 3_600, known, halt)
        await checkpointer.start()
        await checkpointer.close()  # makes a last one
        assert halt.is_stopped
        writer = Writer(database.service_url, keyring, HostCredentials(), continuity=known)
        with pytest.raises(LedgerMismatchError, match="restored"):
            await writer.start()
        await writer.close()

    if not signs:
        make(database)
    run(work())
    assert file.path.read_bytes() == before
    assert database.fetch("SELECT count(*) FROM ledger.checkpoints") == [(0 if signs else 1,)]
    assert len(list(tmp_path.glob("checkpoint.refused-*"))) == (0 if signs else 1)
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(26,)]


@pytest.mark.parametrize(
    "forged",
    [
        "— log.example AAAAAAAA",
        "— log.example/again AAAAAAAA",
        None,
    ],
)
def test_a_forged_checkpoint_is_not_kept(
    database: Database, keyring: Keyring, tmp_path: Path, forged: str | None
) -> None:
    """Whoever has the service's login can publish: without our signature, or of another tree."""
    file = CheckpointFile(tmp_path / "checkpoint")
    record(database, keyring, upsert("a"), lookup("a"))
    tree = make(database)
    keep(database, file, SignedCheckpoint.sign(tree, KEY))
    record(database, keyring, lookup("a"))
    fake = Checkpoint(KEY.name, tree.size + 1, bytes(32))
    note = f"{fake.text}\n{forged}\n" if forged else str(SignedCheckpoint.sign(fake, KEY))
    with psycopg.connect(database.service_url) as connection:
        connection.execute(
            "INSERT INTO ledger.checkpoints VALUES (%s, %s, %s, %s)",
            (fake.origin, fake.size, fake.root, note),
        )
        connection.execute("UPDATE ledger.published SET size = %s", (fake.size,))
    with pytest.raises(LedgerUnavailableError, match=r"is not kept|is of other events"):
        keep(database, file, SignedCheckpoint.parse(note))
    kept = file.read()
    assert kept is not None
    assert kept.checkpoint == tree
    with pytest.raises(LedgerMismatchError):
        record(database, keyring, lookup("a"))


@pytest.mark.parametrize("size", ["x", None, -1, [], {}, True, "300"])
def test_an_event_that_names_no_size_excuses_nothing(
    database: Database, keyring: Keyring, size: object
) -> None:
    """Nor does it stop anybody: whoever has the service's login can append one."""
    record(database, keyring, upsert("a"))
    make(database)
    details = {"origin": KEY.name, "size": size, "root": "", "new_origin": "other"}
    append_as_it_is(database, keyring, LEDGER_RESTORED, details)
    record(database, keyring, lookup("a"))
    assert make(database).size == BEGUN + 3

    async def ask() -> Lost | None:
        async with await connect(database.service_url) as connection:
            return await last_loss(connection)

    assert run(ask()) is None


def test_a_file_that_cannot_be_written_stops_nobody(
    database: Database, keyring: Keyring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that is full or read-only: the service goes on and says so, once each time."""
    file = CheckpointFile(tmp_path / "checkpoint")
    in_the_way = tmp_path / "checkpoint.new"
    in_the_way.mkdir()  # root may write anywhere else
    known = Continuity((KEY.verifier,), file, KEY.name)

    async def once() -> None:
        checkpointer = Checkpointer(database.service_url, KEY, 3_600, known)
        await checkpointer.start()
        async with writing(database.service_url, keyring) as writer:
            await send(writer, lookup("a"))
        await checkpointer.close()

    run(once())
    assert file.read() is None
    assert database.fetch("SELECT size FROM ledger.published") == [(BEGUN + 1,)]
    said = capsys.readouterr().out
    assert said.count("LEDGER_CHECKPOINT_FILE cannot be moved on (Is a directory)") == 1
    in_the_way.rmdir()
    run(once())
    kept = file.read()
    assert kept is not None
    assert kept.checkpoint.size == BEGUN + 2


def test_the_file_is_only_replaced_by_what_was_compared_with_it(tmp_path: Path) -> None:
    """Of two processes that compare at once, the one that is late has to compare anew."""
    file = CheckpointFile(tmp_path / "checkpoint")
    one, two, three = (
        SignedCheckpoint.sign(Checkpoint(KEY.name, n, bytes(32)), KEY) for n in (1, 2, 3)
    )
    assert file.replace(None, one)
    assert not file.replace(None, two)
    assert file.replace(one, three)
    assert not file.replace(one, two)
    assert file.read() == three


def test_died_before_the_file_was_replaced(tmp_path: Path) -> None:
    """What was being written is not taken for the checkpoint, and is no trouble to the next."""
    file = CheckpointFile(tmp_path / "checkpoint")
    signed = [SignedCheckpoint.sign(Checkpoint(KEY.name, n, bytes(32)), KEY) for n in (1, 2)]
    assert file.replace(None, signed[0])
    (tmp_path / "checkpoint.new").write_text("half a checkp")
    assert file.read() == signed[0]
    assert file.replace(signed[0], signed[1])
    assert file.read() == signed[1]


def test_a_database_that_was_restored_with_its_checkpoints_is_refused(
    grown: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The database alone fits together; the file knows more."""
    file = CheckpointFile(tmp_path / "checkpoint")
    keep(grown, file, SignedCheckpoint.sign(make(grown), KEY))
    continuing(grown, keyring, file.path)
    tamper(
        grown,
        "DELETE FROM ledger.checkpoints",
        "UPDATE ledger.published SET origin = null, size = 0",
        "DELETE FROM ledger.events WHERE position >= 290",
    )
    with pytest.raises(LedgerMismatchError, match="has 290 events, and the checkpoint in"):
        continuing(grown, keyring, file.path)
    record(grown, keyring, *[lookup("a")] * 20)  # without the file, nobody can know
    file.facts.path.unlink()  # that it stopped once; see test_kept.py
    with pytest.raises(LedgerMismatchError, match="is of other events"):
        continuing(grown, keyring, file.path)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff", b"log.example\n1\nAAAA\n"])
def test_a_file_that_holds_no_checkpoint_is_refused(
    grown: Database, keyring: Keyring, tmp_path: Path, content: bytes
) -> None:
    """It was meant to be there: going on without it would be what it is there to prevent."""
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    with pytest.raises(LedgerUnavailableError, match="holds no checkpoint"):
        continuing(grown, keyring, path)
    with pytest.raises(LedgerUnavailableError, match="holds no checkpoint"):
        keep(grown, CheckpointFile(path), SignedCheckpoint.sign(make(grown), KEY))
    assert path.read_bytes() == content  # nor is it replaced: somebody has to look at it


def test_a_file_with_a_forged_signature_is_refused(
    grown: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A checkpoint in our name that our key did not sign."""
    text, path = make(grown).text, tmp_path / "checkpoint"
    right = KEY.sign(text)
    signature = bytearray(right.signature)
    signature[0] ^= 1
    path.write_text(f"{text}\n{Signature(right.name, right.key_id, bytes(signature))}")
    with pytest.raises(LedgerMismatchError, match="was changed"):
        continuing(grown, keyring, path)


def test_a_checkpoint_of_another_log_is_refused(
    grown: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A file that was put beside the wrong database."""
    tree = make(grown)
    file = CheckpointFile(tmp_path / "checkpoint")
    file.replace(None, SignedCheckpoint.sign(Checkpoint(OTHER.name, tree.size, tree.root), OTHER))
    with pytest.raises(LedgerMismatchError, match=r"is of log\.example/again, and this ledger"):
        continuing(grown, keyring, file.path)
