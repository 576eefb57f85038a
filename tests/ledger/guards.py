"""Triggers that were switched off, put back in force."""

from typing import Any

from tests.conftest import Database


def back_in_force(database: Database) -> list[tuple[Any, ...]]:
    """As they were shipped, so that nothing shows; returns table and name of each."""
    off = database.fetch(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'D'"
    )
    for table, name in off:
        database.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    return off
