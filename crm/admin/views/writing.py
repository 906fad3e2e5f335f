"""A message by hand, from a card or a bill: written, looked at as the client will get it, sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from crm.contacts.models import Channel, MessageKind
from crm.contacts.queries import ContactState
from crm.db import db
from crm.errors import DomainError
from crm.i18n import money
from crm.mailings.delivery import sender_of
from crm.mailings.models import Template
from crm.mailings.operations import Draft, Routes, check_taken, draft_message_to, routes_to, send_message_to
from crm.mailings.tags import BY_HAND, hidden_tags, tags_about
from crm.phones import format_phone

# How many of a payer's open bills are offered.
BILLS = 50
TEMPLATE = "admin/message_form.html"


# Types of messages that go by a contact of the card, and by which; each phone is one of its own.
_CONTACTS = (("email", Channel.EMAIL), ("phone", Channel.SMS), ("extra_phone", Channel.SMS))
_OTHERS = (Channel.WHATSAPP, Channel.TELEGRAM, Channel.VIBER, Channel.PUSH, Channel.CABINET)


@dataclass(frozen=True)
class Address:
    """A type of message, and where it goes. key: the column of the contact in the card, or the channel; owner: the
    card, or that of whoever pays for it; phone: of an SMS; kind: of the phone; shown: the contact, None where this
    person does not see it, empty where there is none to show. used: what the message really goes over. refusal: why
    nothing can be sent there.
    """

    key: str
    owner: Client
    channel: Channel
    phone: str | None = None
    kind: PhoneKind | None = None
    shown: str | None = ""
    used: Channel | None = None
    refusal: str = ""

    @property
    def takes_messages(self) -> bool:
        return not self.refusal

    @property
    def is_diverted(self) -> bool:
        """What was chosen as an SMS goes another way."""
        return self.used is not None and self.used is not self.channel


class MessageForm(Form):
    """Of a letter; the others have no subject."""

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
        """As the type of message ?to=: to a contact of the card, or of whoever pays where it has none, or over a
        channel; with ?bill= about a bill.

        Without a script as well: `step` says what a sent form asks for: to fill in the template, to look at the
        message, to go on writing (as another type, where it was sent to another ?to=) or, by default, to send.
        """
        client = self.get_one(id)
        bill = self._bill_asked_for(client)
        addresses = list(self._addresses(client, bill))
        address = next((one for one in addresses if one.key == request.args.get("to")), None) or next(
            (one for one in addresses if one.takes_messages), addresses[0]
        )
        used = address.used or address.channel
        g.bills_to_send, g.templates_to_send = _bills(client, bill), _templates(used)
        form = MessageForm(request.form if request.method == "POST" else None)
        if used is not Channel.EMAIL:
            del form.subject
        back = url_for("client.card_view", id=client.id, tab="messages")
        context: dict[str, Any] = {
            "title": _TITLES.get(used) or _("Send a message"),
            "back": back,
            "client": client,
            "addresses": addresses,
            "address": address,
            "asked_bill": bill,
            "subject_kept": request.form.get("subject", ""),  # while the message has none
            "tags": tags_about(BY_HAND, hidden_tags(current_user)),
            "option": option_notice(_branch_of(address.owner, bill)),
        }
        step = request.form.get("step", "send") if request.method == "POST" else ""
        if context["option"] is not None and (bill is not None or request.method == "GET"):
            return self._writing(form, context), 200 if request.method == "GET" else 422
        if request.method == "GET" or step == "edit":
            form.form_errors.extend(filter(None, [address.refusal, _kind_refusal(address.owner, bill)]))
        if request.method == "GET":
            _begin(form, bill)
        elif step == "fill":
            _fill(form)
        elif step == "preview" and form.validate():
            try:
                draft = self._letter(form, address)
            except DomainError as error:
                self.show_error(form, error)
            else:
                sender = sender_of(_branch_of(client, form.bill.data).company)
                return self._writing(form, context, template="admin/message_preview.html", draft=draft, sender=sender)
        if step != "send":
            return self._writing(form, context), 422 if step == "preview" else 200
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

    def _addresses(self, client: Client, bill: Bill | None) -> Iterator[Address]:
        """All types of messages: by the contacts of the card, each of the payer's where the card has none of its own,
        and by what the client, or else the payer, has linked.
        """
        payer = payer_of(client)
        routes = {
            owner.id: routes_to(owner, _branch_of(owner, bill).company_id) for owner in dict.fromkeys([client, payer])
        }
        seen = set[Channel]()
        for key, channel in _CONTACTS:
            owner = client if getattr(client, key) else payer
            value = getattr(owner, key)
            if not value:
                continue
            seen.add(channel)
            is_sms = channel is Channel.SMS
            shown = format_phone(value) if is_sms else value
            yield _routed(
                routes[owner.id],
                Address(
                    key=key,
                    owner=owner,
                    channel=channel,
                    phone=value if is_sms else None,
                    kind=getattr(owner, f"{key}_kind") if is_sms else None,
                    shown=None if key in self.field_rules(owner).hidden else shown,
                ),
            )
        for channel in (Channel.EMAIL, Channel.SMS, *_OTHERS):
            if channel not in seen:
                is_own = routes[client.id].ways[channel].state is not ContactState.NONE
                owner = client if is_own or routes[payer.id].ways[channel].state is ContactState.NONE else payer
                yield _routed(routes[owner.id], Address(channel.value, owner, channel))

    def _bill_asked_for(self, client: Client) -> Bill | None:
        if not request.args.get("bill"):
            return None
        bill: Bill = self.view_of(Bill).get_one(request.args["bill"])  # type: ignore[union-attr]
        if bill.client_id not in (client.id, client.payer_id):
            abort(404)
        return bill


_TITLES = {Channel.SMS: _l("Send an SMS"), Channel.EMAIL: _l("Send an e-mail")}


def _routed(routes: Routes, address: Address) -> Address:
    """Where it really goes, or why nowhere."""
    try:
        used, _recipient = routes.find(address.channel, address.phone)
    except DomainError as error:
        return replace(address, refusal=str(error))
    return replace(address, used=used)


def _kind_refusal(client: Client, bill: Bill | None) -> str:
    """Why the client gets no such message at all, before anything is typed; empty when he does."""
    try:
        check_taken(client, MessageKind.BILLS if bill is not None else MessageKind.PERSONAL)
    except DomainError as error:
        return str(error)
    return ""


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
    """Those of letters, or those of SMS, which the other channels send as well; thanks are written by themselves."""
    of = Channel.EMAIL if channel is Channel.EMAIL else Channel.SMS
    query = sa.select(Template).where(Template.channel == of, sa.not_(Template.is_thanks)).order_by(Template.name)
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
