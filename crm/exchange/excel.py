"""Excel out: one streaming writer for every grid. Types are kept, nothing in the data becomes a formula or a link.

Rows go to disk as they come, so memory stays flat however many there are.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import chain, islice
from typing import IO, Any, BinaryIO, Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

import xlsxwriter
from xlsxwriter.utility import xl_col_to_name
from xlsxwriter.worksheet import Worksheet

ColumnType = Literal["text", "number", "money", "integer", "date", "datetime", "bool"]

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ROWS_PER_SHEET = 1_048_574  # Excel's 1 048 576 less the header and the totals
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
_TOTAL = {"bold": True, "top": 1}
# What XML 1.0 cannot hold; tabs and line breaks stay.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LOOKS_ESCAPED = re.compile("_(?=x[0-9a-fA-F]{4}_)")
# Texts that are not written as they are: of these characters, or with white space at an end, which readers would drop.
_SPECIAL = re.compile("[\x00-\x1f&<>\ud800-\udfff\ufffe\uffff]|_x|^\\s|\\s$")
_DAY_ZERO = date(1899, 12, 30).toordinal()


@dataclass(frozen=True)
class Column:
    """A column of the sheet. width: in characters of the standard font; by type when not given."""

    header: str
    type: ColumnType = "text"
    width: float | None = None


Cell = Callable[[Any], str]  # a value as the XML of its cell, from behind the cell's address on


class _RowsWorksheet(Worksheet):
    """A worksheet that takes whole rows as XML: its generic way through a table of cells takes three times as long."""

    def add_row(self, number: int, xml: str) -> None:
        """Write the cells of row `number`, counted from 1; rows come in order."""
        self.row_data_fh.write(f'<row r="{number}">{xml}</row>')

    def _write_optimized_sheet_data(self) -> None:
        """The rows as they lie on disk: decoding and encoding them once more would take seconds of a million."""
        self._xml_start_tag("sheetData")
        self.fh.flush()
        self.row_data_fh.seek(0)
        shutil.copyfileobj(self.row_data_fh.buffer, self.fh.buffer, 2**20)
        self.row_data_fh.close()
        os.unlink(self.row_data_filename)
        self._xml_end_tag("sheetData")

    def set_extent(self, rows: int, columns: int) -> None:
        """Tell how far the cells reach once they are written."""
        if rows and columns:
            self.dim_rowmin, self.dim_rowmax, self.dim_colmin, self.dim_colmax = 0, rows - 1, 0, columns - 1


def write_workbook(
    stream: IO[bytes] | io.BufferedIOBase,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    title: str,
    time_zone: str | None = "UTC",
    rows_per_sheet: int = ROWS_PER_SHEET,
    totals: Callable[[], Sequence[Any] | None] | None = None,
    folder: str | None = None,
) -> int:
    """Write `rows` (values in the order of `columns`, None = empty cell) as .xlsx into `stream`; return their number.

    money, number, integer: Decimal or int; date: date; datetime: aware datetime, shown on the wall clock of
    `time_zone` (None: on its own, so that rows of several zones keep theirs); anything else is written as text. Rows
    beyond a full sheet continue on another of the same columns. totals: asked once all rows are written for the values
    of a last line below them, None for no such line. folder: where the intermediate files lie while it is written.
    """
    with tempfile.TemporaryDirectory(prefix="kontora-export-", dir=folder) as place, contextlib.ExitStack() as files:
        options = {
            "constant_memory": True,
            "use_zip64": True,  # a sheet of a million wide rows is more than four gigabytes before compression
            "tmpdir": place,  # goes with the folder even if `rows` fails half-way
        }
        book = xlsxwriter.Workbook(stream, options)
        zone = ZoneInfo(time_zone) if time_zone else None
        header = book.add_format({"bold": True, "bg_color": "#EDEFF2", "bottom": 1, "text_wrap": True, "valign": "top"})
        styles = {kind: book.add_format({"num_format": style}) for kind, style in _FORMATS.items()}
        sums = {kind: book.add_format(_TOTAL | {"num_format": style}) for kind, style in _FORMATS.items()}
        plain_sum = book.add_format(_TOTAL)
        head_line = _line([_text_cell(_style(header)) for _column in columns])
        line = _line([_cell(column.type, _style(styles.get(column.type)), zone) for column in columns])
        sum_line = _line([_cell(column.type, _style(sums.get(column.type, plain_sum)), zone) for column in columns])
        source, total, sheets = iter(rows), 0, 0
        first: tuple[Sequence[Any], ...] = ()
        while True:
            sheets += 1
            sheet = book.add_worksheet(sheet_name(title, sheets), worksheet_class=_RowsWorksheet)
            files.callback(sheet.row_data_fh.close)  # book.close() is not reached if `rows` fails
            for index, column in enumerate(columns):
                sheet.set_column(index, index, column.width or _WIDTHS[column.type])
            sheet.freeze_panes(1, 0)
            sheet.add_row(1, head_line(1, [column.header for column in columns]))
            number = 1
            for number, row in enumerate(islice(chain(first, source), rows_per_sheet), 2):
                sheet.add_row(number, line(number, row))
            if columns:
                sheet.autofilter(0, 0, number - 1, len(columns) - 1)
            total += number - 1
            first = tuple(islice(source, 1))
            if not first:
                break
            sheet.set_extent(number, len(columns))
        if totals is not None and (values := totals()) is not None:
            number += 1
            sheet.add_row(number, sum_line(number, values))
        sheet.set_extent(number, len(columns))
        book.close()
    return total


def export_file(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    title: str,
    time_zone: str | None = "UTC",
    totals: Callable[[], Sequence[Any] | None] | None = None,
) -> Iterator[bytes]:
    """The workbook in chunks, for a Flask response: built on disk before this returns, so that a failing query is an
    error page and not a torn file. The file is gone once the chunks are read or dropped.
    """
    file = tempfile.TemporaryFile(prefix="kontora-export-")  # noqa: SIM115 - closed by _chunks
    try:
        write_workbook(file, columns, rows, title=title, time_zone=time_zone, totals=totals)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return _chunks(file)


def _chunks(file: BinaryIO | IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def content_disposition(file_name: str, *, is_shown: bool = False) -> str:
    """Header value that downloads as `file_name` in any script (RFC 6266, RFC 5987); ASCII for the oldest.

    is_shown: the browser shows it, and saves it under this name when asked to.
    """
    file_name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', " ", file_name).strip() or "export"
    plain = unicodedata.normalize("NFKD", file_name).encode("ascii", "ignore").decode().strip()
    if not plain or plain.startswith("."):
        plain = f"export{plain}"
    way = "inline" if is_shown else "attachment"
    return f"{way}; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


def sheet_name(title: str, number: int = 1) -> str:
    """`title` as Excel takes it: 31 characters, none of `[]:*?/\\`, no apostrophe at the ends, never "History"."""
    suffix = f" ({number})" if number > 1 else ""
    name = re.sub(r"\s+", " ", re.sub(r"[\[\]:*?/\\]", " ", _UNWRITABLE.sub("", title))).strip(" '")
    name = name[: 31 - len(suffix)].strip(" '")
    if not name or name.lower() == "history":
        name = "Data"
    return name + suffix


def _style(found: Any) -> str:
    """The attribute of cells of a format; none for the plain one."""
    return f' s="{found._get_xf_index()}"' if found is not None else ""


def _line(cells: Sequence[Cell]) -> Callable[[int, Sequence[Any]], str]:
    """How the cells of a row are written: a function of its number, counted from 1, and its values."""
    letters = [xl_col_to_name(index) for index in range(len(cells))]

    def line(number: int, values: Sequence[Any]) -> str:
        return "".join(
            [
                f'<c r="{letter}{number}"{cell(value)}'
                for letter, cell, value in zip(letters, cells, values, strict=True)
                if value is not None
            ]
        )

    return line


def _cell(kind: ColumnType, style: str, zone: ZoneInfo | None) -> Cell:
    """How values of a column of this type are written."""
    if kind == "text":
        return _text_cell(style)
    if kind == "bool":
        return lambda value: f'{style} t="b"><v>{int(bool(value))}</v></c>'
    if kind in {"date", "datetime"}:
        return _date_cell(style, zone, is_day=kind == "date")
    return _number_cell(style)


def _text_cell(style: str) -> Cell:
    start, preserve = f'{style} t="inlineStr"><is><t', ' xml:space="preserve"'

    def text(value: Any) -> str:
        plain = value if type(value) is str else str(value)
        if len(plain) <= MAX_TEXT and not _SPECIAL.search(plain):
            return f"{start}>{plain}</t></is></c>"
        return f"{start}{preserve}>{_escaped(plain)}</t></is></c>"

    return text


def _escaped(text: str) -> str:
    """What XML or Excel would take for something else, as they want it: `&amp;`, and `_x005F_x0041_` for `_x0041_`."""
    text = _UNWRITABLE.sub("", text)[:MAX_TEXT]
    text = _LOOKS_ESCAPED.sub("_x005F", text).replace("\r", "_x000D_")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _number_cell(style: str) -> Cell:
    as_text = _text_cell(style)

    def number(value: Any) -> str:
        # bool is a kind of int, but True is no amount
        if isinstance(value, (Decimal, int)) and not isinstance(value, bool) and -MAX_EXACT < value < MAX_EXACT:
            return f"{style}><v>{value}</v></c>"
        return as_text(value)

    return number


def _date_cell(style: str, zone: ZoneInfo | None, *, is_day: bool) -> Cell:
    as_text = _text_cell(style)

    def day(value: Any) -> str:
        seconds = 0
        if isinstance(value, datetime):
            value = value.astimezone(zone) if zone else value
            seconds = 0 if is_day else value.hour * 3600 + value.minute * 60 + value.second
        elif not isinstance(value, date):
            return as_text(value)
        number = value.toordinal() - _DAY_ZERO
        if number < 61:
            if value.year < 1900:  # Excel's calendar begins in 1900
                return as_text(f"{value:%d.%m.%Y}")
            number -= 1  # and holds a 29 February 1900 that never was
        return f"{style}><v>{number + seconds / 86400:.16G}</v></c>" if seconds else f"{style}><v>{number}</v></c>"

    return day
