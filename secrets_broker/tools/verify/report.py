"""What verify says to people."""

from collections.abc import Iterable
from typing import Final

from secrets_broker.tools.verify.checks.findings import MAX_PROBLEMS, Findings, Violation

SHOWN: Final = 20


def text(name: str, size: int, root: str | None, findings: Findings) -> str:
    """The report; its last line is the answer."""
    lines = [f"{name}: {size:,} events, root {root or 'not known'}", "checked:"]
    lines += [f"  {count:,} {what}" for what, count in findings.checked.items() if count]
    lines += _section("not checked:", findings.not_checked)
    lines += _section("remarks:", findings.remarks)
    lines += _section(
        f"problems ({findings.problem_count}):", map(_line, sorted_problems(findings)[:SHOWN])
    )
    if findings.problem_count > SHOWN:
        lines.append(f"  …; the first {MAX_PROBLEMS:,} with --json")
    return "\n".join([*map(printable, lines), _answer(findings)])


def sorted_problems(findings: Findings) -> list[Violation]:
    """By position; those that concern none come last."""
    return sorted(
        findings.problems,
        key=lambda p: (p.position is None, p.position or 0, p.check, p.detail),
    )


def _answer(findings: Findings) -> str:
    if not findings.ok:
        return f"NOT OK: {_where(findings)}"
    if findings.not_checked or findings.remarks:
        return "OK: nothing is wrong with what was checked; see above what was not"
    return "OK: all of it was checked, and nothing is wrong"


def _where(findings: Findings) -> str:
    if findings.first_bad is None:
        return "no position of it can be named"
    if findings.span is None or findings.span[0] > findings.first_bad:
        return f"first wrong position {findings.first_bad}"
    first, last = findings.span
    between = f"from position {first} to {last}" if first else f"at or before position {last}"
    found = findings.first_found
    also = "" if found is None else f"; of what else was found, the first is at position {found}"
    return f"what is wrong is {between}{also}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [title, *found] if found else []


def _line(problem: Violation) -> str:
    at = "-" if problem.position is None else problem.position
    return f"{at} {problem.check}: {problem.detail}"


def printable(line: str) -> str:
    """A line with everything escaped that is not printed as it is."""
    # Origins and names of keys are others' text: none may steer a terminal.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
