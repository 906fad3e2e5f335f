"""All messages to clients, over all channels, and what became of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import g, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup

from crm.access.fields import field_rules
from crm.admin.base import BulkAction, KontoraView
from crm.admin.cells import Joins, SqlCell
from crm.admin.column import FoundColumn, GridColumn
from crm.admin.exporting import labels_of
from crm.admin.kinds import NOTHING, BadFilter, Kind, ListKind, Place, ReferenceKind, kind_of
from crm.bills.models import Bill, bill_title
from crm.bills.queries import numbered
from crm.clients.queries import client_matches
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError, NothingToDo
from crm.mailings.models import HIDDEN, MailingRule, MailingRun, Message, message_bill
from crm.mailings.operations import resend_messages
from crm.mailings.queries import tells_of
from crm.mailings.tags import hidden_tags
from crm.phones import format_phone
from crm.protocol import ProtocolLine

# Of the card, what a message goes by; the others know the client by what says nothing to people.
_FIELDS = {
    Channel.EMAIL: frozenset({"email"}),
    Channel.SMS: frozenset({"phone", "extra_phone"}),
    Channel.WHATSAPP: frozenset({"phone", "extra_phone"}),
}


# Bills of a message that a list shows; its own page shows them all.
MOST = 2


class BillsKind(ListKind):
    """The bills a message tells of, found by their numbers. most: how many are shown; None: all."""

    operators = ("is", "not", "empty")
    is_editable = False

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def show(self, value: Any, place: Place) -> str | Markup:
        rest = len(value[self.most :]) if self.most is not None else 0
        return super().show(value[: self.most], place) + (f" +{rest}" if rest else "")

    def export(self, value: Any) -> Any:
        return super().export(value) or None

    def read(self, text: str, place: Place) -> sa.ColumnElement[bool]:
        found = numbered(text.strip())
        if found is None:
            raise BadFilter(_("“%(text)s” is not the number of a bill, such as 2026-000123.", text=text))
        return found

    def any_of(self, column: Any, texts: list[str], place: Place) -> sa.ColumnElement[bool]:
        return tells_of(sa.select(Bill.id).where(sa.or_(*(self.read(text, place) for text in texts))))


def bills_shown(message: Message, most: int | None = MOST) -> Markup:
    """Links to the bills a message tells of, and to its page for those beyond the first `most` (None: all of them)."""
    bills = message.bills
    rest = bills[most:] if most is not None else []
    shown = Markup(", ").join(_bill_shown(bill) for bill in bills[:most]) or NOTHING
    if not rest:
        return shown
    url, titles = url_for("message.details_view", id=message.id), ", ".join(bill.title for bill in rest)
    return shown + Markup(' <a href="{}" title="{}">+{}</a>').format(url, titles, len(rest))


def _bill_shown(bill: Bill) -> Markup:
    if not current_user.may("bill.view"):
        return Markup('<span class="text-nowrap">{}</span>').format(bill)
    url = url_for("bill.details_view", id=bill.id)
    return Markup('<a href="{}" class="text-nowrap">{}</a>').format(url, bill)


def message_list(messages: Sequence[Message]) -> dict[str, Any]:
    """What the table of messages (admin/message_list.html) is made of."""
    return {
        "messages": messages,
        "recipient_shown": recipient_shown,
        "text_shown": text_shown,
        "error_shown": error_shown,
        "bills_shown": bills_shown,
    }


def recipient_shown(channel: Channel | None, recipient: str) -> str:
    """The address or the phone a message goes to; empty where it is neither (a chat of a bot, say), or where the role
    of this person does not see such fields of a card.
    """
    fields = _FIELDS.get(channel) if channel is not None else None
    if fields is None or fields & _hidden_of_cards():
        return ""
    return format_phone(recipient) if recipient.startswith("+") else recipient


def text_shown(text: str, tags: Collection[str]) -> str:
    """The text or the subject of a message; dots where one of its tags tells what this person does not see."""
    return HIDDEN if text and _hidden_tags().intersection(tags) else text


def error_shown(message: Message) -> str:
    """Why a message was not sent; dots in the place of the address, which servers name, for who does not see it."""
    return _error_shown(message.channel, message.recipient, message.error)


def _error_shown(channel: Channel, recipient: str, error: str) -> str:
    if not error or not _FIELDS.get(channel, frozenset()) & _hidden_of_cards():
        return error
    return re.sub(re.escape(recipient.removeprefix("+")), HIDDEN, error, flags=re.IGNORECASE)


def _hidden_tags() -> frozenset[str]:
    """Asked of the rules once per request."""
    if "hidden_tags" not in g:
        g.hidden_tags = hidden_tags(current_user)
    hidden: frozenset[str] = g.hidden_tags
    return hidden


def _hidden_of_cards() -> frozenset[str]:
    """Asked of the rules once per request."""
    if "hidden_of_cards" not in g:
        g.hidden_of_cards = field_rules(current_user, "client").hidden
    hidden: frozenset[str] = g.hidden_of_cards
    return hidden


def _recipient_of(message: Message) -> str:
    return recipient_shown(message.channel, message.recipient)


def _text_of(name: str, message: Message) -> str:
    return text_shown(getattr(message, name), message.tags)


def _rule_of(message: Message) -> MailingRule | None:
    return message.run.rule if message.run is not None else None


def _rule_id() -> Any:
    """The same in SQL: the rule's id."""
    of_run = sa.select(MailingRun.rule_id).where(MailingRun.id == Message.run_id).correlate(Message)
    return of_run.scalar_subquery()


def _further() -> Any:
    """The further bills in SQL, each as `id:year:number`, with spaces between."""
    id, year, number = (sa.cast(column, sa.String) for column in (Bill.id, Bill.year, Bill.number))
    told = id + ":" + year + ":" + number
    further = sa.select(sa.func.aggregate_strings(told, " ")).join(message_bill, message_bill.c.bill_id == Bill.id)
    return further.where(message_bill.c.message_id == Message.id).correlate(Message).scalar_subquery()


def _titles(year: int | None, number: int | None, further: str | None) -> str | None:
    """The same bills as Message.bills, of SQL values."""
    others = sorted(tuple(map(int, bill.split(":"))) for bill in (further or "").split())
    told = [(year, number)] if year is not None and number is not None else []
    return ", ".join(bill_title(*of) for of in (*told, *(bill[1:] for bill in others))) or None


class MessageView(KontoraView):
    entity = "message"
    icon = "envelope"
    column_list = (
        *("created_at", "kind", "channel", "status", "client", "recipient", "subject", "body", "author_name"),
        *("sent_at", "cost", "rule", "bill", "error", "branch"),
    )
    column_details_list = (
        *("created_at", "sent_at", "kind", "channel", "status", "error", "client", "recipient", "subject", "body"),
        *("author_name", "cost", "rule", "run", "bill", "attempts", "external_id"),
    )
    column_filters = (
        *("kind", "channel", "status", "created_at", "sent_at", "client", "author_name", "body", "subject"),
        *("recipient", "rule", "run", "bill", "cost"),
    )
    column_sortable_list = ("created_at", "client", "recipient", "status", "sent_at", "author_name")
    column_default_sort = "-id"
    column_labels = {
        "created_at": _lp("message", "Written"),
        "sent_at": _l("Time of sending"),
        "kind": _lp("message", "Type"),
        "author_name": _lp("message", "Sent by"),
        "cost": _l("Cost"),
        "rule": _l("Mailing"),
        "run": _l("Run of the mailing"),
        "external_id": _l("The provider's number"),
    }
    details_template = "admin/message.html"
    empty_hint = _l("Messages to clients over all channels appear here, with their fate.")
    has_search = True

    def column(self, name: str) -> GridColumn:
        if name == "recipient":
            # Whoever does not see some of them neither filters nor sorts by them: that would tell them.
            sql = None if _hidden_of_cards() & frozenset().union(*_FIELDS.values()) else Message.recipient
            return FoundColumn(name, _l("Recipient"), Kind(), sql, of=_recipient_of)
        if name in {"subject", "body"}:
            attribute = getattr(Message, name)
            kind, sql = kind_of(attribute), None if _hidden_tags() else attribute
            return FoundColumn(name, super().column(name).label, kind, sql, of=partial(_text_of, name))
        if name == "error":
            sql = None if _hidden_of_cards() & frozenset().union(*_FIELDS.values()) else Message.error
            return FoundColumn(name, super().column(name).label, kind_of(Message.error), sql, of=error_shown)
        if name == "rule":
            kind = ReferenceKind(MailingRule, small=True)
            return FoundColumn(name, self.column_labels[name], kind, _rule_id(), of=_rule_of)
        if name == "bill":
            label = super().column(name).label
            return FoundColumn(name, label, BillsKind(MOST), Message.bill_id, of=lambda message: message.bills)
        return super().column(name)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        if column.name == "recipient":
            return SqlCell((Message.channel, Message.recipient), recipient_shown)
        if column.name in {"subject", "body"}:
            return SqlCell((getattr(Message, column.name), Message.tags), text_shown)
        if column.name == "error":
            return SqlCell((Message.channel, Message.recipient, Message.error), _error_shown)
        if column.name == "rule":
            return SqlCell((_rule_id(),), labels_of(MailingRule).get)
        if column.name == "bill":
            first = joins.to(Message.bill)
            return SqlCell((first.year, first.number, _further()), _titles)
        return super().sql_cell(column, joins)

    def details_columns(self, row: Any) -> list[GridColumn]:
        columns = super().details_columns(row)
        return [replace(column, kind=BillsKind()) if column.name == "bill" else column for column in columns]

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if isinstance(column.kind, BillsKind):
            return bills_shown(row, column.kind.most)
        return super().cell(row, column)

    def loader_options(self) -> list[Any]:
        of_run = sa.orm.selectinload(Message.run).selectinload(MailingRun.rule)
        of_bills = (sa.orm.selectinload(Message.bill), sa.orm.selectinload(Message.further_bills))
        return [*super().loader_options(), of_run, *of_bills, sa.orm.selectinload(Message.branch)]

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "resend",
                _l("Send once more"),
                "send",
                _l("Only messages that were not sent, or may not have been, are sent again."),
                self._resend,
                is_dangerous=False,
            )
        ]

    @staticmethod
    def _resend(ids: list[int]) -> list[ProtocolLine]:
        lines = []
        for message in db.session.scalars(sa.select(Message).where(Message.id.in_(ids)).order_by(Message.id)):
            error: DomainError | None = None
            try:
                if not resend_messages([message], by=current_user):
                    text = _("Not sent again: %(status)s", status=message.status.label)
                    error = NothingToDo("not_resent", text)
            except DomainError as refused:
                error = refused
            text = text_shown(message.subject or message.body[:80], message.tags)
            label = f"{_recipient_of(message) or message.client.shown_name}: {text}"
            lines.append(ProtocolLine.after(message.id, label, error))
        return lines

    def search_condition(self, text: str) -> Any:
        """By the client, or by where it went, of what this person sees."""
        by_client = client_matches(Message.client_id, text, by=current_user)
        hidden = _hidden_of_cards()
        channels = [channel for channel, fields in _FIELDS.items() if not fields & hidden]
        if "recipient" in self.field_rules().hidden or not channels:
            return by_client
        by_recipient = sa.and_(Message.recipient.icontains(text, autoescape=True), Message.channel.in_(channels))
        return sa.or_(by_client, by_recipient)
