"""Till and Shift."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flask_babel import lazy_gettext as _l
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    func,
    inspect,
    select,
    text,
    type_coerce,
)
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from crm import clock
from crm.access.scope import BranchScoped
from crm.db import BigId, LabelEnum, Model, Money, PrimaryKey, Text200, label_enum
from crm.ledger.models import Account, AccountKind, Entry


class TillKind(LabelEnum):
    """What kind of place it is; the values are those of the ledger's AccountKind."""

    CASH = "cash", _l("Cash desk")
    TERMINAL = "terminal", _l("Card terminal")
    ACQUIRING = "acquiring", _l("Online acquiring")
    BANK = "bank", _l("Bank account")

    @property
    def account_kind(self) -> AccountKind:
        return AccountKind[self.name]


class Till(BranchScoped, Model):
    """A place where a branch keeps its own money, and its account in the ledger.

    name: empty for the first of its kind, which is made at its first use and called by its kind.
    uses_shifts: money is taken and given only while a shift is open (cash desks).
    balance: the money there now, computed; loaded when it is asked for.
    """

    if TYPE_CHECKING:
        balance: Mapped[Decimal]

    __table_args__ = (UniqueConstraint("branch_id", "kind", "name"),)

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    kind: Mapped[TillKind] = mapped_column(label_enum(TillKind))
    name: Mapped[Text200] = mapped_column(default="")
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), unique=True)
    uses_shifts: Mapped[bool] = mapped_column(Boolean, default=False)
    position: Mapped[int] = mapped_column(Integer, default=0)
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    version: Mapped[int] = mapped_column(Integer)

    account: Mapped[Account] = relationship()

    __mapper_args__ = {"version_id_col": version}

    @property
    def title(self) -> str:
        return self.name or str(self.kind.label)

    def __str__(self) -> str:
        return self.title


class Shift(BranchScoped, Model):
    """A shift of a cash desk: opened and closed with counted cash.

    Its movements are the entries of the till's account with from_entry_id < id <= to_entry_id (None while it is open):
    exact, since closing waits for every operation that holds the till, and ids only grow.
    expected: what the ledger says there is; counted: what was found. A difference is posted at once and explained by
    the comment; those entries are movements of the shift too, so that opening_expected and the sum of the movements
    make closing_counted.
    """

    if TYPE_CHECKING:
        difference: Mapped[Decimal]

    __table_args__ = (
        CheckConstraint("opening_counted >= 0", name="opening_counted"),
        CheckConstraint("closing_counted IS NULL OR closing_counted >= 0", name="closing_counted"),
        Index(
            "uq_shift_till_id_open",
            "till_id",
            unique=True,
            sqlite_where=text("closed_at IS NULL"),
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(None, "till_id", "id"),
        *(Index(None, name, "id") for name in ("branch_id", "opened_at", "closed_at")),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    till_id: Mapped[int] = mapped_column(ForeignKey("till.id"))
    opened_at: Mapped[datetime]
    opened_by_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    opened_by_name: Mapped[Text200]
    opening_expected: Mapped[Decimal]
    opening_counted: Mapped[Decimal]
    opening_comment: Mapped[str] = mapped_column(Text, default="")
    from_entry_id: Mapped[int] = mapped_column(BigId)
    closed_at: Mapped[datetime | None]
    closed_by_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"))
    closed_by_name: Mapped[Text200] = mapped_column(default="")
    closing_expected: Mapped[Decimal | None]
    closing_counted: Mapped[Decimal | None]
    closing_comment: Mapped[str] = mapped_column(Text, default="")
    to_entry_id: Mapped[int | None] = mapped_column(BigId)
    version: Mapped[int] = mapped_column(Integer)

    till: Mapped[Till] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return f"{self.till.title} #{self.id}"

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def is_overlong(self) -> bool:
        """Whether somebody has forgotten to close it: open for more than a day."""
        return self.closed_at is None and clock.now() - self.opened_at > timedelta(days=1)


# Found more (+) or less (-) than there should be, at the opening and at the closing.
Shift.difference = column_property(
    type_coerce(
        Shift.opening_counted
        - Shift.opening_expected
        + func.coalesce(Shift.closing_counted - Shift.closing_expected, 0),
        Money,
    )
)


def _balance() -> Any:
    """SQL: the money in a till, the negated sum of its entries: those since the last shift's opening or closing, when
    the sum was written down, for a desk may have millions.
    """
    entry, shift = Entry.__table__, Shift.__table__
    last = select(shift.c.id).where(shift.c.till_id == Till.id).order_by(shift.c.id.desc()).limit(1)
    last_id = last.correlate(Till).scalar_subquery()
    counted = select(func.coalesce(shift.c.closing_counted, shift.c.opening_expected)).where(shift.c.id == last_id)
    counted_at = select(func.coalesce(shift.c.to_entry_id, shift.c.from_entry_id)).where(shift.c.id == last_id)
    since = select(func.sum(entry.c.amount)).where(
        entry.c.account_id == Till.account_id,
        entry.c.id > func.coalesce(counted_at.correlate(Till).scalar_subquery(), 0),
    )
    return type_coerce(
        func.coalesce(counted.correlate(Till).scalar_subquery(), 0)
        - func.coalesce(since.correlate(Till).scalar_subquery(), 0),
        Money,
    )


inspect(Till).add_property("balance", column_property(_balance(), deferred=True))
