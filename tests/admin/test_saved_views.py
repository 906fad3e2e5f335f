"""Views saved of a grid: one's own, shared with a role, the one it opens with; those that speak of what is gone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import select

from crm.admin.models import GridLayout, SavedView
from crm.db import db
from tests.factories import make_bill, make_client

PATH = "/admin/bill/views/"


def save(client: Any, name: str = "Крупные", state: str = "f.amount.from=1000&sort=-amount", **more: Any) -> Any:
    return client.post(PATH, data={"do": "save", "name": name, "state": state, **more})


def the_view(name: str = "Крупные") -> SavedView:
    db.session.expire_all()
    view = db.session.scalar(select(SavedView).where(SavedView.name == name))
    assert view is not None
    return view


def titles(client: Any, address: str) -> list[str]:
    page = client.get(address)
    if page.status_code == 302:
        page = client.get("/admin/bill/" + page.headers["Location"].removeprefix("/admin/bill/"))
    assert page.status_code == 200
    return re.findall(r"data-open>([^<]+)</a>", page.text)


@pytest.fixture
def bills(network: Any) -> dict[str, str]:
    client = make_client(network.lesnoy)
    return {f"{amount}": make_bill(client, amount=amount).title for amount in (500, 1500, 3000)}


def test_a_view_opens_with_its_filters_order_and_columns(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    columns = ["title", "amount"]
    client.post("/admin/bill/layout/", data={"do": "apply", "order": columns, "column": columns})
    answer = save(client)
    view = the_view()
    assert answer.headers["Location"].endswith(f"/admin/bill/?view={view.id}")
    client.post("/admin/bill/layout/", data={"do": "reset"})
    page = client.get(f"/admin/bill/?view={view.id}").text
    assert re.findall(r'data-col="([^"]+)"', page) == columns
    assert titles(client, f"/admin/bill/?view={view.id}") == [bills["3000"], bills["1500"]]
    assert titles(client, "/admin/bill/?view=") == titles(client, "/admin/bill/") == list(bills.values())[::-1]


def test_links_of_an_open_view_stay_within_it(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    save(client)
    page = client.get(f"/admin/bill/?view={the_view().id}").text
    assert re.search(rf'class="chip" href="\?[^"]*in={the_view().id}', page)
    assert "•" in client.get(f"/admin/bill/?in={the_view().id}&f.amount.from=2000").text


def test_the_default_opens_on_the_plain_address_for_that_person_alone(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    save(client, is_default="1")
    answer = client.get("/admin/bill/")
    assert answer.status_code == 302
    assert answer.headers["Location"].endswith(f"?view={the_view().id}")
    assert len(titles(client, "/admin/bill/")) == 2
    assert len(titles(client, "/admin/bill/?view=")) == 3
    assert len(titles(web(network.owner), "/admin/bill/")) == 3
    client.post(PATH, data={"do": "default", "target": ""})
    assert len(titles(client, "/admin/bill/")) == 3


def test_a_private_view_is_nobody_elses(network: Any, web: Any, bills: Any) -> None:
    save(web(network.director))
    number = the_view().id
    other = web(network.owner)
    assert other.get(f"/admin/bill/?view={number}").status_code == 404
    assert "Крупные" not in other.get("/admin/bill/").text
    for verb in ("rename", "delete", "update", "default"):
        assert other.post(PATH, data={"do": verb, "target": number, "name": "Чужое"}).status_code == 404
    assert the_view().name == "Крупные"


def test_a_view_shared_with_a_role_is_seen_by_that_role(network: Any, web: Any, bills: Any) -> None:
    save(web(network.director), shared_with="administrator")
    number = the_view().id
    assert "Крупные" in web(network.administrator).get("/admin/bill/").text
    assert web(network.administrator).get(f"/admin/bill/?view={number}").status_code == 200
    assert web(network.manager).get(f"/admin/bill/?view={number}").status_code == 404


def test_who_may_not_share_cannot(network: Any, web: Any, bills: Any) -> None:
    client = web(network.administrator)
    assert save(client, shared_with="*").status_code == 403
    assert "shared_with" not in client.get(PATH).text
    assert save(client).status_code == 302
    assert the_view().shared_with is None


def test_a_shared_view_shows_each_his_own_branches(network: Any, web: Any, bills: Any) -> None:
    foreign = make_bill(make_client(network.mira), amount=9000).title
    save(web(network.owner), shared_with="*")
    address = f"/admin/bill/?view={the_view().id}"
    assert foreign in titles(web(network.owner), address)
    assert foreign not in titles(web(network.administrator), address)


def test_only_its_owner_or_who_may_share_changes_a_shared_view(network: Any, web: Any, bills: Any) -> None:
    save(web(network.owner), shared_with="*")
    number = the_view().id
    assert web(network.administrator).post(PATH, data={"do": "delete", "target": number}).status_code == 403
    director = web(network.director)
    renamed = director.post(PATH, data={"do": "rename", "target": number, "name": "Новое", "shared_with": "*"})
    assert renamed.status_code == 302
    assert the_view("Новое").id == number


def test_deleting_a_view_frees_those_who_open_with_it(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    save(client, is_default="1")
    number = the_view().id
    answer = client.post(PATH, data={"do": "delete", "target": number, "state": f"in={number}"})
    assert answer.status_code == 302
    assert len(titles(client, "/admin/bill/")) == 3
    db.session.expire_all()
    assert db.session.scalars(select(GridLayout.default_view_id)).all() == [None]


def test_changes_are_saved_into_the_view_when_asked(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    save(client)
    number = the_view().id
    client.post(PATH, data={"do": "update", "target": number, "in": number, "state": f"in={number}&f.amount.to=600"})
    assert titles(client, f"/admin/bill/?view={number}") == [bills["500"]]


def test_what_is_gone_is_named_and_left_out(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    save(client)
    view = the_view()
    view.params = [
        *(["f.amount.from", "1000"], ["f.colour.is", "red"], ["f.status.is", "melted"], ["f.branch.is", "99999"]),
        ["sort", "taste"],
    ]
    view.layout = {"columns": ["title", "taste", "amount"], "widths": {"title": 7}, "size": 3}
    db.session.commit()
    page = client.get(f"/admin/bill/?view={view.id}")
    assert page.status_code == 200
    note = re.findall(r'role="status">([^<]+)<', page.text)
    assert any("colour" in text and "Статус" in text and "Филиал" in text for text in note), note
    assert re.findall(r'data-col="([^"]+)"', page.text) == ["title", "amount"]
    assert sorted(titles(client, f"/admin/bill/?view={view.id}")) == sorted([bills["1500"], bills["3000"]])


@pytest.mark.parametrize("layout", [None, [], {"columns": [1, None]}, {"widths": [], "pinned": 5}])
def test_a_layout_nobody_could_have_saved_does_no_harm(network: Any, web: Any, bills: Any, layout: Any) -> None:
    client = web(network.director)
    save(client)
    view = the_view()
    view.layout = layout if layout is not None else {}
    db.session.commit()
    assert client.get(f"/admin/bill/?view={view.id}").status_code == 200


def test_a_view_wants_a_name(network: Any, web: Any) -> None:
    assert save(web(network.director), name="  ").status_code == 422
    assert db.session.scalar(select(SavedView.id)) is None


def test_odd_numbers_of_views(network: Any, web: Any, bills: Any) -> None:
    client = web(network.director)
    for text in ("abc", "-1", "9" * 40, "%00", "1"):
        assert client.get(f"/admin/bill/?view={text}").status_code == 404
        assert client.get(f"/admin/bill/?in={text}").status_code == 200
