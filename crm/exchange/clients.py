"""Clients in: one line is a payer, perhaps a child, the payer's balance and the lessons left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.clients.batch import NewClient, create_clients
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.errors import DomainError
from crm.exchange import values
from crm.exchange.importing import Columns, Figures, Refusal, Row, ledger_key
from crm.exchange.reading import Field, Sheet, comparable
from crm.ledger.batch import Posting, own_accounts, post_all
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, house_account
from crm.phones import format_phone


@dataclass(frozen=True)
class ClientLine:
    """balance: of the payer's base account, negative = debt. lessons: left to the child, or to the payer if none."""

    name: str
    child: str
    phone: str
    extra_phone: str
    email: str
    birth_date: date | None
    child_birth_date: date | None
    branch: str
    balance: Decimal
    lessons: int
    comment: str


class ClientImport:
    entity = "client"
    permission = "client.import"
    codes: tuple[str, ...] = ("bad_phone", "bad_email", "bad_date", "bad_balance", "unknown_branch", "duplicate_phone")

    def __init__(self) -> None:
        covers = current_scope().covers
        self._branches = {
            comparable(branch.name): branch for branch in db.session.scalars(select(Branch)) if covers(branch.id)
        }
        parse_day = partial(values.parse_past_date, today=values.latest_day(self._branches.values()))
        self.fields: tuple[Field, ...] = (
            Field(
                "name",
                (
                    "ФИО родителя",
                    "ФИО",
                    "ФИО клиента",
                    "Клиент",
                    "Родитель",
                    "Плательщик",
                    "Имя",
                    "Name",
                    "Client",
                    "Payer",
                ),
                values.parse_required_name,
                "bad_name",
                is_required=True,
            ),
            Field(
                "child",
                ("ФИО ребёнка", "Ребёнок", "Ученик", "ФИО ученика", "Child", "Student"),
                values.parse_name,
                "bad_name",
            ),
            Field(
                "phone",
                ("Телефон", "Тел.", "Номер телефона", "Мобильный телефон", "Телефон родителя", "Phone", "Mobile"),
                values.parse_required_phone,
                "bad_phone",
                is_required=True,
            ),
            Field(
                "extra_phone",
                ("Доп. телефон", "Дополнительный телефон", "Второй телефон", "Extra phone", "Second phone"),
                values.parse_phone,
                "bad_phone",
            ),
            Field("email", ("E-mail", "Почта", "Электронная почта", "Эл. почта"), values.parse_email, "bad_email"),
            Field(
                "birth_date",
                ("Дата рождения родителя", "Дата рождения клиента", "Дата рождения", "Date of birth", "Birth date"),
                parse_day,
                "bad_date",
            ),
            Field(
                "child_birth_date",
                ("Дата рождения ребёнка", "Дата рождения ученика", "Child's date of birth", "Child's birth date"),
                parse_day,
                "bad_date",
            ),
            Field(
                "branch",
                ("Филиал", "Центр", "Студия", "Branch"),
                self._parse_branch,
                "unknown_branch",
                is_required=True,
            ),
            Field("balance", ("Баланс", "Остаток", "Остаток средств", "Balance"), values.parse_amount, "bad_balance"),
            Field(
                "lessons",
                ("Осталось занятий", "Остаток занятий", "Занятий осталось", "Lessons left", "Lessons"),
                values.parse_count,
                "bad_lessons",
            ),
            Field(
                "comment", ("Комментарий", "Примечание", "Заметка", "Comment", "Note"), values.parse_text, "bad_text"
            ),
        )

    def _parse_branch(self, cell: Any) -> str:
        text = values.parse_name(cell)
        branch = self._branches.get(comparable(text))
        if branch is None:
            raise DomainError(
                "branch_unknown",
                _("There is no branch “%(value)s”.", value=text) if text else _("The branch is missing."),
            )
        return branch.name

    def typed(self, values: dict[str, Any]) -> ClientLine:
        return ClientLine(**values | {"extra_phone": values["extra_phone"] or ""})

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterator[Refusal]:
        """One payer per phone: of lines that share one the first is taken. Nobody is born tomorrow in his branch."""
        known = payers_by_phone([row.values.phone for row in rows if row.key not in applied])
        first: dict[str, int] = {}
        for row in rows:
            if unborn := self._unborn(row.values):
                for name in unborn:
                    yield Refusal(row.line, column(name), "bad_date", values.not_past(getattr(row.values, name)))
                continue
            phone = row.values.phone
            if phone in first:
                reason = _("%(phone)s stands in line %(line)s already.", phone=format_phone(phone), line=first[phone])
            elif phone in known and row.key not in applied:
                reason = _(
                    "%(phone)s already belongs to the client %(name)s.",
                    phone=format_phone(phone),
                    name=known[phone][0].name,
                )
            else:
                first[phone] = row.line
                continue
            yield Refusal(row.line, column("phone"), "duplicate_phone", reason)

    def _unborn(self, line: ClientLine) -> list[str]:
        """Names of the fields that say somebody is born later than today in the line's branch."""
        today = clock.today(self._branches[comparable(line.branch)])
        return [name for name in ("birth_date", "child_birth_date") if (day := getattr(line, name)) and day > today]

    def notes(self, rows: Sequence[Row]) -> Iterable[tuple[int, str]]:
        text = _("There is a child's date of birth but no child: the date is left out.")
        return [(row.line, text) for row in rows if row.values.child_birth_date and not row.values.child]

    def figures(self, read: Sequence[Row], good: Sequence[Row], sheet: Sheet, refused: Counter[str]) -> Figures:
        return {
            "rows": len(sheet.lines),
            "good": len(good),
            **{code: refused[code] for code in self.codes},
            "empty": sheet.empty,
            "payers": len(good),
            "students": sum(bool(row.values.child) for row in good),
            "balance_good": str(sum((row.values.balance for row in good), Decimal("0.00"))),
            "lessons_good": sum(row.values.lessons for row in good),
        }

    def create(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        lines: list[ClientLine] = [row.values for row in rows]
        branches = [self._branches[comparable(line.branch)] for line in lines]
        payers = create_clients(
            [
                NewClient(
                    branch=branch,
                    name=line.name,
                    phone=line.phone,
                    extra_phone=line.extra_phone,
                    email=line.email,
                    birth_date=line.birth_date,
                    comment=line.comment,
                )
                for line, branch in zip(lines, branches, strict=True)
            ],
            by=by,
        )
        with_child = [index for index, line in enumerate(lines) if line.child]
        children = create_clients(
            [
                NewClient(
                    branch=branches[index],
                    name=lines[index].child,
                    birth_date=lines[index].child_birth_date,
                    payer=payers[index],
                )
                for index in with_child
            ],
            by=by,
        )
        students = payers.copy()
        for index, child in zip(with_child, children, strict=True):
            students[index] = child
        base = own_accounts(
            AccountKind.BASE,
            {payer.id: payer.branch_id for payer, line in zip(payers, lines, strict=True) if line.balance},
        )
        lessons = own_accounts(
            AccountKind.LESSONS,
            {student.id: student.branch_id for student, line in zip(students, lines, strict=True) if line.lessons},
        )
        postings = []
        for row, line, payer, student in zip(rows, lines, payers, students, strict=True):
            entries = []
            if line.balance:
                entries += _both(base[payer.id], line.balance, AccountKind.OPENING)
            if line.lessons:
                entries += _both(lessons[student.id], Decimal(line.lessons), AccountKind.SERVICE)
            if entries:
                postings.append(
                    Posting(
                        TransactionKind.OPENING,
                        entries,
                        branch_id=payer.branch_id,
                        key=ledger_key(self.entity, row),
                        cause=Cause(client_id=payer.id),
                    )
                )
        post_all(postings, by=by)
        return [payer.id for payer in payers]


def _both(account: Account, amount: Decimal, kind: AccountKind) -> list[Line]:
    unit = Unit.LESSON if kind is AccountKind.SERVICE else Unit.MONEY
    return [Line(account, amount), Line(house_account(kind, account.branch_id, unit), -amount)]
