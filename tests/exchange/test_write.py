"""The Excel writer keeps types, makes no formulas of data, and does not grow with the number of rows."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import openpyxl
import pytest
from openpyxl.workbook import Workbook

from crm.exchange.excel import Column, content_disposition, export_file, sheet_name, write_workbook
from crm.exchange.reading import Field, read_sheet


def written(columns: list[Column], rows: list[tuple[Any, ...]], **options: Any) -> Workbook:
    stream = io.BytesIO()
    assert write_workbook(stream, columns, rows, **{"title": "Лист", **options}) == len(rows)
    return openpyxl.load_workbook(io.BytesIO(stream.getvalue()))


def test_types_are_kept() -> None:
    columns = [
        Column("Сумма", "money"),
        Column("Число", "number"),
        Column("Штук", "integer"),
        Column("День", "date"),
        Column("Миг", "datetime"),
        Column("Да", "bool"),
        Column("Текст"),
    ]
    moment = datetime(2026, 1, 2, 22, 30, 15, 999, tzinfo=UTC)
    row = (Decimal("-1234.50"), Decimal("0.25"), 7, date(2026, 1, 2), moment, True, "x")
    cells = next(written(columns, [row], time_zone="Europe/Samara").active.iter_rows(min_row=2))
    assert [cell.value for cell in cells] == [
        *(-1234.5, 0.25, 7, datetime(2026, 1, 2), datetime(2026, 1, 3, 2, 30, 15), True, "x")  # on Samara's wall clock
    ]
    assert [cell.data_type for cell in cells] == ["n", "n", "n", "d", "d", "b", "s"]
    assert [cell.number_format for cell in cells[:5]] == ["#,##0.00", "General", "0", "dd.mm.yyyy", "dd.mm.yyyy hh:mm"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "=1+1",
            "+79181590830",
            "-1",
            "@SUM(A1)",
            "=cmd|' /C calc'!A0",
            "\t=1",
            "{=1}",
            "http://example.org",
            "mailto:a@b",
        ),
        *("00123", "1e5", "<r>a</r>", "<b>&amp;", " с краёв ", "два\nряда", "Ёлка 😀", "12345678901234567890", "TRUE"),
    ],
)
def test_text_stays_text(text: str) -> None:
    cell = written([Column("Текст")], [(text,)]).active["A2"]
    assert (cell.value, cell.data_type, cell.hyperlink) == (text, "s", None)


def test_what_a_cell_cannot_hold_is_left_out_and_not_the_file_broken() -> None:
    rows = [("a\x00b\x1bc\ud800d\uffff",), ("я" * 40_000,), (None,), (["список"],)]
    values = [row[0].value for row in written([Column("Текст")], rows).active.iter_rows(min_row=2)]
    assert values == ["abcd", "я" * 32_767, None, "['список']"]


def test_values_that_do_not_fit_their_column_are_written_as_text() -> None:
    columns = [Column("a", "money"), Column("b", "date"), Column("c", "integer")]
    row = [cell.value for cell in written(columns, [("нет", date(1812, 9, 7), 10**20)]).active[2]]
    assert row == ["нет", "07.09.1812", "100000000000000000000"]


def test_header_is_frozen_and_filtered() -> None:
    sheet = written([Column("=A", width=40), Column("B")], [(1, 2), (3, 4)]).active
    assert (sheet["A1"].value, sheet["A1"].data_type, sheet["A1"].font.bold) == ("=A", "s", True)
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", "A1:B3")
    assert sheet.column_dimensions["A"].width == pytest.approx(40, abs=1)


def test_no_rows_make_a_header_alone() -> None:
    assert list(written([Column("A")], []).active.values) == [("A",)]


def test_rows_beyond_a_sheet_continue_on_the_next() -> None:
    book = written([Column("A", "integer")], [(n,) for n in range(7)], title="Счета", rows_per_sheet=3)
    assert book.sheetnames == ["Счета", "Счета (2)", "Счета (3)"]
    assert [[row[0] for row in sheet.values] for sheet in book] == [["A", 0, 1, 2], ["A", 3, 4, 5], ["A", 6]]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        *(("Счета: [все]/?*\\", "Счета все"), ("'кавычки'", "кавычки"), ("", "Data"), ("History", "Data")),
        ("очень длинное название таблицы клиентов", "очень длинное название таблицы"),
    ],
)
def test_sheet_names(title: str, name: str) -> None:
    assert sheet_name(title) == name
    assert written([Column("A")], [], title=title).sheetnames == [name]


def test_file_names_in_cyrillic() -> None:
    header = content_disposition("Клиенты «Лес» 01.02.xlsx")
    assert header.isascii()
    assert unquote(header.split("filename*=UTF-8''")[1]) == "Клиенты «Лес» 01.02.xlsx"


@pytest.mark.parametrize(
    "name", ['a"b.xlsx', "a\r\nSet-Cookie: x.xlsx", "../../etc/passwd", "", "\\\\host\\x", ";.xlsx"]
)
def test_file_names_cannot_break_out_of_the_header(name: str) -> None:
    header = content_disposition(name)
    assert "\r" not in header
    assert "\n" not in header
    assert "/" not in header
    assert header.count('"') == 2


def test_what_is_written_can_be_read_back() -> None:
    stream = io.BytesIO()
    columns = [Column("ФИО"), Column("Баланс", "money"), Column("День", "date")]
    write_workbook(stream, columns, [("=1+1", Decimal("-7199.40"), date(2026, 2, 28))], title="x")
    fields = [Field(name, (name,), str, "x") for name in ("ФИО", "Баланс", "День")]
    line = next(iter(read_sheet(stream.getvalue(), fields)))
    assert line.cells == {"ФИО": "=1+1", "Баланс": -7199.4, "День": date(2026, 2, 28)}


def test_export_comes_in_chunks_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = [(f"строка {n} {n * 7919}",) for n in range(20_000)]
    chunks = list(export_file([Column("Текст")], rows, title="x"))
    assert len(chunks) > 1
    book = openpyxl.load_workbook(io.BytesIO(b"".join(chunks)), read_only=True)
    assert sum(1 for _ in book.active.rows) == 20_001
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_fails_half_way_is_an_error_and_no_torn_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def rows() -> Iterator[tuple[str]]:
        yield ("x",)
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        export_file([Column("Текст")], rows(), title="x")
    assert list(tmp_path.iterdir()) == []


# In a process of its own: the peak of this one belongs to other tests.
_MEASURE = """
import resource, sys, tempfile
from datetime import UTC, datetime
from decimal import Decimal
from crm.exchange.excel import Column, write_workbook
columns = [Column("a"), Column("b", "money"), Column("c", "datetime"), Column("d")]
moment = datetime(2026, 1, 2, tzinfo=UTC)
rows = ((f"клиент {n}", Decimal(n) / 100, moment, f"комментарий {n * 7919}") for n in range(int(sys.argv[1])))
with tempfile.TemporaryFile() as file:
    write_workbook(file, columns, rows, title="x")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(rows: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(rows)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return int(done.stdout)


def test_memory_does_not_grow_with_the_rows() -> None:
    assert peak_kilobytes(100_000) < peak_kilobytes(1_000) + 8 * 1024
