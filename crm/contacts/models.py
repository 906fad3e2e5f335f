"""Channels a client is connected to, and the kinds of messages he has allowed or forbidden."""

from __future__ import annotations

from datetime import datetime

from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from sqlalchemy import Boolean, ForeignKey, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crm.clients.models import Client
from crm.db import LabelEnum, Model, PrimaryKey, Text200, label_enum


class Channel(LabelEnum):
    """Ways of sending («Способ рассылки»), in the order the card shows them."""

    EMAIL = "email", _l("Email")
    SMS = "sms", _l("SMS")
    WHATSAPP = "whatsapp", _l("WhatsApp")
    TELEGRAM = "telegram", _l("Telegram")
    VIBER = "viber", _l("Viber")
    PUSH = "push", _l("Push notification")
    CABINET = "cabinet", _l("Client's cabinet")

    @property
    def is_linked(self) -> bool:
        """The client links himself to it; the others go by the e-mail or the phone of his card."""
        return self in {Channel.TELEGRAM, Channel.VIBER, Channel.PUSH}


class MessageKind(LabelEnum):
    """What a message is about: what a client forbids or allows («виды сообщений»)."""

    BILLS = "bills", _lp("message kind", "Bills")
    DEBT = "debt", _lp("message kind", "Reminders of debts")
    SUBSCRIPTION = "subscription", _lp("message kind", "End of a subscription")
    LESSON = "lesson", _lp("message kind", "Reminders of lessons")
    THANKS = "thanks", _lp("message kind", "Payments received")
    PERSONAL = "personal", _lp("message kind", "Personal messages")
    BIRTHDAY = "birthday", _lp("message kind", "Birthday greetings")
    NEWS = "news", _lp("message kind", "News and offers")
    SERVICE = "service", _lp("message kind", "Codes and passwords")

    @property
    def is_advertising(self) -> bool:
        """Where the company asks for consent, sent only to who has given it."""
        return self in {MessageKind.BIRTHDAY, MessageKind.NEWS}

    @property
    def is_forbidden_by_nobody(self) -> bool:
        """The client has asked for it a moment ago."""
        return self is MessageKind.SERVICE


class Contact(Model):
    """What a client has over one channel. Without a row e-mail, SMS, WhatsApp and the cabinet are on where his card has
    the address, and the channels he links himself to are not connected.

    address: what the channel knows him by (the chat of a bot, a push subscription as JSON); empty for those that go by
    his card, except the e-mail letters came back from: it is off while his card has that one. is_on: switched off,
    nothing is sent over it.
    """

    __secret__ = frozenset({"address"})
    __table_args__ = (UniqueConstraint("client_id", "channel"),)

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    channel: Mapped[Channel] = mapped_column(label_enum(Channel))
    address: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))
    is_on: Mapped[bool] = mapped_column(Boolean, default=True)
    linked_at: Mapped[datetime | None]
    changed_at: Mapped[datetime]

    client: Mapped[Client] = relationship()

    def __str__(self) -> str:
        return str(self.channel.label)


class MessageChoice(Model):
    """What a client has said of one kind of messages; without a row those it takes no consent for are allowed.

    decided_by: the name of who noted it, empty when the client did it on his own page.
    """

    __table_args__ = (UniqueConstraint("client_id", "kind"),)

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"))
    kind: Mapped[MessageKind] = mapped_column(label_enum(MessageKind))
    is_allowed: Mapped[bool] = mapped_column(Boolean)
    decided_at: Mapped[datetime]
    decided_by: Mapped[Text200] = mapped_column(default="", server_default=text("''"))

    client: Mapped[Client] = relationship()

    def __str__(self) -> str:
        return str(self.kind.label)


class ClientPassword(Model):
    """The password of a client's personal cabinet, kept as users' are; without a row he has none yet."""

    __secret__ = frozenset({"password_hash"})

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    changed_at: Mapped[datetime]

    client: Mapped[Client] = relationship()

    def __str__(self) -> str:
        return f"#{self.client_id}"


class ContactLink(Model):
    """The address of a client's own page of messages (`/messages/<token>`), made at its first use: what he takes, how
    he links himself to a bot. token: also what the bot is told by him.
    """

    __audited__ = False
    __secret__ = frozenset({"token"})

    id: Mapped[PrimaryKey]
    client_id: Mapped[int] = mapped_column(ForeignKey("client.id"), unique=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]

    client: Mapped[Client] = relationship()
