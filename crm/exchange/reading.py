"""Files in: an Excel workbook or a CSV of unknown make, as numbered lines under known columns.

The header is looked for, not assumed: exports of other systems begin with titles, dates and empty lines.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import python_calamine as calamine
from flask_babel import gettext as _

from crm.errors import DomainError

MAX_BYTES = 16 * 2**20
MAX_UNPACKED = 512 * 2**20  # of a workbook, which is a zip
MAX_LINES = 50_000
HEADER_WITHIN = 50  # lines

Cells = Sequence[Any]


@dataclass(frozen=True)
class Field:
    """A column a file may have. aliases: its names in other systems; compared by letters and digits alone.

    parse: the value of a cell, or DomainError with the reason it is refused; code: the figure such lines count under.
    """

    name: str
    aliases: tuple[str, ...]
    parse: Callable[[Any], Any]
    code: str
    is_required: bool = False


@dataclass(frozen=True)
class Line:
    """number: as Excel shows it. cells: raw values by field name; fields whose column is missing are left out."""

    number: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """The lines that hold data. headings: the file's own column names by field; empty: blank lines among the data."""

    lines: list[Line]
    headings: dict[str, str]
    ignored: list[str] = field(default_factory=list)
    empty: int = 0


def read_sheet(content: bytes, fields: Sequence[Field]) -> Sheet:
    """Read an .xlsx, .xls or CSV file. Raises DomainError "file_unreadable", "file_encrypted", "file_too_large",
    "header_missing", "column_missing" or "column_twice".
    """
    if len(content) > MAX_BYTES:
        raise DomainError("file_too_large", _("The file is larger than %(size)s MB.", size=MAX_BYTES // 2**20))
    candidates = _workbook(content) if content[:4] in {b"PK\x03\x04", b"\xd0\xcf\x11\xe0"} else _delimited(content)
    best: tuple[int, Sequence[Cells], dict[int, Field]] | None = None
    for rows in candidates:
        index, columns = _find_header(rows, fields)
        if columns and (best is None or len(columns) > len(best[2])):
            best = index, rows, columns
    if best is None:
        names = ", ".join(field.aliases[0] for field in fields if field.is_required)
        raise DomainError("header_missing", _("No line with column names was found. Expected: %(names)s.", names=names))
    return _sheet(*best, fields)


def comparable(name: Any) -> str:
    """A name as names are compared: lower case, ё as е, letters and digits only."""
    return re.sub(r"[\W_]+", "", str(name).lower().replace("ё", "е"))


# --- from rows to lines ----------------------------------------------------------------------------------------------


def _find_header(rows: Sequence[Cells], fields: Sequence[Field]) -> tuple[int, dict[int, Field]]:
    """The line that names most known columns, at least two; its index and the field of each column."""
    known = {comparable(alias): field for field in fields for alias in field.aliases}
    best: tuple[int, dict[int, Field]] = (0, {})
    for index, cells in enumerate(rows[:HEADER_WITHIN]):
        columns = {
            column: known[name]
            for column, cell in enumerate(cells)
            if isinstance(cell, str) and (name := comparable(cell)) in known
        }
        if len(columns) > max(1, len(best[1])):
            best = index, columns
    return best


def _sheet(header: int, rows: Sequence[Cells], columns: dict[int, Field], fields: Sequence[Field]) -> Sheet:
    found = [field.name for field in columns.values()]
    for field_ in fields:
        if field_.is_required and field_.name not in found:
            raise DomainError("column_missing", _("The column “%(name)s” is missing.", name=field_.aliases[0]))
    headings: dict[str, str] = {}
    for column, field_ in columns.items():
        heading = " ".join(str(rows[header][column]).split())
        if field_.name in headings:
            raise DomainError(
                "column_twice",
                _(
                    "The columns “%(first)s” and “%(second)s” mean the same; leave one.",
                    first=headings[field_.name],
                    second=heading,
                ),
            )
        headings[field_.name] = heading
    ignored = [str(cell).strip() for i, cell in enumerate(rows[header]) if i not in columns and str(cell).strip()]
    lines: list[Line] = []
    empty = blanks = 0
    for number, cells in enumerate(rows[header + 1 :], header + 2):
        values = {field_.name: cells[column] if column < len(cells) else "" for column, field_ in columns.items()}
        if all(is_blank(value) for value in values.values()):
            blanks += 1
        elif not _is_total(cells, values, fields):
            empty, blanks = empty + blanks, 0  # blank lines below the last line of data are no part of it
            lines.append(Line(number, values))
            if len(lines) > MAX_LINES:
                raise DomainError("file_too_large", _("The file has more than %(count)s lines.", count=MAX_LINES))
    return Sheet(lines, headings, ignored, empty)


def is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_total(cells: Cells, values: dict[str, Any], fields: Sequence[Field]) -> bool:
    """A line that begins with “Total” and has none of the values every line must have but, perhaps, that word."""
    first = next((str(cell).strip().lower() for cell in cells if not is_blank(cell)), "")
    if not re.match(r"(итого|всего|total)\b", first):
        return False
    required = [values[field_.name] for field_ in fields if field_.is_required]
    return all(is_blank(value) or str(value).strip().lower() == first for value in required)


# --- from bytes to rows ----------------------------------------------------------------------------------------------


def _workbook(content: bytes) -> Iterator[Sequence[Cells]]:
    """The sheets of a workbook, each padded from A1 so that indexes are Excel's."""
    unreadable = DomainError("file_unreadable", _("The file cannot be read. Save it as .xlsx or .csv and try again."))
    encrypted = DomainError("file_encrypted", _("The file is protected by a password. Save it without one."))
    # An .xlsx with a password is no zip but an OLE container of one encrypted stream, which the reader does not tell.
    if "EncryptedPackage".encode("utf-16-le") in content and content[:2] != b"PK":
        raise encrypted
    errors: dict[str, dict[tuple[int, int], str]] = {}
    try:
        if content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(item.file_size for item in archive.infolist()) > MAX_UNPACKED:
                    raise DomainError("file_too_large", _("The file is too large when unpacked."))
                errors = _error_cells(archive)
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        for name in book.sheet_names:
            rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            for (row, column), value in errors.get(name, {}).items():
                if row < len(rows) and column < len(rows[row]):
                    rows[row][column] = value
            yield rows
    except calamine.PasswordError:
        raise encrypted from None
    except (calamine.CalamineError, zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, OSError) as error:
        raise unreadable from error


_NAMESPACES = {
    "m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "r": "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
}
_CELL = re.compile(rb"<c\b([^>]*)>(.*?)</c>", re.S)


def _error_cells(archive: zipfile.ZipFile) -> dict[str, dict[tuple[int, int], str]]:
    """Cells that show an error (#N/A), by sheet and place. The reader gives them as empty, and an empty sum is zero:
    a client's debt would be forgiven in silence.
    """
    if "xl/workbook.xml" not in archive.namelist():
        return {}
    targets = {
        relation.get("Id"): str(relation.get("Target"))
        for relation in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314 - no DTD loaded
    }
    found: dict[str, dict[tuple[int, int], str]] = {}
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314
    for sheet in book.iterfind("m:sheets/m:sheet", _NAMESPACES):
        target = targets.get(sheet.get(f"{{{_NAMESPACES['r']}}}id"), "")
        path = target.lstrip("/") if target.startswith("/") else str(PurePosixPath("xl", target))
        data = archive.read(path) if path in archive.namelist() else b""
        if b't="e"' not in data:
            continue
        for attributes, inner in _CELL.findall(data):
            place = re.search(rb'\br="([A-Z]+)(\d+)"', attributes)
            if place and b't="e"' in attributes:
                value = re.search(rb"<v>([^<]*)</v>", inner)
                column = sum((letter - 64) * 26**power for power, letter in enumerate(reversed(place[1])))
                found.setdefault(str(sheet.get("name")), {})[int(place[2]) - 1, column - 1] = (
                    value[1].decode("utf-8", "replace") if value else "#ERROR"
                )
    return found


def _delimited(content: bytes) -> Iterator[Sequence[Cells]]:
    """The file split by each usual delimiter; whoever looks for the header knows which one is right."""
    text = _decode(content)
    for delimiter in ";,\t|":
        try:
            yield list(_records(text, delimiter))
        except csv.Error:
            continue


def _records(text: str, delimiter: str) -> Iterable[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _decode(content: bytes) -> str:
    encodings = ("utf-16",) if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else ("utf-8-sig", "cp1251")
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in text:
            return text
    raise DomainError("file_unreadable", _("The file cannot be read. Save it as .xlsx or .csv and try again."))
