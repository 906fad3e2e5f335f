"""Companies, cities, branches, users, employees."""

from __future__ import annotations

from datetime import date, datetime, time
from hashlib import sha256
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_login import UserMixin
from sqlalchemy import JSON, Boolean, Column, Date, ForeignKey, Integer, String, Table, Text, Time, false, text, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from crm.access.permissions import may
from crm.db import LabelEnum, Model, Phone, PrimaryKey, Text200, label_enum


class Role(LabelEnum):
    """Built-in roles; what each may do is in access/permissions.py."""

    OWNER = "owner", _l("Head")
    REGIONAL_DIRECTOR = "regional_director", _l("Regional director")
    DIRECTOR = "director", _l("Director")
    ADMINISTRATOR = "administrator", _l("Administrator")
    MANAGER = "manager", _l("Manager")
    INSTRUCTOR = "instructor", _l("Instructor")
    SUPPORT = "support", _l("Support")


class Company(Model):
    """A legal entity with the requisites its clients see when paying."""

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    legal_name: Mapped[Text200] = mapped_column(default="")
    inn: Mapped[str] = mapped_column(String(12), default="")
    kpp: Mapped[str] = mapped_column(String(9), default="")
    ogrn: Mapped[str] = mapped_column(String(15), default="")
    address: Mapped[str] = mapped_column(Text, default="")
    bank_name: Mapped[str] = mapped_column(String(200), default="")
    bic: Mapped[str] = mapped_column(String(9), default="")
    settlement_account: Mapped[str] = mapped_column(String(20), default="")
    correspondent_account: Mapped[str] = mapped_column(String(20), default="")
    phone: Mapped[str | None] = mapped_column(Phone)
    email: Mapped[str] = mapped_column(String(254), default="")
    offer_url: Mapped[str | None] = mapped_column(String(500))
    currency: Mapped[str] = mapped_column(String(3), default="RUB")
    # What support switches on and off for the branches of the company.
    has_waiting_list: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    has_parallel_rooms: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    binds_instructor: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    # How its bills may be paid on the public page; the exact sum unless it says otherwise.
    takes_part_payments: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    takes_overpayments: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    takes_deposits: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    # Whether messages to clients are sent in its name, and the last day they are; see mailing_option.py.
    has_mailings: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    mailings_until: Mapped[date | None] = mapped_column(Date)
    mailings_tried_at: Mapped[datetime | None]
    # Mailings wait while it is quiet at the branch; news and greetings may want the client's consent.
    quiet_from: Mapped[time | None] = mapped_column(Time)
    quiet_to: Mapped[time | None] = mapped_column(Time)
    asks_consent: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class City(Model):
    id: Mapped[PrimaryKey]
    name: Mapped[Text200] = mapped_column(unique=True)

    def __str__(self) -> str:
        return self.name


class Branch(Model):
    """A place where clients are served; its day is the day of its own time zone.

    working_hours: {"0".."6", Monday first: ["09:00", "21:00"]}; a day that is missing is closed, without any day the
    branch never is.
    """

    id: Mapped[PrimaryKey]
    company_id: Mapped[int] = mapped_column(ForeignKey("company.id"))
    city_id: Mapped[int] = mapped_column(ForeignKey("city.id"))
    name: Mapped[Text200] = mapped_column(unique=True)
    time_zone: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(Text, default="")
    phone: Mapped[str | None] = mapped_column(Phone)
    working_hours: Mapped[dict[str, Any]] = mapped_column(
        JSON().with_variant(JSONB(), "postgresql"), default=dict, server_default=text("'{}'")
    )
    version: Mapped[int] = mapped_column(Integer)

    company: Mapped[Company] = relationship(lazy="joined")
    city: Mapped[City] = relationship(lazy="joined")

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


user_branch = Table(
    "user_branch",
    Model.metadata,
    Column("user_id", ForeignKey("user.id", ondelete="CASCADE"), primary_key=True),
    Column("branch_id", ForeignKey("branch.id"), primary_key=True),
)
user_city = Table(
    "user_city",
    Model.metadata,
    Column("user_id", ForeignKey("user.id", ondelete="CASCADE"), primary_key=True),
    Column("city_id", ForeignKey("city.id"), primary_key=True),
)


class FieldRule(LabelEnum):
    """What a role is denied of a field."""

    HIDE = "hide", _l("Hidden")
    FREEZE = "freeze", _l("Read only")


class RoleSettings(Model):
    """What the owner changed of a role: one row per role, there from the start.

    permissions: {permission: bool} where it differs from the built-in table; fields: {"entity.field": FieldRule}.
    """

    id: Mapped[PrimaryKey]
    role: Mapped[Role] = mapped_column(label_enum(Role), unique=True)
    permissions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    fields: Mapped[dict[str, Any]] = mapped_column(default=dict)
    version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return str(self.role.label)


class User(UserMixin, Model):
    """A person who signs in to the panel."""

    __secret__ = frozenset({"password_hash"})

    id: Mapped[PrimaryKey]
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[Text200]
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[Role] = mapped_column(label_enum(Role))
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    locale: Mapped[str | None] = mapped_column(String(5))
    created_at: Mapped[datetime]
    last_login_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Integer)

    branches: Mapped[list[Branch]] = relationship(secondary=user_branch, order_by=Branch.id)
    cities: Mapped[list[City]] = relationship(secondary=user_city, order_by=City.id)
    # Along with the user, in the same query: every permission check asks for it. Forgotten with the transaction, so
    # that what the owner changes holds at once, in every process.
    role_settings: Mapped[RoleSettings | None] = relationship(
        primaryjoin=lambda: foreign(User.role) == RoleSettings.role, viewonly=True, lazy="joined"
    )

    __mapper_args__ = {"version_id_col": version}

    def get_id(self) -> str:
        """What a session keeps: whose it is, and of which password. A new password ends the sessions of the old."""
        return f"{self.id}.{sha256(self.password_hash.encode()).hexdigest()[:16]}"

    def may(self, permission: str) -> bool:
        """Whether his role allows it, as the owner has it now."""
        changed = self.role_settings.permissions if self.role_settings is not None else {}
        return self.is_active and may(self.role.value, permission, changed)

    def __str__(self) -> str:
        return self.name


class Employee(Model):
    """Someone who works with clients (instructor, desk); may have no login. teaches: may hold lessons."""

    id: Mapped[PrimaryKey]
    name: Mapped[Text200]
    position: Mapped[str] = mapped_column(String(100), default="")
    branch_id: Mapped[int] = mapped_column(ForeignKey("branch.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user.id"), unique=True)
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    teaches: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    version: Mapped[int] = mapped_column(Integer)

    branch: Mapped[Branch] = relationship()
    user: Mapped[User | None] = relationship()

    __mapper_args__ = {"version_id_col": version}

    def __str__(self) -> str:
        return self.name


class LoginAttempt(Model):
    """Failed sign-ins, kept to slow down guessing; shared by all web processes."""

    __audited__ = False

    id: Mapped[PrimaryKey]
    key: Mapped[str] = mapped_column(String(300), index=True)
    failed_at: Mapped[datetime] = mapped_column(index=True)


__all__ = [
    *("Branch", "City", "Company", "Employee", "FieldRule", "LoginAttempt", "Role", "RoleSettings", "User"),
    *("user_branch", "user_city"),
]
