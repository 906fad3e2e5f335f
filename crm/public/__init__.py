"""Pages for clients, webhooks in. No one signs in here: an unguessable token in the address is the only key."""

from __future__ import annotations

from flask import Flask
from flask_wtf import CSRFProtect

from crm.public import bills, channel_webhooks, demo_bank, demo_mail, deposit, frame, messages, push, webhooks


def register(app: Flask, csrf: CSRFProtect) -> None:
    """Attach the public pages."""
    # No CSRF token here, on purpose: nothing on these pages rests on a session or a cookie, so there is no authority a
    # foreign site could borrow. Who knows the token may start a payment, and starting one moves no money (one from the
    # payer's own account takes a code sent to him, and what a right code opens comes back signed); a cookie for
    # the token's sake would only shut out clients whose mail app keeps none. Webhooks bring a signature instead.
    for page in (bills, channel_webhooks, demo_bank, deposit, messages, push, webhooks):
        csrf.exempt(page.blueprint)
        app.register_blueprint(page.blueprint)
    demo_mail.register(app)
    frame.register(app)
