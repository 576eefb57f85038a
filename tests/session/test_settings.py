"""No setting of a database, a role, the URL or the environment changes what we read or write."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from secrets_broker.ledger.database.ledger_session import SESSION, TOOL_SESSION, connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.verify.sources.database_reader import DatabaseReader
from tests.conftest import SERVICE_LOGIN, Database
from tests.ledger.helpers import delete, lookup, password_of, record, run, upsert
from tests.session.telling import told
from tests.tools.everything import NEW_KEY, everything, size_of
from tests.tools.verify.changing import KEY

# They wait, or set what a session may use up, or name a library that is not there.
LEFT_OUT: Final = {
    "post_auth_delay",
    "max_stack_depth",
    "temp_file_limit",
    "local_preload_libraries",
}
STRINGS: Final = {
    "DateStyle": ["German", "SQL, DMY", "Postgres, MDY"],
    "TimeZone": ["Asia/Kathmandu", "America/New_York"],
    "client_encoding": ["LATIN1", "SQL_ASCII"],
    "search_path": ["hostile, pg_catalog", "pg_temp, hostile", ""],
    "timezone_abbreviations": ["Australia", "India"],
    "default_text_search_config": ["pg_catalog.german"],
    "restrict_nonsystem_relation_kind": ["view, foreign-table"],
    "session_preload_libraries": ["plpgsql"],
    "createrole_self_grant": ["set"],
    "lc_monetary": ["POSIX", "C.UTF-8"],
    "lc_numeric": ["POSIX", "C.UTF-8"],
    "lc_time": ["POSIX", "C.UTF-8"],
    "lc_messages": ["C", "C.UTF-8"],
    "application_name": ["another"],
    "plpgsql.extra_errors": ["all"],
    "plpgsql.extra_warnings": ["all"],
}
ENUMS: Final = {
    "synchronous_commit": ["remote_write", "remote_apply"],
    "plpgsql.variable_conflict": ["use_variable", "use_column"],
}
COMMANDS: Final = (
    "events --json",
    "history h05 ssh --json",
    "exposure h05 ssh --json",
    "unused --since 2120-01-01T00:00:00Z --json",
    "due --json",
    "access list --json",
    "replay --at 100 --json",
    "proof 5",
    "migrate --json",
    "verify --json",
    "rebuild --check --json",
)
Way = Callable[[Cluster, Database, dict[str, str]], "Settable"]


class Settable:
    """A way to bring settings to a session that is not ours to choose."""

    contexts: Sequence[str] = ("user", "superuser", "backend", "superuser-backend")

    def __init__(self, cluster: Cluster, database: Database, values: dict[str, str]) -> None:
        self.cluster, self.database, self.values = cluster, database, values
        self.environment: dict[str, str] = {}

    def set(self) -> int:
        """Do so; how many the server takes."""
        return sum(self._taken(name, value) for name, value in self.values.items())

    def _taken(self, name: str, value: str) -> bool:
        with psycopg.connect(self.cluster.superuser_url(), autocommit=True) as connection:
            try:
                for query in self.queries():
                    pair = sql.SQL(" SET {} = {}").format(_name(name), _value(name, value))
                    connection.execute(query + pair)
            except psycopg.Error:
                return False
        return True

    def queries(self) -> list[sql.Composed]:
        """ALTER of something."""
        return [sql.SQL("ALTER DATABASE {}").format(sql.Identifier(self.database.name))]

    def url(self, url: str) -> str:
        """The URL to use then."""
        return url


class OfRole(Settable):
    """The logins' own settings in this database."""

    def queries(self) -> list[sql.Composed]:
        """ALTER of each login."""
        query = sql.SQL("ALTER ROLE {} IN DATABASE {}")
        logins = (SERVICE_LOGIN, "postgres")
        name = sql.Identifier(self.database.name)
        return [query.format(sql.Identifier(login), name) for login in logins]


class OfUrl(Settable):
    """options in the URL: what a login may set itself."""

    contexts = ("user", "backend")

    def set(self) -> int:
        """All of them; the server judges when a session begins."""
        return len(self.values)

    @property
    def options(self) -> str:
        """libpq's options."""
        # What is of a transaction ends some servers' sessions as they begin: nothing is read then.
        kept = {n: v for n, v in self.values.items() if not n.startswith("transaction_")}
        escaped = {name: value.replace(" ", "\\ ") for name, value in kept.items()}
        return " ".join(f"-c {name}={value}" for name, value in escaped.items())

    def url(self, url: str) -> str:
        """With options."""
        return f"{url}?options={quote(self.options, safe='')}"


class OfEnvironment(OfUrl):
    """PG* variables, the ones with a default for each session among them."""

    def url(self, url: str) -> str:
        """As it is."""
        return url

    def set(self) -> int:
        """All of them, and what libpq sends by itself."""
        self.environment = {
            "PGOPTIONS": self.options,
            "PGDATESTYLE": "German",
            "PGTZ": "Asia/Kathmandu",
            "PGGEQO": "off",
            "PGCLIENTENCODING": "LATIN1",
            "PGAPPNAME": "another",
            "PGHOSTADDR": "192.0.2.1",
        }
        return len(self.values)


def _name(name: str) -> sql.Composable:
    return sql.SQL(".").join(map(sql.Identifier, name.split(".")))


def _value(name: str, value: str) -> sql.Composable:
    if name in ("search_path", "restrict_nonsystem_relation_kind", "DateStyle"):
        return sql.SQL(", ").join(map(sql.Literal, value.split(", ")))
    return sql.Literal(value)


def others(row: tuple[Any, ...]) -> list[str]:
    """Values that differ from a setting's default."""
    name, kind, least, most, words, default = row
    if name in ENUMS or name in STRINGS:
        return {**ENUMS, **STRINGS}[name]
    if kind == "bool":
        return ["off" if default == "on" else "on"]
    if kind == "enum":
        return [word for word in words if word != default]
    if kind in ("integer", "real"):
        # 300: as a time, long enough for one statement and short for a pause.
        near = [least, str(float(default) * 2 + 1), "300"]
        within = [v for v in near if float(least) <= float(v) <= float(most)]
        whole = [str(int(float(v))) if kind == "integer" else v for v in within]
        found = [v for v in whole if float(v) != float(default)]
        return [v for v in found if not ("timeout" in name and 0 < float(v) < 300)] or found[-1:]
    return []


def settable(database: Database, contexts: Sequence[str]) -> dict[str, list[str]]:
    """Every setting of these contexts, with other values than it has."""
    with database.owner() as connection:
        connection.execute("DO $$ BEGIN END $$")  # PL/pgSQL has settings of its own
        rows = connection.execute(
            "SELECT name, vartype, min_val, max_val, enumvals, boot_val FROM pg_settings"
            " WHERE context = ANY (%s)",
            ([*contexts],),
        ).fetchall()
    found = {row[0]: others(row) for row in rows if row[0] not in LEFT_OUT}
    return {name: values for name, values in found.items() if values}


@pytest.fixture
def ledger(database: Database, keyring: Keyring) -> Database:
    """One with events of every type; and names of another schema, for whoever looks there."""
    everything(database, keyring)
    database.execute("CREATE SCHEMA hostile")
    database.execute("GRANT USAGE ON SCHEMA hostile TO PUBLIC")
    for function in ("clock_timestamp() RETURNS timestamptz", "now() RETURNS timestamptz"):
        database.execute(
            f"CREATE FUNCTION hostile.{function} LANGUAGE sql"
            " AS $$ SELECT '1999-01-01Z'::timestamptz $$"
        )
    return database


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder by its SHA-256; Parquet's own files hold no time of their own."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def answers(way: Settable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What we say of a ledger, by every way that we read."""
    database = way.database
    env = {
        "DATABASE_URL": way.url(database.service_url),
        "MIGRATION_DATABASE_URL": way.url(database.owner_url),
        "SECRETS_KMS_KEY": NEW_KEY,
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
    }
    env |= way.environment
    export = folder / f"export-{len(list(folder.iterdir()))}"
    commands = told((*COMMANDS, f"export {export}"), folder, env)
    assert {command: said for command, said in commands.items() if said[0]} == {}
    # What follows is how long it took, and that verify remarks on each setting of the database.
    said: dict[str, Any] = {c: _before(commands[c][1], '"seconds"', '"remarks"') for c in COMMANDS}
    with monkeypatch.context() as patch:
        for name, value in way.environment.items():
            patch.setenv(name, value)
        said["view"] = run(view(env["DATABASE_URL"]))
        reader = DatabaseReader(env["MIGRATION_DATABASE_URL"], bodies=True)
        said["entries"] = reader.load(0, 256)
        reader.close()
    return {**said, "export": digests(export)}


def _before(text: str, *words: str) -> str:
    return min((text.partition(word)[0] for word in words), key=len)


async def view(url: str) -> list[Any]:
    """The access log as text, and as values."""
    rows = []
    for session in (SESSION, TOOL_SESSION, READ_SESSION):
        async with await connect(url, session) as connection:
            for query in (
                "SELECT log::text FROM secrets.credential_access_log AS log ORDER BY id",
                "SELECT * FROM secrets.credential_access_log ORDER BY id",
                "SELECT keys::text FROM secrets.access_keys AS keys ORDER BY id",
            ):
                rows.append(await (await connection.execute(query)).fetchall())
    return rows


def written(way: Settable, patch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What comes of the same commands; one credential stays, for later rounds to read."""
    for name, value in way.environment.items():
        patch.setenv(name, value)
    database = way.database
    there = Database(database.name, database.owner_url, way.url(database.service_url))
    keyring = Keyring.from_kms_keys(NEW_KEY)
    fields = {"additional_data": {"n": 1.5, "t": "Zürich"}, "rotate_after": 30}
    done = record(there, keyring, upsert("a.example", "s3cret", **fields), lookup("a.example"))
    done += record(there, keyring, delete("a.example"), lookup("a.example"))
    done += record(there, keyring, upsert("stays.example", "s3cret", **fields))
    return [(outcome.error, password_of(outcome)) for outcome in done]


def stored(database: Database, first: int) -> list[Any]:
    """The events from there on, but for what is another each time."""
    return database.fetch(
        "SELECT to_jsonb(e) - ARRAY['at', 'position', 'leaf_hash', 'mac', 'body', 'credential_id',"
        " 'version', 'type'], body ->> 'key' IS NULL FROM ledger.events AS e WHERE position >= %s"
        " ORDER BY position",
        first,
    )


# A database's settings and a URL's are one of the server's and one of the client's; the others go
# the same two ways, and wait for the long run.
@pytest.mark.parametrize(
    "kind",
    [
        Settable,
        OfUrl,
        *(pytest.param(kind, marks=pytest.mark.long) for kind in (OfRole, OfEnvironment)),
    ],
)
def test_no_setting_changes_what_is_read_or_written(
    cluster: Cluster,
    ledger: Database,
    kind: type[Settable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every setting that pg_settings calls settable, to each of up to four other values."""
    values = settable(ledger, kind.contexts)
    plain = Settable(cluster, ledger, {})
    size = size_of(ledger)
    expected = written(plain, monkeypatch), stored(ledger, size)
    for round_ in range(4):
        said = answers(plain, tmp_path, monkeypatch)
        size = size_of(ledger)
        way = kind(cluster, ledger, {name: v[round_ % len(v)] for name, v in values.items()})
        assert way.set() > 0.9 * len(values)
        found = answers(way, tmp_path, monkeypatch)
        with monkeypatch.context() as patch:
            outcomes = written(way, patch)
        _reset(way)
        for what, answer in said.items():  # one by one: the difference of all would be huge
            assert found[what] == answer, what
        assert (outcomes, stored(ledger, size)) == expected


def _reset(way: Settable) -> None:
    with psycopg.connect(way.cluster.superuser_url(), autocommit=True) as connection:
        for query in way.queries():
            connection.execute(query + sql.SQL(" RESET ALL"))
