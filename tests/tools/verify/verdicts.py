"""What `verify` said."""

from tests.tools.verify.changing import (
    Report,
)


def bad(report: Report, position: int | None, check: str) -> None:
    """Something is wrong from there on, and this check says so."""
    assert not report.ok
    assert (report.first_bad, check in report.checks) == (position, True), report.problems
