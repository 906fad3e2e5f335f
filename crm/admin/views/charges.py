"""«Расходы на сообщения»: what the messages of each company have cost."""

from __future__ import annotations

from typing import Any

from flask import url_for
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user

from crm.admin.base import KontoraView, QuickFilter
from crm.clients.queries import client_matches
from crm.mailings.charges import Charge


class ChargeView(KontoraView):
    entity = "messagecharge"
    icon = "coin"
    column_list = ("at", "client", "channel", "kind", "amount", "author_name", "company", "branch")
    column_labels = {"at": _lp("message", "Sent"), "kind": _l("Type of the message")}
    column_filters = ("at", "channel", "kind", "client", "company", "branch", "amount", "author_name")
    column_sortable_list = ("at",)
    column_totals = ("amount",)
    column_default_sort = "-at"
    empty_hint = _l(
        "What messages have cost stands here, at the price of the mailing channel. Letters and push notifications are "
        "free."
    )
    has_search = True

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Today"), (("f.at.period", "today"),)),
            QuickFilter(_l("This month"), (("f.at.period", "this_month"),)),
        ]

    def search_condition(self, text: str) -> Any:
        return client_matches(Charge.client_id, text, by=current_user)

    def row_url(self, row: Any) -> str:
        """The message itself, to whom sees messages."""
        if self.may("message.view"):
            return url_for("message.details_view", id=row.message_id)
        return super().row_url(row)
