"""«Кассы и счета» and «Смены»."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import time
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import Response, abort, current_app, flash, g, redirect, request, url_for
from flask_admin import expose
from flask_babel import get_locale, pgettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, HiddenField, IntegerField, StringField, TextAreaField, validators

from crm import clock
from crm.access.actors import author_shown
from crm.access.fields import FieldRules, field_rules
from crm.access.models import Branch, Employee
from crm.admin.base import GridColumn, KontoraView, QuickFilter, grid_url, permission
from crm.admin.cells import Joins, SqlCell
from crm.admin.fields import REQUIRED, EnumField, Form, MoneyField, ReferenceField
from crm.admin.kinds import MoneyKind
from crm.admin.money import sum_field
from crm.admin.selection import Selection
from crm.admin.views.cashflow import SUMS as MOVED_SUMS
from crm.admin.views.cashflow import BranchTillKind
from crm.admin.views.desk import Balance
from crm.db import db
from crm.errors import DomainError
from crm.exchange.excel import content_disposition
from crm.i18n import moment, money
from crm.pdf import render_pdf
from crm.tills.models import Shift, Till, TillKind
from crm.tills.movements import Movement
from crm.tills.moves import move_money, spend_other, take_other
from crm.tills.operations import change_till, create_till
from crm.tills.queries import current_shift, money_in, turnovers_of
from crm.tills.shifts import MAX_COUNTED, DifferenceUnexplained, close_shift, open_shift

MOVEMENTS_SHOWN = 200
MOVEMENTS_PRINTED = 5000
# Of each, what was in the desk could be told.
SHIFT_SUMS = frozenset({"opening_expected", "opening_counted", "closing_expected", "closing_counted", "difference"})


def _branches() -> list[Branch]:
    """Where this person may make a till here: the chosen branch, in the network all of his."""
    return [branch for branch in g.branches if g.scope.covers(branch.id)]


def _till_title(till: Till) -> str:
    """A till among those of other kinds and branches."""
    title = f"{till.kind.label}: {till.name}" if till.name else str(till.kind.label)
    return title if till.branch_id == g.till.branch_id else f"{till.branch.name}: {title}"


def _targets() -> list[Till]:
    """Where money of the till can go: the tills in use within sight, of the same company."""
    query = (
        sa.select(Till)
        .join(Till.branch)
        .where(Till.id != g.till.id, Till.is_archived.is_(False), Branch.company_id == g.till.branch.company_id)
        .order_by(Till.branch_id != g.till.branch_id, Branch.name, Till.position, Till.id)
    )
    return list(db.session.scalars(query))


def _employees() -> list[Employee]:
    query = sa.select(Employee).where(Employee.is_active, Employee.branch_id == g.till.branch_id)
    return list(db.session.scalars(query.order_by(Employee.name)))


class TillForm(Form):
    name = StringField(_l("Name"), [validators.Length(max=200)])
    kind = EnumField(TillKind, _l("Kind"))
    branch = ReferenceField(Branch, _l("Branch"), query=_branches)
    uses_shifts = BooleanField(
        _l("Works by shifts"), description=_l("Cash is taken and given only while a shift is open. For cash desks.")
    )
    position = IntegerField(_l("Order"), [validators.Optional(), validators.NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"))


class TillChangeForm(TillForm):
    """What a till is and where does not change: its account is of that kind and branch."""

    kind = None  # type: ignore[assignment]
    branch = None  # type: ignore[assignment]


class CountForm(Form):
    """The cash counted in a desk. expected: the mark of the sum a person who explains a difference was shown."""

    counted = MoneyField(_l("Cash counted"), [REQUIRED, validators.NumberRange(min=0)], most=MAX_COUNTED)
    comment = TextAreaField(
        _l("Explanation"),
        [validators.Length(max=500)],
        description=_l("Needed when there is more or less than there should be."),
    )
    expected = HiddenField()


class MoveForm(Form):
    target = ReferenceField(Till, _l("Where to"), query=_targets, title=_till_title)
    amount = sum_field()
    employee = ReferenceField(Employee, _l("Who carried it"), query=_employees, is_optional=True)
    comment = StringField(_l("Comment"), [validators.Length(max=500)])


class OtherForm(Form):
    amount = sum_field()
    comment = StringField(_l("What for"), [REQUIRED, validators.Length(max=500)])
    employee = ReferenceField(Employee, _l("Employee"), query=_employees, is_optional=True)


class TillView(KontoraView):
    """Cash desks, terminals, acquiring and bank accounts, with the money there now."""

    entity = "till"
    icon = "safe"
    column_list = ("title", "kind", "balance", "uses_shifts", "position", "is_archived", "branch")
    column_labels = {
        "title": _l("Name"),
        "balance": _l("Money there now"),
        "uses_shifts": _l("Works by shifts"),
    }
    column_kinds = {"balance": MoneyKind()}
    column_sorts = {"title": ("name", "kind")}
    column_filters = ("kind", "uses_shifts", "is_archived", "branch")
    column_totals = ("balance",)
    column_searchable_list = ("name",)
    column_default_sort = "branch,position"
    form = TillForm
    creates = edits = True
    create_label = _l("Add a till or an account")
    details_template = "admin/till.html"
    empty_hint = _l("Tills appear with the first payment of their kind; add more where a branch has several.")

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("In cash"), (("f.kind.is", "cash"),)),
            QuickFilter(_l("In the archive"), (("f.is_archived.is", "1"),)),
        ]

    def base_condition(self, selection: Selection) -> Any:
        return None if selection.filters_by("is_archived") else Till.is_archived.is_(False)

    def sql_cell(self, column: GridColumn, joins: Joins) -> SqlCell | None:
        return self.sql_label(Till) if column.name == "title" else super().sql_cell(column, joins)

    def sql_label(self, row: Any) -> SqlCell | None:
        return SqlCell((row.name, row.kind), lambda name, kind: name or str(kind.label))

    def loader_options(self) -> list[Any]:
        return [*super().loader_options(), sa.orm.undefer(Till.balance)]

    # --- forms ------------------------------------------------------------------------------------------------------

    def form_class(self, row: Any = None, companies: frozenset[int] | None = None) -> type[Form]:
        if row is None:
            return super().form_class(row, companies)
        rules = self.field_rules(row)
        return self._extended(TillChangeForm, frozenset(), rules, rules)

    def prefill(self, form: Any) -> None:
        form.branch.data = next((branch for branch in g.branches if branch.id == g.scope.branch_id), None)

    def save_new(self, form: Any) -> Any:
        return create_till(**form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_till(row, **form.data, by=current_user)

    # --- one till ---------------------------------------------------------------------------------------------------

    @property
    def sees_balance(self) -> bool:
        return "balance" not in self.field_rules().hidden

    def details_context(self, row: Till) -> dict[str, Any]:
        today = clock.at(clock.today(row.branch), time(0), row.branch)
        return {
            "shift": current_shift(row),
            "movements": _movements(Movement.account_id == row.account_id, Movement.happened_at >= today),
            "movements_url": grid_url("cashflow", **{"f.till.is": row.id, "f.happened_at.period": "today"}),
            "all_url": grid_url("cashflow", **{"f.till.is": row.id}),
            "shifts_url": grid_url("shift", **{"f.till.is": row.id}),
            "may_move": self.may("move") and not row.is_archived,
            "may_shift": self.may("shift") and row.uses_shifts and not row.is_archived,
        }

    @expose("/shift/", methods=("GET", "POST"))
    @permission("shift")
    def shift_view(self) -> Any:
        """Open a shift, or close the one that is open: the cash is counted before anybody is told how much there
        should be.
        """
        till = self.get_one(request.values.get("id"))
        shift = current_shift(till)
        if till.is_archived or not (till.uses_shifts or shift):
            flash(_("The till “%(till)s” does not work by shifts.", till=till.title), "warning")
            return redirect(self.row_url(till))
        is_opening = request.values.get("act", "close" if shift else "open") == "open"
        if not is_opening and shift is None:
            flash(_("The shift has been closed already."), "warning")
            return redirect(self.row_url(till))
        form = CountForm(request.form if request.method == "POST" else None)
        despite = _("Open with a difference") if is_opening else _("Close with a difference")

        def count() -> Any:
            there = money_in(till)
            is_shown = hmac.compare_digest((form.expected.data or "").encode(), _mark(till, shift, there).encode())
            facts = {
                "counted": form.counted.data,
                "comment": form.comment.data if is_shown else "",  # nobody explains what he has not seen
                "expected": there if is_shown else None,
                "by": current_user,
            }
            try:
                return open_shift(till, **facts) if is_opening or shift is None else close_shift(shift, **facts)
            except DifferenceUnexplained as error:
                form.expected.data = _mark(till, shift, error.expected)
                text = str(error) if self.sees_balance else _("There is a difference. Count again, or explain it.")
                if not form.comment.data.strip():
                    raise DomainError(error.code, text, error.field) from None
                # Explained already: nothing is wrong with the field, only the sum had not been seen.
                text = _("%(what)s If the count is right, press “%(button)s”.", what=text, button=despite)
                raise DomainError(error.code, text) from None

        return self.answer(
            form,
            count,
            title=_("Open a shift: %(till)s", till=till.title)
            if is_opening
            else _("Close the shift: %(till)s", till=till.title),
            subtitle=_("Count the cash in the desk and enter the sum."),
            back=self.row_url(till),
            done=lambda made: (
                url_for("shift.details_view", id=made.id) if current_user.may("shift.view") else self.row_url(till)
            ),
            said=_l("The shift is open.") if is_opening else _l("The shift is closed."),
            submit=_("Open the shift") if is_opening else _("Close the shift"),
            template="admin/count.html",
            act="open" if is_opening else "close",
            despite=despite,
        )

    @expose("/move/", methods=("GET", "POST"))
    @permission("move")
    def move_view(self) -> Any:
        """Money to another till: to the bank, into another desk."""
        return self._money_view(
            MoveForm,
            lambda till, form: move_money(till, by=current_user, **form.data),
            title=_l("Move money"),
            said=_l("The money has been moved."),
            sign=-1,
        )

    @expose("/take/", methods=("GET", "POST"))
    @permission("move")
    def take_view(self) -> Any:
        """Money that comes in from elsewhere than a client."""
        return self._money_view(
            OtherForm,
            lambda till, form: take_other(till, by=current_user, **form.data),
            title=_l("Other cash in"),
            said=_l("The money has been taken in."),
            sign=1,
        )

    @expose("/spend/", methods=("GET", "POST"))
    @permission("move")
    def spend_view(self) -> Any:
        """Money that goes out to elsewhere than a client."""
        return self._money_view(
            OtherForm,
            lambda till, form: spend_other(till, by=current_user, **form.data),
            title=_l("Other cash out"),
            said=_l("The expense has been noted."),
            sign=-1,
        )

    def _money_view(
        self, form_class: type[Form], act: Callable[[Till, Any], Any], *, title: Any, said: Any, sign: int
    ) -> Any:
        till = self.get_one(request.values.get("id"))
        g.till = till
        form = form_class(request.form if request.method == "POST" else None)
        return self.answer(
            form,
            lambda: act(till, form),
            title=title,
            subtitle=_till_title(till),
            back=self.row_url(till),
            done=lambda posted: self.row_url(till),
            said=said,
            submit=title,
            template="admin/money_form.html",
            balances=[Balance(till.title, money_in(till), sign=sign)] if self.sees_balance else [],
        )


class ShiftView(KontoraView):
    """Opened and closed from the desk's page; a shift's page is its report."""

    entity = "shift"
    icon = "clock-history"
    column_list = (
        *("id", "till", "opened_at", "closed_at", "difference", "opening_counted", "closing_counted"),
        *("opened_by_name", "closed_by_name", "branch"),
    )
    column_details_list = (
        *("id", "till", "opened_at", "opened_by_name", "opening_expected", "opening_counted", "opening_comment"),
        *("closed_at", "closed_by_name", "closing_expected", "closing_counted", "closing_comment", "difference"),
        "branch",
    )
    column_labels = {
        "id": _l("Shift"),
        "opened_at": _lp("shift", "Opened"),
        "opened_by_name": _l("Opened by"),
        "closed_at": _lp("shift", "Closed"),
        "closed_by_name": _l("Closed by"),
        "opening_expected": _l("At the opening there should be"),
        "opening_counted": _l("At the opening there was"),
        "opening_comment": _l("Explanation at the opening"),
        "closing_expected": _l("At the closing there should be"),
        "closing_counted": _l("At the closing there was"),
        "closing_comment": _l("Explanation at the closing"),
        "difference": _l("Difference"),
    }
    column_kinds = {"difference": MoneyKind(), "till": BranchTillKind()}
    column_filters = ("till", "opened_at", "closed_at", "difference", "branch")
    column_totals = ("difference",)
    column_default_sort = "-id"
    details_template = "admin/shift.html"
    empty_hint = _l("Shifts are opened on the page of a cash desk that works by shifts.")

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Open now"), (("f.closed_at.empty", "1"),)),
            QuickFilter(_l("With a difference"), (("f.difference.not", "0"),)),
        ]

    def cell(self, row: Any, column: GridColumn) -> str | Markup:
        if column.name == "closed_at" and row.is_open:
            text, css = (
                (_("open for more than a day"), "overdue")
                if row.is_overlong
                else (pgettext("shift", "still open"), "pending")
            )
            return Markup('<span class="status is-{}">{}</span>').format(css, text)
        if column.name == "difference" and row.difference < 0:
            return Markup('<span class="debt">{}</span>').format(super().cell(row, column))
        return super().cell(row, column)

    def field_rules(self, row: Any = None) -> FieldRules:
        """Who does not see the money in a desk counts it blind: the last count would tell him what to find."""
        rules = super().field_rules(row)
        if "balance" not in field_rules(current_user, "till").hidden:
            return rules
        return FieldRules(rules.hidden | SHIFT_SUMS, rules.frozen)

    @property
    def sees_sums(self) -> bool:
        """Whether this person may know what was in the desk and what moved."""
        movements = self.view_of(Movement)
        shows_moves = movements is not None and not {*MOVED_SUMS} & movements.field_rules().hidden
        return shows_moves and not SHIFT_SUMS & self.field_rules().hidden

    def details_context(self, row: Shift) -> dict[str, Any]:
        span = {"f.till.is": row.till_id, "f.id.from": row.from_entry_id + 1}
        if row.to_entry_id is not None:
            span["f.id.to"] = row.to_entry_id
        return {
            "turnovers": turnovers_of(row) if self.sees_sums else [],
            "movements": _movements(*_span(row)) if self.sees_sums else [],
            "is_cut_at": MOVEMENTS_SHOWN,
            "movements_url": grid_url("cashflow", **span),
            "there_now": money_in(row.till) if row.is_open and self.sees_sums else None,
            "may_close": row.is_open and current_user.may("till.shift"),
        }

    @expose("/report/<id>/")
    @permission("view")
    def report_view(self, id: str) -> Any:
        """«Отчёт по смене» to be printed and signed."""
        shift = self.get_one(id)
        if not self.sees_sums:
            abort(403)
        title = _("Report of shift %(number)s", number=shift.id)
        return Response(
            render_pdf("shift", self.report_data(shift, title)),
            mimetype="application/pdf",
            headers={"Content-Disposition": content_disposition(f"{title}.pdf", is_shown=True)},
        )

    def report_data(self, shift: Shift, title: str) -> dict[str, Any]:
        """What the printed report says, as texts: facts, and tables of head and rows; widths in mm, 0 for the rest."""
        place, company = self.place_of(shift), shift.branch.company
        facts = [
            (str(column.label), Markup.escape(column.kind.show(column.value(shift), place)).striptags())
            for column in self.details_columns(shift)
            if column.name not in {"id", "branch"} and column.value(shift) not in (None, "")
        ]
        kinds = [
            [str(line.kind.label), str(line.count), money(line.came_in), money(line.went_out)]
            for line in turnovers_of(shift)
        ]
        moves = [
            [
                moment(line.happened_at, shift.branch.time_zone),
                ". ".join(filter(None, (str(line.kind.label), str(line.client or ""), line.comment))),
                money(line.came_in),
                money(line.went_out),
                author_shown(line.author_name),
            ]
            for line in reversed(_movements(*_span(shift), limit=MOVEMENTS_PRINTED))
        ]
        sums = [_("Cash in"), _("Cash out")]
        return {
            "lang": str(get_locale()),
            "title": title,
            "place": f"{company.legal_name or company.name}, {shift.branch.name}",
            "facts": facts,
            "tables": [
                {
                    "title": _("Money of the shift"),
                    "head": [_("Operation"), _("Operations"), *sums],
                    "rows": kinds,
                    "widths": [0, 24, 28, 28],
                    "numbers": [1, 2, 3],
                },
                {
                    "title": _("Movements"),
                    "head": [_("When"), _("Operation"), *sums, _("Author")],
                    "rows": moves,
                    "widths": [30, 0, 24, 24, 30],
                    "numbers": [2, 3],
                },
            ],
            "signatures": [pgettext("shift", "Handed over"), pgettext("shift", "Received")],
        }


def _movements(*conditions: Any, limit: int = MOVEMENTS_SHOWN) -> list[Movement]:
    """The latest movements, with what the tables of tills and shifts show of them."""
    query = (
        sa.select(Movement)
        .where(*conditions)
        .options(sa.orm.joinedload(Movement.client), sa.orm.selectinload(Movement.branch))
        .order_by(Movement.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))


def _span(shift: Shift) -> list[Any]:
    """Conditions of the movements of a shift."""
    conditions = [Movement.account_id == shift.till.account_id, Movement.id > shift.from_entry_id]
    return conditions if shift.to_entry_id is None else [*conditions, Movement.id <= shift.to_entry_id]


def _mark(till: Till, shift: Shift | None, there: Decimal) -> str:
    """Tells whether a form knew of this sum in the desk, and nothing of the sum itself."""
    text = f"count:{till.id}:{shift.id if shift else 0}:{there:.2f}"
    secret = current_app.secret_key or ""
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, text.encode(), hashlib.sha256).hexdigest()
