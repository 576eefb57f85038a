"""The settings of a session, and the SQL that applies and checks them: pure text.

Every setting that a session may change is set: to our value, or else to PostgreSQL's own default
(`boot_val`). Only those in FREE are left as they are: they affect time or memory, but no answer. So
a setting that a later PostgreSQL adds is set too, without being known here.

The statements are simple queries, several in one. The first pins search_path. Before that, no name
or operator is looked up that somebody could have put into another schema.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from psycopg import sql

from secrets_broker.session.errors import POOLER, SessionError, not_granted

SEARCH_PATH: Final = "pg_catalog, pg_temp"
OLDEST_VERSION: Final = 140_000
_NOT_DURABLE: Final = ("off", "local")

OURS: Final[Mapping[str, str]] = {
    "search_path": SEARCH_PATH,
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "timezone_abbreviations": "Default",
    "client_min_messages": "warning",
    # Off is strict: a statement fails if a policy would hide or refuse rows.
    "row_security": "off",
    # Not in pg_settings before PL/pgSQL is loaded. A warning of its own would make a commit
    # doubtful, an error more would refuse our triggers.
    "plpgsql.extra_warnings": "none",
    "plpgsql.extra_errors": "none",
    "plpgsql.check_asserts": "on",
    "plpgsql.print_strict_params": "off",
    # For logins that may set them. Our triggers are ENABLE ALWAYS, and fire in any case.
    "session_replication_role": "origin",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}
FREE: Final = frozenset(
    [
        "application_name",
        "password_encryption",
        "scram_iterations",
        "md5_password_warnings",
        "client_connection_check_interval",
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_user_timeout",
        "wal_sender_timeout",
        "default_tablespace",
        "temp_tablespaces",
        "default_toast_compression",
        "cpu_index_tuple_cost",
        "cpu_operator_cost",
        "cpu_tuple_cost",
        "effective_cache_size",
        "jit_above_cost",
        "jit_inline_above_cost",
        "jit_optimize_above_cost",
        "min_parallel_index_scan_size",
        "min_parallel_table_scan_size",
        "parallel_setup_cost",
        "parallel_tuple_cost",
        "random_page_cost",
        "seq_page_cost",
        "default_statistics_target",
        "backend_flush_after",
        "effective_io_concurrency",
        "io_combine_limit",
        "maintenance_io_concurrency",
        "hash_mem_multiplier",
        "logical_decoding_work_mem",
        "maintenance_work_mem",
        "temp_buffers",
        "work_mem",
        "gin_pending_list_limit",
        "wal_skip_threshold",
        "commit_siblings",
        "max_parallel_maintenance_workers",
        "max_parallel_workers",
        "max_parallel_workers_per_gather",
        "vacuum_buffer_usage_limit",
        "vacuum_cost_delay",
        "vacuum_cost_limit",
        "vacuum_cost_page_dirty",
        "vacuum_cost_page_hit",
        "vacuum_cost_page_miss",
        "vacuum_truncate",
        "vacuum_failsafe_age",
        "vacuum_freeze_min_age",
        "vacuum_freeze_table_age",
        "vacuum_max_eager_freeze_failure_rate",
        "vacuum_multixact_failsafe_age",
        "vacuum_multixact_freeze_min_age",
        "vacuum_multixact_freeze_table_age",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
    ]  # the last three are of a transaction, and follow from default_transaction_*
)

# remote_write becomes on, which also waits for the standby's flush: then answered events survive
# both machines. remote_apply is stronger than on.
_SET: Final = """
    SELECT wanted.name, set_config(wanted.name, wanted.value, false)
    FROM (
        SELECT known.name, CASE
            WHEN known.name <> 'synchronous_commit' THEN coalesce(ours.value, known.boot_val)
            WHEN known.setting = 'remote_apply' THEN 'remote_apply' ELSE 'on' END AS value
        FROM pg_settings AS known
        LEFT JOIN json_each_text({ours}) AS ours ON lower(ours.key) = lower(known.name)
        WHERE (known.context = 'user' AND strpos(known.name, '.') = 0
               AND (ours.key IS NOT NULL OR NOT known.name = ANY ({free})))
           OR (known.context = 'superuser' AND ours.key IS NOT NULL
               AND current_setting('is_superuser') = 'on')
        UNION ALL
        SELECT key, value FROM json_each_text({ours}) WHERE strpos(key, '.') > 0
    ) AS wanted
    WHERE wanted.value IS NOT NULL
"""
_FIRST: Final = """
    SELECT pg_catalog.current_setting('synchronous_commit'),
           pg_catalog.set_config('search_path', '{path}', false)
"""
_READ_BACK: Final = """
    SELECT (SELECT string_agg(took.key, ', ' ORDER BY took.key)
            FROM json_each_text({took}) AS took
            WHERE current_setting(took.key, true) IS DISTINCT FROM took.value),
           current_setting('server_encoding'), current_setting('fsync'), pg_backend_pid(),
           current_user::text,
           CASE WHEN to_regnamespace('ledger') IS NULL THEN true
                ELSE has_schema_privilege(to_regnamespace('ledger'), 'USAGE') END,
           EXISTS (SELECT FROM pg_roles WHERE rolname = 'secrets_broker_service'
                   AND pg_has_role(oid, 'MEMBER'))
"""


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What the server says about a new session."""

    lost: str | None
    encoding: str
    fsync: str
    backend_pid: int
    login: str
    may_use: bool
    is_member: bool


class Marker:
    """A setting with a name unique to one session: reading it in another one is an error."""

    def __init__(self) -> None:
        self.name = f"secrets_broker.session_{token_hex(8)}"
        # 42704 where the session never had the setting, 42602 where it was reset to nothing.
        # A cast of digits to regproc looks nothing up.
        self.is_there = f"SELECT pg_catalog.current_setting('{self.name}', true)".encode()
        self.expression = f"CAST(pg_catalog.current_setting('{self.name}') AS pg_catalog.regproc)"


def set_all(marker: Marker, settings: Mapping[str, str]) -> str:
    """Statements with two results: the old synchronous_commit; each setting with its new value."""
    ours = json.dumps({**_by_small_letters(OURS, settings), marker.name: "0"})
    free = ", ".join(f"'{name}'" for name in sorted(FREE))
    first = _FIRST.format(path=SEARCH_PATH)
    return f"{first}; {_SET.format(ours=_literal(ours), free=f'ARRAY[{free}]')}"


def read_back(marker: Marker, took: Sequence[tuple[str, str]]) -> str:
    """Statements with two results, the last for `facts`; an error in another session."""
    return f"SELECT {marker.expression}; {_READ_BACK.format(took=_literal(json.dumps(dict(took))))}"


def check_version(version: int) -> None:
    """Raise SessionError for a server that is too old."""
    if version < OLDEST_VERSION:
        raise SessionError("PostgreSQL 14 or newer is needed")


def check(
    facts: SessionFacts, settings: Mapping[str, str], durable: str, *, of_ledger: bool
) -> None:
    """Raise SessionError unless the session is as required."""
    if facts.lost:
        raise SessionError(f"settings did not take ({facts.lost}): {POOLER}")
    if not of_ledger:
        return
    if facts.encoding != "UTF8":
        raise SessionError("the database's encoding must be UTF8")
    if is_writing(settings) and durable in _NOT_DURABLE:
        raise SessionError(
            f"synchronous_commit is {durable}: a secret could leave before its record is on disk"
            + (" of the standby too" if durable == "local" else "")
        )
    if not facts.may_use:
        raise not_granted(facts.login, is_member=facts.is_member)


def is_writing(settings: Mapping[str, str]) -> bool:
    """Whether a session with these settings may write."""
    return settings.get("default_transaction_read_only") != "on"


def facts(record: Sequence[Any]) -> SessionFacts:
    """The last result of `read_back`."""
    return SessionFacts(*record)


def _by_small_letters(*maps: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for one in maps for name, value in one.items()}


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()
