"""What the public pages show, read past the session: one statement, only the columns that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flask import current_app
from sqlalchemy import (
    Dialect,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
)

from crm.access.models import Branch, Company
from crm.bills.document import purpose_of
from crm.bills.models import Bill, BillBundle, BillLine, BillLineKind, BillStatus, bill_bundle_bill, bill_title
from crm.bills.operations import check_payable
from crm.clients.models import Client
from crm.db import Money, statement_engine
from crm.errors import DomainError
from crm.ledger.models import Account, AccountKind, AccountType
from crm.payments.models import Attention, Payment, PaymentStatus, Refund, RefundStatus, Shop
from crm.subscriptions.models import Plan, Subscription


@dataclass(frozen=True)
class Payee:
    """Who is paid: a company, and the branch it is paid at. has_shop: a payment service of its own is connected."""

    name: str
    legal_name: str
    inn: str
    kpp: str
    ogrn: str
    bank_name: str
    bic: str
    settlement_account: str
    correspondent_account: str
    address: str
    company_phone: str | None
    email: str
    offer_url: str | None
    currency: str
    takes_part_payments: bool
    takes_overpayments: bool
    takes_deposits: bool
    branch: str
    time_zone: str
    branch_phone: str | None
    has_shop: bool

    @property
    def phone(self) -> str | None:
        return self.branch_phone or self.company_phone

    @property
    def takes_online(self) -> bool:
        """As shop_for() finds it, without opening the shop."""
        return self.has_shop or bool(current_app.config["SETTINGS"].is_demo)


@dataclass(frozen=True)
class SeenBill:
    """A bill as its payer sees it. refunded: given back of what was paid; None: nothing was ever paid. has_lines: how
    its sum was found is kept with it. has_account: it may be paid from an account of his, as accounts_for() finds them,
    whatever is on it.
    """

    payee: Payee
    id: int
    token: str
    year: int
    number: int
    status: BillStatus
    amount: Decimal
    paid_amount: Decimal
    purpose: str
    period_from: date
    period_to: date
    payable_from: date
    payable_until: date | None
    is_repeatable: bool
    paid_at: datetime | None
    payer: str
    account_kind: AccountKind
    account_type: str | None
    subscription_id: int | None
    plan: str | None
    refunded: Decimal | None
    has_lines: bool
    has_account: bool

    @property
    def branch(self) -> Payee:
        return self.payee

    @property
    def title(self) -> str:
        return bill_title(self.year, self.number)

    @property
    def due(self) -> Decimal:
        """As Bill.due."""
        return self.amount if self.status is BillStatus.PAID else max(self.amount - self.paid_amount, Decimal(0))

    @property
    def is_refunded(self) -> bool:
        """All that was paid has been given back."""
        return bool(self.refunded) and (self.refunded or 0) >= self.paid_amount

    @property
    def purpose_shown(self) -> str:
        return purpose_of(self.purpose, self.account_kind, lambda: self.account)

    @property
    def account(self) -> str:
        return account_title(self.account_kind, self.account_type, self.subscription_id, self.plan)

    @property
    def refusal(self) -> DomainError | None:
        """Why it cannot be paid now; None when it can."""
        try:
            check_payable(self)
        except DomainError as error:
            return error
        return None


def account_title(kind: AccountKind, account_type: str | None, subscription_id: int | None, plan: str | None) -> str:
    """As Account.title."""
    if kind is AccountKind.SUBSCRIPTION and plan is not None:
        return f"{plan} #{subscription_id}"
    return account_type or str(kind.label)


@dataclass(frozen=True)
class SeenLine:
    """A line of how a bill's sum was found; students are called by their first names there."""

    kind: BillLineKind
    day: date | None
    student: str
    title: str
    note: str
    amount: Decimal


@dataclass(frozen=True)
class SeenPayment:
    """A payment of one bill; several paid at once are one order."""

    id: int
    status: PaymentStatus
    amount: Decimal
    refunded: Decimal
    created_at: datetime
    received_at: datetime | None
    attention: Attention | None
    attention_closed_at: datetime | None
    bill_id: int
    year: int
    number: int
    purpose: str
    account_kind: AccountKind
    account_type: str | None
    subscription_id: int | None
    plan: str | None

    account = SeenBill.account

    @property
    def is_refunded(self) -> bool:
        return self.refunded >= self.amount

    @property
    def bill(self) -> str:
        return bill_title(self.year, self.number)

    @property
    def is_held(self) -> bool:
        """Somebody has to look at it first."""
        return self.attention is not None and self.attention_closed_at is None


_company, _branch, _bill, _client = Company.__table__.c, Branch.__table__.c, Bill.__table__.c, Client.__table__.c
_account, _type, _sold, _plan = Account.__table__.c, AccountType.__table__.c, Subscription.__table__.c, Plan.__table__.c
_bundle, _member, _line, _payment = (
    BillBundle.__table__.c,
    bill_bundle_bill.c,
    BillLine.__table__.c,
    Payment.__table__.c,
)
_shop = Shop.__table__.c

_HAS_SHOP = exists().where(
    _shop.company_id == _branch.company_id,
    _shop.is_active,
    or_(_shop.branch_id.is_(None), _shop.branch_id == _branch.id),
)
_own, _there = Account.__table__.alias("own").c, Branch.__table__.alias("there").c
_HAS_ACCOUNT = and_(
    _company.takes_deposits,
    exists().where(
        _own.client_id == _bill.client_id,
        or_(*(_own.kind == literal_column(f"'{kind.value}'") for kind in (AccountKind.BASE, AccountKind.DEPOSIT))),
        _own.closed_at.is_(None),
        _own.id != _bill.account_id,
        _there.id == _own.branch_id,
        _there.city_id == _branch.city_id,
        _there.company_id == _branch.company_id,
    ),
)
# Most bills have no payments: then nothing is looked up.
_refunded = Payment.__table__.alias("refunded").c
_REFUNDED = type_coerce(
    case(
        (
            _bill.payments_count > literal_column("0"),
            select(func.sum(_refunded.refunded)).where(_refunded.bill_id == _bill.id).scalar_subquery(),
        )
    ),
    Money(),
)
_OF_PAYEE = (
    *(_company.name, _company.legal_name, _company.inn, _company.kpp, _company.ogrn, _company.bank_name, _company.bic),
    *(_company.settlement_account, _company.correspondent_account, _company.address, _company.phone, _company.email),
    *(_company.offer_url, _company.currency, _company.takes_part_payments, _company.takes_overpayments),
    *(_company.takes_deposits, _branch.name, _branch.time_zone, _branch.phone, _HAS_SHOP),
)
_OF_ACCOUNT = (_account.kind, _type.name, _account.subscription_id, _plan.name)
_OF_BILL = (
    *(_bill.id, _bill.token, _bill.year, _bill.number, _bill.status, _bill.amount, _bill.paid_amount, _bill.purpose),
    *(_bill.period_from, _bill.period_to, _bill.payable_from, _bill.payable_until, _bill.is_repeatable, _bill.paid_at),
    *(_client.name, *_OF_ACCOUNT),
    _REFUNDED,
    exists().where(_line.bill_id == _bill.id),
    _HAS_ACCOUNT,
)


def _with_account(source: Any, account_id: Any) -> Any:
    return (
        source.join(Account.__table__, _account.id == account_id)
        .outerjoin(AccountType.__table__, _type.id == _account.account_type_id)
        .outerjoin(Subscription.__table__, _sold.id == _account.subscription_id)
        .outerjoin(Plan.__table__, _plan.id == _sold.plan_id)
    )


def _with_payee(source: Any) -> Any:
    return (
        _with_account(source, _bill.account_id)
        .join(Client.__table__, _client.id == _bill.client_id)
        .join(Branch.__table__, _branch.id == _bill.branch_id)
        .join(Company.__table__, _company.id == _branch.company_id)
    )


_BILL = select(*_OF_PAYEE, *_OF_BILL).select_from(_with_payee(Bill.__table__))
_IN_BUNDLE = (
    select(*_OF_PAYEE, *_OF_BILL)
    .select_from(
        _with_payee(
            BillBundle.__table__.join(bill_bundle_bill, _member.bundle_id == _bundle.id).join(
                Bill.__table__, _bill.id == _member.bill_id
            )
        )
    )
    .order_by(_bill.id)
)
_PAYMENT = select(
    *(_payment.id, _payment.status, _payment.amount, _payment.refunded, _payment.created_at, _payment.received_at),
    *(_payment.attention, _payment.attention_closed_at, _bill.id, _bill.year, _bill.number, _bill.purpose),
    *_OF_ACCOUNT,
).select_from(_with_account(Payment.__table__.join(Bill.__table__, _bill.id == _payment.bill_id), _payment.account_id))
_LINES = select(_line.kind, _line.day, _line.student, _line.title, _line.note, _line.amount).order_by(_line.position)


class _Statement:
    """A SELECT compiled once. SQLAlchemy would look its text up anew for every page, which takes longer than running
    it; values are read as the column types read them.
    """

    def __init__(self, query: Select[Any]) -> None:
        self._query = query
        self._compiled: dict[str, tuple[str, Any, list[Any]]] = {}

    def rows(self, **values: Any) -> list[list[Any]]:
        """What it finds, in a transaction of its own that is one statement long."""
        engine = statement_engine()
        known = self._compiled.get(engine.name) or self._compile(engine.dialect)
        text, names, readers = known
        arguments = values if names is None else [values[name] for name in names]
        pooled = engine.raw_connection()
        try:
            connection: Any = pooled.dbapi_connection
            found = connection.execute(text, arguments).fetchall()
        finally:
            pooled.close()
        return [[read(value) if read else value for read, value in zip(readers, row, strict=True)] for row in found]

    def _compile(self, dialect: Dialect) -> tuple[str, Any, list[Any]]:
        compiled = self._query.compile(dialect=dialect)
        readers = [
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in self._query.selected_columns
        ]
        self._compiled[dialect.name] = known = (str(compiled), compiled.positiontup, readers)
        return known


_BILL_OF = _Statement(_BILL.where(_bill.token == bindparam("token"), _bill.link_revoked_at.is_(None)))
_BILLS_OF = _Statement(
    _IN_BUNDLE.where(
        _bundle.token == bindparam("token"), _bundle.link_revoked_at.is_(None), _bill.link_revoked_at.is_(None)
    )
)
_LINES_OF = _Statement(_LINES.where(_line.bill_id == bindparam("bill_id")))
_refund = Refund.__table__.c
_REFUNDED_ON = _Statement(
    select(func.max(_refund.finished_at))
    .select_from(Refund.__table__.join(Payment.__table__, _payment.id == _refund.payment_id))
    .where(
        _payment.bill_id == bindparam("bill_id"), _refund.status == literal_column(f"'{RefundStatus.SUCCEEDED.value}'")
    )
)
_ORDER_OF = _Statement(
    _PAYMENT.where(or_(_payment.id == bindparam("id"), _payment.order_id == bindparam("id"))).order_by(_payment.id)
)


def see_bill(token: str) -> SeenBill | None:
    """The bill behind a link, if the link stands."""
    rows = _BILL_OF.rows(token=token) if _is_text(token) else []
    return _seen(rows[0]) if rows else None


def see_bundle(token: str) -> list[SeenBill]:
    """The bills behind a link to several, if the link stands, but for those whose own was taken back; else none."""
    return [_seen(row) for row in _BILLS_OF.rows(token=token)] if _is_text(token) else []


def see_lines(bill: SeenBill) -> list[SeenLine]:
    """How the bill's sum was found, in order."""
    return [SeenLine(*row) for row in _LINES_OF.rows(bill_id=bill.id)] if bill.has_lines else []


def see_refund_moment(bill: SeenBill) -> datetime | None:
    """When money of the bill was given back, the last time."""
    return _REFUNDED_ON.rows(bill_id=bill.id)[0][0] if bill.refunded else None


def see_order(bills: Sequence[SeenBill], payment_id: int) -> list[SeenPayment]:
    """The payments of an order by the id of its first, those of these bills alone; any number may be asked for."""
    if not 0 < payment_id < 2**63:
        return []
    ids = {bill.id for bill in bills}
    return [seen for seen in (SeenPayment(*row) for row in _ORDER_OF.rows(id=payment_id)) if seen.bill_id in ids]


def _seen(row: Sequence[Any]) -> SeenBill:
    return SeenBill(Payee(*row[: len(_OF_PAYEE)]), *row[len(_OF_PAYEE) :])


def _is_text(token: str) -> bool:
    """PostgreSQL takes no NUL in a text, and no half of a character."""
    return token.isascii() and "\x00" not in token
