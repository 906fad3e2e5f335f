"""Client accounts in: deposits with their balances, and what is on base accounts, debts too, for payers who are here
already, known by phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import select
from sqlalchemy.orm import aliased

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.clients.models import Client
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.errors import DomainError
from crm.exchange import values
from crm.exchange.importing import Changes, Columns, Figures, Made, Measures, Refusal, Row, Tally, ledger_key
from crm.exchange.models import ImportedRow
from crm.exchange.reading import Field, cell_text, comparable
from crm.i18n import money
from crm.ledger.batch import own_accounts, post_all
from crm.ledger.models import Account, AccountKind, AccountType, Entry, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, Posting, account_types_in, house_account, open_account
from crm.phones import format_phone
from crm.search import fold

# A base account in the column of the account types. BASE is no name a type could have, once it is made comparable.
BASE = "#base"
BASE_NAMES = frozenset(map(comparable, ("Базовый счёт", "Базовый", "Base account", "Base")))

NOON = time(12)  # of the day the file names: the same day on every clock of the country


@dataclass(frozen=True, slots=True)
class AccountLine:
    """account_type: as comparable() makes it, so that spelling is no content, or BASE. opened_on: None = today.

    type_name, name: as in the file, for the eye; the phone says whose account it is.
    """

    phone: str
    account_type: str
    balance: Decimal
    type_name: str = field(compare=False)
    opened_on: date | None = None
    name: str = field(compare=False, default="")

    @property
    def is_base(self) -> bool:
        return self.account_type == BASE


class AccountImport:
    entity = "account"
    permission = "account.import"
    codes: tuple[str, ...] = (
        "bad_phone",
        "bad_balance",
        "bad_date",
        "unknown_client",
        "unknown_account_type",
        "duplicate_line",
    )
    duplicates = frozenset({"duplicate_line", "imported_before"})
    money: tuple[str, ...] = ("balance",)
    run_id: int | None = None

    def __init__(self) -> None:
        self._first: dict[str, int] = {}  # line by _slot()
        covers = current_scope().covers
        self._branches = {branch.id: branch for branch in db.session.scalars(select(Branch)) if covers(branch.id)}
        self._types: dict[int, dict[str, AccountType]] = {
            branch.id: {comparable(kind.name): kind for kind in account_types_in(branch)}
            for branch in self._branches.values()
        }
        self._clients: dict[str, Client] = {}
        parse_day = partial(values.parse_past_date, today=values.latest_day(self._branches.values()))
        self.fields: tuple[Field, ...] = (
            Field(
                "phone",
                ("Телефон", "Тел.", "Номер телефона", "Телефон клиента", "Phone", "Mobile"),
                values.parse_required_phone,
                "bad_phone",
                is_required=True,
                label=_l("Phone"),
            ),
            Field(
                "account_type",
                ("Тип счёта", "Счёт", "Вид счёта", "Account type", "Account"),
                values.parse_required_name,
                "unknown_account_type",
                is_required=True,
                label=_l("Account type"),
            ),
            Field(
                "balance",
                ("Баланс", "Остаток", "Сумма", "Balance", "Amount"),
                values.parse_amount,
                "bad_balance",
                is_required=True,
                label=_l("Balance"),
            ),
            Field(
                "opened_on",
                ("Открыт", "Дата открытия", "Дата", "Opened", "Opened on"),
                parse_day,
                "bad_date",
                label=_l("Opened on"),
            ),
            Field(
                "name",
                ("Клиент", "ФИО", "ФИО клиента", "Плательщик", "Client", "Name"),
                values.parse_name,
                "bad_name",
                label=_l("Client"),
            ),
        )

    def typed(self, values: dict[str, Any]) -> AccountLine:
        type_name = values["account_type"]
        account_type = BASE if comparable(type_name) in BASE_NAMES else comparable(type_name)
        if values["balance"] < 0 and account_type != BASE:
            reason = _("A deposit cannot be negative: “%(value)s”.", value=money(values["balance"]))
            raise DomainError("amount_invalid", reason, "balance")
        return AccountLine(**values | {"account_type": account_type, "type_name": type_name})

    def label(self, values: Mapping[str, Any]) -> str:
        return cell_text(values.get("name")) or cell_text(values.get("phone"))

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterator[Refusal]:
        """One client must be here, the type be offered in his branch; a line repeated word for word is one account, and
        a line that was changed since it was imported is not another one. A base account opens with one balance, once.
        """
        payers = payers_by_phone([row.values.phone for row in rows])
        self._clients = {phone: payer for phone, (payer, *_others) in payers.items()}
        imported = _imported_accounts(self._clients.values(), besides=self.run_id)
        opened = _opened_base_accounts(self._clients.values())
        first = self._first
        for row in rows:
            line: AccountLine = row.values
            client = self._clients.get(line.phone)
            slot = _slot(row)
            if slot in first:
                reason = _("The same account stands in line %(line)s already.", line=first[slot])
                yield Refusal(row.line, column("phone"), "duplicate_line", reason)
                continue
            first[slot] = row.line
            if row.key in applied:
                continue
            if client is None:
                reason = _("There is no client with the phone %(phone)s.", phone=format_phone(line.phone))
                yield Refusal(row.line, column("phone"), "unknown_client", reason)
            elif len(payers[line.phone]) > 1:
                reason = _(
                    "Several clients have the phone %(phone)s: it is not known whose account this is.",
                    phone=format_phone(line.phone),
                )
                yield Refusal(row.line, column("phone"), "ambiguous_phone", reason)
            elif not line.is_base and line.account_type not in self._types[client.branch_id]:
                reason = _(
                    "The branch “%(branch)s” offers no account type “%(type)s”.",
                    branch=self._branches[client.branch_id].name,
                    type=line.type_name,
                )
                yield Refusal(row.line, column("account_type"), "unknown_account_type", reason)
            elif line.opened_on and line.opened_on > clock.today(self._branches[client.branch_id]):
                yield Refusal(row.line, column("opened_on"), "bad_date", values.not_past(line.opened_on))
            elif line.is_base and client.id in opened:
                reason = _("The client's base account has an opening balance already. Correct it in the client's card.")
                yield Refusal(row.line, column("balance"), "imported_before", reason)
            elif not line.is_base and (client.id, self._types[client.branch_id][line.account_type].id) in imported:
                reason = _(
                    "This client's account was imported before with other data. Correct it in the client's card."
                )
                yield Refusal(row.line, column("balance"), "imported_before", reason)

    def notes(self, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
        for row in rows:
            name = self._clients[row.values.phone].name
            if row.values.name and sorted(fold(row.values.name).split()) != sorted(fold(name).split()):
                yield row.line, _("The name differs from the one on the client's card; the phone decides.")

    def recall(self, rows: Sequence[Row]) -> None:
        self._first |= {_slot(row): row.line for row in rows}

    def changes(self, rows: Sequence[Row]) -> dict[int, Changes]:
        """An account's balance is changed by operations, never by a file."""
        return {}

    def measures(self, read: Sequence[Row], good: Sequence[Row]) -> Measures:
        return {"accounts": len(read), "accounts_total": _total(read), "balance_good": _total(good)}

    def figures(self, tally: Tally) -> Figures:
        """accounts, accounts_total: what the file holds, whether or not the clients are here yet."""
        return {
            "accounts": tally.measures["accounts"],
            "accounts_total": tally.sum_of("accounts_total"),
            "rows": tally.lines,
            "good": tally.good,
            **{code: tally.refused[code] for code in self.codes},
            "empty": tally.empty,
            "balance_good": tally.sum_of("balance_good"),
        }

    def create(self, rows: Sequence[Row], *, run_id: int, by: Actor) -> list[Made]:
        with_base = [self._clients[row.values.phone] for row in rows if row.values.is_base]
        base = own_accounts(AccountKind.BASE, {client.id: client.branch_id for client in with_base})
        postings, made = [], []
        for row in rows:
            line: AccountLine = row.values
            client = self._clients[line.phone]
            branch = self._branches[client.branch_id]
            opened_at = min(clock.at(line.opened_on, NOON, branch), clock.now()) if line.opened_on else clock.now()
            account = base[client.id] if line.is_base else self._open(line, branch, opened_at, by)
            made.append(Made(account.id, {}))
            if line.balance:
                house = house_account(AccountKind.OPENING, branch.id)
                postings.append(
                    Posting(
                        TransactionKind.OPENING,
                        [Line(account, line.balance), Line(house, -line.balance)],
                        branch_id=branch.id,
                        key=ledger_key(run_id, row),
                        cause=Cause(client_id=client.id),
                        happened_at=opened_at,
                    )
                )
        post_all(postings, by=by)
        return made

    def _open(self, line: AccountLine, branch: Branch, opened_at: datetime, by: Actor) -> Account:
        return open_account(
            client_id=self._clients[line.phone].id,
            account_type=self._types[branch.id][line.account_type],
            branch=branch,
            by=by,
            opened_at=opened_at,
        )

    def update(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        raise NotImplementedError("changes() finds none")


def _slot(row: Row) -> str:
    """What a line takes: lines that take the same are one account. Two deposits of one type may differ, a client's base
    account is one.
    """
    return f"{BASE}:{row.values.phone}" if row.values.is_base else row.key


def _opened_base_accounts(clients: Iterable[Client]) -> set[int]:
    """Those of the clients whose base account has an opening balance that stands, brought in by whatever file."""
    ids, found = [client.id for client in clients], set[int]()
    mirror = aliased(Transaction)
    for start in range(0, len(ids), 1000):
        query = (
            select(Account.client_id)
            .join(Entry, Entry.account_id == Account.id)
            .join(Entry.transaction)
            .outerjoin(mirror, mirror.reverses_id == Transaction.id)
            .where(
                Account.client_id.in_(ids[start : start + 1000]),
                Account.kind == AccountKind.BASE,
                Transaction.kind == TransactionKind.OPENING,
                mirror.id.is_(None),
            )
        )
        found.update(client_id for client_id in db.session.scalars(query) if client_id is not None)
    return found


def _imported_accounts(clients: Iterable[Client], *, besides: int | None) -> set[tuple[int, int]]:
    """(client id, account type id) of accounts that imports have opened for these clients, but for one run's."""
    ids, found = [client.id for client in clients], set[tuple[int, int]]()
    for start in range(0, len(ids), 1000):
        query = (
            select(Account.client_id, Account.account_type_id)
            .join(ImportedRow, (ImportedRow.row_id == Account.id) & (ImportedRow.entity == AccountImport.entity))
            .where(
                Account.client_id.in_(ids[start : start + 1000]),
                ImportedRow.undone_at.is_(None),
                ImportedRow.run_id != (besides or 0),
            )
        )
        found.update((row.client_id, row.account_type_id) for row in db.session.execute(query))
    return found


def _total(rows: Sequence[Row]) -> Decimal:
    return sum((row.values.balance for row in rows), Decimal("0.00"))
