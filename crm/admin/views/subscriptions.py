"""Subscriptions sold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm.admin.base import KontoraView, QuickFilter
from crm.admin.views.debts import unpaid_subscriptions
from crm.audit.bulk import Change
from crm.clients.queries import client_matches
from crm.subscriptions.models import Subscription
from crm.subscriptions.operations import changing_subscriptions


class SubscriptionView(KontoraView):
    entity = "subscription"
    icon = "calendar-check"
    column_list = (
        *("id", "client", "plan", "price", "discount", "lessons", "starts_on", "ends_on", "status", "sold_at"),
        "branch",
    )
    column_filters = ("client", "plan", "status", "price", "discount", "starts_on", "ends_on", "branch")
    column_totals = ("price", "discount")
    edits = edits_own_fields_only = True
    column_default_sort = "-id"
    details_template = "admin/subscription.html"
    empty_hint = _l("Subscriptions are sold from a client's card.")
    has_search = True

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Sold this month"), (("f.sold_at.period", "this_month"),)),
            QuickFilter(_l("Ending in 30 days"), (("f.ends_on.period", "next_30_days"),)),
        ]

    def search_condition(self, text: str) -> Any:
        return client_matches(Subscription.client_id, text, by=current_user)

    def details_context(self, row: Subscription) -> dict[str, Any]:
        unpaid = unpaid_subscriptions([row.id])
        return {"debt": None if unpaid is None else unpaid.get(row.id, Decimal(0))}

    def bulk_change(self, **values: Any) -> Change:
        return changing_subscriptions(values, by=current_user)
