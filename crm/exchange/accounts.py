"""Client accounts in: deposits with their balances, for payers who are here already, known by phone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from functools import partial
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.clients.models import Client
from crm.clients.queries import payers_by_phone
from crm.db import db
from crm.exchange import values
from crm.exchange.importing import Changes, Columns, Figures, Made, Measures, Refusal, Row, Tally, ledger_key
from crm.exchange.models import ImportedRow
from crm.exchange.reading import Field, cell_text, comparable
from crm.ledger.batch import post_all
from crm.ledger.models import Account, AccountKind, AccountType, TransactionKind
from crm.ledger.operations import Cause, Line, Posting, account_types_in, house_account, open_account
from crm.phones import format_phone
from crm.search import fold

NOON = time(12)  # of the day the file names: the same day on every clock of the country


@dataclass(frozen=True, slots=True)
class AccountLine:
    """account_type: as comparable() makes it, so that spelling is no content. opened_on: None = today.

    type_name, name: as in the file, for the eye; the phone says whose account it is.
    """

    phone: str
    account_type: str
    balance: Decimal
    type_name: str = field(compare=False)
    opened_on: date | None = None
    name: str = field(compare=False, default="")


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
        self._first: dict[str, int] = {}  # line by content
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
                values.parse_deposit,
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
        return AccountLine(**values | {"account_type": comparable(type_name), "type_name": type_name})

    def label(self, values: Mapping[str, Any]) -> str:
        return cell_text(values.get("name")) or cell_text(values.get("phone"))

    def refusals(self, rows: Sequence[Row], applied: frozenset[str], column: Columns) -> Iterator[Refusal]:
        """One client must be here, the type be offered in his branch; a line repeated word for word is one account, and
        a line that was changed since it was imported is not another one.
        """
        payers = payers_by_phone([row.values.phone for row in rows])
        self._clients = {phone: payer for phone, (payer, *_others) in payers.items()}
        imported = _imported_accounts(self._clients.values(), besides=self.run_id)
        first = self._first
        for row in rows:
            line: AccountLine = row.values
            client = self._clients.get(line.phone)
            if row.key in first:
                reason = _("The same account stands in line %(line)s already.", line=first[row.key])
                yield Refusal(row.line, column("phone"), "duplicate_line", reason)
                continue
            first[row.key] = row.line
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
            elif line.account_type not in self._types[client.branch_id]:
                reason = _(
                    "The branch “%(branch)s” offers no account type “%(type)s”.",
                    branch=self._branches[client.branch_id].name,
                    type=line.type_name,
                )
                yield Refusal(row.line, column("account_type"), "unknown_account_type", reason)
            elif line.opened_on and line.opened_on > clock.today(self._branches[client.branch_id]):
                yield Refusal(row.line, column("opened_on"), "bad_date", values.not_past(line.opened_on))
            elif (client.id, self._types[client.branch_id][line.account_type].id) in imported:
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
        self._first |= {row.key: row.line for row in rows}

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
        postings, made = [], []
        for row in rows:
            line: AccountLine = row.values
            client = self._clients[line.phone]
            branch = self._branches[client.branch_id]
            opened_at = min(clock.at(line.opened_on, NOON, branch), clock.now()) if line.opened_on else clock.now()
            account = open_account(
                client_id=client.id,
                account_type=self._types[branch.id][line.account_type],
                branch=branch,
                by=by,
                opened_at=opened_at,
            )
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

    def update(self, rows: Sequence[Row], *, by: Actor) -> list[int]:
        raise NotImplementedError("changes() finds none")


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
