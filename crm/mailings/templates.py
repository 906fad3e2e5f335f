"""Verbs on templates: the texts of mailings and of thanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import Actor, require
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.contacts.models import Channel
from crm.db import db
from crm.debts.queries import in_debt
from crm.errors import DomainError
from crm.ledger.models import Account
from crm.mailings.channels.sms import SmsLength, sms_length
from crm.mailings.models import MailingKind, MailingRule, MailingWay, Template
from crm.mailings.tags import Paid, check_seen, check_tags, check_text_for, hidden_tags, render, tags_told
from crm.schedule.models import Attendance, Lesson, LessonStatus
from crm.subscriptions.models import Subscription, SubscriptionStatus


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
    is_thanks: sent by itself when a payment has come. Tags in tags_kept_from() `by` are refused, but for those the text
    has already.
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
    own = tags_told(template.subject, template.body) if template else ()
    hidden = tags_kept_from(by).difference(own)
    for text, field in ((subject, "subject"), (body, "body")):
        check_tags(text, field=field, is_thanks=is_thanks)
        check_seen(text, hidden, field=field)
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


def tags_kept_from(by: Actor) -> frozenset[str]:
    """Names of the tags `by` puts in no template: those that tell what he does not see. Whoever only writes templates,
    and sends nothing, learns nothing by them: none.
    """
    sends = any(by.may(permission) for permission in ("message.send", "mailingrule.create", "mailingrule.edit"))
    return hidden_tags(by) if sends else frozenset()


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


# --- preview ---------------------------------------------------------------------------------------------------------

# Bills a preview shows in the place of {customer.bills}.
MAX_BILLS = 5


@dataclass(frozen=True)
class Preview:
    """A text filled in for a client. subject: of letters alone; length: of an SMS. is_whole: a tag there was nothing
    for stands as it is otherwise.
    """

    subject: str
    body: str
    length: SmsLength | None
    is_whole: bool


def preview_template(
    client: Client, *, subject: str, body: str, by: Actor, channel: Channel = Channel.EMAIL, is_thanks: bool = False
) -> Preview:
    """How the text looks filled in with what there is of a client: his payer's open bills or the newest one, his debt,
    his newest subscription, his next lesson. Dots stand for what `by` is not shown. Nothing is written.

    Raises DomainError beside `subject` or `body` as save_template() does for tags.
    """
    subject = " ".join(subject.split()) if channel is Channel.EMAIL else ""
    body = body.strip().replace("\r\n", "\n")
    check_tags(subject, field="subject", is_thanks=is_thanks)
    check_tags(body, field="body", is_thanks=is_thanks)
    payer = payer_of(client)
    bills = _bills(payer)
    bill = next(iter(bills), None)
    missing, hidden = list[str](), hidden_tags(by)
    filled = [
        render(
            text,
            client=client,
            bill=bill,
            bills=bills,
            paid=Paid(bill.amount, bill.account, clock.today(bill.branch)) if bill is not None and is_thanks else None,
            debt=_debt(payer),
            subscriptions=_newest_subscription(client),
            lessons=_next_lesson(client),
            branch=client.branch,
            missing=missing,
            hidden=hidden,
        )
        for text in (subject, body)
    ]
    length = None if channel is Channel.EMAIL else sms_length(filled[1])
    return Preview(" ".join(filled[0].split()), filled[1], length, not missing)


def _bills(payer: Client) -> Sequence[Bill]:
    bills = select(Bill).where(Bill.client_id == payer.id).order_by(Bill.id.desc())
    open_ = bills.where(Bill.status == BillStatus.PENDING, Bill.link_revoked_at.is_(None)).limit(MAX_BILLS)
    return db.session.scalars(open_).all() or db.session.scalars(bills.limit(1)).all()


def _debt(payer: Client) -> Decimal | None:
    return db.session.scalar(select(func.sum(-Account.balance)).where(Account.client_id == payer.id, in_debt()))


def _newest_subscription(client: Client) -> Sequence[Subscription]:
    query = select(Subscription).where(
        Subscription.client_id == client.id, Subscription.status == SubscriptionStatus.ACTIVE
    )
    return db.session.scalars(query.order_by(Subscription.id.desc()).limit(1)).all()


def _next_lesson(client: Client) -> Sequence[Lesson]:
    query = (
        select(Lesson)
        .join(Attendance, Attendance.lesson_id == Lesson.id)
        .where(Attendance.client_id == client.id, Lesson.status == LessonStatus.PLANNED, Lesson.starts_at > clock.now())
    )
    return db.session.scalars(query.order_by(Lesson.starts_at).limit(1)).all()
