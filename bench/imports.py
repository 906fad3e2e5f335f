"""A file of clients as large as an import may be asked to check, and what the check of it costs.

`python -m bench.imports [lines]` makes a network and a file, runs the dry run as the panel's job does, and prints the
seconds and the memory of the process at its highest.
"""

from __future__ import annotations

import csv
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import xlsxwriter

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
    """The lines as .xlsx or .csv, by the name of the file."""
    lines = client_lines(count, branches)
    if path.suffix == ".csv":
        with path.open("w", encoding="cp1251", newline="") as stream:
            csv.writer(stream, delimiter=";").writerows([HEADER, *lines])
        return
    with xlsxwriter.Workbook(str(path), {"constant_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, HEADER)
        for number, line in enumerate(lines, 1):
            sheet.write_row(number, 0, line)


def main(lines: int = 100_000) -> None:
    with tempfile.TemporaryDirectory(prefix="kontora-bench-") as folder:
        path = Path(folder) / "clients.xlsx"
        branches = ("Лесной", "Речной", "Мира")
        write_clients(path, lines, branches)
        print(f"{lines:,} lines, {path.stat().st_size / 1e6:.1f} MB", flush=True)
        _check(path, Path(folder))


def _check(path: Path, home: Path) -> None:
    import flask_migrate

    from crm import create_app
    from crm.access.scope import EVERYWHERE, scoped_to
    from crm.background.operations import claim_job, execute_job
    from crm.config import read_settings
    from crm.db import db, transaction
    from crm.exchange.uploads import receive_upload, start_check
    from crm.security import on_behalf_of
    from tests.factories import make_network

    app = create_app(read_settings({"DATABASE_URL": f"sqlite:///{home / 'bench.db'}", "DATA_DIR": str(home)}))
    with app.app_context(), scoped_to(EVERYWHERE):
        flask_migrate.upgrade()
        owner = make_network().owner
        began = time.perf_counter()
        with transaction():
            upload = receive_upload("client", path.name, lambda to: shutil.copyfile(path, to), by=owner)
        print(f"received: {time.perf_counter() - began:.1f} s, {_peak():.0f} MB", flush=True)
        with transaction():
            columns = {int(index): name for index, name in upload.columns.items()}
            job = start_check(upload, columns, is_updating=False, by=owner, branch_id=None, locale="ru")
        job_id, upload_id, owner_id = job.id, upload.id, owner.id
        began = time.perf_counter()
        assert claim_job(job_id)
        with on_behalf_of(owner_id, branch_id=None, locale="ru", source="bench"):
            execute_job(job_id)
        db.session.expire_all()
        print(f"checked: {time.perf_counter() - began:.1f} s, {_peak():.0f} MB at most", flush=True)
        print(db.session.get_one(type(upload), upload_id).figures, db.session.get_one(type(job), job_id).error)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
