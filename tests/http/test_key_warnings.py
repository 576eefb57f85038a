"""What the service says of its keys when it starts."""

import pytest

from secrets_broker.tools.keygen import new_key
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, TEMPLATE, fresh_database
from tests.http.client import log_lines
from tests.http.conftest import folder, serving

GUESSABLE = "correct-horse-battery-staple-now"
SHORT = "Zx1/wq0Bq8ZrJ5mUkT3v"


@pytest.mark.parametrize("by", ["gunicorn", "serve"])
def test_keys_that_may_be_found_by_trying_are_told_of_once(cluster: Cluster, by: str) -> None:
    """By the settings' names, however many workers there are, and however it was started."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        log, url = place / "log", database.service_url
        keys = {"kms_key": GUESSABLE, "internal_key": SHORT, "settings": {"AUDITOR_KEY": new_key()}}
        with serving(url, log, by=by, **keys):  # type: ignore[arg-type]
            text = log.read_text()
        found = [line["why"] for line in log_lines(text) if line["event"] == "guessable_key"]
        assert [why.split(",")[0] for why in found] == [
            "SECRETS_KMS_KEY looks guessable",
            "INTERNAL_KEY is shorter than 32 bytes",
        ]
        assert all("secrets-broker keygen" in why for why in found)
        assert GUESSABLE not in text
        assert SHORT not in text


def test_keys_of_keygen_are_not_told_of(cluster: Cluster) -> None:
    """They are what is asked for."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        log, url = place / "log", database.service_url
        keys = {
            "kms_key": new_key(),
            "internal_key": new_key(),
            "settings": {"AUDITOR_KEY": new_key(), "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY},
        }
        with serving(url, log, **keys):  # type: ignore[arg-type]
            assert "guessable" not in log.read_text()
