"""Keys that are shared as texts: what is ruled out, and what looks guessable."""

import random
import secrets
import sys
import unicodedata
from base64 import b64encode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.shared_key import key_problem, key_warning, require_fit
from secrets_broker.ledger.errors import UnfitKeyError
from secrets_broker.tools.keygen import fresh_settings, new_key

GOOD = "Zx1/wq0Bq8ZrJ5mUkT3vYp9sL2dHfG7cNeA4iOoK6tE="
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=16)
# All that Unicode calls white space, a control, a separator, or a format character.
BLANK = [
    c
    for c in map(chr, range(sys.maxunicode + 1))
    if c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp")
]


@given(st.sampled_from(BLANK), st.sampled_from(["{}" + GOOD, GOOD + "{}", "{0}" + GOOD + "{0}"]))
def test_nothing_that_is_not_seen_may_stand_around_a_key(blank: str, where: str) -> None:
    """Some way into a process cuts it off, another keeps it: two keys in silence."""
    assert "at its beginning or its end" in (key_problem(where.format(blank)) or "")


@pytest.mark.parametrize("blank", ["\u2800", "\u3164", "\u115f", "\ufe0f", "\u034f", "\ufeff"])
def test_what_is_shown_as_nothing_is_no_different(blank: str) -> None:
    """Though Unicode counts it among letters, signs and marks."""
    assert "invisible" in (key_problem(GOOD + blank) or "")


@given(st.text(min_size=16), st.text(max_size=3))
def test_a_fit_key_comes_in_alike_with_every_client(text: str, more: str) -> None:
    """In UTF-8, in Latin-1 and in ASCII it has the same bytes, and no header's end among them."""
    key = GOOD[:20] + text + more + GOOD[20:]
    if key_problem(key) is None:
        assert key.encode("utf-8") == key.encode("latin-1") == key.encode("ascii")
        assert all(0x20 <= byte < 0x7F for byte in key.encode())


@given(PRINTABLE)
def test_printable_ascii_of_sixteen_bytes_is_fit(text: str) -> None:
    """As long as no space stands around it; shorter is none."""
    key = text.replace(" ", "_")
    assert key_problem(key) is None
    assert key_problem(key[:15]) == "has 15 bytes, and 16 is the least"
    assert require_fit("INTERNAL_KEY", key) == key


@pytest.mark.parametrize(
    "key",
    ["", "a", "winter2026", "\u00e9" * 20, "k" * 20 + "\x7f" + "k", "k\tk" * 10, "\udcff" * 20],
)
def test_a_refusal_says_what_to_run_and_not_the_key(key: str) -> None:
    """One sentence, with the line that prints a fit key."""
    with pytest.raises(UnfitKeyError) as caught:
        require_fit("AUDITOR_KEY", key)
    assert "AUDITOR_KEY has " in str(caught.value)
    assert "secrets-broker keygen | grep '^AUDITOR_KEY='" in str(caught.value)
    assert (
        not key
        or key not in str(caught.value).replace("a fresh", "").replace("character", "")[12:]
        or len(key) < 3
    )


def test_whose_ledger_it_is_is_told_how_to_go_on() -> None:
    """A key that is ruled out is some ledger's all the same."""
    with pytest.raises(UnfitKeyError, match="SECRETS_KMS_KEY_PREVIOUS, byte for byte"):
        require_fit("SECRETS_KMS_KEY", "winter2026")


GUESSABLE = [
    *("a" * 40, "ab" * 20, "abc" * 15, "01" * 20, "0110100110010110100101100110100101101001"),
    *("0123456789" * 4, "9876543210" * 4, "qwertyuiopasdfghjklzxcvbnm123456", "x7Kp9QzL" * 5),
    *("Passw0rd!" * 4, "changeme" * 4, "CompanyName-Production-Secret-2026"),
    *("correct-horse-battery-staple-now", "thequickbrownfoxjumpsoverthelazydog"),
    *("please-change-me-in-production-2024", "SuperSecretInternalKeyForServices2026!"),
    *("my very long passphrase for the broker", "dev-internal-key-do-not-use-in-prod"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9", "!@#$%^&*()" * 4, "aaaaaaaabbbbbbbbccccccccdddddddd"),
    *("THIS_IS_THE_AUDITOR_KEY_OF_ACME_2025", "20202021202220232024202520262027"),
    *("secret-key-for-internal-service-01", "geheimnis" * 4, "a-test-key-that-opens-nothing-else"),
]


@pytest.mark.parametrize("key", GUESSABLE)
def test_what_somebody_thought_of_is_warned_of(key: str) -> None:
    """However long it is."""
    assert len(key) >= 32
    assert key_problem(key) is None
    assert key_warning(key) == "looks guessable"


@pytest.mark.parametrize("key", [GOOD[:16], GOOD[:31]])
def test_what_is_short_is_warned_of(key: str) -> None:
    """However random it is."""
    assert key_warning(key) == "is shorter than 32 bytes"


@given(st.integers(0, 2**64))
def test_what_a_machine_drew_is_not_warned_of(seed: int) -> None:
    """32 bytes in any of the forms that tools print."""
    drawn = random.Random(seed).randbytes(32)  # noqa: S311 - so that a failure can be seen again
    for key in (
        drawn.hex(),
        drawn.hex().upper(),
        b64encode(drawn).decode(),
        urlsafe_b64encode(drawn).decode().rstrip("="),
    ):
        assert key_warning(key) is None, key


def test_keygen_makes_what_passes() -> None:
    """Each of its keys, every time."""
    for _ in range(200):
        assert key_problem(key := new_key()) is None
        assert key_warning(key) is None
    made = fresh_settings()
    assert all(key_problem(made[n]) is None for n in ("INTERNAL_KEY", "AUDITOR_KEY"))
    assert key_warning(secrets.token_urlsafe(32)) is None
