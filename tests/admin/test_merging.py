"""«Объединить с другой карточкой»: find the other card, compare, confirm; the old card leads to the one that stays."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role
from crm.access.roles import change_role
from crm.bills.links import bill_url
from crm.clients.discount import set_discount
from crm.clients.merging import merge_clients
from crm.db import db, transaction
from crm.ledger.models import Account, Entry, Transaction
from crm.ledger.operations import base_account
from crm.visits.models import Visit
from tests.access.test_roles import settings_of
from tests.admin.world import errors, send, views
from tests.factories import (
    make_account,
    make_bill,
    make_child,
    make_client,
    make_message,
    make_payment,
    make_subscription,
)


@pytest.fixture
def cards(network: Any) -> Any:
    """The card that stays and the other one, each with money."""
    kept = make_client(network.lesnoy, name="Анна Ветрова", email="")
    gone = make_client(network.lesnoy, name="Аня Ветрова", email="anya@demo.test")
    make_payment(base_account(kept.id, network.lesnoy.id), Decimal("1000.10"))
    make_payment(base_account(gone.id, network.lesnoy.id), Decimal("234.56"))
    make_account(gone, balance=700)
    db.session.commit()
    return kept, gone


def path(kept: Any, gone: Any) -> str:
    return f"/admin/client/card/{kept.id}/merge/?with={gone.id}"


def test_the_discount_that_is_taken_over_is_told(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    desk = web(network.owner)
    assert "Скидка" not in desk.get(path(kept, gone)).text
    with transaction():
        set_discount(gone, amount=Decimal("512.50"), reason="Многодетная семья", by=SYSTEM)
    page = desk.get(path(kept, gone)).text
    assert "Скидка" in page
    assert page.count("512,50") == 2  # of the other card, and after the merge


def test_the_other_card_is_found_by_search_and_among_likely_duplicates(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    twin = make_client(network.rechnoy, name="Ветрова А.", phone="", extra_phone=kept.phone)
    desk = web(network.owner)
    page = desk.get(f"/admin/client/card/{kept.id}/merge/").text
    assert f"with={twin.id}" in page
    assert f"with={gone.id}" not in page
    assert f"with={gone.id}" in desk.get(f"/admin/client/card/{kept.id}/merge/?q=аня").text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"email": "a@demo.test"}, {"email": "a@demo.test"}),
        ({"name": "Анна", "birth_date": date(1990, 5, 1)}, {"name": "Анна", "birth_date": date(1990, 5, 1)}),
        ({"extra_phone": "+79990000001"}, {"phone": "+79990000001"}),
    ],
)
def test_what_makes_a_likely_duplicate(network: Any, web: Any, one: Any, other: Any) -> None:
    card, twin = make_client(network.lesnoy, **one), make_client(network.rechnoy, **other)
    stranger = make_client(network.lesnoy)
    page = web(network.owner).get(f"/admin/client/card/{card.id}/merge/").text
    assert f"with={twin.id}" in page
    assert f"with={stranger.id}" not in page


def test_a_family_shares_a_phone_and_is_no_duplicate(network: Any, web: Any) -> None:
    payer = make_client(network.lesnoy)
    child = make_child(payer, phone=payer.phone)
    for card in (payer, child):
        page = web(network.owner).get(f"/admin/client/card/{card.id}/merge/").text
        assert "Других карточек с тем же телефоном" in page


def test_likely_duplicates_of_all_in_sight_are_listed(network: Any, web: Any) -> None:
    twins = [make_client(network.lesnoy, name=f"Почта {n}", email="twin@demo.test") for n in (1, 2)]
    born = [make_client(network.lesnoy, name="Анна Ветрова", birth_date=date(1990, 5, 1)) for _ in range(2)]
    phone = make_client(network.lesnoy, name="Телефон один")
    make_client(network.lesnoy, name="Телефон два", extra_phone=phone.phone)
    payer = make_client(network.lesnoy, name="Одна семья", email="family@demo.test")
    make_child(payer, name="Её ребёнок", phone=payer.phone, email="family@demo.test")
    make_client(network.mira, name="Чужая почта", email="twin@demo.test")
    lone = make_client(network.lesnoy, name="Здесь один", phone="+79990000011")
    make_client(network.mira, name="Чужой телефон", phone="", extra_phone=lone.phone)
    desk = web(network.director)
    page = desk.get("/admin/client/duplicates/").text
    for shown in ("twin@demo.test", "Анна Ветрова, 01.05.1990", "Телефон один", "Телефон два"):
        assert shown in page
    for other in ("Одна семья", "Её ребёнок", "Чужая почта", "Здесь один", "Чужой телефон"):
        assert other not in page
    for first, second in (twins, born):
        assert f"/card/{first.id}/merge/?with={second.id}" in page
    assert "/admin/client/duplicates/" in desk.get("/admin/client/").text
    with transaction():
        merge_clients(*twins, by=SYSTEM)
        hidden = dict.fromkeys(("client.phone", "client.birth_date"), FieldRule.HIDE)
        change_role(settings_of(Role.DIRECTOR), permissions={}, fields=hidden, by=network.owner)
    assert "Двух карточек, похожих на одного человека, нет" in desk.get("/admin/client/duplicates/").text


def test_the_comparison_says_what_moves_and_how_much(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    make_bill(gone)
    page = web(network.owner).get(path(kept, gone)).text.replace("\xa0", " ")
    assert "anya@demo.test" in page
    assert "Дополнительный телефон" in page  # the other card's phone, which neither had there
    assert "234,56" in page
    assert "Остаток перейдёт на такой же счёт" in page
    assert "1 934,66" in page  # 1000.10 + 234.56 + 700.00
    assert f"/card/{gone.id}/merge/?with={kept.id}" in page


def test_a_merge_is_confirmed_and_told(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    desk = web(network.owner)
    unsure = send(desk, path(kept, gone))
    assert unsure.status_code == 422
    assert "is_sure" in errors(unsure.text)
    done = send(desk, path(kept, gone), is_sure="y")
    assert done.location == f"/admin/client/card/{kept.id}/"
    page = desk.get(done.location).text
    assert "Карточка «Аня Ветрова" in page
    assert "Объединённые карточки" in page  # its history
    db.session.expire_all()
    assert gone.merged_into_id == kept.id
    assert base_account(kept.id, network.lesnoy.id).balance == Decimal("1234.66")


def test_a_merge_sent_twice_is_done_once(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    desk = web(network.owner)
    form = {"form_key": "a" * 32, "is_sure": "y"}
    first, second = desk.post(path(kept, gone), data=form), desk.post(path(kept, gone), data=form)
    assert first.location == second.location == f"/admin/client/card/{kept.id}/"


def test_what_is_refused_is_told_and_cannot_be_confirmed(network: Any, web: Any, cards: Any) -> None:
    kept, _gone = cards
    page = web(network.owner).get(path(kept, kept)).text
    assert "Это та же самая карточка" in page
    assert "is_sure" not in page


def test_whose_role_does_not_merge_sees_no_button(network: Any, web: Any, cards: Any) -> None:
    kept, _gone = cards
    assert "Объединить с другой карточкой" in web(network.director).get(f"/admin/client/card/{kept.id}/").text
    assert "Объединить с другой карточкой" not in web(network.administrator).get(f"/admin/client/card/{kept.id}/").text


def test_what_is_hidden_from_a_role_is_hidden_here(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    twin = make_client(network.lesnoy, phone="", extra_phone=kept.phone)
    hidden = dict.fromkeys(("client.phone", "client.extra_phone", "client.email", "account.balance"), FieldRule.HIDE)
    with transaction():
        change_role(settings_of(Role.DIRECTOR), permissions={}, fields=hidden, by=network.owner)
    desk = web(network.director, network.lesnoy)
    page = desk.get(path(kept, gone)).text.replace("\xa0", " ")
    for secret in ("anya@demo.test", "234,56", "1 934,66", gone.phone[-4:]):
        assert secret not in page
    page = desk.get(f"/admin/client/card/{kept.id}/merge/?q=аня").text
    assert f"with={gone.id}" in page
    assert gone.phone[-4:] not in page
    assert f"with={twin.id}" not in page  # the same hidden phone would tell it


# --- the card that was merged ---------------------------------------------------------------------------------------


@pytest.fixture
def merged(network: Any, cards: Any) -> Any:
    with transaction():
        merge_clients(*cards, by=SYSTEM)
    return cards


def test_its_page_leads_to_the_card_that_stays(network: Any, web: Any, merged: Any) -> None:
    kept, gone = merged
    desk = web(network.owner, network.lesnoy)
    for old, new in (
        (f"/admin/client/card/{gone.id}/?tab=accounts", f"/admin/client/card/{kept.id}/?tab=accounts"),
        (f"/admin/client/card/{gone.id}/account/new/", f"/admin/client/card/{kept.id}/account/new/"),
        (f"/admin/client/edit/?id={gone.id}", f"/admin/client/edit/?id={kept.id}"),
    ):
        assert desk.get(old).location == new


def test_a_form_opened_before_acts_on_the_card_that_stays(network: Any, web: Any, merged: Any) -> None:
    kept, gone = merged
    desk = web(network.owner, network.lesnoy)
    form = {"account_type": network.account_type.id, "initial_balance": "5", "method": "cash"}
    answer = desk.post(f"/admin/client/card/{gone.id}/account/new/", data=form)
    assert answer.status_code == 302
    db.session.expire_all()
    newest = db.session.scalars(select(Account).order_by(Account.id.desc())).first()
    assert newest is not None
    assert (newest.client_id, newest.balance) == (kept.id, 5)


def test_it_is_not_found_and_not_restored(network: Any, web: Any, merged: Any) -> None:
    _kept, gone = merged
    desk = web(network.owner)
    assert f"/card/{gone.id}/" not in desk.get("/admin/search/?q=аня ветрова").text
    ids = [gone.id]
    page = desk.post("/admin/client/action/", data={"action": "restore", "ids": ids, "confirmed": "1"})
    assert page.status_code < 500
    db.session.expire_all()
    assert gone.status.value == "archived"


def test_links_of_its_bills_work_on(network: Any, web: Any, cards: Any) -> None:
    kept, gone = cards
    bill = make_bill(gone)
    link = bill_url(bill).removeprefix("https://kontora.test")
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    assert web().get(link).status_code == 200


def test_who_does_not_see_the_card_that_stays_works_on_with_what_is_his(network: Any, web: Any, app: Any) -> None:
    """Rows of his branch whose client's card is in another now: every page of them opens, none shows an error."""
    kept, gone = make_client(network.rechnoy, name="Не здесь"), make_client(network.lesnoy, name="Аня")
    account = make_account(gone, balance=5)
    visit = Visit(
        branch_id=network.lesnoy.id,
        client_id=gone.id,
        service="Стрижка",
        starts_at=clock.now(),
        price=Decimal(900),
        created_at=clock.now(),
    )
    with transaction():
        db.session.add(visit)
    rows = {
        "account": account,
        "bill": make_bill(gone),
        "payment": make_payment(account, 1),
        "subscription": make_subscription(gone),
        "message": make_message(gone),
        "visit": visit,
    }
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    desk, wrong = web(network.director, network.lesnoy), {}
    addresses = [f"/admin/{entity}/" for entity in rows]
    addresses += [f"/admin/client/card/{gone.id}/", f"/admin/client/card/{gone.id}/account/new/", "/admin/entry/"]
    addresses += [f"/admin/client/account/{account.id}/top-up/", f"/pay/{rows['bill'].token}"]
    for view in views(app):
        if row := rows.get(view.entity):
            for rule, name, methods in view._urls:
                if "GET" in (methods or ("GET",)) and name not in {"index_view", "create_view"}:
                    addresses.append(f"/admin/{view.entity}{rule.replace('<id>', str(row.id))}?id={row.id}")
    for entry in db.session.scalars(select(Entry)):
        addresses += [f"/admin/{entity}/details/?id={entry.id}" for entity in ("entry", "cashflow")]
    for operation in db.session.scalars(select(Transaction.id)):
        addresses += [f"/admin/entry/receipt/{operation}/", f"/admin/account/operation/{operation}/reverse/"]
    for address in addresses:
        answer = desk.get(address)
        if answer.status_code >= 500:
            wrong[address] = answer.status_code
        assert "Не здесь" not in answer.data.decode(errors="replace"), address
    assert wrong == {}
