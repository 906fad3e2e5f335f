"""Templates of messages: their texts, the tags beside them, and how they look filled in for a client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from flask import redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, StringField, TextAreaField, validators

from crm.admin.base import KontoraView, grid_url
from crm.admin.fields import REQUIRED, EnumField, Form
from crm.admin.views.reports import ReportView
from crm.clients.models import Client, ClientStatus
from crm.clients.queries import find_clients
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import Template
from crm.mailings.tags import Subject, tags_about
from crm.mailings.templates import preview_template, save_template, tags_kept_from

PAGE = "admin/template_form.html"
# Clients offered for the preview.
OFFERED = 25


class TemplateForm(Form):
    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    channel = EnumField(
        Channel,
        _l("Way of sending"),
        members=(Channel.EMAIL, Channel.SMS),
        default=Channel.EMAIL,
        description=_l("Texts of SMS are sent by messengers and to the client's cabinet too."),
    )
    subject = StringField(
        _l("Subject of the letter"),
        [validators.Length(max=200)],
        description=_l("Of an e-mail; an SMS has none."),
    )
    body = TextAreaField(_l("Text"), [REQUIRED, validators.Length(max=20000)], render_kw={"rows": 12})
    is_thanks = BooleanField(
        _l("Send by itself after a payment"),
        description=_l("Thanks for the payment of a bill: by e-mail, or as an SMS to whoever has no e-mail address."),
    )


class TemplateView(KontoraView):
    """Both kinds in one grid; the menu has an entry for each."""

    entity = "template"
    icon = "file-earmark-text"
    is_in_menu = False
    column_list = ("name", "channel", "subject", "is_thanks")
    column_details_list = ("name", "channel", "subject", "body", "is_thanks")
    column_searchable_list = ("name", "subject")
    column_filters = ("channel", "is_thanks")
    column_labels = {"is_thanks": _l("After a payment")}
    column_default_sort = "name"
    form = TemplateForm
    creates = edits = True
    create_label = _l("Add a template")
    create_template = edit_template = PAGE

    def create_args(self) -> dict[str, Any]:
        channel = request.args.get("f.channel.is")
        return {"channel": channel} if channel in {Channel.EMAIL.value, Channel.SMS.value} else {}

    def prefill(self, form: Any) -> None:
        if request.args.get("channel") == Channel.SMS.value:
            form.channel.data = Channel.SMS

    def save_new(self, form: Any) -> Any:
        return save_template(None, **form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return save_template(row, **form.data, by=current_user)

    def answer(self, form: Any, change: Any, **kwargs: Any) -> Any:
        """`step`, without a script as well: "preview" shows the text filled in for a client, nothing is saved."""
        tags = tags_about(Subject, tags_kept_from(current_user))
        kwargs |= {"tags": tags, "may_preview": current_user.may("client.view")}
        if request.method == "POST" and request.form.get("step") == "preview" and kwargs["may_preview"]:
            kwargs.pop("is_stale", None)
            return self.render(PAGE, form=form, stale=[], **{"row": None, **kwargs}, **_preview(form))
        return super().answer(form, change, template=PAGE, **kwargs)


class TemplatesOfChannelView(ReportView):
    """The grid of templates with those of one channel."""

    icon = "file-earmark-text"
    needs = "template.view"
    channel: Channel

    @expose("/")
    def index_view(self) -> Any:
        return redirect(grid_url("template", **{"f.channel.is": self.channel.value}))

    def is_current(self, page_of: Any) -> bool:
        """Whether the page shown, of the view `page_of`, is one of these templates': the menu says so."""
        return getattr(page_of, "entity", None) == "template" and _channel_of_page() is self.channel


class EmailTemplatesView(TemplatesOfChannelView):
    channel = Channel.EMAIL


class SmsTemplatesView(TemplatesOfChannelView):
    icon = "chat-left-text"
    channel = Channel.SMS


def _channel_of_page() -> Channel | None:
    """The channel of the template or the templates shown; None when they are of any."""
    text = request.values.get("id", "")
    if text.isascii() and text.isdigit() and len(text) < 19:
        row = db.session.get(Template, int(text))
        return row.channel if row is not None else None
    asked = request.values.get("channel") or request.args.get("f.channel.is")
    if asked is None and request.endpoint == "template.create_view":
        return Channel.EMAIL
    return next((channel for channel in Channel if channel.value == asked), None)


def _preview(form: Any) -> dict[str, Any]:
    """What the page shows of a preview. asked: the text a client was looked for by; found: those offered."""
    asked = request.form.get("q", "").replace("\x00", "").strip()[:200]
    found = _clients(asked)
    chosen = next((client for client in found if str(client.id) == request.form.get("shown_to")), None)
    client = chosen or next(iter(found), None)
    shown = {"asked": asked, "found": found, "client": client}
    if client is None:
        return shown | {"refusal": _("Nobody is found by this text.")}
    try:
        preview = preview_template(
            client,
            subject=form.subject.data or "",
            body=form.body.data or "",
            channel=form.channel.data or Channel.EMAIL,
            is_thanks=bool(form.is_thanks.data),
            by=current_user,
        )
    except DomainError as error:
        KontoraView.show_error(form, error)
        return shown
    return shown | {"preview": preview}


def _clients(asked: str) -> Sequence[Client]:
    """By a part of the name, phone or e-mail; without one the newest."""
    if asked:
        return find_clients(asked, limit=OFFERED, by=current_user)
    query = sa.select(Client).where(Client.status == ClientStatus.ACTIVE).order_by(Client.id.desc()).limit(OFFERED)
    return list(db.session.scalars(query))
