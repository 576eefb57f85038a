"""What verify says of triggers, functions and views that are not those that were shipped."""

import pytest

from secrets_broker.migrations.definitions import definitions, read_trigger
from secrets_broker.migrations.manifest import checked_files
from secrets_broker.tools.postgres import Cluster
from tests.conftest import Database
from tests.tools.verifying import verified

OFF = (
    "CREATE OR REPLACE FUNCTION ledger.{} RETURNS trigger LANGUAGE plpgsql SET search_path = {} AS"
)
CHANGES = {
    "trigger append_only on ledger.events is gone": "DROP TRIGGER append_only ON ledger.events",
    "trigger append_only on ledger.nodes is not enabled ALWAYS": (
        "ALTER TABLE ledger.nodes DISABLE TRIGGER append_only"
    ),
    "trigger check_append on ledger.events is not enabled ALWAYS": (
        "ALTER TABLE ledger.events ENABLE TRIGGER check_append"
    ),
    "trigger one_row on ledger.published does something else": """
        DROP TRIGGER one_row ON ledger.published;
        CREATE TRIGGER one_row BEFORE DELETE OR TRUNCATE ON ledger.published
            FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
        ALTER TABLE ledger.published ENABLE ALWAYS TRIGGER one_row""",
    "trigger same_key on ledger.data_keys does something else": """
        DROP TRIGGER same_key ON ledger.data_keys;
        CREATE TRIGGER same_key AFTER UPDATE ON ledger.data_keys FOR EACH ROW WHEN (false)
            EXECUTE FUNCTION ledger.refuse_another_key();
        ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER same_key""",
    "trigger copy on secrets.host_credentials is none of ours": """
        CREATE TRIGGER copy BEFORE UPDATE ON secrets.host_credentials
            FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
    "rule lose on ledger.events is none of ours": (
        "CREATE RULE lose AS ON INSERT TO ledger.events DO INSTEAD NOTHING"
    ),
    "function ledger.refuse_change does something else": """
        CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger
            LANGUAGE plpgsql SET search_path = pg_catalog AS $$BEGIN RETURN NULL; END$$""",
    "function ledger.destroy does something else": (
        "ALTER FUNCTION ledger.destroy(bigint) SECURITY INVOKER"
    ),
    "function ledger.activate_kek does something else": (
        "ALTER FUNCTION ledger.activate_kek(text) SET search_path = public"
    ),
    "function ledger.retire_keks is gone": "DROP FUNCTION ledger.retire_keks()",
    "table ledger.nodes has no primary key of level, index": (
        "ALTER TABLE ledger.nodes DROP CONSTRAINT nodes_pkey"
    ),
    "table ledger.data_keys has no primary key of id": """
        ALTER TABLE ledger.data_keys DROP CONSTRAINT data_keys_pkey;
        ALTER TABLE ledger.data_keys ADD PRIMARY KEY (id, kek)""",
    "view secrets.credential_access_log does not show": """
        DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW secrets.credential_access_log AS '
            || replace(pg_get_viewdef('secrets.credential_access_log'::regclass), ';', '')
            || ' AND actor <> ''mallory'''; END $$""",
    "view secrets.access_keys does not show": "DROP VIEW secrets.access_keys",
}


@pytest.mark.parametrize("said", CHANGES)
def test_each_thing_that_guards_the_ledger(database: Database, said: str) -> None:
    """What was changed is named, at no position."""
    database.execute(CHANGES[said])
    with_triggers_as_they_are = verified(database, cover_tracks=False)
    assert not with_triggers_as_they_are.ok
    ((position, check, detail),) = with_triggers_as_they_are.problems
    assert (position, check) == (None, "schema")
    assert detail.startswith(said)


def test_nothing_is_wrong_with_what_was_shipped(cluster: Cluster, database: Database) -> None:
    """All of it is looked at, by any login: none can read less of the catalogs."""
    cluster.ensure_login("auditor_login", member_of="secrets_broker_auditor")
    shipped = definitions(checked_files())
    for url in (
        database.owner_url,
        database.service_url,
        cluster.url("auditor_login", database.name),
    ):
        report = verified(database, url=url)
        assert (report.ok, report.problems) == (True, [])
        assert report.checked["triggers"] == len(shipped.triggers)
        assert report.checked["functions"] == len(shipped.functions)
        assert report.checked["views"] == len(shipped.views) == 3


def test_a_login_that_may_make_no_temporary_view(database: Database) -> None:
    """The views are said not to be checked; the rest is."""
    database.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    report = verified(database, url=database.service_url)
    assert report.ok
    assert any(text.startswith("the views' definitions") for text in report.not_checked)
    assert report.checked["triggers"]


def test_the_files_say_what_the_database_has(database: Database) -> None:
    """Nothing that a file makes is overlooked, in either direction."""
    shipped = definitions(checked_files())
    triggers = database.fetch(
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE NOT tgisinternal"
    )
    assert {(table, name): read_trigger(text) for table, name, text in triggers} == shipped.triggers
    functions = database.fetch(
        "SELECT oid::regproc::text FROM pg_proc"
        " WHERE pronamespace IN ('ledger'::regnamespace, 'secrets'::regnamespace)"
    )
    assert {name for (name,) in functions} == set(shipped.functions)
    keys = database.fetch(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'p' AND connamespace = 'ledger'::regnamespace"
    )
    ours = {t: f"PRIMARY KEY ({c})" for t, c in shipped.primary_keys.items() if t[:7] == "ledger."}
    assert {table: text.replace('"', "") for table, text in keys} == ours
    views = database.fetch(
        "SELECT schemaname || '.' || viewname FROM pg_views"
        " WHERE schemaname IN ('ledger', 'secrets')"
    )
    assert {name for (name,) in views} == set(shipped.views)
