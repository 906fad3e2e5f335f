"""Clients in: one line is a payer, perhaps a child, the payer's balance and the lessons left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, cast

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.clients.batch import NewClient, create_clients, edit_clients
from crm.clients.models import Client, ClientKind, PhoneKind
from crm.clients.operations import ClientFacts
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.errors import DomainError
from crm.exchange import values
from crm.exchange.custom import custom_fields
from crm.exchange.importing import Changes, Columns, Figures, Made, Measures, Refusal, Row, Tally, ledger_key
from crm.exchange.reading import Field, cell_text, comparable
from crm.ledger.batch import own_accounts, post_all
from crm.ledger.models import Account, AccountKind, TransactionKind, Unit
from crm.ledger.operations import Cause, Line, Posting, house_account
from crm.phones import format_phone


@dataclass(frozen=True, slots=True)
class ClientLine:
    """balance: of the payer's base account, negative = debt. lessons: left to the child, or to the payer if none."""

    name: str
    phone: str
    branch: str
    child: str = ""
    extra_phone: str = ""
    email: str = ""
    birth_date: date | None = None
    child_birth_date: date | None = None
    balance: Decimal = Decimal(0)
    lessons: int = 0
    comment: str = ""
    phone_kind: PhoneKind | None = field(default=None, metadata={"optional": True})
    extra_phone_kind: PhoneKind | None = field(default=None, metadata={"optional": True})
    kind: ClientKind | None = field(default=None, metadata={"optional": True})
    custom: tuple[tuple[str, Any], ...] = field(default=(), metadata={"optional": True})


class ClientImport:
    entity = "client"
    permission = "client.import"
    codes: tuple[str, ...] = ("bad_phone", "bad_email", "bad_date", "bad_balance", "unknown_branch", "duplicate_phone")
    duplicates = frozenset({"duplicate_phone"})
    money: tuple[str, ...] = ("balance",)
    # What an update may change of a card; its money, lessons, branch and children it leaves alone.
    updatable: tuple[str, ...] = (
        *("name", "kind", "phone_kind", "extra_phone", "extra_phone_kind", "email", "birth_date", "comment"),
    )
    run_id: int | None = None

    def __init__(self, *, is_updating: bool = False) -> None:
        """is_updating: a line whose phone is a client's changes his card instead of being refused."""
        self.is_updating = is_updating
        self._first: dict[str, int] = {}  # line by phone
        self._found: dict[int, Client] = {}  # of the batch, by line
        covers = current_scope().covers
        self._branches = {
            comparable(branch.name): branch for branch in db.session.scalars(select(Branch)) if covers(branch.id)
        }
        # Within a branch a file need not say which.
        chosen = current_scope().branch_id
        self._chosen = next((branch.name for branch in self._branches.values() if branch.id == chosen), None)
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
                label=_l("Full name"),
            ),
            Field(
                "child",
                ("ФИО ребёнка", "Ребёнок", "Ученик", "ФИО ученика", "Child", "Student"),
                values.parse_name,
                "bad_name",
                label=_l("Child"),
            ),
            Field(
                "phone",
                ("Телефон", "Тел.", "Номер телефона", "Мобильный телефон", "Телефон родителя", "Phone", "Mobile"),
                values.parse_required_phone,
                "bad_phone",
                is_required=True,
                label=_l("Phone"),
            ),
            Field(
                "extra_phone",
                ("Доп. телефон", "Дополнительный телефон", "Второй телефон", "Extra phone", "Second phone"),
                values.parse_phone,
                "bad_phone",
                label=_l("Additional phone"),
            ),
            Field(
                "phone_kind",
                ("Тип телефона", "Вид телефона", "Phone type", "Type of phone"),
                _parse_phone_kind,
                "bad_phone_kind",
                label=_l("Phone type"),
            ),
            Field(
                "extra_phone_kind",
                ("Тип доп. телефона", "Тип дополнительного телефона", "Тип второго телефона", "Extra phone type"),
                _parse_phone_kind,
                "bad_phone_kind",
                label=_l("Type of the additional phone"),
            ),
            Field(
                "kind",
                ("Тип клиента", "Вид клиента", "Юрлицо или физлицо", "Client type", "Type of client"),
                _parse_kind,
                "bad_kind",
                label=_l("Type of the client"),
            ),
            Field(
                "email",
                ("E-mail", "Почта", "Электронная почта", "Эл. почта"),
                values.parse_email,
                "bad_email",
                label=_l("E-mail"),
            ),
            Field(
                "birth_date",
                ("Дата рождения родителя", "Дата рождения клиента", "Дата рождения", "Date of birth", "Birth date"),
                parse_day,
                "bad_date",
                label=_l("Date of birth"),
            ),
            Field(
                "child_birth_date",
                ("Дата рождения ребёнка", "Дата рождения ученика", "Child's date of birth", "Child's birth date"),
                parse_day,
                "bad_date",
                label=_l("Child's date of birth"),
            ),
            Field(
                "branch",
                ("Филиал", "Центр", "Студия", "Branch"),
                self._parse_branch,
                "unknown_branch",
                is_required=self._chosen is None,
                label=_l("Branch"),
            ),
            Field(
                "balance",
                ("Баланс", "Остаток", "Остаток средств", "Balance"),
                values.parse_amount,
                "bad_balance",
                label=_l("Balance"),
            ),
            Field(
                "lessons",
                ("Осталось занятий", "Остаток занятий", "Занятий осталось", "Lessons left", "Lessons"),
                values.parse_count,
                "bad_lessons",
                label=_l("Lessons left"),
            ),
            Field(
                "comment",
                ("Комментарий", "Примечание", "Заметка", "Comment", "Note"),
                values.parse_text,
                "bad_text",
                label=_l("Comment"),
            ),
            *custom_fields("client", {branch.company_id for branch in self._branches.values()}),
        )

    def _parse_branch(self, cell: Any) -> str:
        text = values.parse_name(cell) or self._chosen or ""
        branch = self._branches.get(comparable(text))
        if branch is None:
            raise DomainError(
                "branch_unknown",
                _("There is no branch “%(value)s”.", value=text) if text else _("The branch is missing."),
            )
        return branch.name

    def typed(self, values: dict[str, Any]) -> ClientLine:
        known = {name: value for name, value in values.items() if not name.startswith("custom.")}
        custom = {
            name.removeprefix("custom."): value
            for name, value in values.items()
            if name.startswith("custom.") and value is not None
        }
        return ClientLine(
            **known | {"extra_phone": known.get("extra_phone") or "", "custom": tuple(sorted(custom.items()))}
        )

    def label(self, values: Mapping[str, Any]) -> str:
        return cell_text(values.get("name")) or cell_text(values.get("phone"))

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterator[Refusal]:
        """One payer per phone: of lines that share one the first is taken. Nobody is born tomorrow in his branch."""
        known = payers_by_phone([row.values.phone for row in rows if row.key not in applied])
        self._found = {}
        for row in rows:
            if unborn := self._unborn(row.values):
                for name in unborn:
                    yield Refusal(row.line, column(name), "bad_date", values.not_past(getattr(row.values, name)))
                continue
            phone = row.values.phone
            code = "duplicate_phone"
            if line := self._first.get(phone):
                reason = _("%(phone)s stands in line %(line)s already.", phone=format_phone(phone), line=line)
            elif phone not in known or row.key in applied:
                self._first[phone] = row.line
                continue
            elif not self.is_updating:
                reason = _(
                    "%(phone)s already belongs to the client %(name)s.",
                    phone=format_phone(phone),
                    name=known[phone][0].name,
                )
            elif client := self._whose(row.values, known[phone]):
                self._first[phone], self._found[row.line] = row.line, client
                continue
            else:
                code = "ambiguous_phone"
                reason = _(
                    "Several clients have the phone %(phone)s: it is not known whose card this is.",
                    phone=format_phone(phone),
                )
            yield Refusal(row.line, column("phone"), code, reason)

    def _whose(self, line: ClientLine, payers: Sequence[Client]) -> Client | None:
        """The only payer with a line's phone, or the one in its branch."""
        branch = self._branches[comparable(line.branch)]
        here = [payer for payer in payers if payer.branch_id == branch.id] or payers
        return here[0] if len(here) == 1 else None

    def recall(self, rows: Sequence[Row]) -> None:
        self._first |= {row.values.phone: row.line for row in rows}

    def changes(self, rows: Sequence[Row]) -> dict[int, Changes]:
        """Blank cells change nothing."""
        found: dict[int, Changes] = {}
        for row in rows:
            if client := self._found.get(row.line):
                new = self._told(row.values)
                old = {name: getattr(client, name) for name in new}
                found[row.line] = {
                    name: [_plain(old[name]), _plain(new[name])] for name in new if new[name] != old[name]
                }
        return found

    def _unborn(self, line: ClientLine) -> list[str]:
        """Names of the fields that say somebody is born later than today in the line's branch."""
        today = clock.today(self._branches[comparable(line.branch)])
        return [name for name in ("birth_date", "child_birth_date") if (day := getattr(line, name)) and day > today]

    def _told(self, line: ClientLine) -> dict[str, Any]:
        """What a line says of a card that is here already."""
        return {name: value for name in self.updatable if (value := getattr(line, name))}

    def notes(self, rows: Sequence[Row]) -> Iterable[tuple[int, str]]:
        text = _("There is a child's date of birth but no child: the date is left out.")
        return [(row.line, text) for row in rows if row.values.child_birth_date and not row.values.child]

    def measures(self, read: Sequence[Row], good: Sequence[Row]) -> Measures:
        return {
            "students": sum(bool(row.values.child) for row in good),
            "balance_good": sum((row.values.balance for row in good), Decimal(0)),
            "lessons_good": sum(row.values.lessons for row in good),
        }

    def figures(self, tally: Tally) -> Figures:
        return {
            "rows": tally.lines,
            "good": tally.good,
            **{code: tally.refused[code] for code in self.codes},
            "empty": tally.empty,
            "payers": tally.good,
            "students": tally.measures["students"],
            "balance_good": tally.sum_of("balance_good"),
            "lessons_good": tally.measures["lessons_good"],
        }

    def create(self, rows: Sequence[Row], *, run_id: int, by: Actor) -> list[Made]:
        lines: list[ClientLine] = [row.values for row in rows]
        branches = [self._branches[comparable(line.branch)] for line in lines]
        payers = create_clients(
            [
                NewClient(
                    branch=branch,
                    name=line.name,
                    phone=line.phone,
                    phone_kind=line.phone_kind or PhoneKind.MOBILE,
                    extra_phone=line.extra_phone,
                    extra_phone_kind=line.extra_phone_kind or PhoneKind.MOBILE,
                    kind=line.kind or ClientKind.PERSON,
                    email=line.email,
                    birth_date=line.birth_date,
                    comment=line.comment,
                    custom=dict(line.custom),
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
                        key=ledger_key(run_id, row),
                        cause=Cause(client_id=payer.id),
                    )
                )
        post_all(postings, by=by)
        return [
            Made(payer.id, {"child": student.id} if student is not payer else {})
            for payer, student in zip(payers, students, strict=True)
        ]

    def update(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        clients = [self._found[row.line] for row in rows]
        edit_clients(
            [(client, cast(ClientFacts, self._told(row.values))) for client, row in zip(clients, rows, strict=True)],
            by=by,
        )
        return [client.id for client in clients]


# How other systems call the kinds, beside our own labels in the person's language.
_PHONE_KINDS = {
    **{kind.value: kind for kind in PhoneKind},
    **dict.fromkeys(("мобильный", "мобильныйтелефон", "моб", "сотовый", "cell"), PhoneKind.MOBILE),
    **dict.fromkeys(("домашний", "городской", "landline"), PhoneKind.HOME),
    "рабочий": PhoneKind.WORK,
    "другой": PhoneKind.OTHER,
}
_KINDS = {
    **{kind.value: kind for kind in ClientKind},
    **dict.fromkeys(("физлицо", "физическоелицо", "физ", "фл", "частноелицо", "individual"), ClientKind.PERSON),
    **dict.fromkeys(
        ("юрлицо", "юридическоелицо", "юр", "юл", "организация", "компания", "company"), ClientKind.ORGANISATION
    ),
}


def _parse_phone_kind(cell: Any) -> PhoneKind | None:
    """What a number is; None for an empty cell."""
    text = values.parse_text(cell)
    if not text:
        return None
    own = {comparable(str(kind.label)): kind for kind in PhoneKind}
    kind = own.get(comparable(text)) or _PHONE_KINDS.get(comparable(text))
    if kind is None:
        known = ", ".join(str(kind.label) for kind in PhoneKind)
        raise DomainError(
            "phone_kind_unknown", _("“%(value)s” is none of the types of phones: %(kinds)s.", value=text, kinds=known)
        )
    return kind


def _parse_kind(cell: Any) -> ClientKind | None:
    """Who a client is; None for an empty cell."""
    text = values.parse_text(cell)
    if not text:
        return None
    own = {comparable(str(kind.label)): kind for kind in ClientKind}
    kind = own.get(comparable(text)) or _KINDS.get(comparable(text))
    if kind is None:
        known = ", ".join(str(kind.label) for kind in ClientKind)
        raise DomainError(
            "client_kind_unknown",
            _("“%(value)s” is none of the types of clients: %(kinds)s.", value=text, kinds=known),
        )
    return kind


def _plain(value: Any) -> Any:
    """A value as JSON keeps it and people read it."""
    if isinstance(value, PhoneKind | ClientKind):
        return str(value.label)
    return value.isoformat() if isinstance(value, date) else value


def _both(account: Account, amount: Decimal, kind: AccountKind) -> list[Line]:
    unit = Unit.LESSON if kind is AccountKind.SERVICE else Unit.MONEY
    return [Line(account, amount), Line(house_account(kind, account.branch_id, unit), -amount)]
