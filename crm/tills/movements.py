"""«Движение денег»: an entry of a till's account with what is said of it elsewhere, as one row to read.

Mapped onto the join of till, entry and transaction, as ledger/history.py does for clients' accounts: filters, sorts,
totals, exports and the row scope take it like any other model.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Table, case, literal_column, select, type_coerce
from sqlalchemy.orm import Mapped, column_property, foreign, relationship

from crm.access.models import Branch, Employee
from crm.access.scope import BranchScoped
from crm.db import Model, Money, db, read_only
from crm.ledger.models import Entry, Transaction, TransactionKind
from crm.tills.models import Till, TillKind

entries: Table = Entry.__table__  # type: ignore[assignment]
transactions: Table = Transaction.__table__  # type: ignore[assignment]
tills = Till.__table__.alias("of_till")  # by another name: the relation below joins the table itself


@read_only
class Movement(BranchScoped, Model):
    """What an operation did to the money of one till. post() is what writes.

    id is the entry's, account_id the till's, branch_id the till's, method the till's kind. amount: + when money came
    in, - when it went out (the entry's own sign turned: cash is a claim on the business); came_in and went_out are the
    same without the sign, one of them empty. Over all movements of a till the amounts add up to the money there.
    """

    __tablename__ = "ledger_entry"
    __table__ = entries.join(transactions, transactions.c.id == entries.c.transaction_id).join(
        # Not a bare column, so that entries are never looked up till by till: databases expect as few of a till as of
        # any client's account, and it has millions. of_tills() is what narrows to tills.
        tills,
        tills.c.account_id == entries.c.account_id + literal_column("0"),
    )
    __mapper_args__ = {"primary_key": [entries.c.id], "include_properties": []}  # the columns named here and no others
    __audited__ = False

    id: Mapped[int] = column_property(entries.c.id)
    transaction_id: Mapped[int] = column_property(entries.c.transaction_id)
    account_id: Mapped[int] = column_property(entries.c.account_id)
    amount: Mapped[Decimal] = column_property(type_coerce(-entries.c.amount, Money))
    came_in: Mapped[Decimal | None] = column_property(
        case((entries.c.amount < 0, type_coerce(-entries.c.amount, Money)))
    )
    went_out: Mapped[Decimal | None] = column_property(case((entries.c.amount > 0, entries.c.amount)))

    kind: Mapped[TransactionKind] = column_property(transactions.c.kind)
    happened_at: Mapped[datetime] = column_property(transactions.c.happened_at)
    author_id: Mapped[int | None] = column_property(transactions.c.author_id)
    author_name: Mapped[str] = column_property(transactions.c.author_name)
    employee_id: Mapped[int | None] = column_property(transactions.c.employee_id)
    client_id: Mapped[int | None] = column_property(transactions.c.client_id)
    bill_id: Mapped[int | None] = column_property(transactions.c.bill_id)
    comment: Mapped[str] = column_property(transactions.c.comment)

    till_id: Mapped[int] = column_property(tills.c.id)
    branch_id: Mapped[int] = column_property(tills.c.branch_id)
    method: Mapped[TillKind] = column_property(tills.c.kind)

    till: Mapped[Till] = relationship(primaryjoin=lambda: foreign(Movement.till_id) == Till.id, viewonly=True)
    branch: Mapped[Branch] = relationship(foreign_keys=branch_id, viewonly=True)
    employee: Mapped[Employee | None] = relationship(foreign_keys=employee_id, viewonly=True)
    # By name: tills lie below what is paid through them.
    client: Mapped[Any] = relationship("Client", foreign_keys=client_id, viewonly=True)
    bill: Mapped[Any] = relationship("Bill", foreign_keys=bill_id, viewonly=True)

    def __str__(self) -> str:
        return f"{self.kind.label} #{self.transaction_id}"


def of_tills(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Condition on Movement: it is of a till in scope that fulfils `conditions` (on Till; without any, of any till).

    By the numbers of the tills' accounts, of which there are few: for those the database knows how many entries it has,
    and so whether to read a page from the index of the order or the few entries themselves.
    """
    return Movement.account_id.in_(db.session.scalars(select(Till.account_id).where(*conditions)).all())
