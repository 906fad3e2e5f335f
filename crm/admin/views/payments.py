"""Payments received and started."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm.admin.base import KontoraView
from crm.clients.queries import client_matches
from crm.payments.models import Payment, PaymentMethod, PaymentStatus


class PaymentView(KontoraView):
    entity = "payment"
    icon = "cash-coin"
    column_list = (
        *("id", "client", "amount", "method", "status", "bill", "account", "created_at", "received_at", "author_name"),
        "branch",
    )
    column_details_list = (*column_list, "comment")
    column_filters = ("client", "status", "method", "amount", "received_at", "branch")
    column_totals = ("amount",)
    totals_label = _l("Total received")
    column_default_sort = "-id"
    empty_hint = _l("Payments appear when accounts are topped up and bills are paid.")
    has_search = True

    def counted_in_totals(self) -> Any:
        """Money from outside: not what was only begun or canceled, nor what moved between a client's accounts."""
        return sa.and_(Payment.status == PaymentStatus.SUCCEEDED, Payment.method != PaymentMethod.ACCOUNT)

    def search_condition(self, text: str) -> Any:
        return client_matches(Payment.client_id, text, by=current_user)
