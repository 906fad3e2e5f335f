"""Debtors: accounts below zero, as rows to read, with how old their debts are.

Like the history of accounts, a mapping onto a join: filters, sorts, exports and the row scope take it like any other
model. The ages and the last payment are found out for a whole page of debtors at once, when the first of them is asked
for them: no row of a million costs anything until it is shown.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, column_property, object_session, relationship

from crm.access.models import Branch, City
from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.db import Model, db, read_only
from crm.debts.queries import Ageing, age_of, ageing_of, last_payments, unpaid_of
from crm.ledger.models import Account, AccountKind, Unit

_accounts: Any = Account.__table__
_branches: Any = Branch.__table__
_FACTS = "_facts_found"


@read_only
class Debtor(BranchScoped, Model):
    """An account in debt, and whose it is. id is the account's; debt: above zero."""

    __tablename__ = "account"
    __table__ = _accounts.join(
        _branches,
        sa.and_(
            _branches.c.id == _accounts.c.branch_id,
            _accounts.c.client_id.is_not(None),
            _accounts.c.unit == Unit.MONEY,
            _accounts.c.balance < 0,
        ),
    )
    __mapper_args__ = {"primary_key": [_accounts.c.id], "include_properties": []}  # the columns named here, no others
    __audited__ = False

    id: Mapped[int] = column_property(_accounts.c.id)
    branch_id: Mapped[int] = column_property(_accounts.c.branch_id)
    city_id: Mapped[int] = column_property(_branches.c.city_id)
    client_id: Mapped[int] = column_property(_accounts.c.client_id)
    kind: Mapped[AccountKind] = column_property(_accounts.c.kind)
    unit: Mapped[Unit] = column_property(_accounts.c.unit)
    balance: Mapped[Decimal] = column_property(_accounts.c.balance)
    debt: Mapped[Decimal] = column_property(-_accounts.c.balance)

    client: Mapped[Client | None] = relationship(foreign_keys=client_id, viewonly=True)
    branch: Mapped[Branch] = relationship(foreign_keys=branch_id, viewonly=True)
    city: Mapped[City] = relationship(foreign_keys=city_id, viewonly=True)

    @property
    def ageing(self) -> Ageing:
        """The debt by age."""
        return self._facts[0]

    @property
    def last_paid_at(self) -> datetime | None:
        """When money last came to the account."""
        return self._facts[1]

    @property
    def _facts(self) -> tuple[Ageing, datetime | None]:
        """Asked for all the debtors at hand in two queries, not row by row; as they were when first asked for."""
        if _FACTS not in self.__dict__:
            session = object_session(self)
            others = session.identity_map.values() if session else ()
            asking = [row for row in (self, *others) if isinstance(row, Debtor) and _FACTS not in row.__dict__]
            ids = [_id_of(row) for row in asking]
            ages, paid = ageing_of(ids), last_payments(ids)
            for row in asking:
                row.__dict__[_FACTS] = (ages.get(_id_of(row), Ageing()), paid.get(_id_of(row)))
        found: tuple[Ageing, datetime | None] = self.__dict__[_FACTS]
        return found

    def __str__(self) -> str:
        return str(self.client or f"#{self.id}")  # of merged cards one may be out of sight


def _id_of(row: Debtor) -> int:
    """As the session knows it: of an expired row nothing is read again for it."""
    key: Any = sa.inspect(row).identity
    return int(key[0])


def has_debt_of(places: Any) -> sa.ColumnElement[bool]:
    """Condition on Debtor: something of the debt is of one of these ages (places in Ageing)."""
    unpaid = unpaid_of()
    age = age_of(unpaid, db.session.scalars(sa.select(Branch)))
    return Debtor.id.in_(sa.select(unpaid.c.account_id).where(age.in_(places)))
