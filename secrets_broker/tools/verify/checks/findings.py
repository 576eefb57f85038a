"""What was found wrong, how much was looked at, and what was not."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MAX_PROBLEMS: Final = 1_000

# Before none of these positions is what they are about. A time, an id or a version only shows that
# something is wrong up to there: where two events were swapped, it is the later that does not fit.
_EXACT: Final = frozenset({"missing", "position", "entry", "leaf", "mac", "body", "node", "tile"})


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """Something that is not as it must be; no detail holds a secret or a caller's own words."""

    position: int | None
    """The first position that is wrong or can be; None where it concerns none."""
    check: str
    detail: str


@dataclass(slots=True)
class Findings:
    """Collects; of the problems no more than MAX_PROBLEMS are kept, and all are counted."""

    problems: list[Violation] = field(default_factory=list)
    problem_count: int = 0
    first_bad: int | None = None
    checked: Counter[str] = field(default_factory=Counter)
    not_checked: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    span: tuple[int, int] | None = None
    """From where to where something is wrong of which no more is known than that."""
    first_found: int | None = None
    """The first position of all that is told beside it."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return self.problem_count == 0

    def add(self, *problems: Violation) -> None:
        """Take problems in."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)
            elif self._is_first(problem):
                self.problems[-1] = problem
            if problem.position is not None:
                known = problem.position if self.first_bad is None else self.first_bad
                self.first_bad = min(problem.position, known)
                found = problem.position if self.first_found is None else self.first_found
                self.first_found = min(problem.position, found)

    def _is_first(self, problem: Violation) -> bool:
        if problem.position is None:
            return False
        return self.first_bad is None or problem.position < self.first_bad

    def wrong(self, position: int | None, check: str, detail: str) -> None:
        """Take one problem in."""
        self.add(Violation(position, check, detail))

    def wrong_within(self, first: int, last: int, check: str, detail: str) -> None:
        """Take one problem in that can be at any of these positions."""
        if self.span is None or first < self.span[0]:
            self.span = first, last
        found = self.first_found
        self.wrong(first, check, detail)
        self.first_found = found

    def follows(self, position: int | None, check: str, detail: str) -> None:
        """Take in what is derived from the entries, and is no surer than they are.

        Where one of those is wrong further on, it may be due to that: so it is told there.
        """
        if position is not None and self.first_bad is not None and position < self.first_bad:
            detail = f"{detail} (event {position}; it may follow from what is wrong here)"
            position = self.first_bad
        self.wrong(position, check, detail)

    def first_within(self, start: int, end: int) -> int | None:
        """The first position from start to before end that a kept problem surely begins at."""
        exact = (p.position for p in self.problems if p.check in _EXACT)
        return min((at for at in exact if at is not None and start <= at < end), default=None)

    def left_out(self, what: str) -> None:
        """Say once what was not checked, and why."""
        if what not in self.not_checked:
            self.not_checked.append(what)

    def remark(self, text: str) -> None:
        """Say once what is worth knowing and not wrong."""
        if text not in self.remarks:
            self.remarks.append(text)
