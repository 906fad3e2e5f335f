"""Excel by the clock: sent when it is due, once, with the owner's rights of that moment, to real letter boxes."""

from __future__ import annotations

import io
from datetime import UTC, datetime, time, timedelta
from typing import Any

import openpyxl
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule
from crm.access.roles import change_role
from crm.access.scope import EVERYWHERE, scoped_to
from crm.admin import exports
from crm.background.models import BackgroundJob, JobStatus
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.exchange.schedules.delivery import give_up_lost_letters
from crm.exchange.schedules.models import DeliveryStatus, ExportDelivery, ExportLetter, ExportSchedule
from crm.exchange.schedules.operations import (
    change_schedule,
    plan_due_exports,
    read_recipients,
    send_now,
    switch_schedule,
)
from crm.fields.models import FieldType
from crm.fields.operations import archive_field
from crm.jobs.tasks import perform
from crm.mailings.models import MessageStatus, Periodicity
from tests.admin.world import fields, send
from tests.factories import make_client, make_schedule
from tests.fields.test_fields import add

SUNDAY = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONDAY = datetime(2026, 11, 23, 6, 5, tzinfo=UTC)  # five past nine in Moscow


def made(by: Any, at: datetime = SUNDAY, **facts: Any) -> ExportSchedule:
    with clock.frozen(at):
        return make_schedule(by, **facts)


def tick(at: datetime) -> list[ExportDelivery]:
    """What the scheduler does each minute, and the workers it rings; the deliveries there are then."""
    db.session.commit()
    with clock.frozen(at):
        perform("exports.plan")
        waiting = select(BackgroundJob.id).where(BackgroundJob.status == JobStatus.WAITING)
        job_ids = db.session.scalars(waiting).all()
        db.session.commit()
        for job_id in job_ids:
            perform("background.run", job_id)
        perform("exports.deliver")
        perform("exports.plan")  # notes what has failed
    db.session.commit()
    db.session.expire_all()
    return list(db.session.scalars(select(ExportDelivery).order_by(ExportDelivery.id)))


def attached(letter: Any) -> list[list[Any]]:
    (part,) = letter.message.iter_attachments()
    assert part.get_filename().endswith(".xlsx")
    return [list(row) for row in openpyxl.load_workbook(io.BytesIO(part.get_content())).active.values]


def test_it_comes_at_its_time_with_the_rows_of_that_moment(network: Any, smtp: Any) -> None:
    schedule = made(network.director, recipients="boss@demo.test, second@demo.test")
    make_client(network.lesnoy, name="Анна")
    make_client(network.mira, name="Чужая")
    assert tick(MONDAY - timedelta(minutes=6)) == []
    (delivery,) = tick(MONDAY)
    assert (delivery.status, delivery.rows, delivery.planned_at) == (
        *(DeliveryStatus.READY, 1),
        datetime(2026, 11, 23, 6, tzinfo=UTC),
    )
    assert sorted(letter.recipients[0] for letter in smtp.messages) == ["boss@demo.test", "second@demo.test"]
    letter = smtp.messages[0]
    assert letter.subject == schedule.name
    assert "В файле 1 строка." in letter.text
    header, *rows = attached(letter)
    assert header == ["ФИО", "Телефон"]
    assert [row[0] for row in rows] == ["Анна"]
    assert db.session.get_one(ExportSchedule, schedule.id).last_outcome == "Отправлено: 2 из 2"


def test_two_schedulers_and_late_ticks_send_it_once(network: Any, smtp: Any, in_parallel: Any) -> None:
    made(network.director)
    make_client(network.lesnoy)

    def plan(_index: int) -> None:
        with transaction():
            plan_due_exports(now=MONDAY)

    with clock.frozen(MONDAY):
        in_parallel(plan, times=3)
    assert len(tick(MONDAY)) == 1
    assert len(tick(MONDAY + timedelta(minutes=1))) == 1
    assert len(smtp.messages) == 1


def test_after_three_weeks_of_silence_the_latest_is_sent_once(network: Any, smtp: Any) -> None:
    made(network.director)
    make_client(network.lesnoy)
    deliveries = tick(MONDAY + timedelta(weeks=3, days=2))
    assert [delivery.planned_at for delivery in deliveries] == [datetime(2026, 12, 14, 6, tzinfo=UTC)]
    assert len(smtp.messages) == 1


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"periodicity": Periodicity.MONTHLY, "month_day": 31, "weekdays": []}, datetime(2027, 2, 28, 6, tzinfo=UTC)),
        ({"periodicity": Periodicity.DAILY, "weekdays": []}, datetime(2027, 3, 2, 6, tzinfo=UTC)),
        ({"weekdays": [0, 4]}, datetime(2027, 3, 1, 6, tzinfo=UTC)),
        (
            {"weekdays": [4], "time_zone": "Asia/Yekaterinburg", "send_time": time(0, 30)},
            datetime(2027, 2, 25, 19, 30, tzinfo=UTC),
        ),
    ],
)
def test_days_are_those_of_the_place(network: Any, smtp: Any, facts: dict[str, Any], expected: datetime) -> None:
    made(network.director, datetime(2027, 2, 20, tzinfo=UTC), **facts)
    assert tick(datetime(2027, 3, 2, 10, tzinfo=UTC))[-1].planned_at == expected


def test_no_rows_are_said_and_nothing_is_attached(network: Any, smtp: Any) -> None:
    made(network.director, selection=[["q", "Никто"]])
    (delivery,) = tick(MONDAY)
    assert delivery.rows == 0
    assert "подходящих строк нет" in smtp.messages[0].text
    assert list(smtp.messages[0].message.iter_attachments()) == []


def test_too_large_a_file_stays_with_its_owner(
    network: Any, smtp: Any, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MAX_ATTACHED", 100)
    make_client(network.lesnoy)
    made(network.director)
    (delivery,) = tick(MONDAY)
    assert list(smtp.messages[0].message.iter_attachments()) == []
    assert f"https://kontora.test/admin/job/details/?id={delivery.job_id}" in smtp.messages[0].text
    with web(network.director).get(f"/admin/job/file/{delivery.job_id}") as answer:
        assert answer.status_code in {200, 410}  # the clock of the test has moved on
    assert web(network.owner).get(f"/admin/job/file/{delivery.job_id}").status_code == 404


def test_who_may_no_more_is_sent_nothing_and_it_stops(network: Any, smtp: Any) -> None:
    schedule = made(network.director)
    network.director.is_active = False
    (delivery,) = tick(MONDAY)
    assert delivery.status is DeliveryStatus.FAILED
    schedule = db.session.get_one(ExportSchedule, schedule.id)
    assert not schedule.is_active
    assert "больше не имеет доступа" in schedule.stop_reason
    assert schedule.last_outcome == schedule.stop_reason
    assert smtp.messages == []


def test_a_branch_lost_stops_it(network: Any, smtp: Any) -> None:
    schedule = made(network.director, branch_id=network.lesnoy.id)
    network.director.branches = [network.mira]
    tick(MONDAY)
    assert "больше не работает в этом филиале" in db.session.get_one(ExportSchedule, schedule.id).stop_reason
    assert smtp.messages == []


@pytest.mark.parametrize("way", ["deleted", "hidden from the role"])
def test_a_filter_that_no_longer_holds_sends_nothing_and_stops_it(network: Any, smtp: Any, way: str) -> None:
    field = add(network.company, "Заметка", FieldType.TEXT)
    schedule = made(network.director, selection=[[f"f.custom.{field.key}.has", "VIP"]])
    make_client(network.lesnoy)
    with transaction():
        if way == "deleted":
            archive_field(field, by=SYSTEM)
        else:
            hidden = {f"client.custom.{field.key}": FieldRule.HIDE}
            change_role(network.director.role_settings, permissions={}, fields=hidden, by=SYSTEM)
    (delivery,) = tick(MONDAY)
    assert delivery.status is DeliveryStatus.FAILED
    schedule = db.session.get_one(ExportSchedule, schedule.id)
    assert not schedule.is_active
    assert "нельзя применить" in schedule.stop_reason
    assert smtp.messages == []


def test_a_refused_address_is_told_and_the_others_get_it(network: Any, smtp: Any) -> None:
    schedule = made(network.director, recipients="boss@demo.test\nnobody@demo.test")
    make_client(network.lesnoy)
    smtp.refuse_for_good("nobody@demo.test")
    tick(MONDAY)
    assert [letter.recipients[0] for letter in smtp.messages] == ["boss@demo.test"]
    outcome = db.session.get_one(ExportSchedule, schedule.id).last_outcome
    assert outcome.startswith("Отправлено: 1 из 2; nobody@demo.test: 550")


def test_a_server_that_is_away_is_tried_again(network: Any, smtp: Any) -> None:
    made(network.director)
    make_client(network.lesnoy)
    smtp.close_doors()
    (delivery,) = tick(MONDAY)
    assert delivery.letters[0].status is MessageStatus.PENDING
    smtp.accept()
    tick(MONDAY + timedelta(minutes=30))
    assert db.session.scalars(select(ExportLetter.status)).all() == [MessageStatus.SENT]
    assert len(smtp.messages) == 1


def test_a_letter_whose_worker_died_is_unknown_and_never_sent_again(network: Any, smtp: Any) -> None:
    made(network.director)
    make_client(network.lesnoy)
    smtp.close_doors()
    (delivery,) = tick(MONDAY)
    smtp.accept()
    with transaction():
        letter = delivery.letters[0]
        letter.status, letter.lease_until = MessageStatus.SENDING, MONDAY
    with clock.frozen(MONDAY + timedelta(hours=1)), transaction():
        give_up_lost_letters(now=clock.now())
    tick(MONDAY + timedelta(hours=2))
    assert db.session.scalars(select(ExportLetter.status)).all() == [MessageStatus.UNKNOWN]
    assert smtp.messages == []


def test_a_job_repeated_after_its_letters_were_written_writes_no_more(network: Any, smtp: Any) -> None:
    made(network.director)
    make_client(network.lesnoy)
    (delivery,) = tick(MONDAY)
    with transaction():
        job = db.session.get_one(BackgroundJob, delivery.job_id)
        job.status, job.lease_until = JobStatus.RUNNING, MONDAY - timedelta(hours=1)
        job_id = job.id
    with clock.frozen(MONDAY + timedelta(hours=1)):
        perform("background.run", job_id)
    tick(MONDAY + timedelta(hours=1))
    assert len(smtp.messages) == 1


def test_paused_it_is_silent_and_what_was_missed_is_not_caught_up(network: Any, smtp: Any) -> None:
    schedule = made(network.director)
    with clock.frozen(SUNDAY), transaction():
        switch_schedule(schedule, on=False, by=network.director)
    assert tick(MONDAY) == []
    with clock.frozen(MONDAY), transaction():
        switch_schedule(db.session.get_one(ExportSchedule, schedule.id), on=True, by=network.director)
    assert tick(MONDAY + timedelta(minutes=1)) == []
    assert len(tick(MONDAY + timedelta(weeks=1))) == 1


def test_nobody_else_touches_it(network: Any) -> None:
    schedule = made(network.director)
    for change in (
        lambda: switch_schedule(schedule, on=False, by=network.owner),
        lambda: send_now(schedule, by=network.owner),
    ):
        with pytest.raises(NotFound), scoped_to(EVERYWHERE):
            change()


@pytest.mark.parametrize("text", ["", " ,; ", "нет", "a@b.test, c@", "a@b.test\r\nBcc: x@y.test", "a@@b.test"])
def test_addresses_that_are_none_are_refused_by_name(app: Any, text: str) -> None:
    with pytest.raises(DomainError) as error:
        read_recipients(text)
    assert error.value.field == "recipients"


def test_addresses_are_read_however_they_are_separated(app: Any) -> None:
    assert read_recipients("A@Demo.test; b@demo.test,\n a@demo.test") == ["a@demo.test", "b@demo.test"]


# --- the screens ----------------------------------------------------------------------------------------------------


def test_from_the_grid_to_the_letter(network: Any, web: Any, smtp: Any) -> None:
    make_client(network.lesnoy, name="Анна")
    make_client(network.lesnoy, name="Олег")
    client = web(network.director, network.lesnoy)
    page = client.get("/admin/client/?q=Анна").text
    assert "/admin/exportschedule/new/?" in page
    address = "/admin/exportschedule/new/?of=client&q=Анна"
    assert fields(client.get(address).text)["recipients"] == network.director.email
    answer = send(client, address, name="Анны", weekdays=["0", "2"], send_time="09:30", recipients="boss@demo.test")
    assert answer.status_code == 302
    schedule = db.session.scalars(select(ExportSchedule)).one()
    assert (schedule.weekdays, schedule.branch_id, schedule.recipients) == (
        [0, 2],
        network.lesnoy.id,
        ["boss@demo.test"],
    )
    grid = client.get("/admin/exportschedule/").text
    assert "понедельник, среда · 09:30" in grid
    details = client.get(answer.location)
    assert "Пока ничего не отправлено." in details.text
    assert client.post("/admin/exportschedule/send/", data={"id": schedule.id}).status_code == 302
    tick(clock.now())
    (letter,) = smtp.messages
    assert [row[0] for row in attached(letter)] == ["ФИО", "Анна"]
    assert "boss@demo.test: " in client.get(answer.location).text
    assert client.post("/admin/exportschedule/switch/", data={"id": schedule.id}).status_code == 302
    assert not db.session.get_one(ExportSchedule, schedule.id, populate_existing=True).is_active
    assert client.post("/admin/exportschedule/remove/", data={"id": schedule.id}).status_code == 302
    assert db.session.scalars(select(ExportSchedule)).all() == []
    assert db.session.scalars(select(ExportLetter)).all() == []


def test_who_may_not_export_a_list_schedules_none_of_it(network: Any, web: Any) -> None:
    assert "exportschedule" not in web(network.administrator).get("/admin/client/").text
    address = "/admin/exportschedule/new/?of=user"
    assert web(network.manager).get(address).location == "/admin/exportschedule/"


def test_mistakes_are_told_beside_their_fields(network: Any, web: Any) -> None:
    client = web(network.director)
    address = "/admin/exportschedule/new/?of=client"
    answer = send(client, address, weekdays=[], recipients="boss@demo.test", send_time="09:00")
    assert answer.status_code == 422
    assert "Выберите дни недели." in answer.text
    answer = send(client, address, recipients="boss", send_time="09:00")
    assert "«boss» не похоже на адрес электронной почты." in answer.text
    assert db.session.scalars(select(ExportSchedule)).all() == []


def test_changing_the_time_begins_the_schedule_anew(network: Any, smtp: Any) -> None:
    schedule = made(network.director)
    with clock.frozen(MONDAY), transaction():
        change_schedule(
            schedule,
            name=schedule.name,
            periodicity=Periodicity.DAILY,
            weekdays=[],
            month_day=None,
            send_time=time(9, 4),
            recipients="boss@demo.test",
            by=network.director,
        )
    assert tick(MONDAY + timedelta(minutes=5)) == []
