"""Verbs on export schedules: save, switch, delete, run, and plan what is due. The caller commits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time
from typing import Any

from flask_babel import force_locale
from flask_babel import gettext as _
from sqlalchemy import select, update

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import User
from crm.access.operations import normalise_email
from crm.access.queries import branches_of
from crm.background.models import BackgroundJob, JobStatus
from crm.background.operations import start_job
from crm.bell import ring
from crm.db import db
from crm.errors import DomainError, Forbidden, NotFound
from crm.exchange.schedules.models import DeliveryStatus, ExportDelivery, ExportLetter, ExportSchedule
from crm.mailings.models import MessageStatus, Periodicity
from crm.mailings.schedule import Days, latest_moment

SCHEDULED_EXPORT = "scheduled_export"  # the kind of job
DELIVER_EXPORTS = "exports.deliver"
MAX_RECIPIENTS = 20


def read_recipients(text: str) -> list[str]:
    """Addresses written one after another, with commas, semicolons, spaces or line breaks between. Raises DomainError
    beside `recipients`.
    """
    found = list(dict.fromkeys(_address(part) for part in re.split(r"[\s,;]+", text) if part))
    if not found:
        raise DomainError("recipients_empty", _("Enter at least one address."), field="recipients")
    if len(found) > MAX_RECIPIENTS:
        reason = _("No more than %(count)s addresses.", count=MAX_RECIPIENTS)
        raise DomainError("recipients_many", reason, field="recipients")
    return found


def _address(text: str) -> str:
    try:
        return normalise_email(text)
    except DomainError:
        reason = _("“%(text)s” does not look like an e-mail address.", text=text[:100])
        raise DomainError("recipients_invalid", reason, field="recipients") from None


def create_schedule(
    *,
    entity: str,
    selection: Sequence[Sequence[str]],
    columns: Sequence[str] | None,
    branch_id: int | None,
    locale: str,
    time_zone: str,
    by: User,
    **changes: Any,
) -> ExportSchedule:
    """A schedule of `by` over what he may export himself; changes: those of change_schedule(). Raises DomainError."""
    require(by, "exportschedule.create")
    require(by, f"{entity}.export")
    schedule = ExportSchedule(
        entity=entity,
        owner_id=by.id,
        branch_id=branch_id,
        locale=locale,
        time_zone=time_zone,
        selection=[list(pair) for pair in selection],
        columns=None if columns is None else list(columns),
        created_at=clock.now(),
    )
    _set_schedule(schedule, **changes)
    db.session.add(schedule)
    db.session.flush()
    return schedule


def change_schedule(schedule: ExportSchedule, *, by: Actor, **changes: Any) -> ExportSchedule:
    """Another name, time or addresses. Raises DomainError beside a field."""
    _require_own(schedule, by, "exportschedule.edit")
    _set_schedule(schedule, **changes)
    db.session.flush()
    return schedule


def _set_schedule(
    schedule: ExportSchedule,
    *,
    name: str,
    periodicity: Periodicity,
    weekdays: Sequence[int],
    month_day: int | None,
    send_time: time,
    recipients: str,
) -> None:
    if periodicity is Periodicity.WEEKLY and not weekdays:
        raise DomainError("weekdays_empty", _("Choose the days of the week."), field="weekdays")
    if periodicity is Periodicity.MONTHLY and month_day is None:
        raise DomainError("month_day_empty", _("Enter the day of the month."), field="month_day")
    schedule.name, schedule.periodicity, schedule.send_time = name, periodicity, send_time
    schedule.weekdays = sorted(weekdays) if periodicity is Periodicity.WEEKLY else []
    schedule.month_day = month_day if periodicity is Periodicity.MONTHLY else None
    schedule.recipients = read_recipients(recipients)


def switch_schedule(schedule: ExportSchedule, *, on: bool, by: Actor) -> None:
    """Pause it, or let it run again from now on."""
    _require_own(schedule, by, "exportschedule.edit")
    schedule.is_active, schedule.stop_reason = on, ""
    db.session.flush()


def delete_schedule(schedule: ExportSchedule, *, by: Actor) -> None:
    """Drop it with the list of what it sent; files that were made stay with their jobs."""
    _require_own(schedule, by, "exportschedule.delete")
    db.session.delete(schedule)
    db.session.flush()


def send_now(schedule: ExportSchedule, *, by: Actor) -> ExportDelivery:
    """A sending of this very moment, beside the planned ones."""
    _require_own(schedule, by, "exportschedule.run")
    if (refusal := _refusal(schedule)) is not None:
        raise Forbidden("schedule_refused", refusal)
    return _begin(schedule, clock.now(), is_manual=True)


def _require_own(schedule: ExportSchedule, by: Actor, permission: str) -> None:
    require(by, permission)
    if schedule.owner_id != by.id:
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))


# --- by the clock ---------------------------------------------------------------------------------------------------


def plan_due_exports(*, now: datetime) -> None:
    """Begin what is due: of each schedule its latest moment, once, however many were missed meanwhile."""
    schedules = select(ExportSchedule).where(ExportSchedule.is_active).order_by(ExportSchedule.id)
    for schedule in db.session.scalars(schedules.with_for_update(key_share=True)):
        planned_at = latest_moment(_days(schedule), schedule.send_time, schedule, now=now)
        if planned_at <= schedule.schedule_since or _is_begun(schedule, planned_at):
            continue
        with force_locale(schedule.locale):
            refusal = _refusal(schedule)
            if refusal is None:
                _begin(schedule, planned_at)
            else:
                stop_schedule(schedule, refusal)
                _fail(_delivery(schedule, planned_at), refusal)


def _days(schedule: ExportSchedule) -> Days:
    return Days(schedule.periodicity, tuple(schedule.weekdays), schedule.month_day)


def _is_begun(schedule: ExportSchedule, planned_at: datetime) -> bool:
    query = select(ExportDelivery.id).where(
        ExportDelivery.schedule_id == schedule.id, ExportDelivery.planned_at == planned_at
    )
    return db.session.scalar(query) is not None


def _refusal(schedule: ExportSchedule) -> str | None:
    """Why its owner may have this file no more, in words; None while he may."""
    owner = schedule.owner
    if not owner.is_active:
        return _("%(name)s may not sign in any more.", name=owner.name)
    if not owner.may(f"{schedule.entity}.view") or not owner.may(f"{schedule.entity}.export"):
        return _("%(name)s may not export this list any more.", name=owner.name)
    if schedule.branch_id is not None and schedule.branch_id not in {branch.id for branch in branches_of(owner)}:
        return _("%(name)s works in this branch no more.", name=owner.name)
    return None


def stop_schedule(schedule: ExportSchedule, reason: str) -> None:
    """Switch it off, because what it was made for can be sent no more; its owner is told why."""
    schedule.is_active, schedule.stop_reason = False, reason[:500]
    db.session.flush()


def _delivery(schedule: ExportSchedule, planned_at: datetime, *, is_manual: bool = False) -> ExportDelivery:
    delivery = ExportDelivery(
        schedule_id=schedule.id, planned_at=planned_at, is_manual=is_manual, created_at=clock.now()
    )
    db.session.add(delivery)
    db.session.flush()
    return delivery


def _begin(schedule: ExportSchedule, planned_at: datetime, *, is_manual: bool = False) -> ExportDelivery:
    delivery = _delivery(schedule, planned_at, is_manual=is_manual)
    job = start_job(
        SCHEDULED_EXPORT,
        by=schedule.owner,
        title=schedule.name,
        entity=schedule.entity,
        params={"delivery": delivery.id},
        branch_id=schedule.branch_id,
        locale=schedule.locale,
    )
    delivery.job_id = job.id
    db.session.flush()
    return delivery


def file_is_ready(
    delivery: ExportDelivery, *, rows: int, subject: str, body: str, is_attached: bool, now: datetime
) -> None:
    """The file is made: its letters wait to be sent, one to each address."""
    delivery.status, delivery.rows = DeliveryStatus.READY, rows
    delivery.subject, delivery.body, delivery.is_attached = subject, body, is_attached
    for recipient in delivery.schedule.recipients:
        db.session.add(ExportLetter(delivery_id=delivery.id, recipient=recipient, next_try_at=now))
    db.session.flush()
    ring(DELIVER_EXPORTS)


def settle_failed_exports() -> None:
    """Say of deliveries whose job has ended without a file why there is none."""
    over = (JobStatus.FAILED, JobStatus.CANCELED)
    query = (
        select(ExportDelivery, BackgroundJob.error)
        .join(BackgroundJob, BackgroundJob.id == ExportDelivery.job_id)
        .where(ExportDelivery.status == DeliveryStatus.PREPARING, BackgroundJob.status.in_(over))
    )
    for delivery, error in db.session.execute(query).all():
        with force_locale(delivery.schedule.locale):
            _fail(delivery, error or _("The job was stopped."))


def _fail(delivery: ExportDelivery, reason: str) -> None:
    delivery.status, delivery.error = DeliveryStatus.FAILED, reason[:500]
    db.session.flush()
    note_outcome(delivery)


def note_outcome(delivery: ExportDelivery) -> None:
    """Write beside the schedule what became of its latest delivery, in its owner's language."""
    schedule = delivery.schedule
    latest = select(ExportDelivery.id).where(ExportDelivery.schedule_id == schedule.id)
    if db.session.scalar(latest.order_by(ExportDelivery.id.desc()).limit(1)) != delivery.id:
        return
    with force_locale(schedule.locale):
        text = outcome_of(delivery)
    # Not through the row: what a worker notes must not make an edited form stale.
    statement = update(ExportSchedule).where(ExportSchedule.id == schedule.id).values(last_outcome=text[:500])
    db.session.execute(statement.execution_options(synchronize_session=False))


def outcome_of(delivery: ExportDelivery) -> str:
    """What became of a delivery, in words."""
    if delivery.status is not DeliveryStatus.READY:
        return delivery.error or str(delivery.status.label)
    sent = [letter for letter in delivery.letters if letter.status is MessageStatus.SENT]
    others = [letter for letter in delivery.letters if letter.status is not MessageStatus.SENT]
    parts = [_("Sent to %(count)s of %(total)s", count=len(sent), total=len(delivery.letters))]
    if delivery.rows == 0:
        parts.append(_("no rows"))
    parts += [f"{letter.recipient}: {letter.error or letter.status.label}" for letter in others]
    return "; ".join(parts)
