"""A browser that wants notifications gives its subscription here, from the client's page of messages."""

from __future__ import annotations

import json

from flask import request

from crm.clients.names import discreet_name
from crm.contacts.models import Channel
from crm.contacts.operations import link_contact
from crm.contacts.queries import client_by_token
from crm.db import transaction
from crm.mailings.channels.push import SubscriptionError, read_subscription
from crm.mailings.providers import push_key, push_services
from crm.public.frame import public_blueprint, render
from crm.public.guessing import note_miss

MAX_BYTES = 8 * 2**10

blueprint = public_blueprint("push", __name__)


@blueprint.get("/messages/<token>/push")
def page(token: str) -> str | tuple[str, int]:
    """The button; its script asks the browser."""
    client, key = client_by_token(token), push_key()
    if client is None or not key:
        return _missing()
    name = discreet_name(client.name)
    return render("public/push.html", token=token, push_key=key, company=client.branch.company, name=name)


@blueprint.post("/messages/<token>/push")
def subscribe(token: str) -> tuple[str, int]:
    """204: connected. 400: no subscription of a browser we know. 404: no such page of messages."""
    request.max_content_length = MAX_BYTES
    try:
        text = json.dumps(json.loads(request.get_data()), separators=(",", ":"))
        read_subscription(text, push_services())
    except (ValueError, RecursionError, SubscriptionError):
        return "no push subscription", 400
    with transaction():
        client = link_contact(token, Channel.PUSH, text)
    return _missing() if client is None else ("", 204)


def _missing() -> tuple[str, int]:
    note_miss(request.remote_addr or "")
    return "no such page", 404
