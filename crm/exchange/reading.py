"""Files in: an Excel workbook or a CSV of unknown make, as numbered lines under known columns.

The header is looked for, not assumed: exports of other systems begin with titles, dates and empty lines. Lines are read
one by one, so memory does not grow with the file.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from xml.etree import ElementTree

import python_calamine as calamine
from flask_babel import gettext as _

from crm.errors import DomainError

MAX_BYTES = 64 * 2**20
MAX_UNPACKED = 384 * 2**20  # of a workbook, which is a zip
MAX_RATIO = 200  # unpacked to packed, where it is more than a few megabytes: office files come to 10, bombs to 1000
MAX_CELLS = 16_000_000  # in the rectangle a sheet's data spans; the reader holds all of it
MAX_LINES = 150_000
MAX_COLUMNS = 200
HEADER_WITHIN = 50  # lines

Cells = Sequence[Any]
Source = Path | bytes


@dataclass(frozen=True)
class Field:
    """A column a file may have. aliases: its names in other systems; compared by letters and digits alone.

    parse: the value of a cell, or DomainError with the reason it is refused; code: the figure such lines count under.
    label: what people call it, the first alias when not given.
    """

    name: str
    aliases: tuple[str, ...]
    parse: Callable[[Any], Any]
    code: str
    is_required: bool = False
    label: Any = None

    @property
    def title(self) -> str:
        return str(self.label or self.aliases[0])


@dataclass(frozen=True)
class Line:
    """number: as Excel shows it. cells: raw values by field name; raw: the whole line of the file."""

    number: int
    cells: dict[str, Any]
    raw: Cells


@dataclass(frozen=True)
class Table:
    """Where the data of a file is. part: the sheet's name or the CSV's delimiter; header: index of the header line.

    headings: one per column of the header line, with single spaces; "" where there is none.
    """

    part: str
    header: int
    headings: tuple[str, ...]


def find_table(source: Source, fields: Sequence[Field], *, is_guessing: bool = False) -> Table:
    """Look for the header: the line that names most known columns, at least two.

    is_guessing: where no line does, take the first full line of words, for a person to say what its columns are.
    Raises DomainError "file_unreadable", "file_encrypted", "file_too_large", "header_missing" or "too_many_columns".
    """
    known = {comparable(alias) for field in fields for alias in field.aliases}
    best: tuple[int, Table] | None = None
    guess: tuple[int, Table] | None = None
    width = 0
    with open_book(source) as book:
        for part in book.parts:
            try:
                rows = list(islice(book.rows(part), HEADER_WITHIN))
            except csv.Error:
                continue
            filled = [sum(not is_blank(cell) for cell in cells) for cells in rows]
            width = max(width, *filled, 0)
            for index, cells in enumerate(rows):
                names = {name for cell in cells if isinstance(cell, str) and (name := comparable(cell)) in known}
                if len(names) > (best[0] if best else 1):
                    best = len(names), Table(part, index, _headings(cells))
            for index, cells in enumerate(rows[:-1]):
                if _looks_like_header(cells, max(filled)) and filled[index] > (guess[0] if guess else 1):
                    guess = filled[index], Table(part, index, _headings(cells))
                    break
    found = best or (guess if is_guessing else None)
    count = sum(map(bool, found[1].headings)) if found else width
    if count > MAX_COLUMNS:
        raise DomainError(
            "too_many_columns",
            _("The file has %(count)s columns; at most %(most)s are read.", count=count, most=MAX_COLUMNS)
            + " "
            + _("Delete those that are not needed."),
        )
    if found is None:
        expected = ", ".join(field.title for field in fields if field.is_required)
        reason = _("No line with column names was found. Expected: %(names)s.", names=expected)
        if width == 1:
            reason += " " + _(
                "The file has a single column: save it with columns set apart by semicolons, or as .xlsx."
            )
        raise DomainError("header_missing", reason)
    return found[1]


def match_columns(headings: Sequence[str], fields: Sequence[Field]) -> dict[int, Field]:
    """The field of each column, by its name; columns of unknown names are left out, and twins stand twice."""
    known = {comparable(alias): field for field in fields for alias in field.aliases}
    return {index: known[name] for index, heading in enumerate(headings) if (name := comparable(heading)) in known}


def check_columns(headings: Sequence[str], columns: Mapping[int, Field], fields: Sequence[Field]) -> None:
    """Raise DomainError "column_missing" or "column_twice" unless each required field has one column, and none two."""
    found: dict[str, str] = {}
    for index, field_ in columns.items():
        if field_.name in found:
            raise DomainError(
                "column_twice",
                _(
                    "The columns “%(first)s” and “%(second)s” mean the same; leave one.",
                    first=found[field_.name],
                    second=headings[index],
                ),
            )
        found[field_.name] = headings[index]
    for field_ in fields:
        if field_.is_required and field_.name not in found:
            raise DomainError("column_missing", _("The column “%(name)s” is missing.", name=field_.title))


class Sheet:
    """The lines of a table that hold data, read one by one; iterating again reads the file again.

    headings: the file's own column names by field; ignored: columns nobody asked for; empty: blank lines among the
    data, known when all has been read.
    """

    def __init__(self, source: Source, table: Table, columns: Mapping[int, Field], fields: Sequence[Field]) -> None:
        check_columns(table.headings, columns, fields)
        self._source, self._table, self._columns, self._fields = source, table, columns, fields
        self.headings = {field.name: table.headings[index] for index, field in columns.items()}
        self.ignored = [heading for index, heading in enumerate(table.headings) if heading and index not in columns]
        self.empty = 0

    def __iter__(self) -> Iterator[Line]:
        names = {index: field.name for index, field in self._columns.items()}
        required = [field.name for field in self._fields if field.is_required]
        self.empty = blanks = count = 0
        with open_book(self._source) as book:
            rows = islice(book.rows(self._table.part), self._table.header + 1, None)
            for number, cells in enumerate(rows, self._table.header + 2):
                values = {name: cells[index] if index < len(cells) else "" for index, name in names.items()}
                if all(is_blank(value) for value in values.values()):
                    blanks += 1
                elif not _is_total(cells, values, required):
                    # blank lines below the last line of data are no part of it
                    self.empty, blanks, count = self.empty + blanks, 0, count + 1
                    if count > MAX_LINES:
                        raise DomainError(
                            "file_too_large", _("The file has more than %(count)s lines.", count=MAX_LINES)
                        )
                    yield Line(number, values, cells)


def read_sheet(source: Source, fields: Sequence[Field]) -> Sheet:
    """The sheet whose columns are known by their names. Raises DomainError as find_table() and check_columns() do."""
    table = find_table(source, fields)
    return Sheet(source, table, match_columns(table.headings, fields), fields)


def count_rows(source: Source, table: Table) -> int:
    """How many lines there are below the header, blank ones among them."""
    with open_book(source) as book:
        return max(0, book.height(table.part) - table.header - 1)


def sample_values(source: Source, table: Table, *, count: int = 3) -> list[list[str]]:
    """The first values of each column, as people see them, for whoever has to say what the column is."""
    samples: list[list[str]] = [[] for _heading in table.headings]
    with open_book(source) as book:
        for cells in islice(book.rows(table.part), table.header + 1, table.header + 1 + HEADER_WITHIN):
            for found, cell in zip(samples, cells, strict=False):
                if len(found) < count and (text := cell_text(cell)[:60]) and text not in found:
                    found.append(text)
    return samples


def comparable(name: Any) -> str:
    """A name as names are compared: lower case, ё as е, letters and digits only."""
    return re.sub(r"[\W_]+", "", str(name).lower().replace("ё", "е"))


def is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def cell_text(cell: Any) -> str:
    """A cell as a person sees it, and as an import reads it again."""
    if is_blank(cell):
        return ""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else f"{cell:.15g}"
    if isinstance(cell, datetime):
        return f"{cell:%d.%m.%Y}" if not (cell.hour or cell.minute) else f"{cell:%d.%m.%Y %H:%M}"
    return f"{cell:%d.%m.%Y}" if isinstance(cell, date) else str(cell).strip()


def _headings(cells: Cells) -> tuple[str, ...]:
    names = [" ".join(cell_text(cell).split()) for cell in cells]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def _looks_like_header(cells: Cells, width: int) -> bool:
    """Words in nearly every column: no numbers, no dates, nothing twice."""
    words = [cell.strip() for cell in cells if not is_blank(cell) and isinstance(cell, str)]
    filled = sum(not is_blank(cell) for cell in cells)
    return (
        len(words) == filled >= 2
        and filled * 5 >= width * 4
        and len(set(words)) == filled
        and all(re.search(r"[^\W\d]", word) and not re.match(r"[+\d]", word) for word in words)
    )


def _is_total(cells: Cells, values: dict[str, Any], required: Sequence[str]) -> bool:
    """A line that begins with “Total” and has none of the values every line must have but, perhaps, that word."""
    first = next((str(cell).strip().lower() for cell in cells if not is_blank(cell)), "")
    if not re.match(r"(итого|всего|total)\b", first):
        return False
    found = [values[name] for name in required]
    return all(is_blank(value) or str(value).strip().lower() == first for value in found)


# --- from bytes to rows ----------------------------------------------------------------------------------------------


class Book(Protocol):
    """A file as parts (sheets; a CSV split by each usual delimiter) of rows, whose indexes are Excel's."""

    @property
    def parts(self) -> Sequence[str]: ...

    def rows(self, part: str) -> Iterator[Cells]: ...

    def height(self, part: str) -> int: ...


def _unreadable() -> DomainError:
    return DomainError("file_unreadable", _("The file cannot be read. Save it as .xlsx or .csv and try again."))


@contextlib.contextmanager
def open_book(source: Source) -> Iterator[Book]:
    """The file for reading. Raises DomainError "file_unreadable", "file_encrypted" or "file_too_large"."""
    with _opened(source) as stream:
        size = stream.seek(0, io.SEEK_END)
        if size > MAX_BYTES:
            raise DomainError("file_too_large", _("The file is larger than %(size)s MB.", size=MAX_BYTES // 2**20))
        stream.seek(0)
        start = stream.read(4)
        stream.seek(0)
        if start not in {b"PK\x03\x04", b"\xd0\xcf\x11\xe0"}:
            try:
                yield _Delimited(stream)
            except csv.Error as error:
                raise _unreadable() from error
            return
        try:
            yield _Workbook(stream, is_zip=start[:2] == b"PK")
        except calamine.PasswordError:
            raise _encrypted() from None
        except (
            calamine.CalamineError, zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, OSError
        ) as error:  # fmt: skip
            raise _unreadable() from error


def _opened(source: Source) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _encrypted() -> DomainError:
    return DomainError("file_encrypted", _("The file is protected by a password. Save it without one."))


class _Workbook:
    def __init__(self, stream: BinaryIO, *, is_zip: bool) -> None:
        # An .xlsx with a password is no zip but an OLE container of one encrypted stream, which the reader does not
        # tell.
        if not is_zip and "EncryptedPackage".encode("utf-16-le") in stream.read():
            raise _encrypted()
        stream.seek(0)
        self._errors: dict[str, _Errors] = {}
        if is_zip:
            with zipfile.ZipFile(stream) as archive:
                self._errors = _inspect(archive)
            stream.seek(0)
        self._book = calamine.load_workbook(stream)
        self.parts = self._book.sheet_names
        self._sheet: calamine.CalamineSheet | None = None

    def _open(self, part: str) -> calamine.CalamineSheet:
        """A sheet is unpacked as a whole: the one that was asked for last is kept."""
        if self._sheet is None or self._sheet.name != part:
            self._sheet = None
            self._sheet = self._book.get_sheet_by_name(part)
        return self._sheet

    def rows(self, part: str) -> Iterator[Cells]:
        sheet, errors = self._open(part), self._errors.get(part, {})
        before = [""] * (sheet.start[1] if sheet.start else 0)
        for index, cells in enumerate(sheet.iter_rows()):
            row = before + cells
            for column, value in errors.get(index, {}).items():
                if column < len(row):
                    row[column] = value
            yield row

    def height(self, part: str) -> int:
        return self._open(part).total_height


_Errors = dict[int, dict[int, str]]  # text by row and column
_NAMESPACES = {
    "m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "r": "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
}
_PLACE = re.compile(rb'\sr="([A-Z]{1,3})(\d{1,7})"')
_CELL_START = re.compile(rb"<(?:\w+:)?c[\s/>]")
_CELL = re.compile(rb"<c\b([^>]*)>(.*?)</c>", re.S)
_CHUNK = 2**20


def _inspect(archive: zipfile.ZipFile) -> dict[str, _Errors]:
    """Cells that show an error (#N/A), by sheet and place. The reader gives them as empty, and an empty sum is zero:
    a client's debt would be forgiven in silence.

    Raises DomainError "file_too_large" for what would fill the memory: archives that swell, and sheets whose few cells
    stand so far apart that the rectangle between them does.
    """
    items = archive.infolist()
    unpacked, packed = sum(item.file_size for item in items), sum(item.compress_size for item in items)
    if unpacked > MAX_UNPACKED or (unpacked > 2**23 and unpacked > MAX_RATIO * packed):
        raise DomainError("file_too_large", _("The file is too large when unpacked."))
    if "xl/workbook.xml" not in archive.namelist():
        raise _unreadable()
    targets = {
        relation.get("Id"): str(relation.get("Target"))
        for relation in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314 - no DTD loaded
    }
    found: dict[str, _Errors] = {}
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314
    for sheet in book.iterfind("m:sheets/m:sheet", _NAMESPACES):
        target = targets.get(sheet.get(f"{{{_NAMESPACES['r']}}}id"), "")
        path = target.lstrip("/") if target.startswith("/") else str(PurePosixPath("xl", target))
        if path in archive.namelist():
            with archive.open(path) as stream:
                found[str(sheet.get("name"))] = _inspect_sheet(stream)
    return found


def _inspect_sheet(stream: Any) -> _Errors:
    errors: _Errors = {}
    rows = columns = cells = 0
    letters: set[bytes] = set()
    for chunk in _by_rows(stream):
        cells += len(_CELL_START.findall(chunk))
        for name, number in _PLACE.findall(chunk):
            letters.add(name)
            rows = max(rows, int(number))
        columns = max(map(_column_index, letters), default=0) + 1
        if cells > MAX_CELLS or rows * columns > MAX_CELLS:
            raise DomainError(
                "file_too_large",
                _("The sheet spreads over %(rows)s lines and %(columns)s columns.", rows=rows, columns=columns)
                + " "
                + _("Delete what stands far below or to the right of the data."),
            )
        if b't="e"' not in chunk:
            continue
        for attributes, inner in _CELL.findall(chunk):
            place = _PLACE.search(attributes)
            if place and b't="e"' in attributes:
                value = re.search(rb"<v>([^<]*)</v>", inner)
                text = value[1].decode("utf-8", "replace") if value else "#ERROR"
                errors.setdefault(int(place[2]) - 1, {})[_column_index(place[1])] = text
    return errors


def _by_rows(stream: Any) -> Iterator[bytes]:
    """A sheet's XML in pieces that end with a row, so that no cell is cut in two."""
    rest = b""
    while chunk := stream.read(_CHUNK):
        head, end, rest_of = (rest + chunk).rpartition(b"</row>")
        if head:
            yield head + end
        rest = rest_of
        if len(rest) > 64 * _CHUNK:
            raise DomainError("file_too_large", _("The file is too large when unpacked."))
    yield rest


def _column_index(letters: bytes) -> int:
    return sum((letter - 64) * 26**power for power, letter in enumerate(reversed(letters))) - 1


class _Delimited:
    """A CSV, split by each usual delimiter; whoever looks for the header knows which one is right."""

    parts = (";", ",", "\t", "|")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = io.TextIOWrapper(stream, _encoding_of(stream), newline="")

    def rows(self, part: str) -> Iterator[Cells]:
        self._text.seek(0)
        yield from csv.reader(self._text, delimiter=part)

    def height(self, part: str) -> int:
        self._stream.seek(0)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: self._stream.read(_CHUNK), b"")) + 1


def _encoding_of(stream: BinaryIO) -> str:
    encodings = ("utf-16",) if stream.read(2) in {b"\xff\xfe", b"\xfe\xff"} else ("utf-8-sig", "cp1251")
    for encoding in encodings:
        stream.seek(0)
        decode = codecs.getincrementaldecoder(encoding)().decode
        try:
            chunks = iter(lambda: stream.read(_CHUNK), b"")
            if all("\x00" not in decode(chunk) for chunk in chunks) and "\x00" not in decode(b"", final=True):
                return encoding
        except UnicodeDecodeError:
            continue
    raise _unreadable()
