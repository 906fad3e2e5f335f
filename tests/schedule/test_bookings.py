"""Bookings of rooms: made, changed, given up; nothing stands in the room at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.catalogue.models import Room
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.schedule.bookings import create_booking, delete_booking, edit_booking
from crm.schedule.lessons import change_lesson
from crm.schedule.models import Booking
from tests.admin.world import errors, fields, send
from tests.factories import make_booking, make_lesson, make_room

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
TEN = datetime(2026, 12, 1, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def room(network: Any) -> Room:
    return make_room(network.lesnoy, name="Зал")


def refused(change: Any) -> DomainError:
    with pytest.raises(DomainError) as caught, transaction():
        change()
    return caught.value


def test_a_room_is_booked_changed_and_given_up(network: Any, room: Room) -> None:
    by, other = network.administrator, make_room(network.lesnoy)
    with transaction():
        booking = create_booking(room, starts_at=TEN, ends_at=TEN + HOUR, comment=" Родительское собрание ", by=by)
    assert (booking.branch_id, booking.author_id, booking.comment) == (room.branch_id, by.id, "Родительское собрание")
    facts: Any = {"room": other, "starts_at": TEN + HOUR, "ends_at": TEN + 2 * HOUR, "comment": ""}
    with transaction():
        edit_booking(booking, **facts, by=by)
    assert (booking.room, booking.starts_at) == (other, TEN + HOUR)
    with transaction():
        delete_booking(booking, by=by)
    assert db.session.scalar(select(func.count()).select_from(Booking)) == 0


@pytest.mark.parametrize("length", [timedelta(0), -HOUR, timedelta(hours=25)])
def test_a_booking_ends_after_it_begins_within_a_day(room: Room, length: timedelta) -> None:
    assert refused(lambda: create_booking(room, starts_at=TEN, ends_at=TEN + length, by=SYSTEM)).field == "ends_at"


def test_a_room_is_booked_once_and_not_over_a_lesson(network: Any, room: Room) -> None:
    first = make_booking(room, starts_at=TEN)
    make_lesson(network.lesnoy, starts_at=TEN + 3 * HOUR, room=room)
    for starts_at, code in ((TEN + HOUR / 2, "booked"), (TEN + 3 * HOUR, "room_taken")):
        facts = {"starts_at": starts_at, "ends_at": starts_at + HOUR}
        error = refused(lambda facts=facts: create_booking(room, **facts, by=SYSTEM))
        assert (error.code, error.field) == (code, "room")
    make_booking(room, starts_at=TEN + HOUR)  # begins when the first ends
    with transaction():
        edit_booking(first, room=room, starts_at=TEN, ends_at=TEN + HOUR / 2, comment="", by=SYSTEM)
    archived = make_room(network.lesnoy, is_archived=True)
    assert refused(lambda: create_booking(archived, starts_at=TEN, ends_at=TEN + HOUR, by=SYSTEM)).field == "room"


def test_the_second_room_of_a_lesson_is_the_lessons(network: Any, room: Room) -> None:
    lesson, second = make_lesson(network.lesnoy, starts_at=TEN, room=room), make_room(network.lesnoy)
    with transaction():
        network.company.has_parallel_rooms = True
        change_lesson(lesson, further_rooms=[second], by=SYSTEM)
    booking = db.session.scalars(select(Booking)).one()
    facts: Any = {"room": second, "starts_at": TEN, "ends_at": TEN + HOUR, "comment": ""}
    for change in (
        lambda: edit_booking(booking, **facts, by=SYSTEM),
        lambda: delete_booking(booking, by=SYSTEM),
    ):
        assert refused(change).code == "booking_of_lesson"


def test_of_two_who_book_the_same_one_wins(network: Any, room: Room, in_parallel: Any) -> None:
    number = room.id

    def one(_index: int) -> int:
        with transaction():
            return create_booking(db.session.get_one(Room, number), starts_at=TEN, ends_at=TEN + HOUR, by=SYSTEM).id

    results = in_parallel(one, times=4)
    assert len([result for result in results if isinstance(result, int)]) == 1
    assert {error.code for error in results if not isinstance(error, int)} == {"booked"}


def test_who_may_not_and_who_works_elsewhere_is_refused(network: Any, room: Room) -> None:
    booking = make_booking(room)
    facts: Any = {"starts_at": TEN, "ends_at": TEN + HOUR}
    for forbidden in (
        lambda: create_booking(room, **facts, by=network.manager),
        lambda: edit_booking(booking, room=room, **facts, comment="", by=network.manager),
        lambda: delete_booking(booking, by=network.manager),
    ):
        assert isinstance(refused(forbidden), Forbidden)
    with scoped_to(Scope(frozenset({network.mira.id}))), pytest.raises(NotFound):
        delete_booking(booking, by=network.administrator)


def test_a_booking_on_the_screen(network: Any, web: Any, room: Room) -> None:
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/booking/new/?room={room.id}&day=2026-12-01&time=10:00"
    asked = fields(browser.get(path).text)
    assert (asked["room"], asked["starts_at"], asked["ends_at"]) == (
        str(room.id),
        "2026-12-01T10:00",
        "2026-12-01T11:00",
    )
    answer = send(browser, path, comment="Собрание")
    assert answer.status_code == 302
    booking = db.session.scalars(select(Booking)).one()
    assert (booking.starts_at, booking.comment) == (TEN, "Собрание")
    page = browser.get(answer.location).text
    assert f"/admin/booking/remove/?id={booking.id}" in page
    answer = send(browser, path, comment="Ещё одно")
    assert answer.status_code == 422
    assert "в указанное время стоит бронь" in errors(answer.text)["room"]
    assert send(browser, f"/admin/booking/edit/?id={booking.id}", ends_at="2026-12-01T12:00").status_code == 302
    assert send(browser, f"/admin/booking/remove/?id={booking.id}").status_code == 302
    assert db.session.scalar(select(func.count()).select_from(Booking)) == 0


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_a_day_that_cannot_be_meant(network: Any, web: Any, room: Room, day: str) -> None:
    """In the address it is no day; in the form it is told."""
    browser, path = web(network.administrator, network.lesnoy), f"/admin/booking/new/?room={room.id}"
    for at in ("00:00", "23:30"):
        assert fields(browser.get(f"{path}&day={day}&time={at}").text)["room"] == str(room.id)
    answer = send(browser, path, starts_at=f"{day}T00:30", ends_at=f"{day}T23:30")
    assert answer.status_code == 422
    assert {name: "от 1900 до 2199" in error for name, error in errors(answer.text).items()} == {
        "starts_at": True,
        "ends_at": True,
    }
