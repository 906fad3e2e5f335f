"""The central page, «Обзор > Сводка»: search, what waits, today's money, whom to ask. And the search results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import g, redirect, request, url_for
from flask_admin import AdminIndexView, expose
from flask_babel import format_decimal
from flask_babel import gettext as _
from flask_login import current_user

from crm import clock
from crm.access.fields import field_rules
from crm.access.models import Branch
from crm.access.queries import support_contacts
from crm.admin.base import grid_url
from crm.admin.finding import commands, find_records
from crm.admin.rights import rights_of_person
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import find_clients
from crm.db import db
from crm.debts.queries import in_debt
from crm.i18n import money
from crm.ledger.models import Account
from crm.payments.models import PaymentMethod
from crm.payments.resolving import NEEDS_ATTENTION, count_unresolved
from crm.schedule.models import Waiting
from crm.schedule.queries import count_lessons_today
from crm.security import chosen_branch
from crm.tasks.queries import open_tasks
from crm.tills.queries import clients_money, shifts_now
from crm.visits.models import Visit, VisitStatus


@dataclass(frozen=True)
class Tile:
    """A figure of the summary, and where what it counts is found."""

    label: Any
    value: str
    url: str | None
    css: str = ""


# What of the payments grid went through which kind of till.
_METHODS = {method.till_kind: method for method in PaymentMethod if method is not PaymentMethod.ACCOUNT}


def _today(branch: Branch) -> Iterator[Tile]:
    """Today's money of a branch's clients by the way it came, and what was given back."""
    if not current_user.may("payment.view") or "amount" in field_rules(current_user, "payment").hidden:
        return
    day = clock.today(branch)
    first, end = (clock.at(day + timedelta(days), time(0), branch) for days in (0, 1))
    sums = clients_money(branch.id, first, end)
    for kind, (received, _given_back) in sums.items():
        method = _METHODS[kind]
        args = {"f.method.is": method.value, "f.received_at.period": "today", "f.status.is": "succeeded"}
        yield Tile(method.label, money(received), grid_url("payment", **args))
    if given_back := sum((given_back for _received, given_back in sums.values()), Decimal(0)):
        args = {"f.kind.is": "refund", "f.happened_at.period": "today"}
        yield Tile(
            _("Refunds"), money(given_back), grid_url("entry", **args) if current_user.may("entry.view") else None
        )


class HomeView(AdminIndexView):
    def __init__(self) -> None:
        super().__init__(name="Kontora", template="admin/home.html")

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if not current_user.is_authenticated:
            return redirect(url_for("access.login", next=request.full_path))
        return None

    @expose("/")
    def index(self) -> Any:
        """«Обзор > Сводка»: of the chosen branch, or of all this person sees."""
        branch = chosen_branch()
        return self.render(
            "admin/home.html",
            tiles=list(self._tiles()),
            branch=branch,
            today=list(_today(branch)) if branch is not None else [],
            shifts=shifts_now(branch.id) if branch is not None and current_user.may("till.view") else [],
            support=support_contacts(),
            tasks=open_tasks(current_user, branch) if current_user.may("task.view") else None,
            whence="home",
            who=True,
            waiting=self._waiting(),
        )

    def _waiting(self) -> int | None:
        """How many wait; None where no list is kept, or he does not see it."""
        view = next(view for view in self.admin._views if getattr(view, "entity", None) == "waiting")
        if not view.is_accessible():
            return None
        waiting = view.within_sight(sa.select(sa.func.count()).select_from(Waiting))
        return db.session.scalar(waiting) or 0

    def _tiles(self) -> Iterator[Tile]:
        """What waits, and where it is."""
        if current_user.may("client.view"):
            active = self._count(Client, Client.status == ClientStatus.ACTIVE)
            yield Tile(_("Clients"), format_decimal(active), url_for("client.index_view"))
        if current_user.may("visit.view"):
            view = next(view for view in self.admin._views if getattr(view, "entity", None) == "visit")
            today = view.column("starts_at").kind.within(Visit.starts_at, "today", view.here())
            expected = self._count(Visit, sa.and_(today, Visit.status != VisitStatus.CANCELED))
            url = grid_url("visit", **{"f.starts_at.period": "today", "f.status.not": "canceled"})
            yield Tile(_("Visits today"), format_decimal(expected), url)
        if current_user.may("lesson.view"):
            here = chosen_branch()
            count = count_lessons_today([here] if here else g.branches, by=current_user)
            label = _("Lessons today") if current_user.may("lesson.all") else _("My lessons today")
            yield Tile(label, format_decimal(count), url_for("calendar.index_view", span="day"))
        if current_user.may("bill.view"):
            pending = self._count(Bill, Bill.status == BillStatus.PENDING)
            url = grid_url("bill", **{"f.status.is": "pending"})
            yield Tile(_("Bills awaiting payment"), format_decimal(pending), url)
        if current_user.may("payment.resolve") and (waiting := count_unresolved()):
            yield Tile(
                _("Payments that need attention"),
                format_decimal(waiting),
                grid_url("payment", **dict(NEEDS_ATTENTION)),
                css="debt",
            )
        if current_user.may("account.view"):
            url = grid_url("account", **{"f.balance.to": "-0.01", "sort": "balance"})
            if current_user.may("debtor.view"):
                url = url_for("debtor.index_view")
            debtors = db.session.scalar(sa.select(sa.func.count(Account.client_id.distinct())).where(in_debt()))
            yield Tile(_("Clients in debt"), format_decimal(debtors or 0), url)
            if "balance" not in field_rules(current_user, "account").hidden:
                owed = db.session.scalar(sa.select(sa.func.coalesce(sa.func.sum(-Account.balance), 0)).where(in_debt()))
                yield Tile(_("Owed by clients"), money(Decimal(owed or 0)), url, css="debt" if owed else "")

    @expose("/search/")
    def search(self) -> Any:
        """Everything that is found; a single client opens at once."""
        text = request.args.get("q", "").replace("\x00", "").strip()[:200]
        found = find_clients(text, limit=2, by=current_user) if current_user.may("client.view") else []
        if len(found) == 1:
            return redirect(url_for("client.card_view", id=found[0].id))
        groups = find_records(self.admin, text, limit=25)
        return self.render("admin/search.html", text=text, groups=groups, commands=commands(self.admin, text))

    @expose("/palette/")
    def palette(self) -> Any:
        """The inside of the palette for a text: records of several kinds, and what can be done."""
        text = request.args.get("q", "").replace("\x00", "").strip()[:200]
        lines = commands(self.admin, text)
        return self.render(
            "admin/palette.html",
            groups=find_records(self.admin, text, limit=6),
            commands=lines[:8] if text else lines[:12],
            text=text,
            next_page=request.args.get("next", ""),
        )

    @expose("/rights/")
    def rights(self) -> Any:
        """What I can do here, and why."""
        return self.render("admin/rights.html", **rights_of_person(self.admin._views, current_user))

    @staticmethod
    def _count(model: Any, condition: Any) -> int:
        return db.session.scalar(sa.select(sa.func.count()).select_from(model).where(condition)) or 0
