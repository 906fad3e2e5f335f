"""Excel out: one streaming writer for every grid. Types are kept, nothing in the data becomes a formula or a link.

Rows go to disk as they come, so memory stays flat however many there are.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import chain, islice
from typing import IO, Any, BinaryIO, Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

import xlsxwriter
from xlsxwriter.worksheet import Worksheet

ColumnType = Literal["text", "number", "money", "integer", "date", "datetime", "bool"]

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ROWS_PER_SHEET = 1_048_575  # Excel's 1 048 576 less the header
MAX_TEXT = 32_767  # characters in a cell
MAX_EXACT = 10**13  # Excel keeps fifteen digits of a number, two of them kopecks; longer ones are kept as text
CHUNK = 64 * 1024

_FORMATS: dict[str, str] = {
    "money": "#,##0.00",
    "integer": "0",
    "date": "dd.mm.yyyy",
    "datetime": "dd.mm.yyyy hh:mm",
}
_WIDTHS: dict[str, int] = {"text": 24, "number": 12, "money": 14, "integer": 10, "date": 12, "datetime": 17, "bool": 8}
# What XML 1.0 cannot hold; tabs and line breaks stay.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Column:
    """A column of the sheet. width: in characters of the standard font; by type when not given."""

    header: str
    type: ColumnType = "text"
    width: float | None = None


class _PlainWorksheet(Worksheet):
    """xlsxwriter takes a text `<r>…</r>` for ready-made rich-text XML; in data it is a text like any other."""

    def _xml_rich_inline_string(self, string: str, attributes: Any) -> None:
        self._xml_inline_string(string, False, attributes)


def write_workbook(
    stream: IO[bytes],
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    title: str,
    time_zone: str | None = "UTC",
    rows_per_sheet: int = ROWS_PER_SHEET,
) -> int:
    """Write `rows` (values in the order of `columns`, None = empty cell) as .xlsx into `stream`; return their number.

    money, number, integer: Decimal or int; date: date; datetime: aware datetime, shown on the wall clock of
    `time_zone` (None: on its own, so that rows of several zones keep theirs); anything else is written as text. Rows
    beyond a full sheet continue on another of the same columns.
    """
    with tempfile.TemporaryDirectory(prefix="kontora-export-") as folder, contextlib.ExitStack() as open_files:
        options = {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "tmpdir": folder,  # goes with the folder even if `rows` fails half-way
        }
        book = xlsxwriter.Workbook(stream, options)
        styles = {kind: book.add_format({"num_format": style}) for kind, style in _FORMATS.items()}
        header = book.add_format({"bold": True, "bg_color": "#EDEFF2", "bottom": 1, "text_wrap": True, "valign": "top"})
        zone = ZoneInfo(time_zone) if time_zone else None
        cells = [_cell_writer(column, styles.get(column.type), zone) for column in columns]
        source, total, sheets = iter(rows), 0, 0
        first: tuple[Sequence[Any], ...] = ()
        while True:
            sheets += 1
            sheet = book.add_worksheet(sheet_name(title, sheets), worksheet_class=_PlainWorksheet)
            open_files.callback(sheet.row_data_fh.close)  # book.close() is not reached if `rows` fails
            for index, column in enumerate(columns):
                sheet.set_column(index, index, column.width or _WIDTHS[column.type])
                sheet.write_string(0, index, _text(column.header), header)
            sheet.freeze_panes(1, 0)
            written = 0
            for written, row in enumerate(islice(chain(first, source), rows_per_sheet), 1):
                for index, value in enumerate(row):
                    if value is not None:
                        cells[index](sheet, written, index, value)
            if columns:
                sheet.autofilter(0, 0, written, len(columns) - 1)
            total += written
            first = tuple(islice(source, 1))
            if not first:
                break
        book.close()
    return total


def export_file(
    columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, title: str, time_zone: str | None = "UTC"
) -> Iterator[bytes]:
    """The workbook in chunks, for a Flask response: built on disk before this returns, so that a failing query is an
    error page and not a torn file. The file is gone once the chunks are read or dropped.
    """
    file = tempfile.TemporaryFile(prefix="kontora-export-")  # noqa: SIM115 - closed by _chunks
    try:
        write_workbook(file, columns, rows, title=title, time_zone=time_zone)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return _chunks(file)


def _chunks(file: BinaryIO | IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def content_disposition(file_name: str) -> str:
    """Header value that downloads as `file_name` in any script (RFC 6266, RFC 5987); ASCII for the oldest."""
    file_name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', " ", file_name).strip() or "export"
    plain = unicodedata.normalize("NFKD", file_name).encode("ascii", "ignore").decode().strip()
    if not plain or plain.startswith("."):
        plain = f"export{plain}"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


def sheet_name(title: str, number: int = 1) -> str:
    """`title` as Excel takes it: 31 characters, none of `[]:*?/\\`, no apostrophe at the ends, never "History"."""
    suffix = f" ({number})" if number > 1 else ""
    name = re.sub(r"\s+", " ", re.sub(r"[\[\]:*?/\\]", " ", _UNWRITABLE.sub("", title))).strip(" '")
    name = name[: 31 - len(suffix)].strip(" '")
    if not name or name.lower() == "history":
        name = "Data"
    return name + suffix


def _text(value: Any) -> str:
    return _UNWRITABLE.sub("", str(value))[:MAX_TEXT]


def _cell_writer(column: Column, style: Any, zone: ZoneInfo | None) -> Any:
    """How values of this column are written: a function of (sheet, row, column index, value)."""

    def as_text(sheet: Worksheet, row: int, index: int, value: Any) -> None:
        sheet.write_string(row, index, _text(value))

    def as_number(sheet: Worksheet, row: int, index: int, value: Any) -> None:
        # bool is a kind of int, but True is no amount
        if isinstance(value, (Decimal, int)) and not isinstance(value, bool) and -MAX_EXACT < value < MAX_EXACT:
            sheet.write_number(row, index, value, style)
        else:
            as_text(sheet, row, index, value)

    def as_date(sheet: Worksheet, row: int, index: int, value: Any) -> None:
        if isinstance(value, datetime):
            value = (value.astimezone(zone) if zone else value).replace(tzinfo=None, microsecond=0)
            value = value.date() if column.type == "date" else value
        if isinstance(value, date) and value.year >= 1900:
            sheet.write_datetime(row, index, value, style)
        else:  # Excel's calendar begins in 1900
            as_text(sheet, row, index, f"{value:%d.%m.%Y}" if isinstance(value, date) else value)

    def as_bool(sheet: Worksheet, row: int, index: int, value: Any) -> None:
        sheet.write_boolean(row, index, bool(value))

    return {
        "text": as_text,
        "number": as_number,
        "money": as_number,
        "integer": as_number,
        "date": as_date,
        "datetime": as_date,
        "bool": as_bool,
    }[column.type]
