"""Where the public sees a bill."""

from __future__ import annotations

from flask import current_app

from crm.bills.models import Bill


def bill_url(bill: Bill) -> str:
    """Absolute address of the bill's public page."""
    return f"{current_app.config['SETTINGS'].public_url}/pay/{bill.token}"
