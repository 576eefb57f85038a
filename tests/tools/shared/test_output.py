"""What commands write: exact for programs, harmless to a terminal and to a spreadsheet."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.tools.shared.output import BLOCK_LINES, Form, Output, form_options, shown
from tests.ledger.helpers import texts
from tests.repository import ROOT


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line such as commands have."""

    name: str | None
    number: int = 7
    ok: bool = True
    details: dict[str, Any] | None = None
    at: str | None = None


NASTY = "a\x1b[2J\n\u202e[red]\x9b31m"


def written(form: Form, lines: list[Line], table: tuple[str, ...] = ("name", "ok")) -> str:
    """What comes out, in two pieces."""
    import click  # noqa: PLC0415

    @click.command()
    def command() -> None:
        with Output(form, Line, table, "nothing is there") as output:
            output.write(lines[:1])
            output.write(iter(lines[1:]))

    result = CliRunner().invoke(command, catch_exceptions=False)
    return result.stdout_bytes.decode("utf-8")


@given(st.lists(st.none() | texts, max_size=5))
def test_json_lines_are_exact_and_ascii(names: list[str | None]) -> None:
    """One object a line, whatever is in a name."""
    lines = [Line(name=name, details={"n": name}) for name in names]
    text = written(Form.JSON, lines)
    assert text.isascii()
    assert text.count("\n") == len(names)
    assert [msgspec.json.decode(line, type=Line) for line in text.splitlines()] == lines


@given(st.lists(texts, max_size=5))
def test_csv_gives_every_text_back(names: list[str]) -> None:
    """RFC 4180 with a line of names; one apostrophe from a cell's beginning, and it is exact."""
    text = written(Form.CSV, [Line(name=name) for name in names])
    assert text.startswith("name,number,ok,details,at\r\n")
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [record["name"].removeprefix("'") for record in records] == names
    assert {(record["number"], record["ok"], record["details"]) for record in records} <= {
        ("7", "true", "")
    }


@pytest.mark.parametrize("first", list("=+-@|%\t\r\n'＝＋－＠｜％"))  # noqa: RUF001
@pytest.mark.parametrize(
    "before", ["", " ", "\t", "\r\n", "\u00a0", "\ufeff", "\u200b ", " \u202e"]
)
def test_no_cell_is_a_formula(before: str, first: str) -> None:
    """What a spreadsheet would compute begins with an apostrophe, whatever is before it."""
    sent = f"{before}{first}HYPERLINK()"
    text = written(Form.CSV, [Line(name=sent)])
    ((_, (name, *_)),) = [tuple(csv.reader(io.StringIO(text, newline="")))]
    guarded = first != "'" or before.strip(" \u00a0") != "" or not before
    assert name == (f"'{sent}" if guarded else sent)


@pytest.mark.parametrize("name", ["a\u202eb", "a\u2066", "\u200ba", "a\x1bb", "a\u00adb", "a\nb"])
def test_a_cell_that_is_not_what_it_looks_like_is_marked(name: str) -> None:
    """By an apostrophe before it; the value is still whole."""
    text = written(Form.CSV, [Line(name=name)])
    ((_, (cell, *_)),) = [tuple(csv.reader(io.StringIO(text, newline="")))]
    assert cell == f"'{name}"


@given(texts, st.sampled_from([",", ";", "\t", "|"]), texts)
def test_no_text_ends_its_cell(before: str, end: str, after: str) -> None:
    """Neither to a reader of RFC 4180 nor to one that takes another character for the comma."""
    name = f"{before}{end}=1+1{after}"
    text = written(Form.CSV, [Line(name=name)])
    second = text.removeprefix("name,number,ok,details,at\r\n")
    assert second.startswith('"')
    assert second.endswith('",7,true,,\r\n')
    (cell, *_) = next(csv.reader(io.StringIO(second, newline="")))
    assert cell.removeprefix("'") == name


def test_a_table_shows_and_does_not_obey() -> None:
    """Plain words as they are, the rest quoted and escaped; markup is text."""
    text = written(Form.TABLE, [Line(name="db1.example"), Line(name=NASTY), Line(name="a  yes")])
    assert " db1.example " in text
    assert repr(NASTY) in text
    assert "'a  yes'" in text
    assert not set("\x1b\x9b\u202e") & set(text)


@given(texts)
def test_what_is_shown_is_one_printable_line(name: str) -> None:
    """And two different texts never look the same."""
    assert shown(name).isprintable()
    assert shown(name) in (name, repr(name))
    assert shown(None) == ""
    assert shown(name) != ""


def test_nothing_is_said_in_each_form() -> None:
    """A sentence in a table, no line of JSON, and the names of the columns in CSV."""
    assert written(Form.TABLE, []) == "nothing is there\n"
    assert written(Form.JSON, []) == ""
    assert written(Form.CSV, []) == "name,number,ok,details,at\r\n"


def test_a_table_comes_in_blocks() -> None:
    """Its headings come again, so that no more than a block is ever held."""
    text = written(Form.TABLE, [Line(name=f"h{n}") for n in range(BLOCK_LINES + 1)])
    assert text.count("name") == 2
    assert f" h{BLOCK_LINES} " in text


def test_the_options_choose() -> None:
    """A table where nothing is said; the last one counts."""
    import click  # noqa: PLC0415

    @click.command()
    @form_options
    def command(form: Form) -> None:
        click.echo(repr(form))

    for arguments, form in ([], "TABLE"), (["--json"], "JSON"), (["--json", "--csv"], "CSV"):
        assert f"Form.{form}" in CliRunner().invoke(command, arguments).output


def test_times_in_a_table_are_to_the_second() -> None:
    """By the field's name: a name that looks like a time is shown whole."""

    time = "2026-01-02T03:04:05.000006Z"
    line = Line(name=time, at=time)
    text = written(Form.TABLE, [line], ("name", "at")).splitlines()[3]
    assert text.split() == [time, "2026-01-02T03:04:05Z"]
    assert json.loads(written(Form.JSON, [line]))["at"] == time


@pytest.mark.parametrize("columns", ["60", "200"])
@pytest.mark.parametrize("form", [*Form])
def test_a_terminal_gets_no_control_character(form: Form, columns: str) -> None:
    """Not even from CSV, which is exact in a file; nor from a table that has no room."""
    code = f"""
from secrets_broker.tools.shared.output import Form, Output
from tests.tools.shared.test_output import NASTY, Line
with Output(Form({form.value!r}), Line, ("name", "details"), "") as output:
    output.write([Line(name=NASTY, details={{"n": "long " * 9}})])
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": columns, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=False)
    os.close(theirs)
    text = os.read(ours, 65_536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "31m" in text
    assert not set("\x9b\u202e") & set(text)
    assert "\x1b[2J" not in text
    if form is Form.TABLE:
        assert ("name  " in text.splitlines()[0]) == (columns == "60")
    if form is Form.JSON:
        assert json.loads(text)["name"] == NASTY
