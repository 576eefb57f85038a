"""The catalogue as it was shipped: every object of ours in a database, with all that matters of it.

`QUERIES` ask PostgreSQL for it, kind by kind, in words that are the same on every version that we
run on and under every owner. `shipped.json` is what they answer of a database that the migrations
made; `python -m secrets_broker.tools.shipped` writes it again after a change to a migration.

What an operator tunes is no part of it: tablespaces, a table's storage parameters, statistics
targets, comments.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from secrets_broker.migrations.manifest import FOLDER

FILE: Final = FOLDER / "shipped.json"
WRITE: Final = "python -m secrets_broker.tools.shipped"

Facts = dict[str, Any]
Catalogue = dict[str, list[Facts]]
"""Facts by what they are about (`table ledger.events`); more than one only where names mislead."""

PINS: Final[Mapping[str, str]] = {
    # PostgreSQL's words for a definition depend on these.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmlbinary": "base64",
    "lc_monetary": "C",
}

_OURS: Final = """
WITH RECURSIVE spaces AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('ledger', 'secrets')
), legacy AS (
    -- An earlier installation's tables, which were set aside: nothing is said of them.
    SELECT c.oid FROM pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'secrets' AND c.relkind = 'r'
      AND c.relname IN ('legacy_host_credentials', 'legacy_credential_access_log')
), apart AS (
    SELECT oid FROM legacy
    UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM legacy)
    UNION ALL SELECT objid FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
      AND refobjid IN (SELECT oid FROM legacy) AND deptype IN ('a', 'i')
), relations AS (
    SELECT c.*, n.nspname || '.' || c.relname AS name,
           CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table'
               WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
               WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' WHEN 'I' THEN 'partitioned index'
               WHEN 'c' THEN 'composite type' ELSE 'relation' END AS kind,
           (CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char" AS acl_kind
    FROM pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace
    WHERE c.oid NOT IN (SELECT oid FROM apart)
), functions AS (
    SELECT p.*, n.nspname || '.' || p.proname AS name,
           pg_get_function_identity_arguments(p.oid) AS arguments
    FROM pg_proc AS p JOIN spaces AS n ON n.oid = p.pronamespace
), owner AS (
    -- Whose most of it is: so it is the odd one that differs.
    SELECT mode() WITHIN GROUP (ORDER BY whose) AS oid FROM (
        SELECT nspowner AS whose FROM spaces UNION ALL SELECT relowner FROM relations
        UNION ALL SELECT proowner FROM functions) AS all_of_it
), ours AS (
    SELECT oid, rolname FROM pg_roles
    WHERE rolname IN ('secrets_broker_service', 'secrets_broker_auditor')
)
"""

# PUBLIC and the owner have no `role ` before them, so no role can be called so. The owner's right
# to MAINTAIN came with PostgreSQL 17.
_GRANTS: Final = """
    (SELECT coalesce(jsonb_agg(line ORDER BY line COLLATE "C"), '[]') FROM (
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN {owner} THEN 'owner'
                   ELSE 'role ' || coalesce(r.rolname, a.grantee::text) END
               || ': ' || a.privilege_type || CASE WHEN a.is_grantable THEN ' with grant option'
                   ELSE '' END AS line
        FROM aclexplode({acl}) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE NOT (a.grantee = {owner} AND a.privilege_type = 'MAINTAIN')) AS lines)
"""
_WHOSE: Final = """
    CASE WHEN {owner} = (SELECT oid FROM owner) THEN 'owner'
         ELSE coalesce((SELECT 'role ' || rolname FROM pg_roles WHERE oid = {owner}), '?') END
"""


def _grants(acl: str, owner: str) -> str:
    return _GRANTS.format(acl=acl, owner=owner)


def _whose(owner: str) -> str:
    return _WHOSE.format(owner=owner)


_SCHEMAS: Final = f"""
    SELECT 'schema ' || nspname, jsonb_build_object(
        'owner', {_whose("nspowner")},
        'grants', {_grants("coalesce(nspacl, acldefault('n', nspowner))", "nspowner")})
    FROM spaces
"""  # noqa: S608 - our own constants
_RELATIONS: Final = f"""
    SELECT kind || ' ' || name, jsonb_build_object(
        'owner', {_whose("relowner")},
        'grants', CASE WHEN relkind IN ('i', 'I') THEN '[]'
            ELSE {_grants("coalesce(relacl, acldefault(acl_kind, relowner))", "relowner")} END,
        'persistence', relpersistence,
        'row security', relrowsecurity, 'row security for its owner', relforcerowsecurity,
        'partition', relispartition,
        'replica identity', relreplident,
        'access method', (SELECT amname FROM pg_am WHERE oid = relam),
        'options', CASE WHEN relkind IN ('v', 'm') THEN to_jsonb(reloptions) END,
        'query', CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(relations.oid) END,
        'definition', CASE WHEN relkind IN ('i', 'I') THEN pg_get_indexdef(relations.oid) END,
        'valid', (SELECT indisvalid AND indisready AND indislive FROM pg_index
                  WHERE indexrelid = relations.oid))
    FROM relations
"""  # noqa: S608 - our own constants
_COLUMNS: Final = f"""
    SELECT 'column ' || attname || ' of ' || name, jsonb_build_object(
        'type', format_type(atttypid, atttypmod),
        'not null', attnotnull,
        'default', (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                    WHERE adrelid = attrelid AND adnum = attnum),
        'generated', attgenerated, 'identity', attidentity,
        'collation', (SELECT n.nspname || '.' || c.collname FROM pg_collation AS c
                      JOIN pg_namespace AS n ON n.oid = c.collnamespace WHERE c.oid = attcollation),
        'storage', attstorage,
        'inherited', attinhcount > 0,
        'grants', {_grants("attacl", "relowner")})
    FROM relations JOIN pg_attribute ON attrelid = relations.oid
    WHERE attnum > 0 AND NOT attisdropped AND relkind NOT IN ('i', 'I')
"""  # noqa: S608 - our own constants
# Since version 18 a NOT NULL is a constraint too: the column tells of it, and this where it is not
# in force. to_jsonb: columns that older versions do not have are null.
_CONSTRAINTS: Final = """
    SELECT 'constraint ' || conname || ' on ' || coalesce(
               (SELECT name FROM relations WHERE oid = conrelid), conrelid::regclass::text),
        jsonb_build_object(
            'definition', pg_get_constraintdef(c.oid), 'validated', convalidated,
            'enforced', coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true),
            'inherited', coninhcount > 0)
    FROM pg_constraint AS c
    WHERE (conrelid IN (SELECT oid FROM relations) OR confrelid IN (SELECT oid FROM relations))
      AND contype <> 't'
      AND NOT (contype = 'n' AND convalidated
               AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true))
"""
_TRIGGERS: Final = """
    SELECT CASE WHEN tgisinternal THEN 'constraint trigger ' || proname || ' of '
                    || coalesce((SELECT conname FROM pg_constraint WHERE oid = tgconstraint), '?')
                ELSE 'trigger ' || tgname END || ' on ' || name,
        jsonb_build_object(
            'enabled', tgenabled, 'type', tgtype, 'deferred', tginitdeferred,
            'definition', CASE WHEN NOT tgisinternal THEN pg_get_triggerdef(t.oid) END)
    FROM pg_trigger AS t JOIN relations ON relations.oid = tgrelid
         JOIN pg_proc AS p ON p.oid = tgfoid
"""
# A view is a rule; what it shows stands with its relation.
_RULES: Final = """
    SELECT 'rule ' || rulename || ' on ' || name, jsonb_build_object(
        'enabled', ev_enabled,
        'definition', CASE WHEN NOT of_a_view THEN pg_get_ruledef(oid) END)
    FROM (SELECT r.oid, rulename, ev_enabled, name,
                 relkind IN ('v', 'm') AND rulename = '_RETURN' AS of_a_view
          FROM pg_rewrite AS r JOIN relations ON relations.oid = ev_class) AS rules
"""
_POLICIES: Final = """
    SELECT 'row policy ' || polname || ' on ' || name, '{}'::jsonb
    FROM pg_policy JOIN relations ON relations.oid = polrelid
"""
_INHERITANCE: Final = """
    SELECT 'inheritance of ' || inhrelid::regclass || ' from ' || inhparent::regclass, '{}'::jsonb
    FROM pg_inherits
    WHERE inhrelid IN (SELECT oid FROM relations) OR inhparent IN (SELECT oid FROM relations)
"""
_FUNCTIONS: Final = f"""
    SELECT CASE prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate '
               WHEN 'w' THEN 'window function ' ELSE 'function ' END || name
               || '(' || arguments || ')',
        jsonb_build_object(
            'owner', {_whose("proowner")},
            'grants', {_grants("coalesce(proacl, acldefault('f', proowner))", "proowner")},
            'source', prosrc, 'body', pg_get_function_sqlbody(functions.oid), 'library', probin,
            'language', (SELECT lanname FROM pg_language WHERE oid = prolang),
            'arguments', pg_get_function_arguments(functions.oid),
            'returns', pg_get_function_result(functions.oid),
            'security definer', prosecdef, 'settings', to_jsonb(proconfig),
            'volatility', provolatile, 'strict', proisstrict, 'leakproof', proleakproof,
            'parallel', proparallel, 'support', prosupport::text)
    FROM functions
"""  # noqa: S608 - our own constants
_LANGUAGES: Final = """
    SELECT 'language plpgsql', jsonb_build_object(
        'trusted', lanpltrusted, 'handler', lanplcallfoid::regproc::text,
        'inline', laninline::regproc::text, 'validator', lanvalidator::regproc::text)
    FROM pg_language WHERE lanname = 'plpgsql'
"""
# Whatever else a schema can hold, and what somebody put into pg_catalog, where every name of ours
# is looked up. Objects of initdb have numbers below 16384 (FirstNormalObjectId).
_OTHERS: Final = """
    SELECT what || ' ' || n.nspname || '.' || name, '{}'::jsonb
    FROM (SELECT 'type' AS what, oid, typnamespace AS space, typname AS name FROM pg_type AS t
          WHERE typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)
          UNION ALL SELECT 'operator', oid, oprnamespace, oid::regoperator::text FROM pg_operator
          UNION ALL SELECT 'operator class', oid, opcnamespace, opcname FROM pg_opclass
          UNION ALL SELECT 'operator family', oid, opfnamespace, opfname FROM pg_opfamily
          UNION ALL SELECT 'collation', oid, collnamespace, collname FROM pg_collation
          UNION ALL SELECT 'conversion', oid, connamespace, conname FROM pg_conversion
          UNION ALL SELECT 'text search parser', oid, prsnamespace, prsname FROM pg_ts_parser
          UNION ALL SELECT 'text search dictionary', oid, dictnamespace, dictname FROM pg_ts_dict
          UNION ALL SELECT 'text search template', oid, tmplnamespace, tmplname FROM pg_ts_template
          UNION ALL SELECT 'text search configuration', oid, cfgnamespace, cfgname
          FROM pg_ts_config
          UNION ALL SELECT 'statistics', oid, stxnamespace, stxname FROM pg_statistic_ext
          UNION ALL SELECT 'function', oid, pronamespace, oid::regprocedure::text FROM pg_proc
          WHERE pronamespace = 'pg_catalog'::regnamespace) AS found
    JOIN pg_namespace AS n ON n.oid = space
    WHERE space IN (SELECT oid FROM spaces)
       -- initdb itself takes collations from the system, with numbers from 12000 on or later ones.
       OR (space = 'pg_catalog'::regnamespace AND found.oid >= 16384 AND what <> 'collation')
"""
_CASTS: Final = """
    SELECT 'cast (' || castsource::regtype || ' AS ' || casttarget::regtype || ')', '{}'::jsonb
    FROM pg_cast AS c JOIN pg_type AS s ON s.oid = castsource
         JOIN pg_type AS t ON t.oid = casttarget
         LEFT JOIN pg_proc AS p ON p.oid = castfunc
    WHERE (c.oid >= 16384 AND s.typnamespace = 'pg_catalog'::regnamespace
           AND t.typnamespace = 'pg_catalog'::regnamespace)
       OR s.typnamespace IN (SELECT oid FROM spaces) OR t.typnamespace IN (SELECT oid FROM spaces)
       OR p.pronamespace IN (SELECT oid FROM spaces)
"""
_EVENT_TRIGGERS: Final = """
    SELECT 'event trigger ' || evtname, '{}'::jsonb FROM pg_event_trigger
"""
_DEFAULTS: Final = """
    SELECT 'default privileges of ' || coalesce(r.rolname, '?')
               || coalesce(' in schema ' || n.nspname, '')
               || ' for objects of kind ' || defaclobjtype::text,
        '{}'::jsonb
    FROM pg_default_acl AS d LEFT JOIN spaces AS n ON n.oid = defaclnamespace
         LEFT JOIN pg_roles AS r ON r.oid = defaclrole
    WHERE n.oid IS NOT NULL OR (defaclnamespace = 0 AND defaclrole = (SELECT oid FROM owner))
"""
_COPIES: Final = """
    SELECT 'publication ' || pubname || ' of ' || name, '{}'::jsonb
    FROM pg_publication_tables JOIN relations ON name = schemaname || '.' || tablename
    UNION ALL
    SELECT 'subscription to ' || name, '{}'::jsonb
    FROM pg_subscription_rel JOIN relations ON relations.oid = srrelid
"""
_LABELS: Final = """
    SELECT 'security label of ' || provider || ' on ' || coalesce(r.name, f.name), '{}'::jsonb
    FROM pg_seclabel AS l
         LEFT JOIN relations AS r ON l.classoid = 'pg_class'::regclass AND r.oid = l.objoid
         LEFT JOIN functions AS f ON l.classoid = 'pg_proc'::regclass AND f.oid = l.objoid
    WHERE coalesce(r.oid, f.oid) IS NOT NULL
"""
_ROLES: Final = """
    SELECT 'role ' || r.rolname, jsonb_build_object(
        'superuser', rolsuper, 'createrole', rolcreaterole, 'createdb', rolcreatedb,
        'login', rolcanlogin, 'replication', rolreplication, 'bypassrls', rolbypassrls,
        'owner of the ledger', r.oid = (SELECT oid FROM owner))
    FROM pg_roles AS r JOIN ours USING (oid)
"""
# Who acts as one of our roles, however many steps away, is nothing more than that. The ledger's
# owner is; and since version 16, who makes a role without being a superuser becomes its member,
# with the admin option and nothing else, by a grant of the first superuser (number 10): REMARKS.
_ACTING: Final = """
, memberships AS (
    SELECT roleid, member, admin_option,
           admin_option AND grantor = 10 AND r.rolcreaterole
           AND coalesce(NOT (to_jsonb(m) ->> 'inherit_option')::boolean
                        AND NOT (to_jsonb(m) ->> 'set_option')::boolean, false) AS of_its_maker
    FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = member
), acting AS (
    SELECT oid AS role, oid AS member FROM ours
    UNION
    SELECT role, m.member FROM acting JOIN memberships AS m ON m.roleid = acting.member
    WHERE NOT of_its_maker
), logins AS (
    SELECT r.*, ours.rolname AS acts_as FROM acting JOIN pg_roles AS r ON r.oid = member
         JOIN ours ON ours.oid = role
    WHERE member NOT IN (SELECT oid FROM ours) AND member <> (SELECT oid FROM owner)
)
"""
_MEMBERS: Final = """
    SELECT 'attribute ' || attribute || ' of ' || rolname || ', which acts as ' || acts_as || ',',
        '{}'::jsonb
    FROM logins, LATERAL (VALUES ('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole),
        ('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls)) AS has (attribute, it)
    WHERE it
    UNION ALL
    SELECT 'membership of ' || l.rolname || ', which acts as ' || acts_as || ', in ' || r.rolname,
        '{}'::jsonb
    FROM logins AS l JOIN pg_roles AS r ON r.oid = (SELECT oid FROM owner) OR r.rolname IN (
        'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files',
        'pg_execute_server_program')
    WHERE NOT l.rolsuper AND pg_has_role(l.oid, r.oid, 'MEMBER')
    UNION ALL
    SELECT 'membership of ' || ours.rolname || ' in ' || r.rolname, '{}'::jsonb
    FROM memberships AS m JOIN ours ON ours.oid = m.member JOIN pg_roles AS r ON r.oid = roleid
    UNION ALL
    SELECT 'admin option of ' || r.rolname || ' on ' || ours.rolname, '{}'::jsonb
    FROM memberships AS m JOIN ours ON ours.oid = roleid JOIN pg_roles AS r ON r.oid = m.member
    WHERE admin_option AND NOT of_its_maker AND m.member <> (SELECT oid FROM owner)
"""

QUERIES: Final[Mapping[str, str]] = {
    "schemas": _OURS + _SCHEMAS,
    "relations": _OURS + _RELATIONS,
    "columns": _OURS + _COLUMNS,
    "constraints": _OURS + _CONSTRAINTS,
    "triggers": _OURS + _TRIGGERS,
    "rules": _OURS + _RULES,
    "row policies": _OURS + _POLICIES,
    "inheritance": _OURS + _INHERITANCE,
    "functions": _OURS + _FUNCTIONS,
    "the language of functions": _LANGUAGES,
    "types, operators and the like": _OURS + _OTHERS,
    "casts": _OURS + _CASTS,
    "event triggers": _EVENT_TRIGGERS,
    "default privileges": _OURS + _DEFAULTS,
    "publications and subscriptions": _OURS + _COPIES,
    "security labels": _OURS + _LABELS,
    "roles": _OURS + _ROLES,
    "members of roles": _OURS + _ACTING + _MEMBERS,
}
"""By what each asks for: two columns, what the facts are about and the facts."""

_SETTINGS: Final = """
    SELECT DISTINCT 'the database or a role sets ' || split_part(setting, '=', 1)
               || ': no session of ours depends on it'
    FROM pg_db_role_setting, LATERAL unnest(setconfig) AS setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY 1
"""
_MAKERS: Final = """
    SELECT r.rolname || ' made ' || ours.rolname || ', and may give it to others'
    FROM memberships AS m JOIN ours ON ours.oid = roleid JOIN pg_roles AS r ON r.oid = m.member
    WHERE of_its_maker AND m.member <> (SELECT oid FROM owner) ORDER BY 1
"""
REMARKS: Final[Mapping[str, str]] = {
    "settings of roles and databases": _SETTINGS,
    "who made the roles": _OURS + _ACTING + _MAKERS,
}
"""What is worth knowing and decides nothing: one column, a sentence."""


def gathered(rows: Iterable[tuple[str, Facts]]) -> Catalogue:
    """What a query answered, by what it is about."""
    found: Catalogue = {}
    for what, facts in rows:
        found.setdefault(what, []).append(facts)
    return found


def shipped() -> Mapping[str, Catalogue]:
    """The catalogue as it was shipped, by the names of QUERIES."""
    found: Mapping[str, Catalogue] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def written(catalogues: Mapping[str, Catalogue]) -> str:
    """The text of the file: sorted, so that a change of it shows what changed."""
    return json.dumps(catalogues, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def differences(wanted: Catalogue, there: Catalogue) -> Iterator[str]:
    """What is gone, what was added, and which facts of the rest differ; in words."""
    for what in sorted(wanted.keys() | there.keys()):
        before, now = wanted.get(what, []), there.get(what, [])
        if not now:
            yield f"{what} is gone"
        elif not before:
            yield f"{what} is none of ours"
        elif len(now) != len(before):
            yield f"{what} is there {len(now)} times, and was shipped {len(before)} times"
        elif now != before:
            facts = sorted(
                fact
                for old, new in zip(before, now, strict=True)
                for fact in old.keys() | new.keys()
                if old.get(fact) != new.get(fact)
            )
            yield f"{what} is not as it was shipped: {', '.join(dict.fromkeys(facts))}"
