"""Plans and subscriptions sold."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask_babel import lazy_gettext as _l

from crm.admin.base import KontoraView
from crm.clients.models import Client
from crm.clients.queries import matches_text
from crm.subscriptions.models import Subscription


class PlanView(KontoraView):
    entity = "plan"
    icon = "card-list"
    column_list = ("name", "price", "lessons", "duration_days", "is_archived")
    column_searchable_list = ("name",)
    column_default_sort = "name"
    form_columns = ("name", "price", "lessons", "duration_days", "is_archived")
    creates = edits = True
    create_label = _l("Add a plan")


class SubscriptionView(KontoraView):
    entity = "subscription"
    icon = "calendar-check"
    column_list = ("id", "client", "plan", "price", "lessons", "starts_on", "ends_on", "status", "sold_at", "branch")
    column_filters = ("plan", "status", "price", "starts_on", "ends_on", "branch")
    column_totals = ("price",)
    column_default_sort = "-id"
    empty_hint = _l("Subscriptions are sold from a client's card.")
    has_search = True

    def search_condition(self, text: str) -> Any:
        return Subscription.client_id.in_(sa.select(Client.id).where(matches_text(text)))
