"""The dry run of a file of a hundred thousand clients, sent to the panel and checked by its job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import xlsxwriter

from bench import kontora
from bench.contestants import Contestant
from bench.databases import Ground
from bench.report import figure_line, megabytes, within
from bench.sizes import IMPORT_MEMORY, IMPORT_SECONDS, sizes

HEADER = (
    *("ФИО родителя", "ФИО ребёнка", "Телефон", "Доп. телефон", "E-mail", "Дата рождения ребёнка", "Филиал"),
    *("Баланс", "Осталось занятий", "Комментарий"),
)


def client_lines(count: int, branches: Sequence[str]) -> Iterator[tuple[str | float, ...]]:
    """Lines under HEADER: one in 50 has no readable phone, one in 100 repeats the phone of the line before."""
    for n in range(count):
        number = n - 1 if n % 100 == 99 else n
        phone = "нет" if n % 50 == 7 else f"8 (9{number // 10**7 % 10 + 10:02d}) {number % 10**7:07d}"
        yield (
            f"Родитель Номер {n}",
            f"Ребёнок Номер {n}",
            phone,
            f"+7999{n:07d}" if n % 3 == 0 else "",
            f"person{n}@example.org" if n % 2 else "",
            f"{n % 28 + 1:02d}.{n % 12 + 1:02d}.{2008 + n % 12}",
            branches[n % len(branches)],
            (n % 4001) - 1000 + 0.5,
            n % 13,
            "" if n % 5 else "Звонить после 18:00",
        )


def write_clients(path: Path, count: int, branches: Sequence[str]) -> None:
    """The lines as .xlsx."""
    with xlsxwriter.Workbook(str(path), {"constant_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, HEADER)
        for number, line in enumerate(client_lines(count, branches), 1):
            sheet.write_row(number, 0, line)


def imports(ground: Ground) -> Iterator[str]:
    """Lines of the report. Raises SystemExit where the dry run comes to other figures than the generator."""
    count, file = sizes().imported, ground.home / "clients.xlsx"
    write_clients(file, count, ground.full.branches)
    with Contestant(kontora.worker, ground.full_url, ground.home, ground.full.session_user) as worker:
        worker.run("wake")
        received = worker.run("upload", "/admin/client/import/", file)
        address = received.content.decode()
        columns = json.loads(worker.run("check_job", address).content)["columns"]
        matched = worker.run("post", address, [(f"column-{index}", name) for index, name in columns.items()])
        job_id = json.loads(worker.run("check_job", address).content)["job"]
        checked = worker.run("perform", job_id)
        figures = json.loads(worker.run("figures", job_id).content)
        bad, twice = len(range(7, count, 50)), len(range(99, count, 100))
        expected = {"create": count - bad - twice, "error": bad, "duplicate": twice}
        if not figures or figures["lines"] != count or figures["fates"] != expected:
            raise SystemExit(f"import: expected {expected}, found {figures}")
        seconds, peak = received.seconds + matched.seconds + checked.seconds, worker.peak_memory()
        yield f"\n{ground.name}, import of clients"
        yield figure_line(
            f"dry run of {count:,} lines",
            f"{seconds:.1f} s (its job {checked.seconds:.1f} s), {megabytes(peak)}",
            within("s", seconds, at_most=IMPORT_SECONDS),
            within("MB", peak / 1e6, at_most=IMPORT_MEMORY / 1e6),
        )
    file.unlink()
