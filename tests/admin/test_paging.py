"""Walking through a grid: forwards and backwards, by numbers and by places, every row once and in its order, whatever
is blank or equal; and the orders themselves.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert
from werkzeug.datastructures import MultiDict

from crm.access.models import User
from crm.admin import selection as selections
from crm.admin.selection import Selection
from crm.clients.models import Client, ClientStatus
from crm.db import db
from crm.security import on_behalf_of
from tests.admin.world import views
from tests.factories import make_bill, make_client

START = datetime(2026, 1, 1, tzinfo=UTC)


def view_of(app: Flask, entity: str) -> Any:
    return next(view for view in views(app) if view.entity == entity)


def selected(app: Flask, entity: str, **args: Any) -> Selection:
    view = view_of(app, entity)
    return Selection.from_args(view, MultiDict(args), view.here())


def follow(app: Flask, entity: str, link: str) -> Selection:
    view = view_of(app, entity)
    return Selection.from_args(view, MultiDict(parse_qsl(link.removeprefix("?"))), view.here())


def walk(app: Flask, entity: str, selection: Selection, step: str) -> list[list[int]]:
    """Ids page by page, from the page of `selection` on."""
    pages = []
    while True:
        page = selection.read_page()
        pages.append([row.id for row in page.rows])
        link = getattr(selection.page_links(page), step)
        if link is None:
            return pages
        selection = follow(app, entity, link)
        assert len(pages) < 100, "the walk goes round in circles"


@pytest.fixture
def as_owner(network: Any) -> Iterator[User]:
    with on_behalf_of(network.owner.id, branch_id=None, locale="ru", source="test") as user:
        yield user


@pytest.fixture
def pages_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, of which only the first two are numbered."""
    monkeypatch.setattr(selections, "PAGE_SIZES", (3,))
    monkeypatch.setattr(selections, "MAX_OFFSET", 6)


# --- any rows, any order --------------------------------------------------------------------------------------------

names = st.sampled_from(["Анна", "Борис", "Вера", "Анна Ё", "z"])
facts = st.fixed_dictionaries(
    {
        "name": names,
        "email": st.sampled_from([None, None, "a@demo.test", "b@demo.test"]),
        "birth_date": st.sampled_from([None, date(1990, 1, 31), date(2000, 2, 29)]),
        "created_at": st.integers(0, 2).map(lambda days: START + timedelta(days)),
        "status": st.sampled_from(list(ClientStatus)),
        "payer": st.sampled_from([None, 0, 1]),
        "branch": st.sampled_from([0, 1, 2]),
    }
)
orders = st.lists(
    st.tuples(
        st.sampled_from(["name", "email", "birth_date", "created_at", "status", "payer", "branch", "id"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda item: item[0],
)


def by_python(rows: list[dict[str, Any]], order: list[tuple[str, bool]]) -> list[int]:
    """Ids in the order, as Python sorts them: from the last key to the first, blanks after all else."""
    place = {status: number for number, status in enumerate(ClientStatus)}
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "status": lambda row: place[row["status"]],
        "payer": lambda row: row["payer_name"],
        "branch": lambda row: row["branch_name"],
    }
    found = sorted(rows, key=lambda row: row["id"], reverse=order[-1][1])
    for name, is_descending in reversed(order):
        key = keys.get(name, lambda row, name=name: row[name])
        filled = [row for row in found if key(row) not in (None, "")]
        blank = [row for row in found if key(row) in (None, "")]
        found = [*sorted(filled, key=key, reverse=is_descending), *blank]
    return [row["id"] for row in found]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(cards=st.lists(facts, max_size=14), order=orders)
def test_a_walk_is_the_order_of_python(
    app: Flask, network: Any, as_owner: User, pages_of_three: None, cards: list[dict[str, Any]], order: Any
) -> None:
    db.session.rollback()  # what the example before has left
    branches = [network.lesnoy, network.rechnoy, network.mira]
    rows: list[dict[str, Any]] = []
    for number, card in enumerate(cards, 1):
        payer = card["payer"] if card["payer"] is not None and card["payer"] < len(rows) else None
        rows.append(
            {
                **{key: value for key, value in card.items() if key not in {"payer", "branch"}},
                "id": number,
                "payer_id": None if payer is None else payer + 1,
                "branch_id": branches[card["branch"]].id,
                "comment": "",
                "search": "",
                "version": 1,
                "payer_name": None if payer is None else rows[payer]["name"],
                "branch_name": branches[card["branch"]].name,
            }
        )
    db.session.execute(delete(Client))
    if rows:
        columns = [{k: v for k, v in row.items() if k not in {"payer_name", "branch_name"}} for row in rows]
        db.session.execute(insert(Client), columns)
    sort = ",".join(f"{'-' if is_descending else ''}{name}" for name, is_descending in order)
    everyone = {"sort": sort, "size": "3", "any1.f.status.is": "active", "any1.f.status.not": "active"}
    expected = by_python(rows, order)

    first = selected(app, "client", **everyone)
    assert first.notices == ()
    forwards = walk(app, "client", first, "next")
    assert [row_id for page in forwards for row_id in page] == expected
    assert [len(page) for page in forwards[:-1]] == [3] * (len(forwards) - 1)

    last = selected(app, "client", **everyone, before="end")
    backwards = walk(app, "client", last, "previous")
    assert [row_id for page in reversed(backwards) for row_id in page] == expected


# --- links ----------------------------------------------------------------------------------------------------------


def ids_and_links(app: Flask, entity: str, **args: Any) -> tuple[list[int], Any]:
    selection = selected(app, entity, **args)
    page = selection.read_page()
    return [row.id for row in page.rows], selection.page_links(page)


def test_links_lead_from_the_first_page_to_the_last_and_back(
    app: Flask, network: Any, pages_of_three: None, as_owner: User
) -> None:
    ids = [make_client(network.lesnoy, name=f"Клиент {number:02}").id for number in range(11)]
    found, links = ids_and_links(app, "client", size="3")
    assert (found, links.first, links.previous) == (ids[:3], None, None)
    assert links.next == "?size=3&page=2"
    assert links.last == "?size=3&before=end"
    last = follow(app, "client", links.last)
    page = last.read_page()
    assert [row.id for row in page.rows] == ids[8:]
    assert (page.start, last.page_links(page).next, last.page_links(page).last) == (None, None, None)
    before = follow(app, "client", last.page_links(page).previous)
    assert [row.id for row in before.read_page().rows] == ids[5:8]


def test_one_page_leads_nowhere(app: Flask, network: Any, as_owner: User) -> None:
    make_client(network.lesnoy)
    _found, links = ids_and_links(app, "client")
    assert (links.first, links.previous, links.next, links.last) == (None, None, None, None)


@pytest.mark.parametrize("cursor", ["", "x", "%00", "\x00", "W10.xxxx", "a" * 5000, "eyJ9"])
@pytest.mark.parametrize("where", ["after", "before"])
def test_a_forged_place_is_the_first_page_and_says_so(
    app: Flask, network: Any, as_owner: User, where: str, cursor: str
) -> None:
    client = make_client(network.lesnoy)
    selection = selected(app, "client", **{where: cursor})
    assert [row.id for row in selection.read_page().rows] == [client.id]
    assert bool(selection.notices) == bool(cursor)


def test_a_place_of_another_order_is_refused(app: Flask, network: Any, pages_of_three: None, as_owner: User) -> None:
    for number in range(4):
        make_client(network.lesnoy, name=f"Клиент {number}")
    page = selected(app, "client", size="3", sort="name").read_page()
    assert selected(app, "client", size="3", sort="name", after=page.last_key).notices == ()
    for other in ("-name", "created_at", "name,created_at"):
        assert selected(app, "client", size="3", sort=other, after=page.last_key).notices


def test_pages_beyond_the_numbered_ones_say_so(app: Flask, network: Any, as_owner: User) -> None:
    make_client(network.lesnoy)
    for page in ("201", str(10**12), "9" * 400):
        selection = selected(app, "client", page=page)
        assert selection.page == 200
        assert selection.notices
        assert selection.read_page().rows == []
    for page in ("-1", "0", "abc", "%00", "\x00", "²", ""):
        selection = selected(app, "client", page=page)
        assert (selection.page, selection.notices) == (1, ())


def test_a_column_that_is_gone_is_named(app: Flask, network: Any, as_owner: User) -> None:
    selection = selected(app, "client", **{"sort": "-shoe_size,name", "f.shoe_size.is": "44"})
    assert [str(sort) for sort in selection.order] == ["name"]
    assert "shoe_size" in selection.notices[0]
    assert [(item.name, bool(item.error)) for item in selection.filters] == [("shoe_size", True)]


# --- orders ---------------------------------------------------------------------------------------------------------


def test_bills_are_ordered_by_the_name_of_the_client(app: Flask, network: Any, as_owner: User) -> None:
    bills = {name: make_bill(make_client(network.lesnoy, name=name)).id for name in ("Вера", "Анна", "Борис")}
    found, _links = ids_and_links(app, "bill", sort="client")
    assert found == [bills["Анна"], bills["Борис"], bills["Вера"]]
    found, _links = ids_and_links(app, "bill", sort="-client")
    assert found == [bills["Вера"], bills["Борис"], bills["Анна"]]


def test_bills_are_ordered_by_their_number(app: Flask, network: Any, as_owner: User) -> None:
    client = make_client(network.lesnoy)
    first, second = make_bill(client).id, make_bill(client).id
    assert ids_and_links(app, "bill", sort="title")[0] == [first, second]
    assert ids_and_links(app, "bill", sort="-title")[0] == [second, first]


def test_every_order_offered_can_be_walked(app: Flask, network: Any, pages_of_three: None, as_owner: User) -> None:
    """Every sortable column of every grid, forwards and backwards, beyond the numbered pages."""
    for branch in (network.lesnoy, network.rechnoy, network.mira):
        for _ in range(3):
            make_bill(make_client(branch))
    for view in views(app):
        for name in view.sortable_columns():
            for sort in (name, f"-{name}"):
                forwards = walk(app, view.entity, selected(app, view.entity, sort=sort, size="3"), "next")
                last = selected(app, view.entity, sort=sort, size="3", before="end")
                backwards = walk(app, view.entity, last, "previous")
                there = [row_id for page in forwards for row_id in page]
                assert there == [row_id for page in reversed(backwards) for row_id in page], (view.entity, sort)
                assert len(there) == len(set(there)) == selected(app, view.entity).count(), (view.entity, sort)


# --- all of it, for jobs --------------------------------------------------------------------------------------------


def test_a_job_gets_the_same_rows(app: Flask, network: Any, as_owner: User) -> None:
    ids = [make_client(network.lesnoy, name=f"Анна {number}").id for number in range(7)]
    make_client(network.lesnoy, name="Борис")
    args = {"q": "анна", "any1.f.status.is": "active", "sort": "-name,created_at", "page": "2", "size": "100"}
    params = selected(app, "client", **args).to_params()
    view = view_of(app, "client")
    again = Selection.from_params(view, params, view.here())
    assert again.row_ids() == ids[::-1]
    assert again.to_params() == params
    assert list(again.id_batches(3)) == [ids[:3], ids[3:6], ids[6:]]
    ticked = Selection.from_params(view, again.only([ids[1], str(ids[0]), "x", "9" * 30]).to_params(), view.here())
    assert sorted(ticked.row_ids()) == ids[:2]
    none = Selection.from_params(view, again.only([]).to_params(), view.here())
    assert none.row_ids() == []


def test_batches_go_on_while_rows_leave_the_selection(app: Flask, network: Any, as_owner: User) -> None:
    for number in range(6):
        make_client(network.lesnoy, name=f"Анна {number}")
    seen = []
    for batch in selected(app, "client").id_batches(2):
        seen += batch
        for client in db.session.query(Client).filter(Client.id.in_(batch)):
            client.status = ClientStatus.ARCHIVED
        db.session.flush()
    assert len(seen) == len(set(seen)) == 6


def test_the_summary_counts_no_further_than_asked(
    app: Flask, network: Any, as_owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(network.lesnoy)
    for _ in range(5):
        make_bill(client, amount=100)
    monkeypatch.setattr(selections, "COUNT_LIMIT", 4)
    selection = selected(app, "bill")
    amount = [column for column in selection.view.columns if column.name == "amount"]
    found = selection.summary(amount)
    assert (found.count, found.is_exact, found.totals) == (5, False, None)
    whole = selection.summary(amount, exact=True)
    assert (whole.count, whole.is_exact, whole.totals) == (5, True, {"amount": 500})


@pytest.mark.parametrize("sort", ["is_repeatable,status", "-is_repeatable,amount"])
def test_pages_back_from_the_end_in_the_order_of_yes_and_no(network: Any, web: Any, sort: str) -> None:
    client = make_client(network.lesnoy)
    for number in range(30):
        make_bill(client, is_repeatable=number % 2 == 0)
    browser, args = web(network.owner), {"sort": sort, "size": "25", "before": "end"}
    page = browser.get("/admin/bill/", query_string=args).text
    (back,) = set(re.findall(r'href="(\?[^"]*before=[^"]{9,})"', page))
    answer = browser.get("/admin/bill/" + html.unescape(back))
    assert answer.status_code == 200
    seen = [re.findall(r'name="id" value="([0-9]+)"', text) for text in (answer.text, page)]
    assert [len(ids) for ids in seen] == [5, 25]
    assert len({*seen[0], *seen[1]}) == 30
