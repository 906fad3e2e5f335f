"""Client: one table of person cards, two roles, one link. `payer_id` empty: pays for himself; set: is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flask_babel import lazy_pgettext as _lp
from sqlalchemy import CheckConstraint, Date, ForeignKey, Index, Integer, String, Text, event, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.access.scope import BranchScoped
from crm.db import LabelEnum, Model, Phone, PrimaryKey, Text200, label_enum
from crm.fields.models import HasCustomFields
from crm.fields.queries import company_of, is_shown
from crm.phones import is_landline
from crm.search import searchable


class PhoneKind(LabelEnum):
    """What a phone number is; only a mobile one takes messages."""

    MOBILE = "mobile", _lp("phone", "Mobile")
    HOME = "home", _lp("phone", "Home")
    WORK = "work", _lp("phone", "Work")
    OTHER = "other", _lp("phone", "Other")


class ClientKind(LabelEnum):
    """«Тип клиента»."""

    PERSON = "person", _lp("client", "Individual")
    ORGANISATION = "organisation", _lp("client", "Legal entity")


class ClientStatus(LabelEnum):
    ACTIVE = "active", _lp("client", "Active")
    ARCHIVED = "archived", _lp("client", "Archived")


CLIENT_MOVES = {ClientStatus.ACTIVE: {ClientStatus.ARCHIVED}, ClientStatus.ARCHIVED: {ClientStatus.ACTIVE}}


_HOLDS_PHONE = text("status = 'active' AND payer_id IS NULL")


class Client(HasCustomFields, BranchScoped, Model):
    """A person's card. The payer holds contract, accounts and bills; a child or relative points at the payer.

    name: what everybody is called by; surname and patronymic only where the company has them switched on.
    phone_kind, extra_phone_kind: what the number beside it is; they mean nothing without one.
    search: names, e-mail, digits of both phones, as search.searchable() has them; kept by a listener, never set by
    hand.
    discount: what is let off the price of every subscription sold to him (a large family, say).
    merged_into_id: the card of the same person this one was merged into; it stays in the archive for good.
    """

    # By default only the name is displayed; the number and what a company does not need can be switched off.
    __optional_fields__ = {
        "surname": False,
        "patronymic": False,
        **dict.fromkeys(("id", "extra_phone", "email", "birth_date", "comment", "created_at"), True),
    }
    __table_args__ = (
        CheckConstraint("discount >= 0", name="discount"),
        Index(None, "status", "name"),
        *(Index(None, name, "id") for name in ("name", "phone", "email", "created_at", "branch_id", "payer_id")),
        Index(None, "merged_into_id"),
        # An active payer's phone is his alone in the branch: imports and the desk know him by it.
        Index(
            "uq_client_branch_id_phone",
            "branch_id",
            "phone",
            unique=True,
            sqlite_where=_HOLDS_PHONE,
            postgresql_where=_HOLDS_PHONE,
        ),
    )

    id: Mapped[PrimaryKey]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))  # indexed with the key
    payer_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"))
    merged_into_id: Mapped[int | None] = mapped_column(ForeignKey("client.id"))
    status: Mapped[ClientStatus] = mapped_column(label_enum(ClientStatus), default=ClientStatus.ACTIVE)
    kind: Mapped[ClientKind] = mapped_column(label_enum(ClientKind), default=ClientKind.PERSON, server_default="person")
    name: Mapped[Text200]
    surname: Mapped[Text200] = mapped_column(default="", server_default=text("''"))
    patronymic: Mapped[Text200] = mapped_column(default="", server_default=text("''"))
    phone: Mapped[str | None] = mapped_column(Phone)
    phone_kind: Mapped[PhoneKind] = mapped_column(
        label_enum(PhoneKind), default=PhoneKind.MOBILE, server_default="mobile"
    )
    extra_phone: Mapped[str | None] = mapped_column(Phone, index=True)
    extra_phone_kind: Mapped[PhoneKind] = mapped_column(
        label_enum(PhoneKind, name="extra_phone_kind"), default=PhoneKind.MOBILE, server_default="mobile"
    )
    email: Mapped[str | None] = mapped_column(String(254))
    birth_date: Mapped[date | None] = mapped_column(Date)
    comment: Mapped[str] = mapped_column(Text, default="")
    discount: Mapped[Decimal] = mapped_column(default=Decimal(0), server_default=text("0"))
    discount_reason: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))
    search: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer)

    payer: Mapped[Client | None] = relationship(
        foreign_keys="Client.payer_id", remote_side="Client.id", back_populates="family"
    )
    family: Mapped[list[Client]] = relationship(
        foreign_keys="Client.payer_id", back_populates="payer", order_by="Client.id"
    )
    merged_into: Mapped[Client | None] = relationship(foreign_keys="Client.merged_into_id", remote_side="Client.id")

    __mapper_args__ = {"version_id_col": version}

    @property
    def mobile_phone(self) -> str | None:
        """The first of the numbers that takes an SMS (E.164)."""
        numbers = ((self.phone, self.phone_kind), (self.extra_phone, self.extra_phone_kind))
        mobile = (phone for phone, kind in numbers if phone and kind is PhoneKind.MOBILE)
        return next((phone for phone in mobile if not is_landline(phone)), None)

    @property
    def is_payer(self) -> bool:
        return self.payer_id is None

    @property
    def shown_name(self) -> str:
        """The name with the surname and the patronymic, where the company displays them."""
        if not (self.surname or self.patronymic):
            return self.name
        parts = {"surname": self.surname, "name": self.name, "patronymic": self.patronymic}
        company = company_of(self)
        return " ".join(text for part, text in parts.items() if text and is_shown(company, "client", part))

    def __str__(self) -> str:
        return self.shown_name


def search_text(names: Sequence[str], email: str | None, phones: Sequence[str | None]) -> str:
    """What a card is found by: its names, e-mail and the digits of its phones (E.164)."""
    return searchable(*names, email, *(phone.lstrip("+") for phone in phones if phone))


def _fill_search(_mapper: Any, _connection: Any, client: Client) -> None:
    names = [name for name in (client.surname, client.name, client.patronymic) if name]
    client.search = search_text(names, client.email, (client.phone, client.extra_phone))


event.listen(Client, "before_insert", _fill_search)
event.listen(Client, "before_update", _fill_search)
