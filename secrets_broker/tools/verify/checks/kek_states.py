"""Which KEK is active, which are on their way out and which are retired, as the events say.

The first KEK of a ledger, and one that is only prepared, are in no event until a rotation names
them. All rotations are kept, since there are few.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from secrets_broker.tools.verify.checks.facts import Fact

ACTIVE: Final = "active"
RETIRING: Final = "retiring"
RETIRED: Final = "retired"
PREPARED: Final = "prepared"


class KekRow(NamedTuple):
    """A KEK as its row has it."""

    provider: str | None
    state: str | None


class _Known(NamedTuple):
    state: str
    provider: str | None
    position: int


class KekStates:
    """Takes the events of rotations in order."""

    def __init__(self) -> None:
        self._keks: dict[str, _Known] = {}
        self._under_way = False

    def take(self, fact: Fact) -> str | None:
        """The next one; says what is wrong with it, or None."""
        match fact.type, fact.details:
            case "key.rotation_started", {
                "kek": str(kek),
                "provider": str(provider),
                "data_keys": dict(used),
            }:
                self._start(fact.position, kek, provider, used)
            case "key.rotated", {"kek": str(), "retired": list(retired)} if all(
                isinstance(one, str) for one in retired
            ):
                self._leave(fact.position, RETIRED, retired)
                self._under_way = False
            case _:
                return f"{fact.type} does not name its KEKs"
        return None

    def problems(self, rows: Mapping[str, KekRow]) -> Iterator[tuple[int | None, str]]:
        """What is wrong with the rows of ledger.keks, each with the event that says so."""
        for kek, known in self._keks.items():
            row = rows.get(kek)
            if row is None:
                yield known.position, f"KEK {kek} has no row"
            elif row.state != known.state:
                yield known.position, f"KEK {kek} is {known.state}, and its row says otherwise"
            elif known.provider not in (None, row.provider):
                yield known.position, f"KEK {kek} is of another provider than its row says"
        allowed = {PREPARED, RETIRING} if self._under_way else {PREPARED}
        if not any(known.state == ACTIVE for known in self._keks.values()):
            allowed.add(ACTIVE)
        for kek, row in rows.items():
            if kek not in self._keks and row.state not in allowed:
                yield None, f"KEK {kek} is in no event, and its row does not say so"

    def _start(self, position: int, kek: str, provider: str, used: Mapping[str, object]) -> None:
        before = {one for one, known in self._keks.items() if known.state == ACTIVE}
        self._leave(position, RETIRING, (before | used.keys()) - {kek})
        self._keks[kek] = _Known(ACTIVE, provider, position)
        self._under_way = True

    def _leave(self, position: int, state: str, keks: Iterable[str]) -> None:
        for kek in keks:
            known = self._keks.get(kek)
            self._keks[kek] = _Known(state, known.provider if known else None, position)
