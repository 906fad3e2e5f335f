"""A message by hand, from a card or a bill: written, looked at as the client will get it, sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import abort, g, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import StringField, TextAreaField
from wtforms.validators import Length

from crm.access.fields import field_rules
from crm.admin.base import KontoraView, permission
from crm.admin.fields import REQUIRED, Form, ReferenceField
from crm.admin.mailing_option import option_notice
from crm.bills.links import bill_url
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, PhoneKind
from crm.clients.queries import payer_of
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.i18n import money
from crm.mailings.delivery import sender_of
from crm.mailings.models import Template
from crm.mailings.operations import Draft, draft_message_to, send_message_to
from crm.mailings.tags import BY_HAND, tags_about
from crm.phones import format_phone, is_landline

# How many of a payer's open bills are offered.
BILLS = 50
TEMPLATE = "admin/message_form.html"


@dataclass(frozen=True)
class Address:
    """Where a message can go: one contact of a card. key: its column; kind: of a phone; shown: None where this person
    does not see it.
    """

    key: str
    owner: Client
    channel: Channel
    kind: PhoneKind | None
    shown: str | None

    @property
    def phone(self) -> str | None:
        return getattr(self.owner, self.key) if self.channel is Channel.SMS else None

    @property
    def takes_messages(self) -> bool:
        return self.kind in {None, PhoneKind.MOBILE} and not (self.phone and is_landline(self.phone))


class MessageForm(Form):
    """Of a letter; an SMS has no subject."""

    bill = ReferenceField(
        Bill,
        _l("Bill"),
        query=lambda: g.bills_to_send,
        is_optional=True,
        blank=_l("Without a bill"),
        title=lambda bill: _titled(bill),
        description=_l("With a bill its tags are filled in; without one they cannot be used."),
    )
    template = ReferenceField(
        Template, _l("Template"), query=lambda: g.templates_to_send, is_optional=True, blank=_l("Free text")
    )
    subject = StringField(_l("Subject of the letter"), [REQUIRED, Length(max=200)])
    text = TextAreaField(_l("Text of the SMS/e-mail letter"), [REQUIRED, Length(max=20000)], render_kw={"rows": 8})


def _titled(bill: Bill) -> str:
    sum_ = "" if "amount" in field_rules(current_user, "bill").hidden else f" · {money(bill.amount)}"
    state = _("Payment term expired") if bill.is_overdue else bill.status.label
    return f"{bill.title}{sum_} · {state}"


class CardWritingView(KontoraView):
    """Of the view of clients: the envelopes."""

    @expose("/card/<id>/message/new/", methods=("GET", "POST"))
    @permission("message.send")
    def message_view(self, id: str) -> Any:
        """To the contact ?to= of the card, or of whoever pays where it has none; with ?bill= about a bill.

        Without a script as well: `step` says what a sent form asks for: to fill in the template, to look at the
        message, to go on writing or, by default, to send.
        """
        client = self.get_one(id)
        addresses = list(self._addresses(client))
        address = next((one for one in addresses if one.key == request.args.get("to")), None) or next(
            (one for one in addresses if one.takes_messages), next(iter(addresses), None)
        )
        bill = self._bill_asked_for(client)
        channel = address.channel if address is not None else Channel.EMAIL
        g.bills_to_send, g.templates_to_send = _bills(client, bill), _templates(channel)
        form = MessageForm(request.form if request.method == "POST" else None)
        if channel is Channel.SMS:
            del form.subject
        back = url_for("client.card_view", id=client.id, tab="messages")
        context: dict[str, Any] = {
            "title": _("Send an SMS") if channel is Channel.SMS else _("Send an e-mail"),
            "back": back,
            "client": client,
            "addresses": addresses,
            "address": address,
            "asked_bill": bill,
            "tags": tags_about(BY_HAND),
            "option": option_notice(_branch_of(address.owner if address is not None else client, bill)),
        }
        step = request.form.get("step", "send") if request.method == "POST" else ""
        if context["option"] is not None and (bill is not None or request.method == "GET"):
            return self._writing(form, context), 200 if request.method == "GET" else 422
        if address is None:
            form.form_errors.append(_("This card has neither an e-mail address nor a phone."))
        elif not address.takes_messages and request.method == "GET":
            form.form_errors.append(self._refusal_of(address))
        if request.method == "GET":
            _begin(form, bill)
        elif step == "fill":
            _fill(form)
        elif step == "preview" and address is not None and form.validate():
            try:
                draft = self._letter(form, address)
            except DomainError as error:
                self.show_error(form, error)
            else:
                sender = sender_of(_branch_of(client, form.bill.data).company)
                return self._writing(form, context, template="admin/message_preview.html", draft=draft, sender=sender)
        if step != "send" or address is None:
            return self._writing(form, context), 422 if step in {"preview", "send"} else 200
        return self.answer(
            form,
            lambda: send_message_to(**_facts(form, address), by=current_user),
            template=TEMPLATE,
            done=lambda message: back,
            said=_l("The message is queued."),
            **context,
        )

    def _writing(self, form: Any, context: dict[str, Any], *, template: str = TEMPLATE, **more: Any) -> Any:
        return self.render(template, form=form, row=None, stale=[], **context, **more)

    @staticmethod
    def _letter(form: Any, address: Address) -> Draft:
        return draft_message_to(**_facts(form, address), by=current_user)

    def _refusal_of(self, address: Address) -> str:
        """Why nothing can be sent there, before anything is typed."""
        try:
            draft_message_to(address.owner, text="…", channel=address.channel, phone=address.phone, by=current_user)
        except DomainError as error:
            return str(error)
        return ""

    def _addresses(self, client: Client) -> Iterator[Address]:
        """The contacts of the card, each of the payer's where the card has none of its own."""
        payer = payer_of(client)
        for key, channel in (("email", Channel.EMAIL), ("phone", Channel.SMS), ("extra_phone", Channel.SMS)):
            owner = client if getattr(client, key) else payer
            value = getattr(owner, key)
            if not value:
                continue
            kind = getattr(owner, f"{key}_kind") if channel is Channel.SMS else None
            is_hidden = key in self.field_rules(owner).hidden
            shown = value if channel is Channel.EMAIL else format_phone(value)
            yield Address(key, owner, channel, kind, None if is_hidden else shown)

    def _bill_asked_for(self, client: Client) -> Bill | None:
        if not request.args.get("bill"):
            return None
        bill: Bill = self.view_of(Bill).get_one(request.args["bill"])  # type: ignore[union-attr]
        if bill.client_id not in (client.id, client.payer_id):
            abort(404)
        return bill


def _branch_of(client: Client, bill: Bill | None) -> Any:
    """In whose name a message goes out."""
    return bill.branch if bill is not None else client.branch


def _facts(form: Any, address: Address) -> dict[str, Any]:
    return {
        "client": address.owner,
        "channel": address.channel,
        "phone": address.phone,
        "subject": form.subject.data if "subject" in form else "",
        "text": form.text.data,
        "bill": form.bill.data,
    }


def _bills(client: Client, asked: Bill | None) -> list[Bill]:
    """What can be sent: the open bills of whoever pays, newest first, and the one asked for."""
    if not current_user.may("bill.view"):
        return []
    query = (
        sa.select(Bill)
        .where(Bill.client_id == payer_of(client).id, Bill.status == BillStatus.PENDING, Bill.link_revoked_at.is_(None))
        .order_by(Bill.id.desc())
        .limit(BILLS)
    )
    found = list(db.session.scalars(query))
    return [asked, *found] if asked is not None and asked not in found else found


def _templates(channel: Channel) -> list[Template]:
    """Those of the channel; thanks are written by themselves."""
    query = sa.select(Template).where(Template.channel == channel, sa.not_(Template.is_thanks)).order_by(Template.name)
    return list(db.session.scalars(query))


def _begin(form: Any, bill: Bill | None) -> None:
    """A message about a bill begins with its link."""
    if bill is None:
        return
    form.bill.data = bill
    form.text.data = bill_url(bill)
    if "subject" in form:
        form.subject.data = _("Bill %(number)s", number=bill.title)


def _fill(form: Any) -> None:
    """Put the text of the template chosen in place of what there is."""
    template = form.template.data
    if template is None:
        form.template.errors = [_("Choose a template.")]
        return
    form.text.data = template.body
    if "subject" in form:
        form.subject.data = template.subject
