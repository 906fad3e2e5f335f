"""«Разослать сообщение…»: from the rows of any grid that has clients to a message to each of them: written → looked at
(who gets what, over what, and who does not and why) → sent, at once or at a moment.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import abort, flash, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import ngettext
from flask_login import current_user
from werkzeug.datastructures import MultiDict
from wtforms import BooleanField, StringField, TextAreaField, validators

from crm import clock
from crm.access.models import Branch
from crm.admin.base import BulkAction, KontoraView, permission
from crm.admin.fields import REQUIRED, DateField, TimeField
from crm.admin.mailing_option import option_notices
from crm.admin.selection import Selection
from crm.admin.views.dry_runs import PAGE, dry_run_file, who_asked
from crm.admin.views.ways import NUMBERS, OFFERED, WAY_FIELDS, WaysForm, kept_ways, template_field
from crm.audit.operations import record_export
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import reading, transaction
from crm.errors import DomainError
from crm.i18n import day, moment
from crm.mailings.models import MailingRule, MailingRun
from crm.mailings.preview import dry_run_of_selection
from crm.mailings.selection import SelectionFacts, WrittenWay, branches_of, check_moment, mail_selection
from crm.mailings.tags import OF_KIND, MailingKind, hidden_tags, tags_about
from crm.mailings.upcoming import lacks_of
from crm.schedule.models import ClientGroup, GroupMember

FORM_PAGE = "admin/mailing_selection.html"
# Ticked rows an address can tell of.
MOST_TICKED = 300
# Of what is sent along from page to page: what is no field of the form.
_MACHINERY = frozenset({"csrf_token", "form_key", "step", "count", "who", "after"})
_OWN_TEXT = _l("none: the text below")


def _subject_field() -> StringField:
    return StringField(_l("Subject of the letter"), [validators.Length(max=200)])


def _text_field() -> TextAreaField:
    return TextAreaField(_l("Text of the message"), [validators.Length(max=20000)], render_kw={"rows": 8})


class SelectionForm(WaysForm):
    """A message to a selection: a way takes a template or a text written here."""

    SECTIONS = (
        (_l("What do we send?"), ("name",)),
        (
            _l("How do we send?"),
            tuple(f"{name}{number}" for number in NUMBERS for name in ("way", "template", "subject", "text")),
        ),
        (_l("When do we send?"), ("is_later", "once_on", "send_time")),
    )
    DECIDING = frozenset({"is_later", *WAY_FIELDS, *(f"template{number}" for number in NUMBERS)})
    GROUPS: ClassVar[dict[str, Any]] = {}

    name = StringField(
        _l("Name"),
        [REQUIRED, validators.Length(max=200)],
        description=_l("For yourselves: in the list of mailings. Clients do not see it."),
    )
    template = template_field(blank=_OWN_TEXT, description=OFFERED)
    template_2 = template_field(blank=_OWN_TEXT)
    template_3 = template_field(blank=_OWN_TEXT)
    subject, subject_2, subject_3 = _subject_field(), _subject_field(), _subject_field()
    text, text_2, text_3 = _text_field(), _text_field(), _text_field()
    is_later = BooleanField(_l("At a day and time, not at once"))
    once_on = DateField(_l("Date of sending"), [validators.Optional()])
    send_time = TimeField(_l("Time"), [validators.Optional()], description=_l("On the clock of the branch."))

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(obj, MailingRule):
            kwargs |= {"is_later": True, "once_on": obj.once_on, "send_time": obj.send_time, "name": obj.name}
            kwargs |= kept_ways(obj)
            for number, way in zip(NUMBERS, obj.ways, strict=False):
                kwargs |= {f"subject{number}": way.subject, f"text{number}": way.body}
            obj = None
        super().process(formdata, obj, *args, **kwargs)

    @property
    def mailing_kind(self) -> MailingKind:
        return MailingKind.TEXT

    def is_shown(self, name: str) -> bool:
        if name in {"once_on", "send_time"}:
            return bool(self.is_later.data)
        if not self.is_way_shown(name):
            return False
        kind, _, number = name.partition("_")
        if kind not in {"subject", "text"}:
            return True
        number = f"_{number}" if number else ""
        is_letter = self[f"way{number}"].data is Channel.EMAIL
        return self[f"template{number}"].data is None and (kind == "text" or is_letter)

    def validate(self, *args: Any, **kwargs: Any) -> bool:
        is_valid = super().validate(*args, **kwargs)
        if self.is_later.data:
            for field, said in ((self.once_on, _("Enter the date.")), (self.send_time, _("Enter the time."))):
                if field.data is None and not field.errors:
                    field.errors, is_valid = [said], False
        return is_valid

    @property
    def facts(self) -> SelectionFacts:
        """The message as the operations take it."""
        ways = [
            WrittenWay(
                channel,
                self[f"template{number}"].data,
                self[f"subject{number}"].data or "",
                self[f"text{number}"].data or "",
            )
            for number, channel in self.chosen_ways()
        ]
        is_later = bool(self.is_later.data)
        return SelectionFacts(
            self.name.data,
            ways,
            once_on=self.once_on.data if is_later else None,
            send_time=self.send_time.data if is_later else None,
        )

    def lacks(self, branches: list[Branch]) -> list[str]:
        """What keeps the message from going out, a sentence each. That it has no text is said beside the field."""
        ways = [(way.channel, True) for way in self.facts.ways]
        return list(dict.fromkeys(text for branch in branches for text in lacks_of(branch, ways)))


def tags_of_texts() -> list[Any]:
    """The tags this person may put in a message to a selection."""
    return tags_about(OF_KIND[MailingKind.TEXT], hidden_tags(current_user))


def mailing_actions() -> list[BulkAction]:
    """The action of a grid whose rows have a client (or are one, or a group of them)."""
    return [
        BulkAction(
            "mail", _l("Send a message to many…"), "mailingrule.create", "", is_dangerous=False, leads_to=_page_for
        )
    ]


def _page_for(selection: Selection) -> str:
    """The page that writes to the clients of a selection: what is selected stands in its address."""
    args = selection.args(page=None, after=None, before=None, size=None)
    if selection.ids is not None:
        if len(selection.ids) > MOST_TICKED:
            text = _("Tick %(most)s rows at most, or take all that are found.", most=MOST_TICKED)
            raise DomainError("too_many_ticked", text)
        args = [("ids", "-".join(str(id) for id in dict.fromkeys(selection.ids)))]
    return f"{url_for('mailingrule.selection_view')}?{urlencode([('of', selection.view.entity), *args])}"


class SelectionMailingView(KontoraView):
    """The pages of the module; of the view of mailing rules."""

    @expose("/selection/", methods=("GET", "POST"))
    @permission("create")
    def selection_view(self) -> Any:
        """?of= the grid's entity, its selection behind it. `step`: refresh, preview, back, send."""
        selection = self._selected()
        back = selection.view.get_url(".index_view") + selection.url()
        if selection.doubt is not None:
            flash(selection.doubt, "danger")
            return redirect(back)
        clients = self._clients(selection)
        branches = branches_of(clients)
        count = sum(number for _branch, number in branches)
        if not count:
            flash(_("None of these rows has a client to write to."), "warning")
            return redirect(back)
        is_sent = request.method == "POST"
        step = request.form.get("step", "preview") if is_sent else "refresh"
        form = SelectionForm(request.form if is_sent else None)
        if not is_sent:
            form.name.data = _("Message of %(day)s", day=day(clock.today(branches[0][0])))
        places = [branch for branch, _number in branches]
        page: dict[str, Any] = {
            "title": _("A message to many"),
            "subtitle": _told_of(branches, selection),
            "back": back,
            "options": option_notices(places),
            "tags": tags_of_texts(),
            "lacks": form.lacks(places),
            "submit": _("See who gets it"),
        }
        if step in {"refresh", "back"}:
            form.settle()
            return self._shown(form, page)
        is_as_seen = request.form.get("count") == str(count)
        if step == "send" and is_as_seen and not page["options"]:
            return self.answer(
                form,
                lambda: mail_selection(form.facts, clients, by=current_user),
                template=FORM_PAGE,
                done=self._runs_url,
                said=lambda runs: _said_of(runs, count),
                **page,
            )
        if not form.validate():
            return self._shown(form, page), 422
        if step == "send" and not is_as_seen:
            flash(_("Others are chosen by now than when you looked. Look at them and send again."), "warning")
        try:
            check_moment(form.facts, places)
            run = dry_run_of_selection(form.facts, clients, by=current_user)
            who, after = who_asked(request.form)
            found = run.page(PAGE, who=who, after=after)
            sample = run.sample(found.lines) or run.sample(run.page(1, who="yes").lines)
        except DomainError as error:
            self.show_error(form, error)
            return self._shown(form, page), 422
        kept = [(key, value) for key, value in request.form.items(multi=True) if key not in _MACHINERY]
        context = {"counts": run.counts(), "found": found, "who": who, "sample": sample, "kept": kept, "count": count}
        at = form.facts.once_on
        context["moment"] = f"{day(at)} {form.send_time.data:%H:%M}" if at is not None else None
        query = request.query_string.decode()
        return self.render(
            "admin/mailing_selection_preview.html",
            form=form,
            export_url=f"{self.get_url('.selection_export_view')}?{query}" if self.may("export") else None,
            **{**page, **context},
        )

    @expose("/selection/xlsx/", methods=("POST",))
    @permission("export")
    def selection_export_view(self) -> Any:
        """The dry run as an Excel file, whole."""
        selection, form = self._selected().as_meant(), SelectionForm(request.form)
        if not form.validate():
            raise DomainError("form_invalid", " ".join(str(text) for texts in form.errors.values() for text in texts))
        run = dry_run_of_selection(form.facts, self._clients(selection), by=current_user)
        with transaction():
            record_export("client", rows=run.total(), description=form.name.data or "", by=current_user)
        with reading():
            return dry_run_file(run, form.name.data or "", place=selection.place, has_bills=False)

    def _shown(self, form: Any, page: dict[str, Any]) -> str:
        """The form as it stands; nothing is carried out."""
        shown: str = self.render(FORM_PAGE, form=form, row=None, stale=[], **page)
        return shown

    def _selected(self) -> Selection:
        """The rows the address tells of; 404 for a grid there is not, or that this person may not do this in."""
        view = next(
            (view for view in self.admin._views if getattr(view, "entity", None) == request.args.get("of")), None
        )
        if not isinstance(view, KontoraView) or not view.is_accessible():
            abort(404)
        if not any(action.name == "mail" for action in view.possible_actions()):
            abort(404)
        args = MultiDict([(key, value) for key, value in request.args.items(multi=True) if key not in {"of", "ids"}])
        selection = Selection.from_args(view, args, view.here())
        return selection.only(request.args["ids"].split("-")) if "ids" in request.args else selection

    def _clients(self, selection: Selection) -> Any:
        """SELECT of the ids of the clients of the rows whom this person may see; of groups, of who is in them today."""
        model = selection.view.model
        if model is ClientGroup:
            members = sa.select(GroupMember.client_id).where(
                GroupMember.group_id.in_(selection.aggregate(ClientGroup.id)),
                GroupMember.left_on.is_(None) | (GroupMember.left_on > clock.today(selection.place)),
            )
            ids = members
        else:
            ids = selection.aggregate(Client.id if model is Client else model.client_id)
        clients = self.view_of(Client)
        assert clients is not None
        return clients.within_sight(sa.select(Client.id)).where(Client.id.in_(ids))

    def _runs_url(self, runs: list[MailingRun]) -> str:
        view = self.view_of(MailingRun)
        assert isinstance(view, KontoraView)
        return view.row_url(runs[0]) if len(runs) == 1 else url_for("mailingrun.index_view")


def _told_of(branches: list[tuple[Branch, int]], selection: Selection) -> str:
    """How many are written to, whose they are when there are several branches, and where they were chosen."""
    count = sum(number for _branch, number in branches)
    said = ngettext("%(num)s client", "%(num)s clients", count)
    if len(branches) > 1:
        said += f" ({', '.join(f'{branch.name} — {number}' for branch, number in branches)})"
    return f"{said} · {selection.view.name}"


def _said_of(runs: list[MailingRun], count: int) -> str:
    if runs[0].is_manual:
        return ngettext("%(num)s client is being written to.", "%(num)s clients are being written to.", count)
    return _("The message goes out at %(moment)s.", moment=moment(runs[0].planned_at, runs[0].branch.time_zone))
