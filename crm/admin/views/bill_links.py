"""A bill's link, and links for several bills at once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import abort, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm.admin.base import KontoraView, permission
from crm.admin.fields import Form
from crm.admin.selection import Selection
from crm.bills.bundles import MOST, bundle_bills, bundle_url, bundles_with, check_bundle, revoke_bundle
from crm.bills.links import renew_link, revoke_link
from crm.bills.models import Bill, BillBundle
from crm.bills.operations import check_payable
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError


def is_payable(bill: Bill) -> bool:
    """Whether it can be paid now by a link to several bills."""
    if bill.link_revoked_at is not None:
        return False
    try:
        check_payable(bill)
    except DomainError:
        return False
    return True


def due_of(bundle: BillBundle) -> Decimal:
    """What its link asks for now."""
    return sum((bill.due for bill in bundle.bills if is_payable(bill)), Decimal(0))


def _revoking(bill: Bill) -> str:
    """What revoking the link of a bill means."""
    said = _("Whoever has the link will not be able to open the bill. A new link can be issued at any time.")
    if bundles_with(bill):
        said += " " + _("It disappears from the link for several bills, too, until it has a new link of its own.")
    return said


class BillLinksView(KontoraView):
    """Of the view of bills."""

    @expose("/link/revoke/", methods=("GET", "POST"))
    @permission("issue")
    def revoke_link_view(self) -> Any:
        bill = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form),
            lambda: revoke_link(bill, by=current_user),
            title=_("Revoke the link of bill %(number)s?", number=bill.title),
            back=self.row_url(bill),
            said=_l("The link is revoked: it leads nowhere now."),
            warning=_revoking(bill),
            submit=_("Revoke the link"),
        )

    @expose("/link/renew/", methods=("GET", "POST"))
    @permission("issue")
    def renew_link_view(self) -> Any:
        bill = self.get_one(request.values.get("id"))
        return self.answer(
            Form(request.form),
            lambda: renew_link(bill, by=current_user),
            title=_("Issue a new link for bill %(number)s?", number=bill.title),
            back=self.row_url(bill),
            said=_l("The bill has a new link. Copy it and send it to the client."),
            warning=_("The link the client has got, on paper or in a message, will not work any more."),
            submit=_("Issue a new link"),
        )

    # --- several bills at once --------------------------------------------------------------------------------------

    def _together_url(self, selection: Selection) -> str:
        """The page that makes one link for ticked bills. It is told of one too many, and says so."""
        ids = db.session.scalars(selection.aggregate(Bill.id).order_by(Bill.id).limit(MOST + 1))
        return url_for("bill.together_view", id=list(ids))

    @expose("/together/", methods=("GET", "POST"))
    @permission("issue")
    def together_view(self) -> Any:
        """«Одна ссылка на несколько счетов»: ?id= of each."""
        bills = [self.get_one(id) for id in dict.fromkeys(request.args.getlist("id"))]
        payer = bills[0].client if bills else None
        refusal = None
        try:
            check_bundle(bills)
        except DomainError as error:
            refusal = str(error)
        return self.answer(
            Form(request.form),
            lambda: bundle_bills(bills, by=current_user),
            title=_("One link for several bills"),
            subtitle=payer.shown_name if payer is not None else None,
            template="admin/bills_together.html",
            back=self._bills_of(payer),
            done=lambda bundle: url_for("bill.bundle_view", bundle=bundle.id),
            said=_l("Copy the link and send it to the client."),
            bills=bills,
            refusal=refusal if request.method == "GET" else None,
            is_possible=refusal is None,
            submit=_("Get the link"),
        )

    @expose("/together/<bundle>/")
    @permission("view")
    def bundle_view(self, bundle: str) -> Any:
        """A link for several bills, to be copied."""
        found = self._bundle(bundle)
        return self.render(
            "admin/bundle.html",
            bundle=found,
            url=bundle_url(found),
            back=self._bills_of(found.client),
            is_payable=is_payable,
            due=due_of(found),
        )

    @expose("/together/<bundle>/revoke/", methods=("GET", "POST"))
    @permission("issue")
    def revoke_bundle_view(self, bundle: str) -> Any:
        found = self._bundle(bundle)
        return self.answer(
            Form(request.form),
            lambda: revoke_bundle(found, by=current_user),
            title=_("Revoke the link for several bills?"),
            subtitle=", ".join(bill.title for bill in found.bills),
            back=url_for("bill.bundle_view", bundle=found.id),
            done=lambda done: self._bills_of(done.client),
            said=_l("The link is revoked: it leads nowhere now."),
            warning=_("Whoever has the link will not be able to open it. The bills keep the links of their own."),
            submit=_("Revoke the link"),
        )

    def _bundle(self, id: str) -> BillBundle:
        found = None
        if id.isascii() and id.isdigit() and len(id) < 19:
            found = db.session.scalar(sa.select(BillBundle).where(BillBundle.id == int(id)))
        return found or abort(404)

    def _bills_of(self, payer: Client | None) -> str:
        """The card's bills; the grid when the card is out of sight."""
        if payer is None or not current_user.may("client.view"):
            return self.get_url(".index_view")
        return url_for("client.card_view", id=payer.id, tab="bills")
