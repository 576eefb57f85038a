"""Goals and tables: what was reached, what was asked for, and by how much it was missed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure: at least `bound`, or at most."""

    bound: float
    at_least: bool
    unit: str = ""

    def judge(self, value: float) -> str:
        """Say whether the value meets the goal, and if not by how much it misses it."""
        wanted = f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"
        if value >= self.bound if self.at_least else value <= self.bound:
            return f"{wanted}: met"
        share = abs(value - self.bound) / self.bound
        return f"{wanted}: missed by {share:.0%}"


def at_least(bound: float, unit: str = "") -> Goal:
    """A goal that more is better for."""
    return Goal(bound, at_least=True, unit=unit)


def at_most(bound: float, unit: str = "") -> Goal:
    """A goal that less is better for."""
    return Goal(bound, at_least=False, unit=unit)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
