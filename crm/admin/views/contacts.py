"""Of a client's card: the icons of all ways to reach him, their menus, and which messages he takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import abort, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_login import current_user
from markupsafe import Markup

from crm.admin.base import KontoraView, permission
from crm.admin.fields import Form
from crm.admin.kinds import EnumKind
from crm.clients.models import Client
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, contact_url, detach_contact, set_contact
from crm.contacts.queries import ChoiceState, ContactState, ContactWay, choices_of, ways_of

ICONS = {
    Channel.EMAIL: "envelope-fill",
    Channel.SMS: "chat-left-text-fill",
    Channel.WHATSAPP: "whatsapp",
    Channel.TELEGRAM: "telegram",
    Channel.VIBER: "chat-dots-fill",
    Channel.PUSH: "bell-fill",
    Channel.CABINET: "person-badge-fill",
}
# What a channel goes by; where a role does not see that, it does not see the channel either.
_FIELD = {Channel.EMAIL: "email", Channel.SMS: "phone", Channel.WHATSAPP: "phone"}
# The history of the card alone knows these: contacts/operations.py writes them.
CONTACT_KINDS = {
    **{f"contact_{channel.value}": EnumKind(ContactState) for channel in Channel},
    **{f"messages_{kind.value}": EnumKind(ChoiceState) for kind in MessageKind},
}
CONTACT_LABELS = {
    **{f"contact_{channel.value}": channel.label for channel in Channel},
    **{f"messages_{kind.value}": kind.label for kind in MessageKind},
}


@dataclass(frozen=True)
class Contacts:
    """What the card shows. choices: whether he takes a kind of messages."""

    ways: list[ContactWay]
    choices: dict[MessageKind, bool]


class CardContactsView(KontoraView):
    """Of the view of clients."""

    contact_icons = ICONS

    def contacts_of(self, client: Client) -> Contacts:
        hidden = self.field_rules(client).hidden
        ways = [way for way in ways_of(client) if _FIELD.get(way.channel) not in hidden]
        return Contacts(ways, choices_of(client))

    @expose("/card/<id>/contacts/", methods=("POST",))
    @permission("edit")
    def contacts_view(self, id: str) -> Any:
        """do=on:…, off:… or detach:… of a channel; do=kinds with what is ticked; do=link to show the client's page."""
        client = self.get_one(id)
        verb, _colon, name = request.form.get("do", "").partition(":")
        channel = next((channel for channel in Channel if channel.value == name), None)
        if verb not in {"on", "off", "detach", "kinds", "link"} or (channel is None) is not (verb in {"kinds", "link"}):
            abort(404)

        def change() -> Any:
            if verb == "link":
                return contact_url(client)
            if channel is None:
                return _choose(client, set(request.form.getlist("kind")))
            if verb == "detach":
                return detach_contact(client, channel, by=current_user)
            return set_contact(client, channel, verb == "on", by=current_user)

        return self.answer(
            Form(request.form),
            change,
            title=_("Ways to reach the client"),
            subtitle=client.shown_name,
            back=self.row_url(client),
            done=lambda _changed: self.row_url(client),
            said=_link_shown if verb == "link" else _("Saved."),
        )


def _choose(client: Client, ticked: set[str]) -> None:
    """Only what differs is noted: what nobody has said stays unsaid."""
    for kind, is_allowed in choices_of(client).items():
        if (kind.value in ticked) is not is_allowed:
            choose(client, kind, kind.value in ticked, by=current_user)


def _link_shown(url: str) -> Markup:
    return Markup('%s <a href="%s">%s</a>') % (_("The client's page of messages, to send to him:"), url, url)
