"""Plans: what is sold."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import g
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, IntegerField, StringField
from wtforms.validators import Length, NumberRange, Optional, StopValidation

from crm.access.models import Branch, City
from crm.admin.base import QuickFilter, grid_url
from crm.admin.fields import REQUIRED, EnumField, Form, MoneyField, ReferencesField
from crm.admin.kinds import LimitKind, NamedListKind
from crm.admin.selection import Selection
from crm.admin.views.catalogue import DictionaryView
from crm.catalogue.models import LessonType, Subject
from crm.catalogue.queries import lesson_types_on_offer, subjects_on_offer
from crm.db import db
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus
from crm.subscriptions.plans import change_plan, create_plan

MAX_LESSONS, MAX_DAYS = 1000, 3660  # more is a slip of the finger


def _cities() -> list[City]:
    """Cities with several branches of this person: one tick stands for many."""
    cities = [branch.city for branch in g.branches]
    return sorted({city for city in cities if cities.count(city) > 1}, key=lambda city: city.name)


def lessons_or_unlimited(form: Any, field: Any) -> None:
    """A number of lessons or the tick beside it: one of the two."""
    typed = str(field.raw_data[0]).strip() if field.raw_data else ""
    if typed and form.is_unlimited.data:
        raise StopValidation(_("Either a number of lessons, or no limit."))
    if not typed:
        field.errors, field.process_errors = [], []
        if form.is_unlimited.data:
            raise StopValidation
        raise StopValidation(_("Enter a number of lessons, or tick “Without a limit of lessons”."))


class PlanForm(Form):
    SECTIONS = (
        (_l("What is sold"), ("name", "price", "lessons", "is_unlimited", "duration_days", "is_trial")),
        (_l("How it is paid"), ("charge", "account")),
        (_l("What it is good for"), ("lesson_types", "subjects")),
        (_l("Where it is sold"), ("branches", "cities")),
        (_l("In the list"), ("position", "is_archived")),
    )

    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    price = MoneyField(
        _l("Price"),
        [REQUIRED, NumberRange(min=0)],
        description=_l("What is sold already keeps its price, lessons, term and way of paying."),
    )
    lessons = IntegerField(_l("Lessons"), [lessons_or_unlimited, NumberRange(0, MAX_LESSONS)])
    is_unlimited = BooleanField(_l("Without a limit of lessons"))
    duration_days = IntegerField(_l("Days valid"), [REQUIRED, NumberRange(1, MAX_DAYS)], default=30)
    is_trial = BooleanField(_l("For a trial lesson"))
    charge = EnumField(
        ChargeMoment,
        _l("The money is taken"),
        description=_l("Lesson by lesson each of them takes its part of the price when it is attended."),
    )
    account = EnumField(
        PlanAccount,
        _l("From which account"),
        description=_l("A separate account keeps the money and the debts of each such subscription apart."),
    )
    lesson_types = ReferencesField(
        LessonType,
        _l("Lesson types"),
        query=lesson_types_on_offer,
        description=_l("None ticked: lessons of every type."),
    )
    subjects = ReferencesField(
        Subject, _l("Subjects"), query=subjects_on_offer, description=_l("None ticked: lessons of every subject.")
    )
    branches = ReferencesField(Branch, _l("Branches"), description=_l("None ticked: sold everywhere."))
    cities = ReferencesField(
        City,
        _l("All branches of a city"),
        query=_cities,
        description=_l("Ticks all branches the city has now when the plan is saved."),
    )
    position = IntegerField(_l("Order"), [Optional(), NumberRange(0, 1000)], default=0)
    is_archived = BooleanField(_l("In the archive"), description=_l("Sold no more; what is sold stays."))

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        if obj is not None:
            kwargs["is_unlimited"] = obj.lessons is None
        super().process(formdata, obj, *args, **kwargs)


class PlanView(DictionaryView):
    """Plans are made in the network interface; a branch sees those it sells."""

    entity = "plan"
    icon = "card-list"
    column_list = (
        *("name", "price", "lessons", "duration_days", "charge", "account", "lesson_types", "subjects", "branches"),
        *("is_trial", "position", "is_archived"),
    )
    column_labels = {"charge": _l("The money is taken"), "account": _l("From which account")}
    column_kinds = {
        "lessons": LimitKind(),
        "lesson_types": NamedListKind(_l("of every type")),
        "subjects": NamedListKind(_l("of every subject")),
        "branches": NamedListKind(_l("everywhere")),
    }
    column_filters = ("price", "lessons", "charge", "account", "is_trial")
    form = PlanForm
    create_label = _l("Add a plan")
    details_template = "admin/plan.html"
    hint = _l("Plans are added and changed in the network interface.")

    @property
    def may_create(self) -> bool:
        return super().may_create and g.scope.branch_id is None

    @property
    def may_edit(self) -> bool:
        return super().may_edit and g.scope.branch_id is None

    def quick_filters(self) -> list[QuickFilter]:
        return [
            QuickFilter(_l("Trial ones"), (("f.is_trial.is", "1"),)),
            QuickFilter(_l("Paid lesson by lesson"), (("f.charge.is", ChargeMoment.PER_LESSON.value),)),
            *super().quick_filters(),
        ]

    def base_condition(self, selection: Selection) -> Any:
        archive = super().base_condition(selection)
        if g.scope.branch_id is None:
            return archive
        sold_here = sa.or_(Plan.branches.any(Branch.id == g.scope.branch_id), ~Plan.branches.any())
        return sold_here if archive is None else sa.and_(sold_here, archive)

    def save_new(self, form: Any) -> Any:
        return create_plan(**_facts(form), by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_plan(row, **_facts(form), by=current_user)

    def details_context(self, row: Plan) -> dict[str, Any]:
        """What is sold of it, within sight."""
        if not current_user.may("subscription.view"):
            return {"sold": None}
        query = sa.select(Subscription.status, sa.func.count()).where(Subscription.plan_id == row.id)
        counts = dict(iter(db.session.execute(query.group_by(Subscription.status))))
        return {
            "sold": [
                (status, counts[status], grid_url("subscription", **{"f.plan.is": row.id, "f.status.is": status.value}))
                for status in SubscriptionStatus
                if status in counts
            ],
            "sold_url": grid_url("subscription", **{"f.plan.is": row.id}),
        }


def _facts(form: Any) -> dict[str, Any]:
    """What create_plan() and change_plan() take."""
    facts = {name: value for name, value in form.data.items() if name not in {"cities", "is_unlimited"}}
    chosen, cities = facts["branches"], form.cities.data
    facts["branches"] = [*chosen, *(one for one in g.branches if one.city in cities and one not in chosen)]
    return facts
