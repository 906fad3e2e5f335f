"""Files of any make become numbered lines under known columns, or one clear error."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import openpyxl
import pytest
from flask import Flask

from crm.errors import DomainError
from crm.exchange import reading
from crm.exchange.reading import Field, find_table, read_sheet
from tests.exchange.sheets import make_csv, make_xlsx

FIELDS = (
    Field("name", ("ФИО", "Name"), str, "bad_name", is_required=True),
    Field("phone", ("Доп. телефон", "Phone"), str, "bad_phone", is_required=True),
    Field("note", ("Заметка", "Всё ещё"), str, "bad_note"),
)
ROWS = [("ФИО", "Доп. телефон", "Заметка"), ("Анна", "1", "a"), ("Борис", "2", "b")]

# None of this needs the database.
pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def refusal(content: bytes) -> DomainError:
    with pytest.raises(DomainError) as caught:
        list(read_sheet(content, FIELDS))
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
def test_csv_of_any_encoding_and_delimiter(app: Flask, encoding: str, delimiter: str) -> None:
    sheet = read_sheet(make_csv(ROWS, delimiter=delimiter, encoding=encoding), FIELDS)
    assert [line.cells for line in sheet] == [
        {"name": "Анна", "phone": "1", "note": "a"},
        {"name": "Борис", "phone": "2", "note": "b"},
    ]


def test_lines_are_numbered_as_excel_shows_them(app: Flask) -> None:
    rows = [("Выгрузка",), ("от 01.01.2026",), (), *ROWS[:2], (), ROWS[2]]
    for content in (make_xlsx(rows), make_csv(rows)):
        sheet = read_sheet(content, FIELDS)
        assert [line.number for line in sheet] == [5, 7]
        assert sheet.empty == 1


def test_a_line_break_in_a_csv_cell_is_one_line(app: Flask) -> None:
    rows = [ROWS[0], ("Анна", "1", "после 18:00\nне раньше"), ROWS[2]]
    sheet = read_sheet(make_csv(rows), FIELDS)
    assert [(line.number, line.cells["note"]) for line in sheet] == [(2, "после 18:00\nне раньше"), (3, "b")]


def test_a_sheet_that_begins_far_from_the_corner(app: Flask) -> None:
    rows = [()] * 6 + [("", "", *row) for row in ROWS]
    assert [line.number for line in read_sheet(make_xlsx(rows), FIELDS)] == [8, 9]


def test_the_sheet_with_the_header_is_found_among_others(app: Flask) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Памятка"])
    sheet = book.create_sheet("Данные")
    for row in ROWS:
        sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    assert len(list(read_sheet(stream.getvalue(), FIELDS))) == 2


@pytest.mark.parametrize("name", ["фио", " Ф.И.О. ", "ФИО:", "NAME", "name *"])
def test_column_names_are_compared_by_letters_alone(app: Flask, name: str) -> None:
    sheet = read_sheet(make_csv([(name, "доп телефон", "ВСЕ  ЕЩЕ"), ROWS[1]]), FIELDS)
    assert next(iter(sheet)).cells == {"name": "Анна", "phone": "1", "note": "a"}


@pytest.mark.parametrize(
    "total", [("Итого", "", ""), ("", "", "Всего:"), ("ИТОГО по файлу", "", "12"), ("Total", "", "")]
)
def test_totals_lines_are_no_data(app: Flask, total: tuple[str, ...]) -> None:
    sheet = read_sheet(make_csv([*ROWS, (), total]), FIELDS)
    assert (len(list(sheet)), sheet.empty) == (2, 0)


def test_a_person_whose_name_begins_like_a_total_is_data(app: Flask) -> None:
    sheet = read_sheet(make_csv([ROWS[0], ("Итогов Иван", "3", ""), ("Всего Хорошего", "4", "")]), FIELDS)
    assert [line.cells["name"] for line in sheet] == ["Итогов Иван", "Всего Хорошего"]


def test_error_cells_of_excel_are_not_taken_for_empty_ones(app: Flask) -> None:
    book = openpyxl.Workbook()
    for row in ROWS:
        book.active.append(row)
    book.active["C2"] = "#N/A"
    book.active["C3"] = "#DIV/0!"
    assert book.active["C2"].data_type == "e"
    stream = io.BytesIO()
    book.save(stream)
    notes = [line.cells["note"] for line in read_sheet(stream.getvalue(), FIELDS)]
    assert notes == ["#N/A", "#DIV/0!"]


def test_a_missing_column_is_named(app: Flask) -> None:
    error = refusal(make_csv([("ФИО", "Заметка"), ("Анна", "x")]))
    assert error.code == "column_missing"
    assert "Доп. телефон" in str(error)


def test_two_columns_of_one_meaning_are_refused(app: Flask) -> None:
    assert refusal(make_csv([("ФИО", "Name", "Phone"), ("Анна", "Ann", "1")])).code == "column_twice"


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"<html></html>", "просто текст".encode()])
def test_no_header_is_said_so(app: Flask, content: bytes) -> None:
    assert refusal(content).code == "header_missing"


def zipped(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and nothing more",
        b"\xd0\xcf\x11\xe0 and nothing more",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00",
        zipped("word/document.xml", b"<x/>"),
        zipped("xl/workbook.xml", b"<broken"),
        make_xlsx(ROWS)[:-200],
    ],
    ids=["zip", "ole", "picture", "docx", "xml", "torn"],
)
def test_unreadable_files_are_said_so(app: Flask, content: bytes) -> None:
    assert refusal(content).code == "file_unreadable"


def test_a_password_is_said_so(app: Flask) -> None:
    # The directory of an OLE container, as Office writes it around an encrypted workbook.
    entry = struct.pack("<64sHBB", "EncryptedPackage".encode("utf-16-le"), 34, 2, 1)
    assert refusal(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1016) + entry).code == "file_encrypted"


def test_too_large_files_are_said_so(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(b"x" * (reading.MAX_BYTES + 1)).code == "file_too_large"
    monkeypatch.setattr(reading, "MAX_LINES", 1)
    assert refusal(make_csv(ROWS)).code == "file_too_large"
    monkeypatch.setattr(reading, "MAX_UNPACKED", 1000)
    assert refusal(make_xlsx(ROWS)).code == "file_too_large"


def test_a_single_column_is_told_of(app: Flask) -> None:
    error = refusal("ФИО Доп. телефон\nАнна 1\n".encode())
    assert error.code == "header_missing"
    assert "один столбец" in str(error)


@pytest.mark.parametrize("make", [make_csv, make_xlsx])
def test_thousands_of_columns_are_refused(app: Flask, make: Callable[..., bytes]) -> None:
    error = refusal(make([[*ROWS[0], *(f"Столбец {n}" for n in range(2000))], ["x"] * 2003]))
    assert error.code == "too_many_columns"
    assert "2003" in str(error)


def test_a_zip_that_swells_is_refused(app: Flask) -> None:
    bomb = zipped("xl/worksheets/sheet1.xml", bytes(100 * 2**20))
    assert len(bomb) < 2**20
    assert refusal(bomb).code == "file_too_large"


def test_a_cell_in_the_far_corner_does_not_fill_the_memory(app: Flask) -> None:
    book = openpyxl.Workbook()
    for row in ROWS:
        book.active.append(row)
    book.active["XFD1048576"] = "x"
    stream = io.BytesIO()
    book.save(stream)
    assert refusal(stream.getvalue()).code == "file_too_large"


def test_a_header_nobody_knows_is_guessed_where_a_person_will_say_what_it_means(app: Flask) -> None:
    rows = [("Отчёт",), (), ("Контакт", "Связь", "Долг"), ("Анна", "+79180000001", 5), ("Борис", "+79180000002", 6)]
    for content in (make_xlsx(rows), make_csv(rows, encoding="cp1251", delimiter="|")):
        table = find_table(content, FIELDS, is_guessing=True)
        assert (table.header, table.headings) == (2, ("Контакт", "Связь", "Долг"))
