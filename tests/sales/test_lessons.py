"""Lessons added by hand and transferred from one client to another, and the journal that tells of them."""

from __future__ import annotations

import html
import re
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.scope import EVERYWHERE, Scope, scoped_to
from crm.catalogue.models import LessonFormat
from crm.clients.models import Client
from crm.clients.operations import archive_client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden, NotFound
from crm.ledger.models import Transaction, TransactionKind
from crm.payments.desk import refusal_of_reversal, reverse_operation
from crm.sales.journal import journal_of
from crm.sales.lessons import add_lessons, transfer_lessons, types_to_transfer
from crm.sales.returning import ReturnWay, return_subscription
from crm.schedule.attendance import mark_attendance
from crm.schedule.enrolment import take_off
from crm.schedule.models import Mark
from crm.subscriptions.freezing import freeze_subscription
from crm.subscriptions.models import ChargeMoment, Subscription, SubscriptionStatus
from crm.subscriptions.remainders import remainders_of
from tests.admin.world import errors, send
from tests.factories import make_client, make_lesson, make_lesson_type, make_plan, make_subscription, make_user
from tests.sales.conftest import attend, extra_of, lessons_agree, used_subscription


@pytest.fixture
def other(network: Any) -> Client:
    return make_client(network.lesnoy, name="Пётр Второй")


def transfer(network: Any, source: Client, target: Client, **facts: Any) -> Transaction:
    with transaction():
        return transfer_lessons(source, target, **{"by": network.regional, **facts})


# --- added -----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("C102")
def test_lessons_are_added_to_a_subscription_or_to_none(
    network: Any, client: Client, plan: Any, group_type: Any
) -> None:
    sold = make_subscription(client, plan)
    with transaction():
        done = add_lessons(client, subscription=sold, count=2, comment="За перенос", by=network.director)
        add_lessons(client, lesson_type=group_type, count=1, by=network.director)
    assert (done.kind, done.comment, done.subscription_id) == (TransactionKind.GRANT, "За перенос", sold.id)
    assert (sold.lessons_left, extra_of(client, group_type)) == (10, 1)
    assert lessons_agree()


@pytest.mark.spec("C102")
@pytest.mark.parametrize("count", [0, -1, 1001, None])
def test_a_number_that_cannot_be_added(network: Any, client: Client, group_type: Any, count: int | None) -> None:
    with pytest.raises(DomainError) as refused:
        add_lessons(client, lesson_type=group_type, count=count, by=network.director)
    assert refused.value.field == "count"


def test_not_everything_takes_lessons(network: Any, client: Client, other: Client) -> None:
    for plan, code in (
        (make_plan(lessons=None), "not_counted"),
        (make_plan(charge=ChargeMoment.PER_LESSON), "not_counted"),
    ):
        with pytest.raises(DomainError) as refused:
            add_lessons(client, subscription=make_subscription(client, plan), count=1, by=network.director)
        assert refused.value.code == code
    with pytest.raises(DomainError) as refused:
        add_lessons(other, subscription=make_subscription(client), count=1, by=network.director)
    assert refused.value.code == "subscription_foreign"
    with pytest.raises(DomainError) as refused:
        add_lessons(client, count=1, by=network.director)
    assert refused.value.field == "lesson_type"


def test_added_lessons_are_taken_back_by_a_reversal_while_they_are_there(
    network: Any, client: Client, group_type: Any
) -> None:
    with transaction():
        first = add_lessons(client, lesson_type=group_type, count=2, by=network.director)
        second = add_lessons(client, lesson_type=group_type, count=2, by=network.director)
        reverse_operation(first, by=network.director, comment="Не тому")
    assert extra_of(client, group_type) == 2
    attend(client, group_type, 1)
    with pytest.raises(DomainError, match="Недостаточно занятий"), transaction():
        reverse_operation(second, by=network.director, comment="Не тому")
    assert extra_of(client, group_type) == 1


def test_nothing_goes_back_to_a_subscription_that_was_returned(
    network: Any, client: Client, other: Client, plan: Any, group_type: Any
) -> None:
    sold = make_subscription(client, plan)
    moved = transfer(network, client, other, lesson_type=group_type, count=1)
    with transaction():
        return_subscription(sold, way=ReturnWay.KEEP, by=network.director)
    assert "Возвращён" in str(refusal_of_reversal(moved))


def test_a_lesson_written_off_comes_back_by_its_mark(network: Any, client: Client, plan: Any, group_type: Any) -> None:
    used_subscription(client, plan, group_type, used=1)
    line = next(line for line in journal_of(client, by=SYSTEM) if line.count == -1)
    assert line.transaction is not None
    assert "сменой отметки" in str(refusal_of_reversal(line.transaction))


# --- transferred -----------------------------------------------------------------------------------------------------


def test_lessons_that_rest_past_the_old_end_are_still_his(
    network: Any, client: Client, other: Client, group_type: Any
) -> None:
    plan = make_plan(lessons=3, lesson_types=[group_type])
    with clock.frozen(datetime(2027, 1, 20, 9, tzinfo=UTC)):
        frozen = make_subscription(client, plan, starts_on=date(2027, 1, 2))
        expired = make_subscription(client, plan, starts_on=date(2027, 1, 2))
        with transaction():
            freeze_subscription(frozen, from_on=date(2027, 1, 20), by=SYSTEM)
    with clock.frozen(datetime(2027, 2, 10, 9, tzinfo=UTC)):
        assert frozen.ends_on == expired.ends_on == date(2027, 1, 31)
        group = next(one for one in remainders_of(client) if one.format is LessonFormat.GROUP)
        assert group.total == 3
        assert types_to_transfer(client) == {group_type: 3}
        transfer(network, client, other, lesson_type=group_type, count=2)
    db.session.refresh(frozen)
    assert (frozen.lessons_left, extra_of(other, group_type)) == (1, 2)


@pytest.mark.spec("C106", "C110")
def test_taken_from_what_ends_first_and_nothing_is_lost(
    network: Any, client: Client, other: Client, group_type: Any
) -> None:
    today = clock.today(network.lesnoy)
    plan = make_plan(lessons=3, lesson_types=[group_type])
    later = make_subscription(client, plan, starts_on=today)
    sooner = make_subscription(client, plan, starts_on=today - timedelta(days=9))
    with transaction():
        add_lessons(client, lesson_type=group_type, count=2, by=network.director)
    assert types_to_transfer(client) == {group_type: 8}
    transfer(network, client, other, lesson_type=group_type, count=4)
    db.session.refresh(sooner)
    db.session.refresh(later)
    assert (sooner.lessons_left, later.lessons_left, extra_of(client, group_type)) == (0, 2, 2)
    assert extra_of(other, group_type) == 4
    transfer(network, client, other, lesson_type=group_type, count=4)
    assert (extra_of(client, group_type), extra_of(other, group_type)) == (0, 8)
    assert lessons_agree()
    with pytest.raises(DomainError) as refused:
        transfer(network, client, other, lesson_type=group_type, count=1)
    assert (refused.value.code, refused.value.field) == ("not_enough", "count")


@pytest.mark.spec("C106")
@pytest.mark.parametrize("count", [0, -1, 9])
def test_no_more_than_there_are_and_more_than_none(
    network: Any, client: Client, other: Client, plan: Any, group_type: Any, count: int
) -> None:
    make_subscription(client, plan)
    with pytest.raises(DomainError) as refused:
        transfer(network, client, other, lesson_type=group_type, count=count)
    assert refused.value.field == "count"
    assert extra_of(other, group_type) == 0


def test_what_is_not_his_to_give(network: Any, client: Client, other: Client, group_type: Any) -> None:
    today = clock.today(network.lesnoy)
    make_subscription(client, make_plan(lessons=None))
    make_subscription(client, make_plan(charge=ChargeMoment.PER_LESSON))
    make_subscription(client, make_plan(lesson_types=[make_lesson_type()]))
    make_subscription(client, make_plan(duration_days=5), starts_on=today - timedelta(days=5))  # expired
    with pytest.raises(DomainError) as refused:
        transfer(network, client, other, lesson_type=group_type, count=1)
    assert refused.value.code == "not_enough"


def test_not_to_oneself_and_not_to_the_archive(network: Any, client: Client, other: Client, group_type: Any) -> None:
    with pytest.raises(DomainError) as refused:
        transfer(network, client, client, lesson_type=group_type, count=1)
    assert refused.value.code == "client_same"
    with transaction():
        archive_client(other, by=network.director)
    with pytest.raises(DomainError) as refused:
        transfer(network, client, other, lesson_type=group_type, count=1)
    assert refused.value.code == "client_archived"


@pytest.mark.spec("C110")
def test_to_a_client_of_another_branch(network: Any, client: Client, plan: Any, group_type: Any) -> None:
    there = make_client(network.rechnoy)
    make_subscription(client, plan)
    moved = transfer(network, client, there, lesson_type=group_type, count=2)
    assert extra_of(there, group_type) == 2
    assert lessons_agree()
    with transaction():
        reverse_operation(moved, by=network.regional, comment="Не тому")
    assert (types_to_transfer(client), extra_of(there, group_type)) == ({group_type: 8}, 0)


def test_two_transfers_of_the_last_lessons(
    network: Any, client: Client, other: Client, plan: Any, group_type: Any, in_parallel: Any
) -> None:
    make_subscription(client, plan)
    ids, type_id = (client.id, other.id), group_type.id

    def one(_number: int) -> None:
        with transaction():
            source, target = (db.session.get_one(Client, id) for id in ids)
            transfer_lessons(
                source, target, lesson_type=db.session.get_one(type(group_type), type_id), count=5, by=SYSTEM
            )

    results = in_parallel(one, 3)
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, DomainError) for result in results)
    assert extra_of(other, group_type) == 5


# On SQLite one writes at a time.
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_transfer_is_not_reversed_while_its_source_is_being_returned(
    network: Any, client: Client, other: Client, plan: Any, group_type: Any, app: Any, dialect: str
) -> None:
    sold = make_subscription(client, plan)
    moved_id = transfer(network, client, other, lesson_type=group_type, count=3).id
    sold_id, refused = sold.id, list[str]()

    def undo() -> None:
        with app.app_context(), scoped_to(EVERYWHERE):
            try:
                with transaction():
                    reverse_operation(db.session.get_one(Transaction, moved_id), by=SYSTEM, comment="Ошибка")
            except DomainError as error:
                refused.append(error.code)

    with transaction():
        return_subscription(sold, by=SYSTEM)
        undoing = threading.Thread(target=undo)
        undoing.start()
        undoing.join(1)
        assert undoing.is_alive()  # waits for the return
    undoing.join(30)
    db.session.expire_all()
    returned = db.session.get_one(Subscription, sold_id)
    assert (refused, returned.status, returned.lessons_left) == (["irreversible"], SubscriptionStatus.RETURNED, 0)
    assert extra_of(other, group_type) == 3


@pytest.mark.spec("C104", "C137")
@pytest.mark.parametrize("role", ["director", "administrator", "manager"])
def test_only_the_regional_director_transfers(
    network: Any, web: Any, client: Client, other: Client, plan: Any, group_type: Any, role: str
) -> None:
    user = getattr(network, role)
    make_subscription(client, plan)
    with pytest.raises(Forbidden):
        transfer_lessons(client, other, lesson_type=group_type, count=1, by=user)
    page = web(user, network.lesnoy)
    path = f"/admin/client/card/{client.id}/lessons/transfer/"
    assert page.get(path).status_code == page.post(f"{path}?to={other.id}", data={"count": "1"}).status_code == 403
    assert "Перенос занятия" not in page.get(f"/admin/client/card/{client.id}/?tab=options").text


def test_who_may_not_transfer_may_not_take_back(
    network: Any, client: Client, other: Client, plan: Any, group_type: Any
) -> None:
    make_subscription(client, plan)
    moved = transfer(network, client, other, lesson_type=group_type, count=1)
    with pytest.raises(Forbidden):
        reverse_operation(moved, by=network.director, comment="Не тому")


@pytest.mark.spec("C101", "C103", "C104", "C105", "C106", "C107", "C108", "C110", "C111", "C137")
def test_transfer_on_the_screen(
    network: Any, web: Any, client: Client, other: Client, plan: Any, group_type: Any
) -> None:
    make_subscription(client, plan)
    page = web(network.regional, network.lesnoy)
    path = f"/admin/client/card/{client.id}/lessons/transfer/"
    options = page.get(f"/admin/client/card/{client.id}/?tab=options").text
    assert re.search(rf'href="{path}"[^>]*>.*?Перенос занятия</a>', options)
    found = page.get(f"{path}?q=Второй").text
    assert f"{path}?to={other.id}" in found
    shown = page.get(f"{path}?to={other.id}").text
    assert "Перенести остаток занятий" in shown
    assert "Английский в группе, остаток: 8" in html.unescape(shown)
    assert "Город выбранного клиента отличается" not in shown
    refused = send(page, f"{path}?to={other.id}", count="9")
    assert (refused.status_code, "Остаток занятий этого типа: 8." in errors(refused.text)["count"]) == (422, True)
    assert send(page, f"{path}?to={other.id}", count="0").status_code == 422
    assert send(page, f"{path}?to={other.id}", count="2").status_code == 302
    assert extra_of(other, group_type) == 2
    for card, sign, name in ((client, "−2", other), (other, "+2", client)):
        text = page.get(f"/admin/client/card/{card.id}/?tab=options").text
        assert "Перенос занятий" in text
        assert sign in text
        assert name.name in text
        assert network.regional.name in text


@pytest.mark.spec("C109", "C141")
def test_another_city_is_warned_of_and_not_refused(
    network: Any, web: Any, client: Client, plan: Any, group_type: Any
) -> None:
    make_subscription(client, plan)
    there = make_client(network.mira)
    user = make_user(Role.REGIONAL_DIRECTOR, cities=[network.moscow, network.samara])
    page = web(user)
    path = f"/admin/client/card/{client.id}/lessons/transfer/?to={there.id}"
    assert "Город выбранного клиента отличается: Самара" in page.get(path).text
    assert send(page, path, count="3").status_code == 302
    assert extra_of(there, group_type) == 3
    # A city that is not his does not exist for him.
    assert web(network.regional).get(path).status_code == 404
    with pytest.raises(NotFound), scoped_to(Scope(frozenset({network.lesnoy.id, network.rechnoy.id}))):
        transfer_lessons(client, there, lesson_type=group_type, count=1, by=network.regional)


@pytest.mark.spec("C101", "C102")
def test_adding_on_the_screen(network: Any, web: Any, client: Client, plan: Any, group_type: Any) -> None:
    sold = make_subscription(client, plan)
    page = web(network.director, network.lesnoy)
    path = f"/admin/client/card/{client.id}/lessons/add/"
    assert re.search(
        rf'href="{path}"[^>]*>.*?Добавить занятие</a>', page.get(f"/admin/client/card/{client.id}/?tab=options").text
    )
    assert set(errors(send(page, path).text)) == {"lesson_type"}
    assert send(page, path, count="2", subscription=str(sold.id), comment="Бонус").status_code == 302
    assert send(page, path, lesson_type=str(group_type.id)).status_code == 302
    db.session.refresh(sold)
    assert (sold.lessons_left, extra_of(client, group_type)) == (10, 1)
    assert web(network.administrator, network.lesnoy).get(path).status_code == 403


# --- the journal -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("C101")
def test_the_journal_tells_who_did_what_with_which_lessons(
    network: Any, client: Client, plan: Any, group_type: Any
) -> None:
    sold = used_subscription(client, plan, group_type, used=0)
    lesson = make_lesson(network.lesnoy, client, lesson_type_id=group_type.id)
    away = make_lesson(network.lesnoy, client, lesson_type_id=group_type.id, starts_at=clock.now() + timedelta(days=2))
    with transaction():
        mark_attendance(lesson, {one.id: Mark.PRESENT for one in lesson.attendances}, by=network.administrator)
        take_off(away.attendances[0], by=network.administrator)
        add_lessons(client, subscription=sold, count=1, comment="Бонус", by=network.director)
        return_subscription(sold, way=ReturnWay.KEEP, comment="Уезжает", by=network.director)
    told = [
        (str(line.what), line.count, str(line.subscription or ""), line.comment)
        for line in journal_of(client, by=SYSTEM)
    ]
    assert ("Возврат абонемента", -8, str(sold), "Уезжает") in told
    assert ("Добавление занятий", 1, str(sold), "Бонус") in told
    written_off = next(line for line in journal_of(client, by=SYSTEM) if line.what == TransactionKind.LESSON.label)
    assert (written_off.count, written_off.service, written_off.lesson) == (-1, group_type, lesson)
    assert (written_off.who, written_off.subscription) == (network.administrator.name, sold)
    assert [str(line.what) for line in journal_of(client, by=SYSTEM) if line.lesson == away] == [
        "Занятие удалено",
        "Занятие назначено",
    ]
    granted = [line.count for line in journal_of(client, by=SYSTEM) if line.what == TransactionKind.SALE.label]
    assert granted == [8]


@pytest.mark.spec("C101")
def test_the_tab_costs_the_same_whatever_has_been_done(network: Any, web: Any, client: Client, group_type: Any) -> None:
    page = web(network.director, network.lesnoy)

    def count(tab: str) -> int:
        seen: list[str] = []

        def note(*args: Any) -> None:
            seen.append(args[2])

        event.listen(db.engine, "before_cursor_execute", note)
        assert page.get(f"/admin/client/card/{client.id}/?tab={tab}").status_code == 200
        event.remove(db.engine, "before_cursor_execute", note)
        return len(seen)

    make_subscription(client, make_plan())  # the sale of which can be undone
    used_subscription(client, make_plan(lesson_types=[group_type]), group_type, used=1)
    few = count("options"), count("main")
    for _number in range(3):
        used_subscription(client, make_plan(lesson_types=[group_type]), group_type, used=3)
    assert (count("options"), count("main")) == few


@pytest.mark.spec("C21")
def test_remainders_are_split_by_format(network: Any, web: Any, client: Client, group_type: Any) -> None:
    individual = make_lesson_type(LessonFormat.INDIVIDUAL, name="Вокал один на один")
    other_group = make_lesson_type(name="Хор")
    make_subscription(client, make_plan(lessons=4, lesson_types=[individual]))
    make_subscription(client, make_plan(lessons=8, lesson_types=[group_type]))
    make_subscription(client, make_plan(lessons=3, lesson_types=[group_type]))
    make_subscription(client, make_plan(lessons=5, lesson_types=[group_type, individual]))
    make_subscription(client, make_plan(lessons=6))
    with transaction():
        add_lessons(client, lesson_type=other_group, count=1, by=network.director)
    page = web(network.administrator, network.lesnoy).get(f"/admin/client/card/{client.id}/").text
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    assert "Индивидуальные 4 Вокал один на один 4 Групповые 12 Английский в группе 11 Хор 1" in plain
    assert "Для занятий любого вида 11 Английский в группе, Вокал один на один 5 Любого типа 6" in plain


@pytest.mark.spec("C21")
def test_both_sections_are_there_with_nothing_left(network: Any, web: Any, client: Client) -> None:
    page = web(network.administrator, network.lesnoy).get(f"/admin/client/card/{client.id}/").text
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    assert "Индивидуальные 0 Нет остатка. Групповые 0 Нет остатка." in plain
