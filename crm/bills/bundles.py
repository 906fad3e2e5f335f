"""Several bills of one payer under one link."""

from __future__ import annotations

from collections.abc import Sequence

from flask_babel import gettext as _
from sqlalchemy import func, select
from sqlalchemy.orm import selectinload

from crm import clock
from crm.access.actors import Actor, require
from crm.bills.links import new_token, pay_url
from crm.bills.models import Bill, BillBundle, bill_bundle_bill
from crm.bills.operations import check_payable
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError

FEWEST, MOST = 2, 50  # bills under one link


def bundle_url(bundle: BillBundle) -> str:
    """Absolute address of the page its bills are paid on."""
    return pay_url(bundle.token)


def bundles_of(client_id: int) -> list[BillBundle]:
    """The links a payer's bills can be paid by together, the newest first, with their bills; not those revoked."""
    query = (
        select(BillBundle)
        .where(BillBundle.client_id == client_id, BillBundle.link_revoked_at.is_(None))
        .options(selectinload(BillBundle.bills))
        .order_by(BillBundle.id.desc())
    )
    return list(db.session.scalars(query))


def bundles_with(bill: Bill) -> list[BillBundle]:
    """The links a bill can be paid by together with others, the newest first; not those revoked."""
    holding = select(bill_bundle_bill.c.bundle_id).where(bill_bundle_bill.c.bill_id == bill.id)
    query = select(BillBundle).where(BillBundle.id.in_(holding), BillBundle.link_revoked_at.is_(None))
    return list(db.session.scalars(query.order_by(BillBundle.id.desc())))


def check_bundle(bills: Sequence[Bill]) -> None:
    """Raise DomainError with the reason why these cannot be paid by one link: fewer than two or more than fifty, of
    several payers or branches, one whose own link was taken back, or one that cannot be paid now.
    """
    if not FEWEST <= len({bill.id for bill in bills}) <= MOST:
        raise DomainError(
            "bundle_size", _("Choose from %(fewest)s to %(most)s bills for one link.", fewest=FEWEST, most=MOST)
        )
    if len({bill.client_id for bill in bills}) > 1:
        raise DomainError("bundle_payers", _("One link is for the bills of one payer. Choose his alone."))
    if len({bill.branch_id for bill in bills}) > 1:
        raise DomainError("bundle_branches", _("One link is for the bills of one branch. Choose its bills alone."))
    for bill in bills:
        if bill.link_revoked_at is not None:
            text = _("The link of bill %(number)s is revoked. Issue a new one first.", number=bill.title)
            raise DomainError("bundle_revoked", text)
        try:
            check_payable(bill)
        except DomainError as error:
            text = _("Bill %(number)s cannot be paid: %(reason)s", number=bill.title, reason=error)
            raise DomainError("bundle_unpayable", text) from None


def bundle_bills(bills: Sequence[Bill], *, by: Actor) -> BillBundle:
    """One link for these bills. For the same bills again, the link they have, while it stands. The caller commits.

    Raises DomainError as check_bundle() does.
    """
    for bill in bills:
        require(by, "bill.issue", bill)
    check_bundle(bills)
    first = bills[0]
    # Of two who ask at once, the second is given the link of the first.
    db.session.execute(select(Client.id).where(Client.id == first.client_id).with_for_update(key_share=True))
    return _standing(bills) or _bundle(bills, by)


def _standing(bills: Sequence[Bill]) -> BillBundle | None:
    ids = {bill.id for bill in bills}
    members = bill_bundle_bill.c
    of_these = (
        select(members.bundle_id)
        .where(members.bundle_id.in_(select(members.bundle_id).where(members.bill_id == min(ids))))
        .group_by(members.bundle_id)
        .having(func.count() == len(ids), func.count().filter(members.bill_id.in_(ids)) == len(ids))
    )
    standing = select(BillBundle).where(BillBundle.id.in_(of_these), BillBundle.link_revoked_at.is_(None))
    return db.session.scalar(standing.order_by(BillBundle.id).limit(1))


def _bundle(bills: Sequence[Bill], by: Actor) -> BillBundle:
    bundle = BillBundle(
        branch_id=bills[0].branch_id,
        client_id=bills[0].client_id,
        token=new_token(),
        created_at=clock.now(),
        author_id=by.id,
        bills=sorted({bill.id: bill for bill in bills}.values(), key=lambda bill: bill.id),
    )
    db.session.add(bundle)
    db.session.flush()
    return bundle


def revoke_bundle(bundle: BillBundle, *, by: Actor) -> BillBundle:
    """Make the link lead nowhere from now on; each bill keeps its own. The caller commits."""
    require(by, "bill.issue", bundle)
    if bundle.link_revoked_at is None:
        bundle.link_revoked_at = clock.now()
        db.session.flush()
    return bundle
