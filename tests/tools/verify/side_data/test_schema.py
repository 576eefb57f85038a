"""What verify says of a catalogue that is not the one that was shipped."""

from collections.abc import Mapping

import psycopg
import pytest

from secrets_broker.migrations.shipped import QUERIES, WRITE, Catalogue, shipped, written
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.shipped import catalogues
from tests.conftest import Database
from tests.tools.verify.changing import verified

CHANGES = {
    # Triggers, functions, rules: what rewrites or lets pass.
    "trigger append_only on ledger.events is gone": "DROP TRIGGER append_only ON ledger.events",
    "trigger append_only on ledger.nodes is not as it was shipped: enabled": (
        "ALTER TABLE ledger.nodes DISABLE TRIGGER append_only"
    ),
    "trigger check_append on ledger.events is not as it was shipped: enabled": (
        "ALTER TABLE ledger.events ENABLE TRIGGER check_append"
    ),
    "trigger one_row on ledger.published is not as it was shipped: definition": """
        DROP TRIGGER one_row ON ledger.published;
        CREATE TRIGGER one_row BEFORE DELETE OR TRUNCATE ON ledger.published
            FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
        ALTER TABLE ledger.published ENABLE ALWAYS TRIGGER one_row""",
    "trigger same_key on ledger.data_keys is not as it was shipped: definition": """
        DROP TRIGGER same_key ON ledger.data_keys;
        CREATE TRIGGER same_key AFTER UPDATE ON ledger.data_keys FOR EACH ROW WHEN (false)
            EXECUTE FUNCTION ledger.refuse_another_key();
        ALTER TABLE ledger.data_keys ENABLE ALWAYS TRIGGER same_key""",
    "trigger copy on secrets.host_credentials is none of ours": """
        CREATE TRIGGER copy BEFORE UPDATE ON secrets.host_credentials
            FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
    "trigger late on ledger.events is none of ours": """
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ledger.events DEFERRABLE
            FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
    "constraint trigger RI_FKey_noaction_del of far_kek_fkey on ledger.keks is none of ours": (
        "CREATE TABLE public.far (kek text REFERENCES ledger.keks (id))"
    ),
    "rule lose on ledger.events is none of ours": (
        "CREATE RULE lose AS ON INSERT TO ledger.events DO INSTEAD NOTHING"
    ),
    "rule lose on secrets.credential_access_log is none of ours": """
        CREATE RULE lose AS ON UPDATE TO secrets.credential_access_log DO INSTEAD NOTHING""",
    "function ledger.refuse_change() is not as it was shipped: source": """
        CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger
            LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
            AS $$BEGIN RETURN NULL; END$$""",
    "function ledger.destroy(erasure bigint) is not as it was shipped: security definer": (
        "ALTER FUNCTION ledger.destroy(bigint) SECURITY INVOKER"
    ),
    "function ledger.activate_kek(new_id text) is not as it was shipped: settings": (
        "ALTER FUNCTION ledger.activate_kek(text) SET search_path = public"
    ),
    "function ledger.activate_kek(new_id text) is not as it was shipped: grants": (
        "GRANT EXECUTE ON FUNCTION ledger.activate_kek(text) TO secrets_broker_service"
    ),
    "function ledger.activate_kek(new_id text) is not as it was shipped: owner": (
        "ALTER FUNCTION ledger.activate_kek(text) OWNER TO service_login"
    ),
    "function ledger.check_append() is not as it was shipped: volatility": (
        "ALTER FUNCTION ledger.check_append() STABLE"
    ),
    "function ledger.retire_keks() is gone": "DROP FUNCTION ledger.retire_keks()",
    "function ledger.retire_keks(n integer) is none of ours": """
        CREATE FUNCTION ledger.retire_keks(n integer) RETURNS void LANGUAGE sql AS ''""",
    "procedure secrets.p() is none of ours": (
        "CREATE PROCEDURE secrets.p() LANGUAGE sql AS 'SELECT 1'"
    ),
    "aggregate ledger.string_agg(bytea) is none of ours": (
        "CREATE AGGREGATE ledger.string_agg (bytea) (SFUNC = byteacat, STYPE = bytea)"
    ),
    # Whatever a name could be taken for.
    "operator ledger.ledger.+(boolean,boolean) is none of ours": (
        "CREATE OPERATOR ledger.+ (LEFTARG = bool, RIGHTARG = bool, FUNCTION = booleq)"
    ),
    "type ledger.timestamptz is none of ours": (
        "CREATE DOMAIN ledger.timestamptz AS pg_catalog.timestamptz"
    ),
    "type secrets.mood is none of ours": "CREATE TYPE secrets.mood AS ENUM ('fine')",
    "composite type ledger.pair is none of ours": "CREATE TYPE ledger.pair AS (a int, b int)",
    "collation secrets.mine is none of ours": 'CREATE COLLATION secrets.mine FROM "C"',
    "function pg_catalog.string_agg(bytea,text) is none of ours": """
        CREATE FUNCTION pg_catalog.string_agg(bytea, text) RETURNS bytea LANGUAGE sql
            AS 'SELECT $1'""",
    "cast (text AS inet) is none of ours": "CREATE CAST (text AS inet) WITH INOUT AS IMPLICIT",
    "event trigger every on": """
        CREATE FUNCTION public.every() RETURNS event_trigger LANGUAGE plpgsql AS
            $$BEGIN END$$;
        CREATE EVENT TRIGGER "every on" ON ddl_command_end EXECUTE FUNCTION public.every()""",
    # Relations, and rows that come from elsewhere.
    "inheritance of public.more from ledger.events is none of ours": (
        "CREATE TABLE public.more () INHERITS (ledger.events)"
    ),
    "inheritance of ledger.events from public.base is none of ours": """
        CREATE TABLE public.base (at timestamptz NOT NULL);
        ALTER TABLE ledger.events INHERIT public.base""",
    "foreign table ledger.far is none of ours": """
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
        CREATE FOREIGN TABLE ledger.far (a int) SERVER s""",
    "partitioned table ledger.parts is none of ours": (
        "CREATE TABLE ledger.parts (a int) PARTITION BY RANGE (a)"
    ),
    "table secrets.more is none of ours": "CREATE TABLE secrets.more ()",
    "sequence ledger.ids is none of ours": "CREATE SEQUENCE ledger.ids",
    "materialized view secrets.kept is none of ours": (
        "CREATE MATERIALIZED VIEW secrets.kept AS SELECT 1"
    ),
    "table ledger.cosignatures is not as it was shipped: persistence": (
        "ALTER TABLE ledger.cosignatures SET UNLOGGED"
    ),
    "table ledger.bodies is not as it was shipped: owner": (
        "ALTER TABLE ledger.bodies OWNER TO service_login"
    ),
    "table ledger.nodes is gone": "DROP TABLE ledger.nodes CASCADE; CREATE VIEW ledger.nodes AS "
    "SELECT 1::smallint AS level, 1::bigint AS index, ''::bytea AS hash WHERE false;"
    "GRANT SELECT ON ledger.nodes TO PUBLIC",
    "row policy hide on ledger.events is none of ours": (
        "CREATE POLICY hide ON ledger.events USING (true)"
    ),
    "table ledger.events is not as it was shipped: row security": """
        CREATE POLICY p ON ledger.events;
        ALTER TABLE ledger.events ENABLE ROW LEVEL SECURITY""",
    "table ledger.nodes is not as it was shipped: row security for its owner": (
        "ALTER TABLE ledger.nodes FORCE ROW LEVEL SECURITY"
    ),
    "index ledger.events_changes is gone": "DROP INDEX ledger.events_changes",
    "index ledger.keks_one_active is not as it was shipped: definition": """
        DROP INDEX ledger.keks_one_active;
        CREATE INDEX keks_one_active ON ledger.keks ((true)) WHERE state = 'active'""",
    "index ledger.more is none of ours": "CREATE INDEX more ON ledger.events (actor)",
    "index ledger.events_host is not as it was shipped: valid": """
        UPDATE pg_index SET indisvalid = false
        WHERE indexrelid = 'ledger.events_host'::regclass""",
    "publication all_of_it of ledger.events is none of ours": (
        "CREATE PUBLICATION all_of_it FOR ALL TABLES"
    ),
    # Columns and constraints.
    "constraint nodes_pkey on ledger.nodes is gone": (
        "ALTER TABLE ledger.nodes DROP CONSTRAINT nodes_pkey"
    ),
    "constraint data_keys_pkey on ledger.data_keys is not as it was shipped: definition": """
        ALTER TABLE ledger.data_keys DROP CONSTRAINT data_keys_pkey;
        ALTER TABLE ledger.data_keys ADD PRIMARY KEY (id, kek)""",
    "constraint events_ip_check on ledger.events is gone": (
        "ALTER TABLE ledger.events DROP CONSTRAINT events_ip_check"
    ),
    "constraint events_v_check on ledger.events is not as it was shipped": """
        ALTER TABLE ledger.events DROP CONSTRAINT events_v_check;
        ALTER TABLE ledger.events ADD CONSTRAINT events_v_check CHECK (v = 1) NOT VALID""",
    "constraint far_kek_fkey on public.far is none of ours": """
        CREATE TABLE public.far (kek text REFERENCES ledger.keks (id))""",
    "constraint never on ledger.events is none of ours": (
        "ALTER TABLE ledger.events ADD CONSTRAINT never CHECK (actor <> 'x')"
    ),
    "column actor of ledger.events is not as it was shipped: default": (
        "ALTER TABLE ledger.events ALTER actor SET DEFAULT 'nobody'"
    ),
    "column authn of ledger.events is not as it was shipped: not null": (
        "ALTER TABLE ledger.events ALTER authn DROP NOT NULL"
    ),
    "column provider of ledger.keks is not as it was shipped: type": (
        "ALTER TABLE ledger.keks ALTER provider TYPE varchar(20)"
    ),
    "column provider of ledger.keks is not as it was shipped: collation": (
        'ALTER TABLE ledger.keks ALTER provider TYPE text COLLATE "C"'
    ),
    "column note of ledger.checkpoints is not as it was shipped: storage": (
        "ALTER TABLE ledger.checkpoints ALTER note SET STORAGE PLAIN"
    ),
    "column more of ledger.nodes is none of ours": """
        ALTER TABLE ledger.nodes ADD more bigint GENERATED ALWAYS AS (index + 1) STORED""",
    "column received_at of ledger.cosignatures is gone": (
        "ALTER TABLE ledger.cosignatures DROP received_at"
    ),
    "view secrets.credential_access_log is not as it was shipped: query": """
        DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW secrets.credential_access_log AS '
            || replace(pg_get_viewdef('secrets.credential_access_log'::regclass), ';', '')
            || ' AND actor <> ''mallory'''; END $$""",
    "view secrets.access_keys is not as it was shipped: options": (
        "ALTER VIEW secrets.access_keys SET (security_barrier)"
    ),
    "view secrets.access_keys is gone": "DROP VIEW secrets.access_keys",
    # Rights.
    "table ledger.events is not as it was shipped: grants": (
        "GRANT UPDATE ON ledger.events TO secrets_broker_service"
    ),
    "table ledger.keks is not as it was shipped: grants": (
        "GRANT SELECT ON ledger.keks TO secrets_broker_service WITH GRANT OPTION"
    ),
    "table ledger.published is not as it was shipped: grants": (
        "REVOKE SELECT ON ledger.published FROM secrets_broker_auditor"
    ),
    "table ledger.bodies is not as it was shipped: grants": (
        "GRANT SELECT ON ledger.bodies TO PUBLIC"
    ),
    "column wrapped of ledger.data_keys is not as it was shipped: grants": (
        "GRANT UPDATE (wrapped) ON ledger.data_keys TO secrets_broker_service"
    ),
    "schema ledger is not as it was shipped: grants": "GRANT CREATE ON SCHEMA ledger TO PUBLIC",
    "schema secrets is not as it was shipped: owner": (
        "ALTER SCHEMA secrets OWNER TO service_login"
    ),
    "default privileges of postgres in schema ledger": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA ledger GRANT SELECT ON TABLES TO PUBLIC"
    ),
    "ledger.lock has 0 rows": """
        ALTER TABLE ledger.lock DISABLE TRIGGER never_changed; DELETE FROM ledger.lock;
        ALTER TABLE ledger.lock ENABLE ALWAYS TRIGGER never_changed""",
}
# Roles are the cluster's: each change is taken back.
ROLES = {
    "role secrets_broker_service is not as it was shipped: superuser": (
        "ALTER ROLE secrets_broker_service SUPERUSER",
        "ALTER ROLE secrets_broker_service NOSUPERUSER",
    ),
    "role secrets_broker_auditor is not as it was shipped: login": (
        "ALTER ROLE secrets_broker_auditor LOGIN",
        "ALTER ROLE secrets_broker_auditor NOLOGIN",
    ),
    "role secrets_broker_auditor is not as it was shipped: bypassrls": (
        "ALTER ROLE secrets_broker_auditor BYPASSRLS",
        "ALTER ROLE secrets_broker_auditor NOBYPASSRLS",
    ),
    "membership of secrets_broker_service in pg_write_all_data is none of ours": (
        "GRANT pg_write_all_data TO secrets_broker_service",
        "REVOKE pg_write_all_data FROM secrets_broker_service",
    ),
    "membership of secrets_broker_auditor in secrets_broker_service is none of ours": (
        "GRANT secrets_broker_service TO secrets_broker_auditor",
        "REVOKE secrets_broker_service FROM secrets_broker_auditor",
    ),
    "membership of service_login, which acts as secrets_broker_service, in pg_read_all_data": (
        "GRANT pg_read_all_data TO service_login",
        "REVOKE pg_read_all_data FROM service_login",
    ),
    "attribute SUPERUSER of service_login, which acts as secrets_broker_service,": (
        "ALTER ROLE service_login SUPERUSER",
        "ALTER ROLE service_login NOSUPERUSER",
    ),
    "attribute REPLICATION of service_login, which acts as secrets_broker_service,": (
        "ALTER ROLE service_login REPLICATION",
        "ALTER ROLE service_login NOREPLICATION",
    ),
    "attribute BYPASSRLS of through, which acts as secrets_broker_auditor,": (
        """CREATE ROLE between IN ROLE secrets_broker_auditor;
           CREATE ROLE through BYPASSRLS IN ROLE between""",
        "DROP ROLE through; DROP ROLE between",
    ),
    "admin option of service_login on secrets_broker_service is none of ours": (
        "GRANT secrets_broker_service TO service_login WITH ADMIN OPTION",
        "REVOKE ADMIN OPTION FOR secrets_broker_service FROM service_login",
    ),
}


@pytest.mark.parametrize("said", CHANGES)
def test_each_thing_that_was_changed_is_named(database: Database, said: str) -> None:
    """By name, at no position, by whoever asks."""
    database.execute("SET allow_system_table_mods = on; " + CHANGES[said])
    report = verified(database, schema=True)
    assert not report.ok
    assert {(position, check) for position, check, _ in report.problems} == {(None, "schema")}
    assert [detail for *_, detail in report.problems if detail.startswith(said)]


@pytest.mark.parametrize("said", ROLES)
def test_each_right_that_a_role_of_ours_got_is_named(
    cluster: Cluster, database: Database, said: str
) -> None:
    """Attributes, memberships, and who may give them away; also of who acts as our roles."""
    cluster.ensure_login("auditor_login", member_of="secrets_broker_auditor")
    done, undone = ROLES[said]
    database.execute(done)
    try:
        report = verified(database, url=cluster.url("auditor_login", database.name), schema=True)
    finally:
        database.execute(undone)
    assert not report.ok
    assert [detail for *_, detail in report.problems if detail.startswith(said)]
    assert verified(database, schema=True).ok


def test_nothing_is_wrong_with_what_was_shipped(cluster: Cluster, database: Database) -> None:
    """All of it is looked at, by any login: none can read less of the catalogue."""
    cluster.ensure_login("auditor_login", member_of="secrets_broker_auditor")
    for url in (
        database.owner_url,
        database.service_url,
        cluster.url("auditor_login", database.name),
    ):
        report = verified(database, url=url, schema=True)
        assert (report.ok, report.problems) == (True, [])
        for kind, catalogue in shipped().items():
            assert report.checked.get(f"of the schema: {kind}", 0) == len(catalogue)
    assert "the row of ledger.lock: this login may not read it" in report.not_checked


def test_the_list_is_what_the_migrations_make(database: Database) -> None:
    """Where this fails after a change to a migration, run what it says."""
    with psycopg.connect(database.owner_url) as connection:
        found = catalogues(connection)
    assert written(_without_queries(found)) == written(_without_queries(shipped())), f"run: {WRITE}"


def _without_queries(whole: Mapping[str, Catalogue]) -> Mapping[str, Catalogue]:
    # Each version of PostgreSQL writes a view's query in its own way; verify asks it how.
    relations = {
        what: [{**one, "query": None} for one in facts]
        for what, facts in whole["relations"].items()
    }
    return {**whole, "relations": relations}


def test_what_a_login_may_not_read_is_said(database: Database) -> None:
    """No catalogue that was closed to it, and no view that it cannot compare, counts as checked."""
    database.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    database.execute("REVOKE SELECT ON pg_policy, pg_auth_members FROM PUBLIC")
    database.execute(CHANGES["view secrets.credential_access_log is not as it was shipped: query"])
    report = verified(database, url=database.service_url, schema=True)
    assert report.ok
    assert {text.split(":")[0] for text in report.not_checked} >= {
        "what view secrets.credential_access_log shows",
        "row policies",
        "members of roles",
    }


@pytest.mark.parametrize(
    "setting", ["DateStyle = 'German'", "search_path = public", "quote_all_identifiers = on",
                "TimeZone = 'Asia/Kolkata'", "default_transaction_isolation = 'serializable'"],
)  # fmt: skip
def test_what_a_database_sets_is_a_remark(database: Database, setting: str) -> None:
    """No session of ours depends on it, so it decides nothing, and the words stay the same."""
    database.execute(f"ALTER DATABASE {database.name} SET {setting}")
    report = verified(database, schema=True)
    assert (report.ok, report.problems) == (True, [])
    name = setting.split(" ", maxsplit=1)[0]
    assert f"the database or a role sets {name}: no session of ours depends on it" in report.remarks


def test_every_query_has_its_part_of_the_list() -> None:
    """None is asked that has nothing to be held to."""
    assert set(shipped()) == set(QUERIES)
