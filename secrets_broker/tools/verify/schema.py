"""Whether what guards the ledger, and what people read it by, is what was shipped.

Triggers in force, for the owner and superusers too; their functions; no rule that rewrites
statements; primary keys; and the views. It says what is now, not what was: who switched a trigger
off may have switched it on again. What was done meanwhile is for the other checks to find.
"""

from collections.abc import Iterator
from typing import Final

from secrets_broker.ledger.audit.findings import Findings
from secrets_broker.migrations.definitions import Definitions, Function, definitions, read_trigger
from secrets_broker.migrations.manifest import checked_files
from secrets_broker.tools.verify.database import DatabaseSource

# Of an earlier installation's tables, which were set aside into schema secrets, nothing is said.
_OURS: Final = "(n.nspname = 'ledger' OR (n.nspname, c.relname) = ('secrets', 'host_credentials'))"
_TRIGGERS: Final = f"""
    SELECT n.nspname || '.' || c.relname, t.tgname::text, t.tgenabled::text,
           pg_get_triggerdef(t.oid)
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
         JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal AND {_OURS} ORDER BY 1, 2
"""  # noqa: S608 - our own constant
_RULES: Final = f"""
    SELECT n.nspname || '.' || c.relname, r.rulename::text
    FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
         JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE {_OURS} ORDER BY 1, 2
"""  # noqa: S608 - our own constant
_FUNCTIONS: Final = """
    SELECT n.nspname || '.' || p.proname, p.prosrc, p.prosecdef,
           coalesce(array_to_string(p.proconfig, ' '), '')
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname || '.' || p.proname = ANY (%s) ORDER BY 1
"""
_KEYS: Final = f"""
    SELECT n.nspname || '.' || c.relname,
           (SELECT string_agg(a.attname, ', ' ORDER BY array_position(p.conkey, a.attnum))
            FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum = ANY (p.conkey) AND i.indisvalid)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         LEFT JOIN pg_constraint AS p ON p.conrelid = c.oid AND p.contype = 'p'
         LEFT JOIN pg_index AS i ON i.indexrelid = p.conindid
    WHERE c.relkind = 'r' AND {_OURS}
"""  # noqa: S608 - our own constant
_VIEW: Final = "SELECT coalesce(pg_get_viewdef(to_regclass(%s)), '')"


def check_schema(source: DatabaseSource, findings: Findings) -> None:
    """Hold the catalogs to the shipped files; any login may read them."""
    shipped = definitions(checked_files())
    for what in (
        *_triggers(source, shipped),
        *_rules(source),
        *_functions(source, shipped),
        *_keys(source, shipped),
    ):
        findings.wrong(None, "schema", what)
    findings.checked["triggers"] += len(shipped.triggers)
    findings.checked["functions"] += len(shipped.functions)
    _views(source, findings, shipped)


def _triggers(source: DatabaseSource, shipped: Definitions) -> Iterator[str]:
    there = {(table, name): rest for table, name, *rest in source.fetch(_TRIGGERS)}
    for table, name in sorted(shipped.triggers.keys() | there.keys()):
        what, wanted = f"trigger {name} on {table}", shipped.triggers.get((table, name))
        if (table, name) not in there:
            yield f"{what} is gone"
        elif wanted is None:
            yield f"{what} is none of ours"
        elif read_trigger(there[table, name][1]) != wanted:
            yield f"{what} does something else than the one that was shipped"
        elif there[table, name][0] != "A":
            yield f"{what} is not enabled ALWAYS"


def _rules(source: DatabaseSource) -> Iterator[str]:
    return (f"rule {name} on {table} is none of ours" for table, name in source.fetch(_RULES))


def _functions(source: DatabaseSource, shipped: Definitions) -> Iterator[str]:
    rows = source.fetch(_FUNCTIONS, list(shipped.functions))
    for name in sorted(shipped.functions.keys() - {row[0] for row in rows}):
        yield f"function {name} is gone"
    for name, body, is_definers, settings in rows:
        given = Function(body, is_definers, settings.removeprefix("search_path="))
        if given != shipped.functions[name]:
            yield f"function {name} does something else than the one that was shipped"


def _keys(source: DatabaseSource, shipped: Definitions) -> Iterator[str]:
    # Without one, two rows of a key could be there, and who reads gets either.
    there = dict(source.fetch(_KEYS))
    for table, columns in shipped.primary_keys.items():
        if _is_ours(table) and there.get(table) != columns:
            yield f"table {table} has no primary key of {columns}"


def _is_ours(table: str) -> bool:
    return table.startswith("ledger.") or table == "secrets.host_credentials"


def _views(source: DatabaseSource, findings: Findings, shipped: Definitions) -> None:
    for name, query in shipped.views.items():
        wanted = None if source.is_standby else source.view_of(query)
        if wanted is None:
            findings.left_out("the views' definitions: this login may make no temporary view here")
            return
        findings.checked["views"] += 1
        ((given,),) = source.fetch(_VIEW, name)
        if given != wanted:
            findings.wrong(None, "schema", f"view {name} does not show what the shipped one shows")
