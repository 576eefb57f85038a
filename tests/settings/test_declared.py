"""A setting is declared once: what follows from the declaration."""

import re

import pytest

from secrets_broker.ledger.errors import UnfitKeyError
from secrets_broker.settings import ATTRIBUTES, DECLARED, SECRETS, Setting, Settings, SettingsError
from secrets_broker.settings.page import PAGE, WRITE, with_table
from secrets_broker.tools.keygen import fresh_beside, fresh_settings
from tests.pages.commands import pages
from tests.repository import ROOT

# What `witness keygen` prints: no settings, but what a file and another's settings hold.
PRINTED = {"WITNESS_KEY", "WITNESS_VERIFIER_KEY"}
FAMILIES = ("SECRETS", "LEDGER", "WITNESS", "TLS", "WATCH", "METRICS", "MAX", "INTERNAL", "TRUSTED")
OURS = re.compile(rf"\b(?:{'|'.join(FAMILIES)})_[A-Z_]+\b")
MARK = "mArKeR\x07 of a secret"


def test_the_page_has_every_setting() -> None:
    """Its name, sentence, default and the rest; where this fails, run what it says."""
    text = PAGE.read_text("utf-8")
    assert with_table(text) == text, f"run: {WRITE}"
    assert all(f"\n| `{setting.name}` | {setting.what}" in text for setting in DECLARED)


def test_what_the_page_links_to_is_there() -> None:
    """A page, and where a part of it is named, a heading that Markdown makes into that name."""
    for target in (setting.see for setting in DECLARED if setting.see):
        page, _, part = target.partition("#")
        text = (ROOT / "docs" / page).read_text("utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        names = {re.sub(r"[^a-z0-9_ -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert not part or part in names, target


def test_nothing_names_a_setting_that_there_is_not() -> None:
    """Pages, units, compose and the image; NAME_FILE is one where NAME is a secret."""
    known = {setting.name for setting in DECLARED} | {f"{name}_FILE" for name in SECRETS}
    units = (ROOT / "deploy" / "systemd").glob("*.service")
    for file in (*pages(), *units, ROOT / "compose.yaml", ROOT / "Dockerfile"):
        assert set(OURS.findall(file.read_text("utf-8"))) <= known | PRINTED, file


def test_names_are_of_one_setting_each() -> None:
    """Else one of them would be read, and nobody knows which."""
    assert len({setting.name for setting in DECLARED}) == len(DECLARED)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_no_value_is_in_an_error_or_a_repr(attribute: str) -> None:
    """Whatever is wrong with it: it is a secret, or was meant for the line beside it."""
    settings = Settings({ATTRIBUTES[attribute].name: MARK})
    assert "mArKeR" not in repr(settings)
    try:
        getattr(settings, attribute)
    except (SettingsError, UnfitKeyError) as error:
        assert ATTRIBUTES[attribute].name in str(error)
        assert "mArKeR" not in str(error)


def test_of_the_class_it_is_the_declaration() -> None:
    """By which others have its name; of an instance it is the value, or the default's."""
    assert isinstance(Settings.metrics_seconds, Setting)
    assert Settings.metrics_seconds.name == "METRICS_SECONDS"
    assert Settings({"METRICS_SECONDS": "0.5"}).metrics_seconds == 0.5
    assert Settings({}).metrics_seconds == 15


def test_a_file_gets_what_it_lacks_and_no_half_of_a_key() -> None:
    """The log's name and its two keys are made together, or left as they are."""
    every = set(fresh_settings())
    assert set(fresh_beside(set())) == every
    log = {name for name in every if name.startswith("LEDGER_")}
    assert set(fresh_beside({"AUDITOR_KEY"})) == every - {"AUDITOR_KEY"}
    for one in log:
        assert set(fresh_beside({one})) == every - log
