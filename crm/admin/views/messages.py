"""All messages to clients, over all channels, and what became of each."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup

from crm.admin.base import BulkAction, KontoraView
from crm.admin.kinds import Kind, Place
from crm.clients.queries import client_matches
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import Message
from crm.mailings.operations import resend_messages
from crm.phones import format_phone
from crm.protocol import ProtocolLine


class RecipientKind(Kind):
    """An e-mail address or a phone."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return format_phone(value) if value and value.startswith("+") else super().show(value, place)


class MessageView(KontoraView):
    entity = "message"
    icon = "envelope"
    column_list = (
        "created_at",
        "client",
        "channel",
        "recipient",
        "subject",
        "body",
        "status",
        "sent_at",
        "error",
        "author_name",
    )
    column_details_list = (
        *("created_at", "client", "bill", "channel", "recipient", "subject", "body", "status", "attempts"),
        *("sent_at", "error", "external_id", "author_name"),
    )
    column_filters = ("status", "channel", "created_at", "sent_at")
    column_sortable_list = ("created_at", "client", "recipient", "status", "sent_at", "author_name")
    column_default_sort = "-id"
    column_kinds = {"recipient": RecipientKind()}
    column_labels = {"external_id": _l("The provider's number")}
    empty_hint = _l("Letters and SMS to clients appear here, with their fate.")
    has_search = True

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
            try:
                is_queued = resend_messages([message], by=current_user)
                refusal = None if is_queued else _("Not sent again: %(status)s", status=message.status.label)
            except DomainError as error:
                refusal = str(error)
            label = f"{message.recipient}: {message.subject or message.body[:80]}"
            lines.append(ProtocolLine(message.id, label, refusal))
        return lines

    def search_condition(self, text: str) -> Any:
        by_client = client_matches(Message.client_id, text, by=current_user)
        if "recipient" in self.field_rules().hidden:
            return by_client
        return sa.or_(by_client, Message.recipient.icontains(text, autoescape=True))
