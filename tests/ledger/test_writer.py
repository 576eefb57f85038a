"""The writer on a real PostgreSQL: what is recorded, and what is then served."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from secrets_broker.ledger.commands import (
    Command,
    Delete,
    ImportAccess,
    ImportCredential,
    Lookup,
    Upsert,
)
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError, WrongKeyError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database
from tests.ledger.helpers import (
    BEGUN,
    CONTEXT,
    delete,
    floats,
    integers,
    json_objects,
    lookup,
    password_of,
    rebuilt,
    record,
    run,
    send,
    texts,
    upsert,
    writing,
)
from tests.ledger.tree_checks import check_leaves, check_nodes

REPOSITORY = Path(__file__).parents[2]


def test_upsert_lookup_delete_lookup(database: Database, keyring: Keyring) -> None:
    """Each command is one event, and each sees what those before it did."""

    async def one_by_one() -> list[Outcome]:
        commands: list[Command] = [lookup("a"), upsert("a", "one"), lookup("a")]
        commands += [upsert("a", "two"), lookup("a")]
        commands += [delete("a"), lookup("a"), delete("a"), upsert("a", "three"), lookup("a")]
        async with writing(database.service_url, keyring) as writer:
            return [await writer.submit(command, CONTEXT) for command in commands]

    outcomes = run(one_by_one())
    assert [outcome.position for outcome in outcomes] == list(range(BEGUN, BEGUN + 10))
    assert [(o.error, o.credential_id, o.version, password_of(o)) for o in outcomes] == [
        ("not_found", None, None, None),
        (None, 3, 1, None),
        (None, 3, 1, "one"),
        (None, 3, 2, None),
        (None, 3, 2, "two"),
        (None, 3, 2, None),
        ("not_found", None, None, None),
        ("not_found", None, None, None),
        (None, 10, 1, None),
        (None, 10, 1, "three"),
    ]
    assert len(check_leaves(database)) == 10


def test_commands_of_one_batch_see_each_other(database: Database, keyring: Keyring) -> None:
    """In one batch, in one transaction, each command finds what those before it left."""
    outcomes = record(
        database,
        keyring,
        *(upsert("a", "one"), lookup("a"), upsert("a", "two"), lookup("a"), lookup("b")),
        *(delete("a"), lookup("a"), upsert("a", "three"), lookup("a"), upsert("b", "other")),
    )
    found = [None, "one", None, "two", None, None, None, None, "three", None]
    assert [password_of(outcome) for outcome in outcomes] == found
    ids = [outcome.credential_id for outcome in outcomes]
    assert ids == [2, 2, 2, 2, None, 2, None, 9, 9, 11]
    assert database.fetch("SELECT count(DISTINCT at) FROM ledger.events WHERE position >= 1") == [
        (1,)
    ]
    assert [password_of(o) for o in record(database, keyring, lookup("a"), lookup("b"))] == [
        "three",
        "other",
    ]


def test_what_is_recorded_of_a_lookup(database: Database, keyring: Keyring) -> None:
    """The event says who asked, from where and why, what was disclosed, and never the secret."""
    context = Context(actor="ü", authn="mtls:ab", ip="2001:db8::1", request_id="r", reason="CHG-1")

    async def both() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, upsert("a", "hunter2"), lookup("a"), context=context)

    run(both())
    event = check_leaves(database)[1]
    said = (event.actor, event.authn, event.ip, event.request_id, event.reason)
    assert said == ("ü", "mtls:ab", "2001:db8::1", "r", "CHG-1")
    assert (event.host, event.purpose, event.credential_id, event.version) == ("a", "ssh", 2, 1)
    dump = database.fetch("SELECT row::text FROM ledger.events AS row")
    assert "hunter2" not in repr(dump)


labels = st.none() | texts
named: dict[str, Any] = {
    "host": st.sampled_from(["a", "b", "ü ü", "😀"]),
    "purpose": st.sampled_from(["ssh", "s h", "ÿ"]),
}
told = st.none() | texts
of_a_credential = st.fixed_dictionaries(
    {"legacy_id": integers}, optional={"created_by": told, "updated_by": told}
)
of_an_access = st.fixed_dictionaries(
    {"legacy_id": integers, "access_type": told},
    optional={"error_message": told, "error_message_cut": st.booleans(), "ip_network": texts},
)
moments = st.none() | st.datetimes(
    datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)
)
any_command: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        Upsert,
        **named,
        password=texts,
        username=st.none() | texts,
        additional_data=st.dictionaries(texts, floats | json_objects, max_size=3),
        secret_data=st.none() | json_objects,
    ),
    st.builds(Lookup, **named),
    st.builds(Delete, **named),
    st.builds(
        ImportCredential,
        **named,
        content=st.builds(Content, password=texts),
        occurred_at=moments,
        details=of_a_credential,
    ),
    st.builds(
        ImportAccess,
        host=texts,
        purpose=texts,
        ok=st.booleans(),
        credential_id=st.none() | st.integers(1, 2**53 - 1),
        occurred_at=moments,
        details=of_an_access,
    ),
)
any_context = st.builds(
    Context,
    actor=labels,
    authn=texts,
    ip=st.none() | st.ip_addresses().map(str),
    request_id=labels,
    reason=labels,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(any_command, any_context), max_size=12))
def test_row_to_entry(
    database: Database, keyring: Keyring, requests: list[tuple[Command, Context]]
) -> None:
    """Whatever is recorded, the entry made from the row's columns has the stored leaf hash."""

    async def submit_all() -> list[Outcome]:
        async with writing(database.service_url, keyring) as writer:
            return await asyncio.gather(*(writer.submit(*request) for request in requests))

    before = len(check_leaves(database))
    outcomes = run(submit_all())
    events = check_leaves(database)
    assert len(events) == before + len(requests)
    for outcome, (command, context) in zip(outcomes, requests, strict=True):
        event = events[outcome.position - BEGUN]  # several callers take turns
        assert (event.host, event.purpose) == command.name
        assert (event.actor, event.ip, event.reason) == (context.actor, context.ip, context.reason)


def test_stored_nodes_are_the_naive_trees(database: Database, keyring: Keyring) -> None:
    """Past 256 and 512 events, in batches of many sizes and by many writers, nodes are right.

    Each writer begins from what is stored: with a wrong frontier it would store wrong nodes.
    """

    async def write(*batches: int) -> None:
        async with writing(database.service_url, keyring) as writer:
            for count in batches:
                await send(writer, *(lookup("a") for _ in range(count)))

    for batches in [(0,), (200, 54), (1,), (1,), (0, 3, 250), (1, 1), (2,), (400,)]:
        run(write(*batches))
        check_nodes(database)
    assert database.fetch("SELECT count(*) FROM ledger.nodes WHERE level = 1") == [(3,)]
    check_leaves(database)


def test_two_writers_take_turns(database: Database, keyring: Keyring) -> None:
    """Each of two writers catches up with what the other wrote, and serves it at once."""

    async def turns() -> None:
        async with (
            writing(database.service_url, keyring) as first,
            writing(database.service_url, keyring) as second,
        ):
            for number in range(40):
                writer, other = (first, second) if number % 3 else (second, first)
                await send(writer, *(upsert("a", str(number)) for _ in range(8)))
                (outcome,) = await send(other, lookup("a"))
                assert password_of(outcome) == str(number)
                assert outcome.version == 8 * (number + 1)

    run(turns())
    check_nodes(database)


PROCESS = """
import asyncio, json, random, sys
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.ledger.helpers import delete, lookup, send, upsert, writing

async def main(url, kms_key, seed, count):
    chance, done = random.Random(seed), []
    async with writing(url, Keyring.from_kms_keys(kms_key)) as writer:
        while len(done) < count:
            commands = []
            for _ in range(chance.randint(1, 12)):
                host = f"host{chance.randrange(5)}"
                make = chance.choice([upsert, upsert, lookup, lookup, delete])
                commands.append(make(host))
            done += [(o.position, o.error) for o in await send(writer, *commands)]
    print(json.dumps(done))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


def test_many_processes_at_once(database: Database, keyring: Keyring) -> None:
    """Processes at once: positions have no gap, versions no repeat, each outcome its event."""
    url, count = database.service_url, 300
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url, KMS_KEY, str(seed), str(count)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    outcomes = dict(outcome for output in outputs for outcome in json.loads(output))
    events = check_leaves(database)
    assert sorted(outcomes) == list(range(BEGUN, BEGUN + len(events)))
    assert [event.error for event in events] == [outcomes[p] for p in sorted(outcomes)]
    made = [
        (event.host, event.credential_id, event.version)
        for event in events
        if event.ok and event.type in ("credential.created", "credential.updated")
    ]
    assert len(made) == len(set(made))
    last: dict[tuple[str | None, int | None], int] = {}
    for host, credential_id, version in made:
        assert version == last.get((host, credential_id), 0) + 1
        last[host, credential_id] = version
    check_nodes(database)
    assert rebuilt(database, keyring, check_only=True).differences == ()


hosts = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.tuples(st.just("upsert"), hosts, texts),
    st.tuples(st.just("lookup"), hosts, st.none()),
    st.tuples(st.just("delete"), hosts, st.none()),
)
Step = tuple[str, str, str | None]


class Machine(RuleBasedStateMachine):
    """Upserts, lookups, deletes, batches of them and restarts, beside a plain dict."""

    def __init__(self, cluster: Cluster, keyring: Keyring) -> None:
        super().__init__()
        self._keyring = keyring
        self._made = fresh_database(cluster, TEMPLATE)
        self._database = self._made.__enter__()
        self._runner = asyncio.Runner()
        self._writer: Writer | None = None
        self._model: dict[str, tuple[str, int]] = {}
        self._count = 0
        self._told: list[tuple[int, float]] = []

    async def _started(self) -> Writer:
        if self._writer is None:
            url, observer = self._database.service_url, lambda *told: self._told.append(told)
            self._writer = Writer(url, self._keyring, HostCredentials(), observer=observer)
            await self._writer.start()
        return self._writer

    @rule(batch=st.lists(steps, min_size=1, max_size=6))
    def submit(self, batch: list[Step]) -> None:
        """Submit together; every outcome is what the dict says, step by step."""

        async def submit() -> list[Outcome]:
            return await send(await self._started(), *(self._command(*step) for step in batch))

        for step, outcome in zip(batch, self._runner.run(submit()), strict=True):
            self._check(step, outcome)

    @rule()
    def restart(self) -> None:
        """Close the writer; the next command has a new one, which knows nothing."""
        if self._writer:
            self._runner.run(self._writer.close())
            self._writer = None

    def teardown(self) -> None:
        """What is stored in the end is whole, and the observer was told of each event once."""
        try:
            self.restart()
            assert sum(events for events, _ in self._told) == self._count
            assert all(events > 0 and seconds > 0 for events, seconds in self._told)
            assert len(check_leaves(self._database)) == self._count
            rows = self._database.fetch("SELECT host, version FROM secrets.host_credentials")
            assert dict(rows) == {host: version for host, (_, version) in self._model.items()}
            if self._count:
                assert rebuilt(self._database, self._keyring, check_only=True).differences == ()
        finally:
            self._runner.close()
            self._made.__exit__()

    def _command(self, kind: str, host: str, password: str | None) -> Command:
        if password is not None:
            return upsert(host, password)
        return lookup(host) if kind == "lookup" else delete(host)

    def _check(self, step: Step, outcome: Outcome) -> None:
        kind, host, password = step
        assert outcome.position == BEGUN + self._count
        self._count += 1
        before = self._model.get(host)
        if password is not None:
            self._model[host] = password, before[1] + 1 if before else 1
            assert (outcome.error, outcome.version) == (None, self._model[host][1])
        elif before is None:
            assert outcome.error == "not_found"
            assert outcome.content is None
        elif kind == "delete":
            assert outcome.error is None
            del self._model[host]
        else:
            assert (password_of(outcome), outcome.version) == before


def test_against_a_dict(cluster: Cluster, keyring: Keyring) -> None:
    """Whatever is done in whatever order, the ledger serves what a plain dict would."""

    class OnThisCluster(Machine):
        def __init__(self) -> None:
            super().__init__(cluster, keyring)

    limits = settings(max_examples=10, stateful_step_count=15, deadline=None)
    run_state_machine_as_test(OnThisCluster, settings=limits)


DATA = {"port": 22, "ratio": 0.1}
SERVED = {
    "username": "'root'",
    "domain": "'corp'",
    "additional_data": """'{"port": 23, "ratio": 0.1}'""",
    "password_encrypted": "overlay(password_encrypted PLACING 'AAAA' FROM 9)",
    "secret_data_encrypted": "NULL",
    "version": "version - 1",
    "position": "position - 1",
    "id": "id + 100",
    "data_key": "'another'",
    "host": "'elsewhere'",
    "purpose": "'elsewhere'",
}
UNSERVED = {
    "created_at": "created_at - interval '1 microsecond'",
    "updated_at": "updated_at + interval '1 day'",
    "created_by": "'somebody'",
    "updated_by": "NULL",
}


def fill(database: Database, keyring: Keyring) -> None:
    """Two credentials of two versions each."""
    fields: dict[str, Any] = {"username": "admin", "additional_data": DATA}
    fields["secret_data"] = {"pin": "1234"}
    record(
        database,
        keyring,
        *(upsert("a", "old", **fields), upsert("b", "old", **fields)),
        *(upsert("a", "new", **fields), upsert("b", "other", **fields)),
    )


def check_refused_and_repaired(database: Database, keyring: Keyring, *kinds: str) -> None:
    """A lookup of "a" is refused, --check finds it, a rebuild repairs it."""
    (outcome,) = record(database, keyring, lookup("a"))
    assert (outcome.error, outcome.content) == ("decrypt_failed", None)
    assert outcome.position == database.fetch("SELECT max(position) FROM ledger.events")[0][0]
    check_found_and_repaired(database, keyring, *kinds)


def check_found_and_repaired(database: Database, keyring: Keyring, *kinds: str) -> None:
    """--check finds it and leaves it as it is, a rebuild repairs it, and then finds nothing."""
    for check_only in (True, True, False):
        found = rebuilt(database, keyring, check_only=check_only)
        assert sorted(d.kind for d in found.differences) == sorted(kinds)
        assert (found.position is None) == check_only
    assert rebuilt(database, keyring, check_only=True).differences == ()
    first, second = record(database, keyring, lookup("a"), lookup("b"))
    assert (password_of(first), password_of(second)) == ("new", "other")
    assert first.content is not None
    assert first.content.additional_data == DATA


@pytest.mark.parametrize("column", SERVED)
def test_an_edited_field_is_refused(database: Database, keyring: Keyring, column: str) -> None:
    """An edit of any field that a lookup rests on: refused, found, repaired."""
    fill(database, keyring)
    edit = f"UPDATE secrets.host_credentials SET {column} = {SERVED[column]} WHERE host = 'a'"  # noqa: S608
    database.execute(edit)
    moved = column in ("host", "purpose")
    kinds = ["missing", "surplus"] if moved else ["different"]
    if moved:
        name = {"host": "a", "purpose": "ssh", column: "elsewhere"}
        (outcome,) = record(database, keyring, Lookup(**name))
        assert outcome.error == "decrypt_failed"
    check_refused_and_repaired(database, keyring, *kinds)


@pytest.mark.parametrize("column", UNSERVED)
def test_an_edited_record_is_found(database: Database, keyring: Keyring, column: str) -> None:
    """An edit of a field that no lookup serves: found by its name, and repaired."""
    fill(database, keyring)
    edit = f"UPDATE secrets.host_credentials SET {column} = {UNSERVED[column]} WHERE host = 'a'"  # noqa: S608
    database.execute(edit)
    (found,) = rebuilt(database, keyring, check_only=True).differences
    assert (found.host, found.kind, found.columns) == ("a", "different", (column,))
    check_found_and_repaired(database, keyring, "different")


def test_an_old_row_put_back_is_refused(database: Database, keyring: Keyring) -> None:
    """A row as it was at an earlier version, put back by hand: refused, found, repaired."""
    record(database, keyring, upsert("a", "old"), upsert("b", "other", additional_data=DATA))
    database.execute("CREATE TABLE kept AS SELECT * FROM secrets.host_credentials")
    record(database, keyring, upsert("a", "new", additional_data=DATA))
    database.execute("DELETE FROM secrets.host_credentials WHERE host = 'a'")
    database.execute("INSERT INTO secrets.host_credentials SELECT * FROM kept WHERE host = 'a'")
    check_refused_and_repaired(database, keyring, "different")


def test_a_row_put_back_after_a_delete_is_refused(database: Database, keyring: Keyring) -> None:
    """A deleted credential's row, put back by hand: refused, found, and taken out again."""
    record(database, keyring, upsert("a", "gone"))
    database.execute("CREATE TABLE kept AS SELECT * FROM secrets.host_credentials")
    record(database, keyring, delete("a"))
    database.execute("INSERT INTO secrets.host_credentials SELECT * FROM kept")
    (outcome,) = record(database, keyring, lookup("a"))
    assert (outcome.error, outcome.content) == ("decrypt_failed", None)
    (found,) = rebuilt(database, keyring).differences
    assert found.kind == "surplus"
    (outcome,) = record(database, keyring, lookup("a"))
    assert outcome.error == "not_found"


def test_a_row_removed_by_hand_is_refused(database: Database, keyring: Keyring) -> None:
    """A row that is gone, though nobody deleted the credential: refused, found, repaired."""
    fill(database, keyring)
    database.execute("DELETE FROM secrets.host_credentials WHERE host = 'a'")
    check_refused_and_repaired(database, keyring, "missing")


@pytest.mark.parametrize("column", ["password_encrypted", "secret_data_encrypted", "data_key"])
def test_exchanged_between_rows_is_refused(
    database: Database, keyring: Keyring, column: str
) -> None:
    """A value of one credential in another's row opens in neither."""
    fill(database, keyring)
    database.execute(
        f"UPDATE secrets.host_credentials AS one SET {column} = other.{column}"  # noqa: S608
        " FROM secrets.host_credentials AS other WHERE one.host <> other.host"
    )
    (outcome,) = record(database, keyring, lookup("b"))
    assert outcome.error == "decrypt_failed"
    check_refused_and_repaired(database, keyring, "different", "different")


def test_the_next_change_makes_an_edited_row_whole(database: Database, keyring: Keyring) -> None:
    """An upsert writes the whole row from the ledger, whatever stood there."""
    fill(database, keyring)
    database.execute(
        "UPDATE secrets.host_credentials SET id = 99, created_at = now(), created_by = 'x',"
        " version = 77, username = 'root'"
        " WHERE host = 'a'"
    )
    (outcome,) = record(database, keyring, upsert("a", "new", additional_data=DATA))
    assert outcome.version == 3
    assert rebuilt(database, keyring, check_only=True).differences == ()


@pytest.mark.parametrize("command", [lookup, upsert])
def test_a_changed_data_key_is_refused(
    database: Database, keyring: Keyring, command: Callable[[str], Command]
) -> None:
    """Where the data key was changed, neither a lookup nor a next version is possible."""
    fill(database, keyring)
    database.execute(
        "UPDATE ledger.data_keys SET wrapped = overlay(wrapped PLACING '\\x0000' FROM 20)"
        " WHERE credential_id = 2"
    )
    first, second = record(database, keyring, command("a"), lookup("b"))
    assert first.error == "decrypt_failed"
    assert password_of(second) == "other"
    check_leaves(database)


def test_a_wrong_key_is_told_at_start(database: Database, keyring: Keyring) -> None:
    """A process with another KMS key learns it at start, and again with each command."""
    record(database, keyring, upsert("a"))
    wrong = Keyring.from_kms_keys("another key")

    async def start() -> None:
        writer = Writer(database.service_url, wrong, HostCredentials())
        try:
            with pytest.raises(WrongKeyError, match="SECRETS_KMS_KEY"):
                await writer.start()
            with pytest.raises(WrongKeyError):
                await writer.submit(lookup("a"), CONTEXT)
        finally:
            await writer.close()

    run(start())
    assert len(check_leaves(database)) == 1


def test_a_probe_records_nothing(database: Database, keyring: Keyring) -> None:
    """Probes leave no event, alone or among commands."""

    async def probes() -> None:
        async with writing(database.service_url, keyring) as writer:
            await writer.probe()
            await asyncio.gather(writer.probe(), writer.submit(lookup("a"), CONTEXT))

    run(probes())
    assert len(check_leaves(database)) == 1


def test_close_records_what_waits(database: Database, keyring: Keyring) -> None:
    """What was submitted before close is recorded; what comes after is refused."""

    async def close() -> list[Outcome]:
        writer = Writer(database.service_url, keyring, HostCredentials())
        await writer.start()
        waiting = asyncio.gather(*(writer.submit(upsert("a"), CONTEXT) for _ in range(9)))
        await asyncio.sleep(0)
        await writer.close()
        with pytest.raises(LedgerUnavailableError, match="closed"):
            await writer.submit(lookup("a"), CONTEXT)
        return await waiting

    assert [outcome.version for outcome in run(close())] == list(range(1, 10))
    assert len(check_leaves(database)) == 9
