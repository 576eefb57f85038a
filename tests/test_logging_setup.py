"""The two nets below the rule that nothing secret is handed to a logger."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from secrets_broker import logging_setup
from secrets_broker.settings import ATTRIBUTES, SECRETS

MARK = "MarkerOfASecret-91c2"


@pytest.fixture(params=[False, True], ids=["production", "readable"])
def written(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """What is written to standard error, in each of the two forms."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logging_setup.configure(readable=request.param)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal_is_coloured_where_that_is_welcome(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR (no-color.org) is heard where it is not empty; so is a terminal that has none."""
    reading, terminal = os.openpty()
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = (
        "from secrets_broker import logging_setup; import structlog\n"
        "logging_setup.configure(readable=True);"
        "structlog.get_logger('x').warning('told', what='it')"
    )
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    os.close(terminal)
    said = os.read(reading, 10_000)
    os.close(reading)
    assert b"told" in said
    assert (b"\x1b[" in said) == coloured


@pytest.mark.parametrize(
    "name",
    ["password", "new_password", "PASSWORD", "secret_data", "kms_key", "api_token", "body",
     "request_body", "authorization", "dsn", "database_url", *sorted(SECRETS),
     *(attribute for attribute, setting in ATTRIBUTES.items() if setting.secret)],
)  # fmt: skip
def test_a_name_that_sounds_secret_is_masked(written: io.StringIO, name: str) -> None:
    """The name shows that there was something; the value does not."""
    structlog.get_logger("test").info("event", **{name: MARK})
    logging.getLogger("other").warning("plain")
    text = written.getvalue()
    assert name in text
    assert logging_setup.MASK in text
    assert MARK not in text


def test_what_is_no_secret_is_kept(written: io.StringIO) -> None:
    """A mask over everything would make a log useless."""
    structlog.get_logger("test").info("event", host="h.example", data_key_id="k1", kek="k2")
    text = written.getvalue()
    assert all(word in text for word in ("h.example", "k1", "k2", "event"))
    assert logging_setup.MASK not in text


def _fail(password: str) -> None:
    local = {"content": password}
    raise RuntimeError(f"failed with {len(local)}")


@pytest.mark.parametrize("through", ["structlog", "logging"])
def test_a_traceback_has_no_local_variables(written: io.StringIO, through: str) -> None:
    """A traceback says where it was, not with what."""
    log: Any = structlog.get_logger("t") if through == "structlog" else logging.getLogger("t")
    try:
        _fail(MARK)
    except RuntimeError:
        log.exception("it_failed")
    text = written.getvalue()
    assert "failed with 1" in text
    assert "_fail" in text
    assert MARK not in text


def test_a_line_of_production_is_one_json_object(
    written: io.StringIO, request: pytest.FixtureRequest
) -> None:
    """A value with line ends cannot forge a second line."""
    structlog.get_logger("test").info("event", actor='x\n{"event": "forged"}')
    logging.getLogger("other").warning('x\n{"event": "forged"}')
    lines = written.getvalue().splitlines()
    if "[production]" in request.node.name:
        assert [json.loads(line)["level"] for line in lines] == ["info", "warning"]
    else:
        assert "event" in lines[0]
