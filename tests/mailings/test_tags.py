from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from crm.contacts.models import ContactLink
from crm.db import db, transaction
from crm.errors import DomainError
from crm.mailings.models import MailingKind
from crm.mailings.tags import (
    OF_KIND,
    OF_THANKS,
    TAGS,
    Paid,
    Subject,
    check_tags,
    check_template_for,
    check_text_for,
    render,
    tags_about,
    told_of,
)
from tests.factories import (
    make_bill,
    make_client,
    make_lesson,
    make_plan,
    make_subject,
    make_subscription,
    make_template,
)

BILLED = {Subject.BILL, Subject.BILLS}


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
def test_every_tag_of_the_list_can_be_used_and_has_a_label(network, bill):
    lesson = make_lesson(network.lesnoy, bill.client)
    facts = {
        "client": bill.client,
        "bill": bill,
        "paid": Paid(Decimal("10.00"), bill.account, bill.period_from),
        "debt": Decimal(100),
        "subscriptions": [make_subscription(bill.client)],
        "lessons": [lesson],
    }
    for tag in TAGS.values():
        check_tags(f"… {tag} …", field="body", is_thanks=tag.subject in OF_THANKS)
        assert str(tag.label)
        for spelling in (tag.name, *tag.also):
            assert "{" not in render(f"{{{spelling}}}", **facts)


def with_subjects(bill, *names):
    """The bill asks for a subscription to each of these."""
    for name in names:
        plan = make_plan(name=f"План {name}", subjects=[make_subject(name=name)])
        subscription = make_subscription(bill.client, plan)
        with transaction():
            bill.subscriptions.append(subscription)
    return bill


@pytest.mark.spec("B115", "X6")
@pytest.mark.parametrize("name", ["bill.amount_subjects_url", "bill.amount_subject_url"])
def test_amount_subjects_and_link_in_both_spellings(bill, name):
    with_subjects(bill, "Лепка", "Вокал")
    check_tags(f"{{{name}}}", field="body")
    assert rendered(f"{{{name}}}", bill) == f"4 000,50 Лепка, Вокал https://kontora.test/pay/{bill.token}"


@pytest.mark.spec("B116")
def test_amount_and_link(bill):
    with_subjects(bill, "Лепка")
    assert rendered("{bill.amount_url}", bill) == f"4 000,50 https://kontora.test/pay/{bill.token}"


def test_a_bill_for_no_subject_tells_its_purpose_or_nothing(bill):
    url = f"https://kontora.test/pay/{bill.token}"
    assert rendered("{bill.amount_subjects_url}", bill) == f"4 000,50 {url}"
    with transaction():
        bill.purpose = "Костюм"
    assert rendered("{bill.amount_subjects_url}", bill) == f"4 000,50 Костюм {url}"


@pytest.mark.spec("B117", "B118", "X6")
def test_the_bills_of_a_payer_are_a_line_each(network, bill):
    with_subjects(bill, "Лепка")
    other = with_subjects(make_bill(bill.client, amount=Decimal(900)), "Вокал", "Танец")
    urls = [f"https://kontora.test/pay/{one.token}" for one in (bill, other)]
    lines = {
        "customer.bills": urls,
        "customer.bills.amount_url": [f"4 000,50 {urls[0]}", f"900,00 {urls[1]}"],
        "customer.bills.amount_subject_url": [f"4 000,50 Лепка {urls[0]}", f"900,00 Вокал, Танец {urls[1]}"],
    }
    lines["customer.bills.amount_subjects_url"] = lines["customer.bills.amount_subject_url"]
    for name, expected in lines.items():
        check_tags(f"{{{name}}}", field="body")
        text = render(f"Счета:\n{{{name}}}", client=bill.client, bills=[bill, other]).replace("\xa0", " ")
        assert text.splitlines() == ["Счета:", *expected]


@pytest.mark.spec("X7")
def test_with_a_bill_chosen_by_hand_the_bills_are_that_one(bill):
    assert rendered("{customer.bills}", bill) == f"https://kontora.test/pay/{bill.token}"


def test_a_reminder_tells_of_the_debt_the_subscription_and_the_lesson(network):
    client = make_client(network.lesnoy)
    plan = make_plan(name="Восемь занятий")
    subscription = make_subscription(client, plan, starts_on=date(2027, 2, 1))
    lesson = make_lesson(network.lesnoy, client, starts_at=datetime(2027, 1, 5, 7, tzinfo=UTC))  # Moscow: at ten
    facts = {"debt": Decimal(1500), "subscriptions": [subscription], "lessons": [lesson]}
    text = render(
        "{debt.amount}|{subscription.name}|{subscription.end_date}|{lesson.date}|{lesson.time}|{lesson.subject}",
        client=client,
        **facts,
    )
    title = (lesson.subject or lesson.lesson_type).name
    assert (
        text.replace("\xa0", " ") == f"1 500,00|Восемь занятий|{subscription.ends_on:%d.%m.%Y}|05.01.2027|10:00|{title}"
    )


def test_two_lessons_of_a_day_are_one_date_and_two_times(network):
    client = make_client(network.lesnoy)
    lessons = [
        make_lesson(network.lesnoy, client, starts_at=datetime(2027, 1, 5, hour, tzinfo=UTC)) for hour in (7, 12)
    ]
    assert render("{lesson.date} {lesson.time}", client=client, lessons=lessons) == "05.01.2027 10:00, 15:00"


def test_a_branch_without_a_phone_gives_the_companys(network):
    branch, client = network.lesnoy, make_client(network.lesnoy)
    with transaction():
        branch.phone, branch.company.phone = None, "+74950000001"
    text = render("{company.name}/{branch.name}/{branch.phone}", client=client)
    assert text.startswith(f"{branch.company.name}/{branch.name}/+7")
    with transaction():
        branch.phone = "+74950000002"
    assert render("{branch.phone}", client=client).endswith("02")


def test_the_page_of_messages_is_the_clients_own(network):
    client = make_client(network.lesnoy)
    with transaction():
        text = render("{customer.messages_url}", client=client)
    assert text == f"https://kontora.test/messages/{db.session.query(ContactLink).one().token}"


@pytest.mark.parametrize("kind", list(MailingKind))
def test_a_mailing_uses_the_tags_of_its_kind_alone(app, kind):
    for tag in TAGS.values():
        if tag.subject in OF_KIND[kind]:
            check_text_for(str(tag), kind, field="template")
        else:
            with pytest.raises(DomainError) as refused:
                check_text_for(str(tag), kind, field="template")
            assert (refused.value.code, refused.value.field) == ("tag_misplaced", "template")


def test_the_subject_of_a_template_is_looked_at_too(app):
    template = make_template(subject="Счёт {bill.amount}", body="Здравствуйте!")
    check_template_for(template, MailingKind.BILLS)
    with pytest.raises(DomainError):
        check_template_for(template, MailingKind.LESSON)


def test_what_a_text_tells_of_is_known_by_either_spelling(app):
    assert told_of("{customer.name}", "{bill.amount_subject_url} {no.tag}") == {Subject.CLIENT, Subject.BILL}
    assert told_of("{customer.bills.amount_subjects_url}") == {Subject.BILLS}
    assert {tag.subject for tag in tags_about(OF_KIND[MailingKind.LESSON])} == OF_KIND[MailingKind.LESSON]


def test_thanks_do_not_tell_of_a_lesson(app):
    with pytest.raises(DomainError) as refused:
        check_tags("{lesson.date}", field="body", is_thanks=True)
    assert (refused.value.code, refused.value.field) == ("tag_misplaced", "body")


@pytest.mark.parametrize("text", ["{bill.sum}", "{customer.Name}", "{ customer.name }", "{клиент.имя}"])
def test_an_unknown_tag_is_refused_beside_its_field(app, text):
    with pytest.raises(DomainError) as refused:
        check_tags(text, field="subject")
    assert (refused.value.code, refused.value.field) == ("tag_unknown", "subject")


@pytest.mark.parametrize("text", ["{ y }", "{}", "{привет}", "f(x) = {x | x > 0}", "{3.14}", "{см.}"])
def test_braces_that_are_no_tag_stay_as_they_are(bill, text):
    check_tags(text, field="body")
    assert rendered(text, bill) == text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bill.amuont", "bill.amount"),
        ("customer.nаme", "customer.name"),  # one letter is Cyrillic
        ("custommer.phone", "customer.phone"),
        ("bill.sum", None),
        ("клиент.имя", None),
    ],
)
def test_a_tag_that_was_meant_is_named_and_no_other(app, typed, meant):
    with pytest.raises(DomainError) as refused:
        check_tags(f"{{customer.name}} {{{typed}}}", field="body")
    named = re.findall(r"\{([^}]+)\}", refused.value.message)
    assert named == [typed, *([meant] if meant else [])]


def test_only_what_can_be_used_here_was_meant(app, bill):
    def named(**about):
        with pytest.raises(DomainError) as refused:
            check_tags("{payment.amuont}", field="body", **about)
        return "{payment.amount}" in refused.value.message

    assert (named(), named(is_thanks=True)) == (False, True)
    with pytest.raises(DomainError) as refused:
        render("{bill.amuont}", client=bill.client)
    assert "{bill.amount}" not in refused.value.message


@pytest.mark.spec("B109", "X7")
@pytest.mark.parametrize(
    "name", [name for tag in TAGS.values() if tag.subject in BILLED for name in (tag.name, *tag.also)]
)
def test_a_bill_tag_without_a_bill_is_refused(network, name):
    client = make_client(network.lesnoy)
    with pytest.raises(DomainError) as refused:
        render(f"{{{name}}}", client=client, bill=None, field="text")
    assert (refused.value.code, refused.value.field) == ("bill_required", "text")
