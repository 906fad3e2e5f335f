"""Till and Shift."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from flask_babel import lazy_gettext as _l
from sqlalchemy import Boolean, CheckConstraint, ForeignKey, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.scope import BranchScoped
from crm.db import BigId, LabelEnum, Model, PrimaryKey, Text200, label_enum
from crm.ledger.models import Account, AccountKind


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
    """

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
    the comment.
    """

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
