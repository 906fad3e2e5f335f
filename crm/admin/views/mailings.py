"""Mailing rules: their form, and whom they concern."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from textwrap import shorten
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import g, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, IntegerField, SelectField, StringField, validators
from wtforms.fields.choices import SelectChoice

from crm import clock
from crm.access.models import Branch
from crm.admin.base import GridColumn, QuickFilter, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.column import FoundColumn
from crm.admin.fields import REQUIRED, ChoicesField, DateField, EnumField, Form, MoneyField, ReferenceField, TimeField
from crm.admin.kinds import NOTHING, IntegerKind, ListKind, MomentKind, Place
from crm.admin.mailing_option import OptionNotice, option_notice, option_notices
from crm.admin.views.clients import working_branches
from crm.admin.views.dry_runs import PAGE, dry_run_file, sees_bills, sees_sum, who_asked
from crm.admin.views.mailing_selection import FORM_PAGE, SelectionForm, SelectionMailingView, tags_of_texts
from crm.admin.views.ways import NUMBERS, WAY_FIELDS, WaysForm, kept_ways
from crm.audit.operations import record_export
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import ClientKind, ClientStatus
from crm.contacts.models import Channel
from crm.db import LabelEnum, db, reading, transaction
from crm.i18n import money
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRule,
    MailingRun,
    Periodicity,
    PeriodType,
    PeriodUnit,
    Term,
)
from crm.mailings.preview import LOOKED_AT, dry_run
from crm.mailings.rules import RuleFacts, Way, applies, save_rule
from crm.mailings.runs import UNDER_WAY, run_now
from crm.mailings.selection import change_selection
from crm.mailings.upcoming import lacks_of, next_run
from crm.security import chosen_branch

WEEKDAYS = (_l("Monday"), _l("Tuesday"), _l("Wednesday"), _l("Thursday"), _l("Friday"), _l("Saturday"), _l("Sunday"))


class WeekdayKind(IntegerKind):
    """A day of the week by its number, 0 Monday."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else str(WEEKDAYS[value])


class ChoicesKind(ListKind):
    """Several members of an enum, kept by their values; none: all of them."""

    is_editable = False

    def __init__(self, cls: type[LabelEnum]) -> None:
        self.cls = cls

    def show(self, value: Any, place: Place) -> str | Markup:
        return ", ".join(str(one.label) for one in self.cls if one.value in (value or ())) or NOTHING

    def export(self, value: Any) -> Any:
        return ", ".join(str(one.label) for one in self.cls if one.value in (value or ())) or None


class WaysKind(ListKind):
    """The ways of sending of a rule as the audit keeps them: see MailingWay.told."""

    is_editable = False

    def show(self, value: Any, place: Place) -> str | Markup:
        labels = {channel.value: channel.label for channel in Channel}
        return "; ".join(f"{labels[channel]} · {text}" for channel, text in value or ()) or NOTHING


class RuleForm(WaysForm):
    """Three sections, as the screen shows them: what, when, how.

    Fields that mean nothing to the rule as it stands are not shown (is_shown) and not looked at; DECIDING: those the
    others depend on. GROUPS: fields that stand under one heading.
    """

    SECTIONS = (
        (
            _l("What do we send?"),
            (
                *("name", "branch", "kind", "method", "accounts", "period_type", "period"),
                *("statuses", "client_kinds", "term", "term_days", "is_repeatable", "subject", "lesson_type"),
                *("lessons_from", "money_from", "days", "attended_only", "lesson_only", "issues_again"),
            ),
        ),
        (
            _l("When do we send?"),
            ("is_active", "is_once", "once_on", "periodicity", "send_time", "weekday", "month_day"),
        ),
        (_l("How do we send?"), tuple(f"{name}{number}" for number in NUMBERS for name in ("way", "template"))),
    )
    DECIDING = frozenset({"kind", "method", "accounts", "term", "is_once", "periodicity", "branch", *WAY_FIELDS})
    GROUPS: ClassVar[dict[str, tuple[Any, str]]] = {
        "lessons_from": (_l("Lessons left (range)"), "lessons_to"),
        "money_from": (_l("Money left (range)"), "money_to"),
    }

    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    branch = ReferenceField(Branch, _l("Branch"), query=working_branches)
    kind = EnumField(MailingKind, _l("Type of mailing"), default=MailingKind.BILLS)
    method = EnumField(BillingMethod, _l("Calculation method"), default=BillingMethod.FORECAST)
    accounts = EnumField(BilledAccounts, _l("Type of calculations"), default=BilledAccounts.BASE)
    period_type = EnumField(
        PeriodType,
        _l("Type of period"),
        default=PeriodType.CURRENT,
        description=_l(
            "“Next” is the current period and the one after it, in one bill: for a monthly subscription from "
            "1 September the current period is 1–30 September, the next one 1 September–31 October."
        ),
    )
    period = EnumField(PeriodUnit, _l("Period"), default=PeriodUnit.MONTH)
    statuses = ChoicesField(
        _l("Status of the client"),
        options=[(status.value, status.label) for status in ClientStatus],
        default=[ClientStatus.ACTIVE.value],
        description=_l("With none ticked it goes to clients of any status."),
    )
    client_kinds = ChoicesField(
        _l("Type of the client"),
        options=[(kind.value, kind.label) for kind in ClientKind],
        description=_l("With none ticked it goes to both."),
    )
    term = EnumField(
        Term, _l("Payment term"), default=Term.UNLIMITED, description=_l("It begins on the day the bill is issued.")
    )
    term_days = IntegerField(_l("Payment term, days"), [validators.Optional(), validators.NumberRange(1, 366)])
    is_repeatable = BooleanField(
        _l("A bill of the mailing may be paid repeatedly"),
        description=_l("If not ticked, a bill is paid once. What is in the archive is not paid in any case."),
    )
    subject = ReferenceField(
        Subject, _lp("of lessons", "Subject"), is_optional=True, blank=_lp("of lessons", "All subjects")
    )
    lesson_type = ReferenceField(
        LessonType, _l("Type of the lesson"), is_optional=True, blank=_l("All types of lessons")
    )
    lessons_from = IntegerField(_lp("range", "From"), [validators.Optional()])
    lessons_to = IntegerField(_lp("range", "To"), [validators.Optional()], description=_l("Inclusive; one is enough."))
    money_from = MoneyField(_lp("range", "From"))
    money_to = MoneyField(_lp("range", "To"), description=_l("Inclusive; one is enough."))
    days = IntegerField(
        _l("Days ahead"),
        default=0,
        validators=[validators.Optional(), validators.NumberRange(0, 366)],
        description=_l("How many days before it happens; 0: on the very day."),
    )
    attended_only = BooleanField(_l("Send only if the client attended lessons in the last 30 days"))
    lesson_only = BooleanField(_l("Send only if the client has lessons on this day"))
    issues_again = BooleanField(
        _l("Issue a bill again if there is an unpaid one"),
        description=_l("If not ticked, a client with an earlier unpaid bill gets nothing; the run says why."),
    )
    is_active = BooleanField(_l("The mailing is on"), default=True)
    is_once = BooleanField(_lp("mailing", "Once"))
    once_on = DateField(_l("Date of sending"), [validators.Optional()])
    periodicity = EnumField(Periodicity, _l("Periodicity"), default=Periodicity.DAILY)
    send_time = TimeField(_l("Time"), [REQUIRED], description=_l("On the clock of the branch."))
    weekday = SelectField(
        _l("Day of the week"),
        choices=[SelectChoice("", "—"), *(SelectChoice(str(i), name) for i, name in enumerate(WEEKDAYS))],
        coerce=lambda value: None if value in {None, "", "None"} else int(value),
    )
    month_day = IntegerField(
        _l("Day of the month"),
        [validators.Optional(), validators.NumberRange(1, 31)],
        description=_l("In a shorter month its last day."),
    )

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        if obj is not None:
            kwargs |= {"is_once": obj.once_on is not None, **kept_ways(obj)}
        super().process(formdata, obj, *args, **kwargs)

    @property
    def mailing_kind(self) -> MailingKind | None:
        kind: MailingKind | None = self.kind.data
        return kind

    def settle(self) -> None:
        """The only template there is is chosen besides."""
        super().settle()
        for number in NUMBERS:
            field = self[f"template{number}"]
            if field.data is None and len(field.choices) == 2 and self[f"way{number}"].data is not None:
                field.data = field.rows[field.choices[1].value]

    def is_shown(self, name: str) -> bool:
        """Whether the field means anything to the rule as it stands in the form."""
        if name == "once_on":
            return bool(self.is_once.data)
        if name == "periodicity":
            return not self.is_once.data
        if name == "weekday":
            return not self.is_once.data and self.periodicity.data is Periodicity.WEEKLY
        if name == "month_day":
            return not self.is_once.data and self.periodicity.data is Periodicity.MONTHLY
        return self.is_way_shown(name) and applies(
            name, self.kind.data, self.method.data, self.accounts.data, self.term.data
        )

    def validate(self, *args: Any, **kwargs: Any) -> bool:
        is_valid = super().validate(*args, **kwargs)
        if self.is_once.data and self.once_on.data is None and not self.once_on.errors:
            self.once_on.errors = [_("Enter the date.")]
            return False
        return is_valid

    def ways(self) -> list[Way]:
        """Those chosen, in their order."""
        return [Way(channel, self[f"template{number}"].data) for number, channel in self.chosen_ways()]

    @property
    def facts(self) -> RuleFacts:
        """The rule as the operations take it."""
        left_out = {"is_once", *WAY_FIELDS, *(f"template{number}" for number in NUMBERS)}
        data = {name: value for name, value in self.data.items() if name not in left_out}
        data["statuses"] = [one for one in ClientStatus if one.value in self.statuses.data]
        data["client_kinds"] = [one for one in ClientKind if one.value in self.client_kinds.data]
        return RuleFacts(**data, ways=self.ways())


class MailingRuleView(SelectionMailingView):
    entity = "mailingrule"
    icon = "send"
    column_list = ("name", "kind", "periodicity", "send_time", "next_run", "is_active", "branch")
    column_labels = {
        "kind": _l("Type of mailing"),
        "is_active": _l("On"),
        "accounts": _l("Type of calculations"),
        "method": _l("Calculation method"),
        "weekday": _l("Day of the week"),
        "month_day": _l("Day of the month"),
        "once_on": _l("Only on"),
        "period_type": _l("Type of period"),
        "period": _l("Period"),
        "term": _l("Payment term"),
        "term_days": _l("Payment term, days"),
        "is_repeatable": _l("A bill of the mailing may be paid repeatedly"),
        "issues_again": _l("Issue a bill again if there is an unpaid one"),
        "subject": _l("Subject of the lessons"),
        "lesson_type": _l("Type of the lesson"),
        "lessons_from": _l("Lessons left, from"),
        "lessons_to": _l("Lessons left, to"),
        "money_from": _l("Money left, from"),
        "money_to": _l("Money left, to"),
        "days": _l("Days ahead"),
        "statuses": _l("Status of the client"),
        "client_kinds": _l("Type of the client"),
        "attended_only": _l("Send only if the client attended lessons in the last 30 days"),
        "lesson_only": _l("Send only if the client has lessons on this day"),
        "is_selected": _l("To a selection"),
        "ways": _l("Ways of sending"),
        "schedule_since": _l("Scheduled since"),
    }
    column_kinds = {
        "weekday": WeekdayKind(),
        "statuses": ChoicesKind(ClientStatus),
        "client_kinds": ChoicesKind(ClientKind),
        "ways": WaysKind(),
    }
    column_searchable_list = ("name",)
    column_filters = ("kind", "is_active", "periodicity", "is_selected", "branch")
    form = RuleForm
    creates = edits = True
    create_label = _l("Add a mailing")
    list_template = "admin/rules.html"
    details_template = "admin/rule.html"
    empty_hint = _l("Add a mailing: bills will be issued and sent by themselves.")

    def column(self, name: str) -> Any:
        if name == "next_run":
            return FoundColumn(name, _l("Next run"), MomentKind(), None, of=_next_run)
        if name == "is_active":
            kept = super().column(name)
            return FoundColumn(name, kept.label, kept.kind, _is_on_in_sql(), of=_is_on)
        return super().column(name)

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_lp("mailings", "By a schedule"), (("f.is_selected.is", "0"),)),
            QuickFilter(_lp("mailings", "To a selection"), (("f.is_selected.is", "1"),)),
        ]

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        return _periodicity(row) if column.name == "periodicity" else super().cell(row, column)

    def exporter(self, column: GridColumn) -> Callable[[Any], Any]:
        return _periodicity if column.name == "periodicity" else super().exporter(column)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return None if column.name == "periodicity" else super().sql_cell(column, joins)

    def details_columns(self, row: Any) -> list[Any]:
        """What does not apply to the rule is left out: the rest is told by parts() in words."""
        names = ["name", "branch", "kind"]
        if row.kind is MailingKind.BILLS:
            names += ["method", "accounts"]
        names += [] if row.is_selected else ["is_active"]  # of one to a selection its run tells
        names += ["once_on"] if row.once_on is not None else ["periodicity"]
        names += [name for name in ("weekday", "month_day") if getattr(row, name) is not None]
        return self.without_hidden([self.column(name) for name in (*names, "send_time", "next_run")], row)

    def save_new(self, form: Any) -> Any:
        return save_rule(None, form.facts, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        if row.is_selected:
            return change_selection(row, form.facts, by=current_user)
        return save_rule(row, form.facts, by=current_user)

    def may_edit_row(self, row: Any) -> bool:
        """A message to a selection is changed until it goes out."""
        return self.may_edit and (not row.is_selected or _next_run(row) is not None)

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        if row is None or not row.is_selected:
            return super().form_class(row, companies)
        rules = self.field_rules(row)
        return self._extended(SelectionForm, self.companies_of(row), rules, rules)

    def answer(self, form: Any, change: Any, **kwargs: Any) -> Any:
        """The form of a rule too asks for its fields anew (`step=refresh`): sent back with what was typed."""
        row, is_final = kwargs.get("row"), request.method == "POST" and request.form.get("step") != "refresh"
        has_more_to_say = row is not None or request.method == "POST"
        context: dict[str, Any]
        if isinstance(form, SelectionForm) and row is not None:
            template = FORM_PAGE
            context = {
                "options": option_notices([row.branch]),
                "lacks": form.lacks([row.branch]),
                "tags": tags_of_texts(),
            }
        elif isinstance(form, RuleForm):
            if not is_final and (row is None or request.method == "POST"):
                form.settle()
            template, branch = "admin/rule_form.html", form.branch.data
            ways = [(way.channel, not has_more_to_say or way.template is not None) for way in form.ways()]
            context = {
                "option": option_notice(branch) if branch is not None else None,
                "lacks": lacks_of(branch, ways) if branch is not None else [],
            }
        else:
            return super().answer(form, change, **kwargs)
        if is_final or request.method == "GET":
            return super().answer(form, change, template=template, **context, **kwargs)
        stale = self.history(row, limit=3) if kwargs.get("is_stale") and row is not None else []
        page = {"title": kwargs["title"], "back": kwargs["back"], "row": row, "stale": stale}
        return self.render(template, form=form, **page, **context)

    def details_context(self, row: Any) -> dict[str, Any]:
        query = sa.select(MailingRun).where(MailingRun.rule_id == row.id).order_by(MailingRun.id.desc()).limit(20)
        runs = list(db.session.scalars(query))
        state = [(_("Status of the run"), str(runs[0].status.label))] if row.is_selected and runs else []
        is_over = row.is_selected and _next_run(row) is None
        return {
            "runs": runs,
            "may_run": self.may("run") and not is_over,
            "is_over": is_over,
            "option": option_notice(row.branch),
            "lacks": lacks_of(row.branch, [(way.channel, any(way.text)) for way in row.ways]),
            "parts": state + _parts(row),
        }

    def option_notices(self) -> list[OptionNotice]:
        """Of the companies whose mailings are listed here."""
        here = chosen_branch()
        return option_notices([here] if here is not None else g.branches)

    @expose("/run/", methods=("POST",))
    @permission("run")
    def run_view(self) -> Any:
        """ "Run now": a planned run of this very moment, carried out by a worker."""
        rule = self.get_one(request.form.get("id"))
        return self.answer(
            Form(request.form),
            lambda: run_now(rule, by=current_user),
            title=rule.name,
            back=self.row_url(rule),
            done=lambda run: self.view_of(MailingRun).row_url(run),  # type: ignore[union-attr]
            said=_l("The mailing has been started."),
            submit=_("Run now"),
        )

    @expose("/preview/")
    @permission("view")
    def preview_view(self) -> Any:
        """«Кого коснётся»: who would get what if the rule ran now; ?who=yes, ?who=no: of these only, ?after= the client
        of this id. ?count=all: however many they are, all are counted.
        """
        rule = self.get_one(request.args.get("id"))
        (who, after), run = who_asked(request.args), dry_run(rule, by=current_user)
        found = run.page(PAGE, who=who, after=after)
        limit = None if request.args.get("count") == "all" else LOOKED_AT
        context: dict[str, Any] = {
            "rule": rule,
            "option": option_notice(rule.branch),
            "lacks": lacks_of(rule.branch, [(way.channel, any(way.text)) for way in rule.ways]),
            "counts": run.counts(limit),
            "sample": run.sample(found.lines) if rule.kind is MailingKind.TEXT else None,
            "sees_bills": sees_bills,
            "sees_sum": sees_sum,
        }
        return self.render("admin/rule_preview.html", found=found, who=who, **context)

    @expose("/preview/xlsx/")
    @permission("export")
    def preview_export_view(self) -> Any:
        """The same as an Excel file, whole."""
        rule = self.get_one(request.args.get("id"))
        run = dry_run(rule, by=current_user)
        with transaction():
            title = f"{_('Whom it concerns')} {rule.name}"
            record_export("client", rows=run.total(), description=title, by=current_user)
        has_bills = rule.kind in {MailingKind.BILLS, MailingKind.DEBT}
        with reading():
            return dry_run_file(run, rule.name, place=rule.branch, has_bills=has_bills)


def _periodicity(rule: MailingRule) -> str:
    """In words; of a mailing of a single day that it is sent once."""
    return str(_lp("mailing", "Once")) if rule.once_on is not None else str(rule.periodicity.label)


def _next_run(rule: MailingRule) -> datetime | None:
    return next_run(rule, now=clock.now())


def _is_on(rule: MailingRule) -> bool:
    """Whether it will send anything more by itself; a message to a selection does until its only run is over."""
    return rule.is_active and (not rule.is_selected or rule.id in _under_way())


def _is_on_in_sql() -> sa.ColumnElement[bool]:
    under_way = sa.exists().where(MailingRun.rule_id == MailingRule.id, MailingRun.status.in_(UNDER_WAY))
    return sa.and_(MailingRule.is_active, sa.or_(~MailingRule.is_selected, under_way))


def _under_way() -> frozenset[int]:
    """Ids of the rules with a run that is not over; asked for once for all the rows of a page."""
    if "rules_under_way" not in g:
        query = sa.select(MailingRun.rule_id).where(MailingRun.status.in_(UNDER_WAY))
        g.rules_under_way = frozenset(db.session.scalars(query))
    return g.rules_under_way


def _parts(rule: MailingRule) -> list[tuple[Any, str]]:
    """What besides its columns applies to a rule, in words: label and text."""

    def told(name: str) -> bool:
        return applies(name, rule.kind, rule.method, rule.accounts, rule.term)

    parts: list[tuple[Any, str]] = []
    if told("period"):
        parts += [(_("Type of period"), str(rule.period_type.label)), (_("Period"), str(rule.period.label))]
    for values, labels, heading in (
        (rule.statuses, ClientStatus, _("Status of the client")),
        (rule.client_kinds, ClientKind, _("Type of the client")),
    ):
        if values:
            parts.append((heading, ", ".join(str(one.label) for one in labels if one.value in values)))
    if told("term"):
        days = f": {rule.term_days}" if told("term_days") else ""
        parts.append((_("Payment term"), f"{rule.term.label}{days}"))
    if told("subject"):
        parts.append((_("Subject of the lessons"), str(rule.subject or _("All subjects"))))
        parts.append((_("Type of the lesson"), str(rule.lesson_type or _("All types of lessons"))))
    if told("lessons_from"):
        ranges: tuple[tuple[str, Any, Any, Any], ...] = (
            (_("Lessons left (range)"), rule.lessons_from, rule.lessons_to, str),
            (_("Money left (range)"), rule.money_from, rule.money_to, money),
        )
        for heading, low, high, shown in ranges:
            if low is not None or high is not None:
                parts.append(
                    (heading, f"{'…' if low is None else shown(low)} – {'…' if high is None else shown(high)}")
                )
    if told("days"):
        parts.append((_("Days ahead"), str(rule.days)))
    flags = {
        "is_repeatable": _("A bill of the mailing may be paid repeatedly"),
        "attended_only": _("Send only if the client attended lessons in the last 30 days"),
        "lesson_only": _("Send only if the client has lessons on this day"),
        "issues_again": _("Issue a bill again if there is an unpaid one"),
    }
    parts += [(label, _("yes")) for name, label in flags.items() if told(name) and getattr(rule, name)]
    for number, way in enumerate(rule.ways):
        text = way.template.name if way.template else way.subject or shorten(way.body, 120, placeholder="…")
        label = _("If it does not get through") if number else _("Way of sending")
        parts.append((label, f"{way.channel.label} · {text or '—'}"))
    return parts
