"""The tables of an export are held to its entries: row by row, every column."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.settings import Settings
from secrets_broker.tools.export.parquet import KEYS, SCHEMAS, part_name
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.verification import Job, LedgerLocation
from tests.conftest import TEMPLATE, fresh_database
from tests.ledger.checkpoints import KEY
from tests.ledger.helpers import BEGUN
from tests.tools.export.helpers import exported as export_to
from tests.tools.export.helpers import grow
from tests.tools.verify.changing import Report, history, of_job
from tests.tools.verify.exported_folder import edit

SIZE = 17_000  # more than one row group, and more than one chunk of entries
KINDS = sorted(SCHEMAS)


@pytest.fixture(scope="module")
def exported(
    cluster: Cluster, keyring: Keyring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An export with tables."""
    folder = tmp_path_factory.mktemp("tables") / "export"
    with fresh_database(cluster, TEMPLATE) as database:
        history(database, keyring)
        grow(database, keyring, SIZE)
        export_to(database, folder)
    yield folder


def verified(folder: Path, *, partial: bool = False) -> Report:
    """From the folder."""
    place = LedgerLocation(folder=folder, partial=partial)
    return of_job(Job(Settings({}), VerifyPlan((KEY.verifier,)), None, place))


def changed(folder: Path, kind: str, change: Callable[[Any], Any]) -> Report:
    """Verify with another table in the place of one, and put that back."""
    path = folder / part_name(kind, 0)
    before = path.read_bytes()
    pq.write_table(change(pq.read_table(path)), path)
    try:
        return verified(folder)
    finally:
        path.write_bytes(before)


def told(report: Report, kind: str) -> tuple[int | None, str]:
    """Position and words of the one thing that is wrong."""
    ((position, check, detail),) = report.problems
    assert (report.ok, check) == (False, "table")
    assert detail.startswith(part_name(kind, 0))
    return position, detail


def test_what_export_makes_is_right(exported: Path) -> None:
    """Each event was compared."""
    report = verified(exported)
    assert (report.ok, report.problems) == (True, [])
    assert report.checked["events in tables"] == SIZE


def test_every_accessed_by_replaced(exported: Path) -> None:
    """One file, and the whole of one column: the first row of it is named."""

    def change(table: Any) -> Any:
        index = table.column_names.index("accessed_by")
        return table.set_column(index, "accessed_by", pa.array(["mallory"] * len(table)))

    position, detail = told(changed(exported, "access_log", change), "access_log")
    assert position == BEGUN
    assert detail.endswith("does not say what this entry says (accessed_by)")


def other(value: Any, kind: Any) -> Any:
    """Another value of a column's type."""
    if pa.types.is_timestamp(kind):
        return (0 if value is None else value) + 1
    if pa.types.is_integer(kind):
        return 7 if value is None else value + 1 if value < 2**14 else value - 1
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_binary(kind):
        return value[:-1] + bytes([value[-1] ^ 1])
    return "x" if value is None else value + " "


@given(data=st.data())
@hypothesis_settings(max_examples=12)
def test_any_value_of_any_column(exported: Path, data: st.DataObject) -> None:
    """One cell: its event and its column are named."""
    kind = data.draw(st.sampled_from(KINDS))
    field = data.draw(st.sampled_from(list(SCHEMAS[kind])))
    key: list[int] = []

    def change(table: Any) -> Any:
        row = data.draw(st.integers(0, len(table) - 1))
        key.append(table[KEYS[kind]][row].as_py())
        whole = table[field.name]
        plain = pa.int64() if pa.types.is_timestamp(field.type) else field.type
        values = whole.cast(plain).to_pylist()
        values[row] = other(values[row], field.type)
        column = pa.array(values, plain).cast(field.type)
        return table.set_column(table.column_names.index(field.name), field, column)

    position, detail = told(changed(exported, kind, change), kind)
    assert (position, field.name in detail) == (key[0], True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.slice(0, len(t) - 1), "ends before the row"),
        (lambda t: t.slice(0, 0), "ends before the row"),
        (lambda t: t.slice(1), "does not say what this entry says"),
        (lambda t: pa.concat_tables([t.slice(0, 5_000), t.slice(5_001)]), "does not say"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "follows from no entry"),
        (lambda t: pa.concat_tables([t.slice(1, 1), t.slice(0, 1), t.slice(2)]), "does not say"),
        (lambda t: t.append_column("more", pa.nulls(len(t))), "has other columns"),
        (lambda t: t.drop_columns(["version"]), "has other columns"),
        (lambda t: t.select([*t.column_names[1:], t.column_names[0]]), "has other columns"),
        (lambda t: t.rename_columns([*t.column_names[:-1], "x"]), "has other columns"),
        (
            lambda t: t.set_column(0, t.column_names[0], t[t.column_names[0]].cast(pa.float64())),
            "has other columns",
        ),
    ],
)
def test_rows_and_columns(
    exported: Path, kind: str, change: Callable[[Any], Any], said: str
) -> None:
    """Fewer, more, in another order, of another type."""
    assert said in told(changed(exported, kind, change), kind)[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 300, None])
def test_a_file_that_is_none(
    exported: Path, tmp_path: Path, kind: str, content: bytes | None
) -> None:
    """Not there, or no Parquet: told, with --partial only where it is there."""
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    path = folder / part_name(kind, 0)
    path.unlink() if content is None else path.write_bytes(content)
    assert told(verified(folder), kind)[0] == 0
    assert verified(folder, partial=True).ok is (content is None)


@pytest.mark.parametrize("at", [0, 1_000, 12_000])
def test_bytes_anywhere(exported: Path, at: int) -> None:
    """A file that was damaged in its middle says so, or shows other rows; it ends nothing."""
    for kind in KINDS:
        path = exported / part_name(kind, 0)
        before = path.read_bytes()
        place = at % len(before)
        path.write_bytes(before[:place] + bytes(b ^ 0x55 for b in before[place : place + 40])
                         + before[place + 40 :])  # fmt: skip
        try:
            report = verified(exported)
        finally:
            path.write_bytes(before)
        assert "table" in report.checks


def test_an_entry_that_cannot_be_read(exported: Path, tmp_path: Path) -> None:
    """It is told by itself; what the tables have behind it is said not to be checked."""
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    edit(folder / "tile/entries/020", 3, b"{}")
    report = verified(folder)
    assert (report.first_bad, "table" in report.checks) == (5_123, False)
    assert any(text.startswith("tables from position 4096 on") for text in report.not_checked)


def test_without_pyarrow_that_is_said(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: the rest is checked, and nobody takes the tables for checked."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(
        sys.modules, "secrets_broker.tools.verify.side_data.parquet_file", raising=False
    )
    report = verified(exported)
    assert report.ok
    assert any("tables: they need pyarrow" in text for text in report.not_checked)
