"""Where the public sees a bill, and taking that back."""

from __future__ import annotations

import secrets

from flask import current_app
from flask_babel import gettext as _

from crm import clock
from crm.access.actors import Actor, require
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import lock_bill
from crm.db import db
from crm.errors import DomainError


def bill_url(bill: Bill) -> str:
    """Absolute address of the bill's public page."""
    return pay_url(bill.token)


def pay_url(token: str) -> str:
    """Absolute address of the page behind a token: of a bill, or of several at once."""
    return f"{current_app.config['SETTINGS'].public_url}/pay/{token}"


def new_token() -> str:
    """192 random bits for an address nobody can guess."""
    return secrets.token_urlsafe(24)


def revoke_link(bill: Bill, *, by: Actor) -> Bill:
    """Make the bill's link lead nowhere from now on, and take the bill off the pages of links to several; the bill
    itself stays as it is. Of a link that is revoked already, nothing changes. The caller commits.
    """
    require(by, "bill.issue", bill)
    lock_bill(bill)
    if bill.link_revoked_at is None:
        bill.link_revoked_at = clock.now()
        db.session.flush()
    return bill


def renew_link(bill: Bill, *, by: Actor) -> Bill:
    """Give the bill a new link; the one it had leads nowhere from now on. The caller commits.

    Raises DomainError "archived": such a bill is not paid by any link.
    """
    require(by, "bill.issue", bill)
    lock_bill(bill)
    if bill.status is BillStatus.ARCHIVED:
        raise DomainError("archived", _("The bill is in the archive: it cannot be paid by any link."))
    bill.token, bill.link_revoked_at = new_token(), None
    db.session.flush()
    return bill
