"""What goes wrong with a database at a chosen moment, and the proof that all is well again."""

from tests.conftest import Database
from tests.waiting import until, until_async

_OURS = "FROM pg_stat_activity WHERE application_name = 'secrets-broker' AND datname = %s"
TERMINATE = f"SELECT pg_terminate_backend(pid) {_OURS}"


def count(database: Database) -> int:
    """How many events of commands are recorded; positions have no gap."""
    ((number, last, commands),) = database.fetch(
        "SELECT count(*), max(position), count(*) FILTER (WHERE type <> 'ledger.authenticated')"
        " FROM ledger.events"
    )
    assert number == (last + 1 if number else 0)
    return int(commands)


def terminate(database: Database) -> None:
    """Have the server end our connections, and wait until they are gone."""
    database.execute(TERMINATE, database.name)
    until_gone(database)


async def until_it_waits(database: Database, event: str) -> None:
    """Wait until one of our sessions waits for that in the server."""
    query = f"SELECT pid {_OURS} AND wait_event = %s"
    await until_async(database.fetch, query, database.name, event, what=f"nobody waits for {event}")


def at_commit(database: Database, action: str) -> None:
    """Have the server do something in the COMMIT of a batch with events of commands."""
    database.execute(
        "CREATE FUNCTION public.act() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {action}; RETURN NULL; END $$"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER act AFTER INSERT ON ledger.events"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " WHEN (NEW.type <> 'ledger.authenticated') EXECUTE FUNCTION public.act()"
    )


def as_usual(database: Database) -> None:
    """Take that back."""
    database.execute("DROP TRIGGER act ON ledger.events")


def until_gone(database: Database) -> None:
    """Wait until none of our sessions is there."""
    query = f"SELECT pid {_OURS}"
    until(lambda: not database.fetch(query, database.name), "a session of ours stays")
