"""Verbs on templates: the texts of mailings and of thanks."""

from __future__ import annotations

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.contacts.models import Channel
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import MailingKind, MailingRule, MailingWay, Template
from crm.mailings.tags import check_tags, check_text_for


def save_template(
    template: Template | None,
    *,
    name: str | None,
    subject: str | None,
    body: str | None,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    is_thanks: bool = False,
) -> Template:
    """Add a template (None) or change one. Raises DomainError beside the field. The caller commits.

    channel: EMAIL, or SMS for short texts, which messengers and the cabinet send as well. subject: of letters alone.
    is_thanks: sent by itself when a payment has come.
    """
    require(by, "template.edit" if template else "template.create")
    name, subject, body = " ".join((name or "").split()), " ".join((subject or "").split()), (body or "").strip()
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if channel is not Channel.EMAIL:
        subject = ""
    elif not subject:
        raise DomainError("subject_empty", _("Enter the subject of the letter."), "subject")
    if not body:
        raise DomainError("body_empty", _("Enter the text of the letter."), "body")
    check_tags(subject, field="subject", is_thanks=is_thanks)
    check_tags(body, field="body", is_thanks=is_thanks)
    namesakes = db.session.scalars(select(Template).where(Template.name == name))
    if any(other is not template for other in namesakes):
        raise DomainError("name_taken", _("There is a template with this name already."), "name")
    if template is not None:
        _check_uses(template, channel, subject, body)
    if is_thanks:
        thanks = select(Template).where(Template.is_thanks, Template.channel == channel)
        for other in db.session.scalars(thanks):
            if other is not template:
                text = _("Thanks are written by the template “%(name)s” already.", name=other.name)
                raise DomainError("thanks_taken", text, "is_thanks")
    template = template or Template()
    template.name, template.subject, template.body, template.channel = name, subject, body, channel
    template.is_thanks = is_thanks
    db.session.add(template)
    db.session.flush()
    return template


def _check_uses(template: Template, channel: Channel, subject: str, body: str) -> None:
    """That the mailings which send by the template can do so after the change."""
    # Beside the scope: a template is the network's, its mailings may be another branch's.
    rules, ways = MailingRule.__table__, MailingWay.__table__
    uses = select(rules.c.name, rules.c.kind).join(ways, ways.c.rule_id == rules.c.id)
    uses = uses.where(ways.c.template_id == template.id).order_by(rules.c.id)
    kinds = set[MailingKind]()
    for name, kind in db.session.connection().execute(uses):
        if template.channel is not channel:
            raise DomainError(
                "template_used", _("The mailing “%(name)s” sends by this template another way.", name=name), "channel"
            )
        kinds.add(kind)
    for kind in kinds:
        check_text_for(subject, kind, field="subject")
        check_text_for(body, kind, field="body")
