"""A client's own page of messages: those of his cabinet, what he takes, which bots he can connect, taking leave in one
click.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import g, redirect, request, url_for
from flask_babel import gettext as _
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from crm.access.models import Company
from crm.audit.origin import Origin, set_origin
from crm.clients.models import Client
from crm.clients.names import discreet_name
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import CLIENT, choose
from crm.contacts.queries import ContactState, choices_of, client_by_token, ways_of
from crm.db import db, transaction
from crm.errors import NotFound
from crm.mailings.cabinet import cabinet_messages, is_unread, read_messages
from crm.mailings.models import Provider
from crm.mailings.providers import push_key
from crm.public.frame import public_blueprint, render
from crm.public.guessing import note_miss

blueprint = public_blueprint("messages", __name__)

TEMPLATE = "public/messages.html"


@dataclass(frozen=True)
class Bot:
    """A bot of the company. url: where the client links himself to it."""

    channel: Channel
    url: str
    state: ContactState


@blueprint.before_request
def _act_as_client() -> None:
    """What is changed here is told as the client's own doing."""
    set_origin(Origin(CLIENT, f"request:{g.request_id}"))


@blueprint.get("/messages/<token>")
def page(token: str) -> str:
    """His messages and what he takes; with ?saved=1 also that it has been noted."""
    client = _client(token)
    messages = cabinet_messages(client)
    return _render(
        "page",
        client,
        token,
        unread=[message for message in messages if is_unread(message)],
        read=[message for message in messages if not is_unread(message)],
        choices=choices_of(client),
        bots=_bots(client, token),
        has_push=bool(push_key()),
    )


@blueprint.post("/messages/<token>/read")
def read(token: str) -> BaseResponse:
    """Note that he has read the messages the page has shown him."""
    client = _client(token)
    ids = [int(text) for text in request.form.getlist("id") if text.isascii() and text.isdigit() and len(text) < 19]
    with transaction():
        read_messages(client, ids)
    return redirect(url_for("messages.page", token=token), 303)


@blueprint.post("/messages/<token>")
def save(token: str) -> BaseResponse:
    """Note what the page's form has ticked; what is as it was is not noted anew."""
    client, ticked = _client(token), set(request.form.getlist("kind"))
    with transaction():
        for kind, is_allowed in choices_of(client).items():
            if (kind.value in ticked) is not is_allowed:
                choose(client, kind, kind.value in ticked, by=None)
    return redirect(url_for("messages.page", token=token, saved=1), 303)


@blueprint.get("/messages/<token>/unsubscribe/<kind>")
def confirm(token: str, kind: str) -> str:
    """Only asks: mail programs open links by themselves to look at what is behind them."""
    client, found = _client(token), _kind(kind)
    return _render("confirm" if choices_of(client)[found] else "done", client, token, kind=found)


@blueprint.post("/messages/<token>/unsubscribe/<kind>")
def unsubscribe(token: str, kind: str) -> str:
    """Forbid messages of a kind: by the button of the page, or in one click of a mail program (RFC 8058), which follows
    no redirects and reads nothing but the status.
    """
    client, found = _client(token), _kind(kind)
    with transaction():
        choose(client, found, False, by=None)
    return _render("done", client, token, kind=found)


@blueprint.errorhandler(NotFound)
def show_missing(_error: NotFound) -> tuple[str, int] | tuple[str, int, dict[str, str]]:
    """The same page for a link that never was and one cut short."""
    if (seconds := note_miss(request.remote_addr or "")) is not None:
        text = _("Too many links that lead nowhere were opened from your network. Wait a few minutes and try again.")
        return render(TEMPLATE, step="missing", message=text), 429, {"Retry-After": str(seconds)}
    return render(TEMPLATE, step="missing", message=_("There is no such page. Check the link.")), 404


def _client(token: str) -> Client:
    client = client_by_token(token)
    if client is None:
        raise NotFound("messages_not_found", "")
    return client


def _kind(value: str) -> MessageKind:
    for kind in MessageKind:
        if kind.value == value and not kind.is_forbidden_by_nobody:
            return kind
    raise NotFound("kind_not_found", "")


def _bots(client: Client, token: str) -> list[Bot]:
    """Those of the client's company that tell where they are found."""
    states = {way.channel: way.state for way in ways_of(client)}
    rows = select(Provider).where(
        Provider.company_id == client.branch.company_id,
        Provider.channel.in_([Channel.TELEGRAM, Channel.VIBER]),
        Provider.is_active,
    )
    found = [
        (provider.channel, bot_url(provider, token)) for provider in db.session.scalars(rows.order_by(Provider.id))
    ]
    return [Bot(channel, url, states[channel]) for channel, url in found if url]


def bot_url(provider: Provider, token: str) -> str | None:
    """The deep link by which a bot is told whose chat it is; None where the provider does not name the bot."""
    name = str(provider.options.get("bot") or "").lstrip("@")
    if not name:
        return None
    if provider.channel is Channel.TELEGRAM:
        return f"https://t.me/{name}?start={token}"
    return f"viber://pa?chatURI={name}&context={token}"


def _render(step: str, client: Client, token: str, **values: object) -> str:
    company: Company = client.branch.company
    return render(
        TEMPLATE,
        step=step,
        token=token,
        company=company,
        branch=client.branch,
        name=discreet_name(client.name),
        is_saved=step == "page" and "saved" in request.args,
        **values,
    )
