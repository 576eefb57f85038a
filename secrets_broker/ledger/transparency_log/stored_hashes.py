"""Reads stored leaf hashes and nodes by SQL, and computes proofs from them."""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.transparency_log.merkle import EMPTY_ROOT
from secrets_broker.ledger.transparency_log.proof import Plan, Run, compute, plan_root, runs
from secrets_broker.ledger.transparency_log.tile import BundleError, split_hashes

# All runs in one round trip, each as one byte string, which is cheaper to read than rows.
_RUNS: Final = """
    SELECT CASE wanted.level
        WHEN 0 THEN (SELECT string_agg(leaf_hash, '' ORDER BY position) FROM ledger.events
                     WHERE position >= wanted.first AND position < wanted.first + wanted.count)
        ELSE (SELECT string_agg(hash, '' ORDER BY index) FROM ledger.nodes
              WHERE level = wanted.level
                AND index >= wanted.first AND index < wanted.first + wanted.count)
        END
    FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[])
        WITH ORDINALITY AS wanted (level, first, count, place)
    ORDER BY place
"""


async def read_runs(
    connection: AsyncConnection[Any], wanted: Sequence[Run]
) -> dict[Run, list[bytes]]:
    """The hashes of each run; fewer than asked if some are missing."""
    cursor = await connection.execute(
        _RUNS,
        (
            [run.level for run in wanted],
            [run.first for run in wanted],
            [run.count for run in wanted],
        ),
        binary=True,
    )
    rows = await cursor.fetchall()
    return {run: _split(joined or b"") for run, (joined,) in zip(wanted, rows, strict=True)}


def _split(joined: bytes) -> list[bytes]:
    try:
        return split_hashes(joined)
    except BundleError:
        return []


async def prove(connection: AsyncConnection[Any], plan: Plan) -> list[bytes]:
    """A plan's hashes from the ledger; raises ProofError if some are missing."""
    return compute(plan, await read_runs(connection, runs(plan)))


async def root_at(connection: AsyncConnection[Any], size: int) -> bytes:
    """The root of the first `size` events; raises ProofError if there are fewer."""
    return (await prove(connection, plan_root(size)))[0] if size else EMPTY_ROOT
