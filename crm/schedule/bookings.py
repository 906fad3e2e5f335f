"""Verbs on bookings of rooms. The second room of a lesson is booked and freed with the lesson, not here."""

from __future__ import annotations

from datetime import datetime, timedelta

from flask_babel import gettext as _
from sqlalchemy import select

from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.catalogue.models import Room
from crm.db import db
from crm.errors import DomainError
from crm.schedule.models import Booking
from crm.schedule.occupancy import Refusal, Slot, check_room, hold_places, occupancy_of
from crm.schedule.recurrence import MAX_MINUTES


def create_booking(room: Room, *, starts_at: datetime, ends_at: datetime, comment: str = "", by: Actor) -> Booking:
    """Keep a room free of lessons for a time, also when the branch is closed. The caller commits.

    Raises DomainError beside the field: "period_invalid", "room_unavailable", "booked", "room_taken".
    """
    require(by, "booking.create", room)
    booking = Booking(branch_id=room.branch_id, author_id=by.id)
    _set(booking, room, starts_at, ends_at, comment)
    db.session.add(booking)
    db.session.flush()
    return booking


def edit_booking(
    booking: Booking, *, room: Room, starts_at: datetime, ends_at: datetime, comment: str, by: Actor
) -> Booking:
    """Change a booking. Raises DomainError as create_booking(), and "booking_of_lesson". The caller commits."""
    require(by, "booking.edit", booking)
    _check_own(booking)
    _set(booking, room, starts_at, ends_at, comment)
    db.session.flush()
    return booking


def delete_booking(booking: Booking, *, by: Actor) -> None:
    """Give the room free. Raises DomainError "booking_of_lesson". The caller commits."""
    require(by, "booking.delete", booking)
    _check_own(booking)
    db.session.delete(booking)
    db.session.flush()


def _check_own(booking: Booking) -> None:
    if booking.lesson_id is not None:
        raise DomainError(
            "booking_of_lesson", _("The room is booked for a lesson that goes on in several: change the lesson.")
        )


def _set(booking: Booking, room: Room, starts_at: datetime, ends_at: datetime, comment: str) -> None:
    if not starts_at < ends_at <= starts_at + timedelta(minutes=MAX_MINUTES):
        raise DomainError("period_invalid", _("A booking ends after it begins, within 24 hours."), "ends_at")
    branch = db.session.get_one(Branch, booking.branch_id)
    check_room(room, branch, kept=booking.room_id)
    hold_places(branch, [room.id], [])
    others = select(Booking.id).where(
        Booking.room_id == room.id,
        Booking.starts_at < ends_at,
        Booking.ends_at > starts_at,
        Booking.starts_at > starts_at - timedelta(minutes=MAX_MINUTES),
    )
    if db.session.scalar(others.where(Booking.id != (booking.id or 0)).limit(1)) is not None:
        raise Refusal("booked", _("there is a booking at this time")).error()
    slot = Slot(starts_at, ends_at, room.id)
    refused = occupancy_of(branch, [slot]).taken(slot, group_id=None, spares_individual=False)
    if refused is not None:
        raise refused.error()
    booking.room, booking.starts_at, booking.ends_at, booking.comment = room, starts_at, ends_at, comment.strip()
