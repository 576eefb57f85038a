"""Gauges of what the leading worker last read from the database.

While the database does not answer, each keeps its last value: `secrets_ledger_up` is 0 then, and
the two timestamps say how old the values are. They disappear with the worker that set them.
"""

from collections import Counter
from itertools import product
from typing import Final, Literal

from prometheus_client import Gauge

from secrets_broker.ledger.encryption.keks import StoredKek
from secrets_broker.ledger.encryption.keyring import ACTIVE, PREPARED, RETIRING, Keyring
from secrets_broker.projections.queries.ledger_health import Vitals

PROVIDERS: Final = ("environment", "aws-kms", "pkcs11", "transit")
OTHER: Final = "other"
STATES: Final = (PREPARED, ACTIVE, RETIRING)
_MODE: Final[Literal["livemostrecent"]] = "livemostrecent"


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"secrets_{name}", text, labels, multiprocess_mode=_MODE)


UP = _gauge("ledger_up", "1 where the database answered when it was last asked, else 0.")
WRITABLE = _gauge(
    "ledger_writable", "1 where the ledger could be written when that was last tried, else 0."
)
GATHERED = _gauge(
    "gathered_timestamp_seconds", "When the database last answered: the time of these gauges."
)
EVENTS = _gauge("ledger_events", "Events of the ledger.")
BYTES = _gauge("ledger_bytes", "What the ledger's tables and indexes take on disk.")
CHECKPOINT_EVENTS = _gauge("checkpoint_events", "Events that the published checkpoint covers.")
CHECKPOINT_AGE = _gauge(
    "checkpoint_age_seconds",
    "How long the oldest event that the published checkpoint does not cover has been recorded; 0"
    " where all are covered. Absent where nothing is published and this service signs nothing.",
)
EXPIRED = _gauge("credentials_expired", "Credentials that are past their expires_at.")
EXPIRING = _gauge(
    "credentials_expiring", "Credentials whose expires_at is to come within that time.", "within"
)
KEKS_MISSING = _gauge(
    "keks_missing", "KEKs that wrap data keys and that the service does not have."
)
# Counts, and no KEK's id: an id follows from its key, so a reader of this page could find a
# guessable key by its id.
KEKS = _gauge("keks", "KEKs, by what keeps them and by their state.", "provider", "state")
DIFFERENCES = _gauge(
    "projection_differences",
    "Names whose row in secrets.host_credentials is not of the last change that the ledger has.",
)
COMPARED = _gauge(
    "projection_compared_timestamp_seconds", "When the last comparison of all names was over."
)


def down() -> None:
    """Set that the database does not answer; the other gauges keep their values."""
    UP.set(0)
    WRITABLE.set(0)


def up(vitals: Vitals, keyring: Keyring, *, signs: bool) -> None:
    """Set the gauges to what was just read."""
    UP.set(1)
    GATHERED.set_to_current_time()
    EVENTS.set(vitals.events)
    BYTES.set(vitals.bytes)
    CHECKPOINT_EVENTS.set(vitals.published)
    if signs or vitals.published:
        CHECKPOINT_AGE.set(vitals.uncovered_seconds)
    EXPIRED.set(vitals.expired)
    EXPIRING.labels("7d").set(vitals.within_7d)
    EXPIRING.labels("30d").set(vitals.within_30d)
    _take_keks(vitals.keks, keyring)


def compared(differing: int) -> None:
    """Set the result of a comparison of all names."""
    DIFFERENCES.set(differing)
    COMPARED.set_to_current_time()


def _take_keks(keks: tuple[StoredKek, ...], keyring: Keyring) -> None:
    KEKS_MISSING.set(sum(kek.state != PREPARED and keyring.get(kek.id) is None for kek in keks))
    counted = Counter((kind(kek.provider), kek.state) for kek in keks)
    for labels in product((*PROVIDERS, OTHER), STATES):
        KEKS.labels(*labels).set(counted[labels])


def kind(provider: str) -> str:
    """The kind of a provider's id; the rest of the id names machines, accounts and keys."""
    found = provider.partition(":")[0].partition("+")[0]
    return found if found in PROVIDERS else OTHER
