"""The pages of the demo bank: what a client would see at a real one. Its book is in payments/gateways/demo.py."""

from __future__ import annotations

from flask import abort, redirect, request
from werkzeug.wrappers import Response

from crm.payments.gateways import open_gateway
from crm.payments.gateways.base import RemoteStatus
from crm.payments.gateways.demo import BankForm, DemoGateway
from crm.public.frame import public_blueprint, render

DECISIONS = {"pay": RemoteStatus.SUCCEEDED, "decline": RemoteStatus.CANCELED}

blueprint = public_blueprint("demo_bank", __name__)


@blueprint.get("/demo-bank/<external_id>")
def form(external_id: str) -> str:
    """The bank's form: how much, for what; pay, decline or close."""
    return render("public/demo_bank.html", form=_form(_bank(), external_id), RemoteStatus=RemoteStatus)


@blueprint.post("/demo-bank/<external_id>")
def decide(external_id: str) -> Response:
    """Note the decision, call the shop's webhook, lead the client back. Closing decides nothing."""
    bank = _bank()
    shown = _form(bank, external_id)
    choice = request.form.get("choice")
    if choice != "close":
        if choice not in DECISIONS:
            abort(400)
        if bank.decide(external_id, DECISIONS[choice]):
            bank.notify(external_id)
    return redirect(shown.return_url)


def _bank() -> DemoGateway:
    try:
        bank = open_gateway(DemoGateway.name)
    except LookupError:
        abort(404)
    assert isinstance(bank, DemoGateway)
    return bank


def _form(bank: DemoGateway, external_id: str) -> BankForm:
    if "\x00" in external_id:  # PostgreSQL takes no NUL in a text
        abort(404)
    return bank.read_form(external_id) or abort(404)
