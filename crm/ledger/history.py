"""The history of clients' money accounts: an entry with what is said of it elsewhere, as one row to read.

Not a table of its own but a mapping onto the join of entry, transaction and account: filters, sorts, totals, exports
and the row scope take it like any other model, and the database gets one flat SELECT for its indexes.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from sqlalchemy import Table, and_, case, func, select
from sqlalchemy.orm import Mapped, column_property, relationship

from crm.access.models import Branch, Employee
from crm.access.scope import BranchScoped
from crm.db import LabelEnum, Model, read_only
from crm.ledger.models import Account, AccountType, Entry, Transaction, TransactionKind, Unit

entries: Table = Entry.__table__  # type: ignore[assignment]
transactions: Table = Transaction.__table__  # type: ignore[assignment]
accounts: Table = Account.__table__  # type: ignore[assignment]
reversals, others, their_accounts = transactions.alias(), entries.alias(), accounts.alias()


# Of what kinds an operation on a client's account can be.
CLIENT_KINDS = tuple(kind for kind in TransactionKind if not kind.value.startswith("cash_"))


class Standing(LabelEnum):
    """Where an operation leaves client and business with each other, as the business sees it."""

    DEBT = "debt", _l("We lent to the client")
    PREPAID = "prepaid", _l("The client paid ahead")
    DISCOUNT = "discount", _l("Discount")


@read_only
class AccountOperation(BranchScoped, Model):
    """What a transaction did to one client's money account. post() is what writes.

    id is the entry's. client_id, branch_id: the account's, so whose money it is decides who sees it. amount: + when the
    client gained, - when he paid; credited and debited are the same without the sign, one of them empty. reverses_id,
    reversed_by_id: the transaction this one undoes, and the one that has undone it. lessons: how many it gave (+) or
    took (-).
    """

    __tablename__ = "ledger_entry"
    __table__ = entries.join(transactions, transactions.c.id == entries.c.transaction_id).join(
        accounts,
        and_(accounts.c.id == entries.c.account_id, accounts.c.client_id.is_not(None), accounts.c.unit == Unit.MONEY),
    )
    __mapper_args__ = {"primary_key": [entries.c.id], "include_properties": []}  # the columns named here and no others
    __audited__ = False

    id: Mapped[int] = column_property(entries.c.id)
    transaction_id: Mapped[int] = column_property(entries.c.transaction_id)
    account_id: Mapped[int] = column_property(entries.c.account_id)
    amount: Mapped[Decimal] = column_property(entries.c.amount)
    balance_after: Mapped[Decimal] = column_property(entries.c.balance_after)
    credited: Mapped[Decimal | None] = column_property(case((entries.c.amount > 0, entries.c.amount)))
    debited: Mapped[Decimal | None] = column_property(case((entries.c.amount < 0, -entries.c.amount)))

    kind: Mapped[TransactionKind] = column_property(transactions.c.kind)
    happened_at: Mapped[datetime] = column_property(transactions.c.happened_at)
    author_id: Mapped[int | None] = column_property(transactions.c.author_id)
    author_name: Mapped[str] = column_property(transactions.c.author_name)
    employee_id: Mapped[int | None] = column_property(transactions.c.employee_id)
    payment_id: Mapped[int | None] = column_property(transactions.c.payment_id)
    bill_id: Mapped[int | None] = column_property(transactions.c.bill_id)
    subscription_id: Mapped[int | None] = column_property(transactions.c.subscription_id)
    visit_id: Mapped[int | None] = column_property(transactions.c.visit_id)
    lesson_id: Mapped[int | None] = column_property(transactions.c.lesson_id)
    comment: Mapped[str] = column_property(transactions.c.comment)
    reverses_id: Mapped[int | None] = column_property(transactions.c.reverses_id)
    reversed_by_id: Mapped[int | None] = column_property(
        select(reversals.c.id).where(reversals.c.reverses_id == transactions.c.id).scalar_subquery()
    )

    lessons: Mapped[Decimal | None] = column_property(
        select(func.sum(others.c.amount))
        .where(others.c.transaction_id == transactions.c.id, others.c.account_id == their_accounts.c.id)
        .where(their_accounts.c.client_id.is_not(None), their_accounts.c.unit == Unit.LESSON)
        .scalar_subquery()
    )

    client_id: Mapped[int] = column_property(accounts.c.client_id)
    branch_id: Mapped[int] = column_property(accounts.c.branch_id)
    account_type_id: Mapped[int | None] = column_property(accounts.c.account_type_id)

    account: Mapped[Account] = relationship(foreign_keys=account_id, viewonly=True)
    transaction: Mapped[Transaction] = relationship(foreign_keys=transaction_id, viewonly=True)
    employee: Mapped[Employee | None] = relationship(foreign_keys=employee_id, viewonly=True)
    branch: Mapped[Branch] = relationship(foreign_keys=branch_id, viewonly=True)
    account_type: Mapped[AccountType | None] = relationship(foreign_keys=account_type_id, viewonly=True)
    # By name: the ledger lies below what its transactions are for.
    client: Mapped[Any] = relationship("Client", foreign_keys=client_id, viewonly=True)
    payment: Mapped[Any] = relationship("Payment", foreign_keys=payment_id, viewonly=True)
    bill: Mapped[Any] = relationship("Bill", foreign_keys=bill_id, viewonly=True)
    subscription: Mapped[Any] = relationship("Subscription", foreign_keys=subscription_id, viewonly=True)
    visit: Mapped[Any] = relationship("Visit", foreign_keys=visit_id, viewonly=True)
    lesson: Mapped[Any] = relationship("Lesson", foreign_keys=lesson_id, viewonly=True)

    @property
    def purpose(self) -> list[Any]:
        """What it was for: the bill, the subscription, the visit, the lesson; none of those out of sight."""
        return [thing for thing in (self.bill, self.subscription, self.visit, self.lesson) if thing is not None]

    @property
    def standing(self) -> Standing | None:
        """Red, green and orange of the seed: the operation made or deepened a debt, left the client ahead, or was a
        discount; None for neither.
        """
        if self.kind is TransactionKind.DISCOUNT:
            return Standing.DISCOUNT
        if self.amount < 0 and self.balance_after < 0:
            return Standing.DEBT
        return Standing.PREPAID if self.amount > 0 and self.balance_after > 0 else None

    def __str__(self) -> str:
        return f"{self.kind.label} #{self.transaction_id}"
