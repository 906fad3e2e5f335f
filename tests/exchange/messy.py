"""A workbook as messy as a centre brings along: every spelling and every fault, and the figures it must come to.

The figures are counted while the lines are made; nothing here asks the code under test.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import openpyxl

HEADER = [
    "№",
    "ФИО  родителя",
    "ФИО ребенка",
    "ТЕЛЕФОН",
    "Доп. телефон",
    "e-mail",
    "Дата рождения ребёнка",
    "Филиал",
    "Баланс",
    "Осталось занятий",
    "Комментарий",
]

PHONES = [
    lambda n: f"+7{n}",
    lambda n: f"8{n}",
    lambda n: f"7{n}",
    lambda n: 70000000000 + n,
    lambda n: f"{str(n)[:3]}-{str(n)[3:6]}-{str(n)[6:]}",
    lambda n: f"({str(n)[:3]}){str(n)[3:]}",
    lambda n: f" +7 {str(n)[:3]} {str(n)[3:6]}-{str(n)[6:8]}-{str(n)[8:]} ",
    lambda n: f"+7 ({str(n)[:3]}) {str(n)[3:6]}-{str(n)[6:8]}-{str(n)[8:]}",
    lambda n: f"8 {str(n)[:3]} {str(n)[3:6]} {str(n)[6:]}",
]
DATES = [
    lambda day: day,
    lambda day: f"{day:%d.%m.%Y}",
    lambda day: f"{day:%d.%m.%y}",
    lambda day: f"{day:%Y-%m-%d}",
    lambda day: f"{day:%d/%m/%Y}",
]
AMOUNTS = [
    lambda value: float(value),
    lambda value: f"{value:.2f}".replace(".", ","),
    lambda value: f"{value:,.2f}".replace(",", "\u00a0").replace(".", ","),
    lambda value: f"{value:,.2f}".replace(",", " ").replace(".", ",") + " ₽",
    lambda value: f"{value:.2f}".replace(".", ",") + " руб.",
    lambda value: f"{value:.2f}".replace("-", "−"),
]
EMAILS = [lambda n: "", lambda n: f" User{n}@Example.ORG ", lambda n: f"user{n}.x@example.org"]
COMMENTS = ["", "=1+1", "+7 звонить", "-1", "@домашний", "«Ёлка» & Co <b>", "Звонить после 18:00\nне раньше", "VIP"]

# Column index, what stands there, the figure the line counts under.
FAULTS: list[tuple[int, Any, str]] = [
    *((3, value, "bad_phone") for value in ("", "+7 900", "12345", "нет", "см. комментарий", 5.5, "8918159083X")),
    *((4, value, "bad_phone") for value in ("123", "тот же")),
    *((5, value, "bad_email") for value in ("vasya@", "mail.example.org", "a b@example.org", "нет", "@example.org")),
    *(
        (6, value, "bad_date")
        for value in ("вчера", "2015", 2015, "31.02.2015", "00.00.0000", "13.13.2013", "2015-02-30")
    ),
    *((6, value, "bad_date") for value in (date(2099, 1, 1), "01.01.1850")),
    *((8, value, "bad_balance") for value in ("долг", "—1", "#Н/Д", "12,3,4", "1 2 3", "10,999", 0.125, True, "1e5")),
    *((7, value, "unknown_branch") for value in ("?", "", "Лесной 2", "Лесно")),
    *((9, value, "bad_lessons") for value in ("много", 1.5, -2)),
    *((1, value, "bad_name") for value in ("", "   ")),
]


@dataclass
class Messy:
    """content: the file. expected: figures by name. refused: the line number of each refused line and its figure."""

    content: bytes
    expected: dict[str, int | str]
    refused: dict[int, str]
    comments: dict[str, str] = field(default_factory=dict)


def make_messy_clients(branches: Sequence[str], *, rounds: int = 2, seed: int = 7) -> Messy:
    """Good lines in every spelling, each fault once a round, duplicates, blank lines, a title and a totals line."""
    chance = random.Random(seed)
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Выгрузка клиентов"])
    sheet.append(["Сформировано вчера"])
    sheet.append([])
    sheet.append(HEADER)
    expected: dict[str, int | str] = dict.fromkeys(
        ("rows", "good", "bad_phone", "bad_email", "bad_date", "bad_balance", "unknown_branch", "duplicate_phone"), 0
    )
    expected |= {"empty": 0, "payers": 0, "students": 0}
    refused: dict[int, str] = {}
    comments: dict[str, str] = {}
    balance, lessons_total, line, number = Decimal("0.00"), 0, 4, 0
    blanks = 0  # since the last line of data
    taken: list[int] = []

    def good_cells() -> tuple[list[Any], int, Decimal, int, str]:
        nonlocal number
        number += 1
        phone = 9180000000 + number
        amount = Decimal(chance.randrange(-500000, 2500000)) / 100 if chance.random() < 0.6 else Decimal("0.00")
        lessons = chance.choice([0, 1, 8, 12])
        child = f"Ребёнок {number}" if chance.random() < 0.8 else ""
        day = date(2008, 1, 1).replace(year=2008 + number % 15, day=1 + number % 28)
        comment = COMMENTS[number % len(COMMENTS)]
        cells = [
            number,
            f"Родитель {number}",
            child,
            PHONES[number % len(PHONES)](phone),
            PHONES[number % 7](9990000000 + number) if number % 3 == 0 else "",
            EMAILS[number % len(EMAILS)](number),
            DATES[number % len(DATES)](day),
            branches[number % len(branches)],
            AMOUNTS[number % len(AMOUNTS)](amount),
            lessons,
            comment,
        ]
        return cells, phone, amount, lessons, child

    def write(cells: list[Any]) -> int:
        nonlocal line, blanks
        line += 1
        expected["empty"], blanks = int(expected["empty"]) + blanks, 0
        for column, value in enumerate(cells, 1):
            cell = sheet.cell(line, column)
            cell.value = value
            if isinstance(value, str) and value.startswith("="):
                cell.data_type = "s"  # a text, not a formula
        expected["rows"] = int(expected["rows"]) + 1
        return line

    for _ in range(rounds):
        for fault in (*FAULTS, *[None] * 60):
            cells, phone, amount, lessons, child = good_cells()
            if fault is not None:
                column, value, code = fault
                cells[column] = value
                refused[write(cells)] = code
                expected[code] = int(expected.get(code, 0)) + 1
                continue
            write(cells)
            taken.append(phone)
            comments[f"+7{phone}"] = cells[10]
            balance += amount
            lessons_total += lessons
            expected["good"] = int(expected["good"]) + 1
            expected["students"] = int(expected["students"]) + bool(child)
            if number % 11 == 0:
                line += 1  # a blank line, counted once there is data below it
                blanks += 1
            if number % 13 == 0:
                cells, *_rest = good_cells()
                cells[3] = PHONES[chance.randrange(len(PHONES))](chance.choice(taken))
                refused[write(cells)] = "duplicate_phone"
                expected["duplicate_phone"] = int(expected["duplicate_phone"]) + 1
    # The last line of data is a good one; blank lines below it are no lines of the file.
    line += 2
    sheet.cell(line, 1).value = "Итого"
    sheet.cell(line, 9).value = float(balance)
    expected |= {"payers": expected["good"], "balance_good": str(balance), "lessons_good": lessons_total}
    stream = io.BytesIO()
    book.save(stream)
    return Messy(stream.getvalue(), expected, refused, comments)
