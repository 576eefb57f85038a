"""Lines on standard output: a table for people, JSON lines or CSV for programs.

All three are written while lines come, in memory that does not grow with their number. What is
in a line are others' texts (names, reasons): none of them can steer a terminal.

- A table shows a text as it is where it is one plain word, else quoted and escaped as Python
  would; times to the second. Its headings come again after 500 lines. On a terminal that is too
  narrow for it, each line becomes a block of its fields.
- JSON lines: one object a line, all ASCII. The exact form, for programs.
- CSV: RFC 4180, UTF-8, a line of names first, every field of a line. A spreadsheet reads a cell
  that begins with = + - @ | or %, even after white space, as a formula or a command. Any caller may
  choose such a name, so an apostrophe is put before it. The same goes for a text with characters
  that are invisible or change a line's direction, and for one that begins with an apostrophe. To
  get a value back, take one apostrophe from the beginning of the cell. What some spreadsheets read
  as the end of a cell stands in quotes. On a terminal, control characters are escaped.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import click
import msgspec

from secrets_broker.ledger.encoding import INVISIBLE, SPACE

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=msgspec.Struct)

BLOCK_LINES: Final = 500
FILE_COLUMNS: Final = 8_000  # more than the longest names have, every character escaped

# No space: what is shown without quotes cannot look like two cells.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/@+*-]+")
_FRACTION: Final = re.compile(r"\.[0-9]{6}Z\Z")
# OWASP, "CSV Injection", with full-width forms; | and % begin commands (DDE) and macros elsewhere.
_GUARDED: Final = re.compile(f"'|[{SPACE}]*[=+\\-@|%＝＋－＠｜％]")  # noqa: RUF001
_MARKED: Final = re.compile(f"[{INVISIBLE}]")
# The comma of RFC 4180, and what is one where the comma is a decimal point's.
_QUOTED: Final = re.compile('[",;\t|\r\n]|^ | $')


class Form(StrEnum):
    """What a command writes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def form_options(command: F) -> F:
    """Add --json and --csv to a command; it gets `form`, a Form. The last one given counts."""
    as_json = click.option(
        "--json",
        "form",
        flag_value=Form.JSON,
        type=Form,
        default=Form.TABLE,
        help="JSON lines: one object a line, exact; for programs.",
    )
    as_csv = click.option(
        "--csv",
        "form",
        flag_value=Form.CSV,
        type=Form,
        help="CSV; a cell that a spreadsheet would compute begins with an apostrophe.",
    )
    return as_json(as_csv(command))


class Output(Generic[L]):
    """Writes lines of one struct: with it as a context, `write` as they come.

    `table` names the fields that a table shows, `at` and those that end in `_at` being times; JSON
    and CSV have all. `empty` is what a table says where there was no line. A field's value may be
    a text, a number, a truth value, None, or a list or dict of these, which a table and CSV show
    as JSON.
    """

    def __init__(self, form: Form, kind: type[L], table: Sequence[str], empty: str) -> None:
        self._form = form
        self._fields = kind.__struct_fields__
        self._table = table
        self._empty = empty
        self._waiting: list[L] = []
        self._written = 0

    def __enter__(self) -> Self:
        if self._form is Form.CSV:
            _put(_csv([self._fields]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._form is not Form.TABLE:
            return
        # After an error too: what was found until then is shown, as in the other forms.
        self._show()
        if kind is None and not self._written:
            _put(f"{self._empty}\n")

    def write(self, lines: Iterable[L]) -> None:
        """Write these now; a table gathers them to blocks, and shows the last one at the end."""
        if self._form is Form.JSON:
            _put("".join(_json(line) + "\n" for line in lines))
        elif self._form is Form.CSV:
            _put(_csv([_cell(getattr(line, name)) for name in self._fields] for line in lines))
        else:
            for line in lines:
                self._waiting.append(line)
                if len(self._waiting) >= BLOCK_LINES:
                    self._show()

    def _show(self) -> None:
        if not self._waiting:
            return
        print_table(
            [name.replace("_", " ") for name in self._table],
            [[_shown(name, getattr(line, name)) for name in self._table] for line in self._waiting],
        )
        self._written += len(self._waiting)
        self._waiting.clear()


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table of cells that `shown` made harmless."""
    from rich.box import SIMPLE  # noqa: PLC0415 - slow to load
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*headings, box=SIMPLE)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console = table_console()
    wide = console.options.update(max_width=FILE_COLUMNS)
    if Measurement.get(console, wide, table).maximum > console.width:
        _put("\n".join(_block(headings, row) for row in rows) + "\n")
    else:
        console.print(table)


def table_console() -> "Console":
    """Standard output, for tables; raises BrokenPipeError where nobody reads it any more."""
    from rich.console import Console  # noqa: PLC0415 - slow to load

    class Output(Console):
        def on_broken_pipe(self) -> None:
            # rich's own ends the process with 1, as if that were what was found.
            raise BrokenPipeError

    # In a file or a mail a line is a line, however long.
    return Output(width=None if sys.stdout.isatty() else FILE_COLUMNS)


def _block(headings: Sequence[str], row: Sequence[str]) -> str:
    width = max(map(len, headings))
    pairs = zip(headings, row, strict=True)
    return "".join(f"{heading:<{width}}  {cell}\n" for heading, cell in pairs if cell)


def _shown(name: str, value: Any) -> str:
    if (name == "at" or name.endswith("_at")) and isinstance(value, str):
        value = _FRACTION.sub("Z", value)
    return shown(value)


def shown(value: Any) -> str:
    """A value as a table shows it: one plain word as it is, other texts quoted and escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else repr(value)
    return _json(value)  # all ASCII, and escaped


def _json(value: Any) -> str:
    # All ASCII: what is in a name is escaped here too, and a line has no other line's end.
    return json.dumps(msgspec.to_builtins(value), separators=(", ", ": "))


def _csv(rows: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(map(_quoted, row)) + "\r\n" for row in rows)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else _json(value)
    risky = isinstance(value, str) and (_GUARDED.match(text) or _MARKED.search(text))
    guarded = f"'{text}" if risky else text
    if guarded.isprintable() or not sys.stdout.isatty():
        return guarded
    return repr(guarded)


def _put(text: str) -> None:
    # Bytes: UTF-8 whatever the locale says, and CSV's line ends as they are.
    if text:
        click.echo(text.encode("utf-8"), nl=False)
