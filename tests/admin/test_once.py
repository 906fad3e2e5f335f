"""A form is carried out once; the same form with something changed in it is no repetition, and is not lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from crm.db import db
from crm.mailings.models import Template
from tests.admin.world import errors, fields
from tests.factories import make_client, make_template

NEW = "/admin/template/new/"


def names() -> list[str]:
    db.session.rollback()
    return list(db.session.scalars(select(Template.name).order_by(Template.id)))


def filled(browser: Any, **changes: str) -> dict[str, Any]:
    return fields(browser.get(NEW).text) | {"name": "Первый", "subject": "Счёт", "body": "Текст", **changes}


def test_the_same_form_sent_twice_is_carried_out_once_and_says_so(network: Any, web: Any) -> None:
    browser = web(network.owner)
    form = filled(browser)
    first, second = browser.post(NEW, data=form), browser.post(NEW, data=form)
    assert (first.status_code, second.status_code) == (302, 302)
    assert first.location == second.location
    page = browser.get(second.location).text
    assert (page.count("alert-success"), page.count("alert-info")) == (1, 1)
    assert names() == ["Первый"]


def test_the_same_form_with_other_values_is_shown_again_and_goes_through_when_sent_again(
    network: Any, web: Any
) -> None:
    browser = web(network.owner)
    form = filled(browser)
    browser.post(NEW, data=form)
    page = browser.post(NEW, data=form | {"name": "Второй"})
    assert page.status_code == 409
    assert list(errors(page.text)) == [""]
    again = fields(page.text)
    assert again["name"] == "Второй"
    assert again["form_key"] != form["form_key"]
    assert names() == ["Первый"]
    assert browser.post(NEW, data=again).status_code == 302
    assert names() == ["Первый", "Второй"]


def test_after_a_refusal_the_corrected_form_goes_through(network: Any, web: Any) -> None:
    browser = web(network.owner)
    page = browser.post(NEW, data=filled(browser, body="{no.such.tag}"))
    assert page.status_code == 422
    assert browser.post(NEW, data=fields(page.text) | {"body": "Текст"}).status_code == 302
    assert names() == ["Первый"]


def test_an_edit_sent_twice_lands_where_the_first_did(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Анна Лесная")
    browser = web(network.administrator, network.lesnoy)
    path = f"/admin/client/edit/?id={client.id}"
    form = fields(browser.get(path).text) | {"name": "Анна Речная"}
    first, second = browser.post(path, data=form), browser.post(path, data=form)
    assert (first.status_code, second.status_code, first.location) == (302, 302, second.location)
    third = browser.post(path, data=form | {"name": "Анна Горная"})
    assert third.status_code == 409
    assert fields(third.text)["name"] == "Анна Горная"


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_sendings_at_once_are_one(app: Any, network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    from crm.db import transaction
    from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of, new_form_key

    key = new_form_key()

    def send(index: int) -> str:
        try:
            with transaction():
                once = SubmittedForm.claim(key, fingerprint_of("/form", [("sum", str(index % 2))]))
                make_template()
                once.url = f"/done/{index}"
        except AlreadySubmitted as first:
            return f"{first.is_same}"
        return "done"

    results = in_parallel(send, 6)
    assert sorted(results) == ["False"] * 3 + ["True"] * 2 + ["done"]
    assert db.session.scalar(select(func.count()).select_from(Template)) == 1
