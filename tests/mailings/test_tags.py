from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from crm.errors import DomainError
from crm.mailings.tags import TAGS, Paid, Subject, check_tags, render
from tests.factories import make_bill, make_client


@pytest.fixture
def bill(network):
    client = make_client(network.lesnoy, name="Анна Лесная")
    return make_bill(client, amount=Decimal("4000.50"), period_from=date(2027, 1, 1), period_to=date(2027, 1, 31))


def rendered(text, bill):
    return render(text, client=bill.client, bill=bill).replace("\xa0", " ")


@pytest.mark.spec("B108")
def test_customer_name_is_the_name_of_the_client(bill):
    assert rendered("Здравствуйте, {customer.name}!", bill) == "Здравствуйте, Анна Лесная!"


@pytest.mark.spec("B110")
def test_bill_url_is_the_public_link(bill):
    assert rendered("{bill.url}", bill) == f"https://kontora.test/pay/{bill.token}"


@pytest.mark.spec("B111")
def test_bill_amount_is_written_the_russian_way(bill):
    assert rendered("{bill.amount}", bill) == "4 000,50"


@pytest.mark.spec("B112")
def test_bill_type_is_the_label_of_the_method(app, bill):
    with app.test_request_context(headers={"Accept-Language": "ru"}):
        label = str(bill.method.label)
    assert rendered("{bill.type}", bill) == label


@pytest.mark.spec("B113", "B114")
def test_dates_are_those_of_the_period(bill):
    assert rendered("{bill.begin_date}–{bill.end_date}", bill) == "01.01.2027–31.01.2027"


def test_a_letter_is_russian_even_when_the_clerk_reads_english(app, bill):
    with app.test_request_context(headers={"Accept-Language": "en"}):
        assert rendered("{bill.amount} {bill.begin_date}", bill) == "4 000,50 01.01.2027"


def test_braces_in_a_name_are_no_tags(network, bill):
    client = make_client(network.lesnoy, name="{bill.url} {evil}")
    assert render("{customer.name}", client=client, bill=bill) == "{bill.url} {evil}"


@pytest.mark.spec("B107")
def test_every_tag_of_the_list_can_be_used_and_has_a_label(bill):
    for tag in TAGS.values():
        check_tags(f"… {tag} …", field="body", is_thanks=True)
        assert str(tag.label)
        paid = Paid(Decimal("10.00"), bill.account, bill.period_from)
        assert "{" not in render(str(tag), client=bill.client, bill=bill, paid=paid)


@pytest.mark.parametrize("text", ["{bill.sum}", "{customer.Name}", "{ customer.name }", "{клиент.имя}"])
def test_an_unknown_tag_is_refused_beside_its_field(app, text):
    with pytest.raises(DomainError) as refused:
        check_tags(text, field="subject")
    assert (refused.value.code, refused.value.field) == ("tag_unknown", "subject")


@pytest.mark.parametrize("text", ["{ y }", "{}", "{привет}", "f(x) = {x | x > 0}", "{3.14}", "{см.}"])
def test_braces_that_are_no_tag_stay_as_they_are(bill, text):
    check_tags(text, field="body")
    assert rendered(text, bill) == text


def test_only_tags_that_can_be_used_here_are_offered(app, network, bill):
    with pytest.raises(DomainError) as refused:
        check_tags("{bill.sum}", field="body")
    assert "{bill.amount}" in refused.value.message
    assert "{payment.amount}" not in refused.value.message
    with pytest.raises(DomainError) as refused:
        check_tags("{bill.sum}", field="body", is_thanks=True)
    assert "{payment.amount}" in refused.value.message
    with pytest.raises(DomainError) as refused:
        render("{bill.sum}", client=bill.client)
    assert "{customer.name}" in refused.value.message
    assert "{bill.amount}" not in refused.value.message


@pytest.mark.spec("B109")
@pytest.mark.parametrize("name", [tag.name for tag in TAGS.values() if tag.subject is Subject.BILL])
def test_a_bill_tag_without_a_bill_is_refused(network, name):
    client = make_client(network.lesnoy)
    with pytest.raises(DomainError) as refused:
        render(f"{{{name}}}", client=client, bill=None, field="text")
    assert (refused.value.code, refused.value.field) == ("bill_required", "text")
