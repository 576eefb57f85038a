"""Rules that the database itself keeps, whoever asks."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from secrets_broker.migrations.runner import apply
from tests.migrations.conftest import Cluster, Databases
from tests.migrations.migration_files import quiet
from tests.migrations.roles import AUDITOR, BODY, KEK, SERVICE, Connection, become

APPEND_ONLY = ("ledger.events", "ledger.nodes", "ledger.bodies")
APPEND = """
INSERT INTO ledger.events (position, at, v, ok, error, leaf_hash, mac, type, authn, ip, body,
                           details, credential_id, version)
SELECT position, at, 1, error IS NULL, error, decode(repeat('00', 32), 'hex'), sha256(''), type,
       'key', ip, body, details, credential_id, version
FROM jsonb_to_recordset(%s) AS t (position bigint, at timestamptz, error text, type text, ip text,
                                  body jsonb, details jsonb, credential_id bigint, version integer)
"""


@pytest.fixture(scope="module")
def migrated(cluster: Cluster) -> Iterator[str]:
    """The superuser's URL of a database with the whole schema."""
    databases = Databases(cluster, [])
    url = databases.make()
    apply(url, quiet)
    yield url
    databases.drop()


@pytest.fixture
def connection(migrated: str) -> Iterator[Connection]:
    """A superuser in a transaction that is taken back, with three events and a key."""
    with psycopg.connect(migrated) as connection:
        append(connection, event(0, body=BODY), event(1), event(2))
        connection.execute("ALTER TABLE ledger.nodes DISABLE TRIGGER check_inserted")
        connection.execute(
            "INSERT INTO ledger.nodes VALUES (1, 0, decode(repeat('00', 32), 'hex'))"
        )
        connection.execute("ALTER TABLE ledger.nodes ENABLE ALWAYS TRIGGER check_inserted")
        connection.execute("INSERT INTO ledger.bodies VALUES (0, 'k', '')")
        yield connection
        connection.rollback()


def event(position: int, **columns: object) -> dict[str, object]:
    """A plain event, one second after the one before it."""
    at = f"2026-01-01T00:00:{position:02}Z"
    kind = "credential.read" if position else "ledger.authenticated"  # with which a ledger begins
    return {"position": position, "at": at, "type": kind} | columns


def append(connection: Connection, *events: dict[str, object]) -> None:
    """All in one statement."""
    connection.execute(APPEND, (Jsonb(list(events)),))


def changes(table: str) -> list[str]:
    """Every way to change what is in a table."""
    column = {"ledger.lock": "only_row", "ledger.nodes": "level"}.get(table, "position")
    return [
        f"UPDATE {table} SET {column} = {column}",  # noqa: S608
        f"UPDATE {table} SET {column} = {column} WHERE false",  # noqa: S608
        f"DELETE FROM {table}",  # noqa: S608
        f"TRUNCATE {table}",
    ]


@pytest.mark.parametrize("statement", [text for table in APPEND_ONLY for text in changes(table)])
@pytest.mark.parametrize("replica", [False, True])
def test_nobody_changes_what_was_appended(
    connection: Connection, statement: str, replica: bool
) -> None:
    """The owner and the superuser are refused by trigger, as a replica too."""
    if replica:
        connection.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is append-only"):
        connection.execute(statement.encode())


@pytest.mark.parametrize("role", [SERVICE, AUDITOR])
@pytest.mark.parametrize("statement", [text for table in APPEND_ONLY for text in changes(table)])
def test_the_roles_have_no_right_to_change(
    connection: Connection, role: str, statement: str
) -> None:
    """The service and the auditor are refused by privilege, before any trigger."""
    become(connection, role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_service_appends_and_reads(connection: Connection) -> None:
    """What the service may do: append, read, and keep the projection."""
    become(connection, SERVICE)
    append(connection, event(3), event(4))
    rows = connection.execute("SELECT max(id) FROM secrets.credential_access_log").fetchall()
    assert rows == [(4,)]
    connection.execute("DELETE FROM secrets.host_credentials")


@pytest.mark.parametrize("role", [SERVICE, AUDITOR])
@pytest.mark.parametrize(
    "statement",
    [
        KEK.replace("%s", "'x'"),
        "UPDATE ledger.keks SET state = 'retired'",
        "DELETE FROM ledger.data_keys",
        "UPDATE ledger.data_keys SET wrapped = ''",
        "ALTER TABLE ledger.events DISABLE TRIGGER append_only",
        "SET LOCAL session_replication_role = replica",
        "CREATE TABLE ledger.mine ()",
        "CREATE TABLE secrets.mine ()",
        "CREATE TABLE secrets_broker_migrations.mine ()",
        "DELETE FROM ledger.lock",
    ],
)
def test_the_roles_have_no_further_rights(
    connection: Connection, role: str, statement: str
) -> None:
    """Neither keys nor tables nor triggers are theirs."""
    become(connection, role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_service_takes_the_lock(connection: Connection) -> None:
    """SELECT FOR UPDATE is allowed to it."""
    become(connection, SERVICE)
    rows = connection.execute("SELECT FROM ledger.lock FOR UPDATE").fetchall()
    assert rows == [()]


@pytest.mark.parametrize(
    "statement", ["INSERT INTO ledger.lock VALUES (true)", *changes("ledger.lock")]
)
@pytest.mark.parametrize("replica", [False, True])
def test_the_row_of_the_lock_is_never_changed(
    connection: Connection, statement: str, replica: bool
) -> None:
    """An updated row would bloat, a deleted one would be no lock."""
    if replica:
        connection.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        connection.execute(statement.encode())


def test_the_service_cannot_update_the_lock(connection: Connection) -> None:
    """It has the right for FOR UPDATE's sake; the trigger refuses the update itself."""
    become(connection, SERVICE)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        connection.execute("UPDATE ledger.lock SET only_row = true")


EARLY = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "events",
    [
        [event(4)],
        [event(3), event(5)],
        [event(-1, at=EARLY)],
        [event(3, at=EARLY)],
        [event(3), event(4, at="2026-01-01T00:00:02.5Z")],
        [event(3), event(4), event(5, at=EARLY)],
    ],
    ids=["gap", "gap within", "before the first", "earlier", "earlier within", "earliest last"],
)
@pytest.mark.parametrize("replica", [False, True])
def test_positions_have_no_gap_and_time_goes_on(
    connection: Connection, events: list[dict[str, object]], replica: bool
) -> None:
    """A gap in positions and an earlier time are refused, between statements and within one."""
    if replica:
        connection.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(
        (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.CheckViolation)
    ):
        append(connection, *events)


def test_a_position_is_taken_once(connection: Connection) -> None:
    """A second event at a position is refused."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        append(connection, event(2))


def test_two_events_at_one_time_are_fine(connection: Connection) -> None:
    """Time does not run backwards; it may stand still."""
    append(connection, event(3), event(4, at="2026-01-01T00:00:03Z"))


@pytest.mark.parametrize("address", ["10.0.0.1", "fe80::1", "10.0.0.0/8", None])
def test_an_address_is_kept(connection: Connection, address: str | None) -> None:
    """What PostgreSQL reads as an address shows in the view."""
    append(connection, event(3, ip=address))
    query = "SELECT host(ip_address) FROM secrets.credential_access_log WHERE id = 3"
    expected = address.partition("/")[0] if address else None
    assert connection.execute(query).fetchall() == [(expected,)]


@pytest.mark.parametrize(
    "columns",
    [
        {"ip": "localhost"},
        {"ip": ""},
        {"error": "x" * 65},
        {"details": []},
        {"body": {}},
        {"body": {"key": "k"}},
        {"body": {"sha256": "s"}},
        {"body": {"key": 1, "sha256": "s"}},
        {"body": {"key": "k", "sha256": "s", "more": 1}},
        {"type": "credential.created"},
        {"type": "credential.created", "credential_id": 4},
        {"type": "credential.created", "version": 1},
        {"type": "credential.created", "credential_id": 1, "version": 1},
        {"type": "credential.imported", "credential_id": 4, "version": 2},
        {"at": "infinity"},
        {"version": 0},
    ],
    ids=str,
)
def test_an_event_that_breaks_a_rule_is_refused(
    connection: Connection, columns: dict[str, object]
) -> None:
    """A value that is missing breaks a rule as much as a wrong one."""
    with pytest.raises((psycopg.errors.IntegrityError, psycopg.errors.DataError)):
        append(connection, event(3, **columns))


def test_events_that_keep_the_rules_are_taken(connection: Connection) -> None:
    """The counterpart of the refusals."""
    created: dict[str, object] = {"type": "credential.created", "credential_id": 4, "version": 1}
    append(
        connection,
        event(3, body={"key": "k", "sha256": "s"}, details={}, **created),
        event(4, type="access.denied", error="forbidden", details={"operation": "read"}),
    )


def test_a_second_active_kek_is_refused(connection: Connection) -> None:
    """Retired ones may be many, the active one is one."""
    for name, state in (("a", "active"), ("b", "retiring"), ("c", "retiring")):
        connection.execute(KEK, (name, state))
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(KEK, ("d", "active"))


def test_the_service_names_the_first_kek_only(connection: Connection) -> None:
    """The second is not registered, whatever it is called."""
    become(connection, SERVICE)
    register = "SELECT ledger.register_first_kek(%s, 'local', '', NULL)"
    assert connection.execute(register, ("first",)).fetchone() == (True,)
    assert connection.execute(register, ("first",)).fetchone() == (False,)
    assert connection.execute(register, ("second",)).fetchone() == (False,)
    rows = connection.execute("SELECT id, state FROM ledger.keks").fetchall()
    assert rows == [("first", "active")]


def test_the_auditor_names_no_kek(connection: Connection) -> None:
    """Registering is the service's alone."""
    become(connection, AUDITOR)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT ledger.register_first_kek('x', 'local', '', NULL)")


@pytest.mark.parametrize(
    "table", ["ledger.events", "ledger.nodes", "ledger.keks", "secrets.credential_access_log"]
)
def test_the_auditor_reads_the_record(connection: Connection, table: str) -> None:
    """Who did what, and the tree."""
    become(connection, AUDITOR)
    connection.execute(f"SELECT FROM {table}".encode())


def test_the_auditor_reads_no_wrapped_kek(connection: Connection) -> None:
    """Which KEKs there were is for auditors; what a KMS would open is not."""
    become(connection, AUDITOR)
    connection.execute("SELECT id, provider, state, created_at FROM ledger.keks")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT wrapped FROM ledger.keks")


@pytest.mark.parametrize(
    "table", ["ledger.bodies", "ledger.data_keys", "secrets.host_credentials", "ledger.lock"]
)
def test_the_auditor_reads_no_secret(connection: Connection, table: str) -> None:
    """Not even encrypted, and it cannot stop the writers."""
    become(connection, AUDITOR)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT FROM {table}".encode())
