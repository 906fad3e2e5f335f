"""The Excel file of a third of the bills: beside bare xlsxwriter, with stock Flask-Admin's CSV next to it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import python_calamine

from bench import bare, kontora, stock
from bench.contestants import Contestant
from bench.databases import Ground
from bench.duels import duel
from bench.report import duel_head, duel_line, figure_line, megabytes, plain_line, within
from bench.sizes import EXPORT_MEMORY, EXPORT_SPEED

PEER = "bare xlsxwriter, constant memory"
TURNS, LONG = 3, 300_000  # a file of more rows than that is made once by each


def exports(ground: Ground) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where the files differ."""
    branch, rows = ground.full.branch, ground.full.exported
    our_file, their_file = ground.home / "ours.xlsx", ground.home / "theirs.xlsx"
    _check_cells(ground, our_file, their_file)
    with (
        Contestant(kontora.site, ground.full_url, ground.home, ground.full.session_user) as ours,
        Contestant(bare.xlsx, ground.full_url, ground.full.labels) as theirs,
    ):
        for contestant in (ours, theirs):
            contestant.run("wake")
        result = duel(
            partial(ours.run, "export", branch, our_file),
            partial(theirs.run, "export", branch, their_file),
            turns=1 if rows > LONG else TURNS,
            is_warm=True,
        )
        counts = rows_in(our_file), rows_in(their_file)
        if counts != (rows + 2, rows + 2):  # a header and totals
            raise SystemExit(f"export: {rows} bills, but {counts} lines in the files")
        yield duel_head(ground.name)
        speed = within("speed", result.speed, at_least=EXPORT_SPEED)
        yield duel_line(f"export of {rows:,} rows", PEER, result, speed, unit="s")
        peaks = ours.peak_memory(), theirs.peak_memory()
        memory = within("MB", peaks[0] / 1e6, at_most=EXPORT_MEMORY / 1e6)
        yield plain_line("  memory at most", megabytes(peaks[0]), megabytes(peaks[1]), PEER, memory)
    with Contestant(stock.site, ground.full_url) as peer:
        outcome = peer.run("get", "/admin/bill/export/csv/")
        lines = outcome.content.count(b"\n") - 1
        figures = f"{outcome.seconds:.1f} s, {lines / outcome.seconds:,.0f} rows/s, {megabytes(peer.peak_memory())}"
        name = f"  stock Flask-Admin, CSV, {lines:,} rows"
        yield figure_line(name, f"{figures}; ours {rows / result.ours:,.0f} rows/s")
    for file in (our_file, their_file):
        file.unlink()


def _check_cells(ground: Ground, our_file: Path, their_file: Path) -> None:
    """All cells of both, among few rows, are the same."""
    with (
        Contestant(kontora.site, ground.small_url, ground.home, ground.small.session_user) as ours,
        Contestant(bare.xlsx, ground.small_url, ground.small.labels) as theirs,
    ):
        ours.run("export", ground.small.branch, our_file)
        theirs.run("export", ground.small.branch, their_file)
    if _cells(our_file) != _cells(their_file):
        raise SystemExit("export: the two files hold different cells")


def _cells(file: Path) -> list[list[object]]:
    """All cells below the header."""
    with file.open("rb") as stream:
        return python_calamine.load_workbook(stream).get_sheet_by_index(0).to_python()[1:]


def rows_in(file: Path) -> int:
    """Rows of the first sheet, without holding them."""
    found, rest = 0, b""
    with zipfile.ZipFile(file) as archive, archive.open("xl/worksheets/sheet1.xml") as sheet:
        while chunk := sheet.read(1 << 20):
            text = rest + chunk
            found += text.count(b"<row ")
            rest = text[-4:]
    return found
