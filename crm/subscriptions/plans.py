"""Plans: what is sold. A subscription keeps the price, the lessons and the way of paying of the day it was sold on, so
that a plan may change at any time and what is sold does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import current_scope
from crm.catalogue.models import LessonType, Subject
from crm.db import MAX_AMOUNT, db
from crm.errors import DomainError, Forbidden
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount


def create_plan(
    *,
    name: str,
    price: Decimal,
    lessons: int | None,
    by: Actor,
    duration_days: int = 30,
    charge: ChargeMoment = ChargeMoment.AT_SALE,
    account: PlanAccount = PlanAccount.BASE,
    lesson_types: Sequence[LessonType] = (),
    subjects: Sequence[Subject] = (),
    branches: Sequence[Branch] = (),
    is_trial: bool = False,
    position: int | None = None,
    is_archived: bool = False,
) -> Plan:
    """Add a plan. lessons None: without a limit. lesson_types, subjects: what it is good for, branches: where it is
    sold; without any, for all and everywhere.

    Raises DomainError beside the field: "name_empty", "name_taken", "price_invalid", "lessons_invalid",
    "lessons_missing" (a plan charged lesson by lesson has a number of them), "duration_invalid"; Forbidden
    "foreign_branch" beside `branches`. The caller commits.
    """
    require(by, "plan.create")
    plan = Plan(branches=[])
    _place(plan, branches)
    _describe(plan, name, price, lessons, duration_days, charge)
    plan.account, plan.lesson_types, plan.subjects = account, list(lesson_types), list(subjects)
    plan.is_trial, plan.position, plan.is_archived = is_trial, position or 0, is_archived
    db.session.add(plan)
    db.session.flush()
    return plan


def change_plan(
    plan: Plan,
    *,
    name: str,
    price: Decimal,
    lessons: int | None,
    by: Actor,
    duration_days: int = 30,
    charge: ChargeMoment = ChargeMoment.AT_SALE,
    account: PlanAccount = PlanAccount.BASE,
    lesson_types: Sequence[LessonType] = (),
    subjects: Sequence[Subject] = (),
    branches: Sequence[Branch] = (),
    is_trial: bool = False,
    position: int | None = None,
    is_archived: bool = False,
) -> Plan:
    """Change what will be sold; errors as of create_plan(). What a plan is good for holds for what is sold as well. The
    caller commits.
    """
    require(by, "plan.edit")
    _place(plan, branches)
    _describe(plan, name, price, lessons, duration_days, charge)
    plan.account, plan.lesson_types, plan.subjects = account, list(lesson_types), list(subjects)
    plan.is_trial, plan.position, plan.is_archived = is_trial, position or 0, is_archived
    plan.version += 1  # by itself it would not notice what is in tables of their own
    db.session.flush()
    return plan


def _place(plan: Plan, branches: Sequence[Branch]) -> None:
    """Within the scope branches come and go; everywhere is more than one who does not see all of them may say."""
    before, after = {*plan.branches}, {*branches}
    if not all(current_scope().covers(branch.id) for branch in before ^ after):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branches")
    if before and not after and current_scope().branch_ids is not None:
        raise Forbidden(
            "foreign_branch",
            _("Without any branch the plan would be sold everywhere, and you do not see every branch."),
            "branches",
        )
    plan.branches = list(branches)


def _describe(
    plan: Plan, name: str, price: Decimal, lessons: int | None, duration_days: int, charge: ChargeMoment
) -> None:
    name = " ".join(name.split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    with db.session.no_autoflush:
        if db.session.scalar(select(Plan.id).where(Plan.name == name, Plan.id != (plan.id or 0))):
            raise DomainError("name_taken", _("There is one with this name already."), "name")
    if not 0 <= price <= MAX_AMOUNT:
        raise DomainError("price_invalid", _("Enter a price from zero to 100 000 000."), "price")
    if lessons is not None and lessons < 0:
        raise DomainError("lessons_invalid", _("The number of lessons is not below zero."), "lessons")
    if charge is ChargeMoment.PER_LESSON and not lessons:
        raise DomainError(
            "lessons_missing", _("Charged lesson by lesson, a plan has a number of lessons: enter it."), "lessons"
        )
    if duration_days < 1:
        raise DomainError("duration_invalid", _("A plan is valid for one day at least."), "duration_days")
    plan.name, plan.price, plan.lessons = name, price, lessons
    plan.duration_days, plan.charge = duration_days, charge


def plans_on_offer(branch: Branch) -> list[Plan]:
    """What is sold in a branch now, in their order."""
    query = (
        select(Plan)
        .where(Plan.is_archived.is_(False), Plan.branches.any(Branch.id == branch.id) | ~Plan.branches.any())
        .order_by(Plan.position, Plan.name)
    )
    return list(db.session.scalars(query))


def sells_for_any_type(branch: Branch) -> bool:
    """Whether a plan without lesson types is sold in the branch: the type of a lesson is then to be told apart."""
    return any(not plan.lesson_types for plan in plans_on_offer(branch))
