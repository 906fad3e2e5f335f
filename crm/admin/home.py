"""The central page: search, what waits, where to go. And the search results."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import redirect, request, url_for
from flask_admin import AdminIndexView, expose
from flask_babel import gettext as _
from flask_login import current_user

from crm.admin.base import grid_url
from crm.admin.finding import commands, find_records
from crm.admin.rights import rights_of_person
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import find_clients
from crm.db import db
from crm.ledger.models import Account, AccountKind
from crm.security import chosen_branch


class HomeView(AdminIndexView):
    def __init__(self) -> None:
        super().__init__(name="Kontora", template="admin/home.html")

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if not current_user.is_authenticated:
            return redirect(url_for("access.login", next=request.full_path))
        return None

    @expose("/")
    def index(self) -> Any:
        tiles = []
        if current_user.may("client.view"):
            tiles.append(
                (_("Clients"), self._count(Client, Client.status == ClientStatus.ACTIVE), url_for("client.index_view"))
            )
        if current_user.may("bill.view"):
            pending = Bill.status == BillStatus.PENDING
            tiles.append(
                (
                    _("Bills awaiting payment"),
                    self._count(Bill, pending),
                    grid_url("bill", **{"f.status.is": "pending"}),
                )
            )
        if current_user.may("account.view"):
            debtors = sa.and_(Account.kind == AccountKind.BASE, Account.balance < 0)
            url = grid_url("account", **{"f.balance.to": "-0.01", "sort": "balance"})
            tiles.append((_("Clients in debt"), self._count(Account, debtors), url))
        return self.render("admin/home.html", tiles=tiles, branch=chosen_branch())

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
