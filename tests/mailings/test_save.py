"""Templates and rules: what may be saved."""

from __future__ import annotations

from datetime import time, timedelta

import pytest

from crm import clock
from crm.access.actors import SYSTEM
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.mailings.models import MailingKind, Periodicity, RunStatus, Term
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.runs import run_now
from crm.mailings.templates import save_template
from tests.factories import make_rule, make_template


def template_facts(**changes):
    return {"name": "Счёт", "subject": "Счёт для {customer.name}", "body": "{bill.url}", "by": SYSTEM, **changes}


def rule_facts(network, **changes):
    return {
        "name": "Счета",
        "branch": network.lesnoy,
        "send_time": time(10),
        "by": SYSTEM,
        "ways": [Way(Channel.EMAIL, make_template())],
        **changes,
    }


def save(rule, *, by, **facts):
    """save_rule() by its facts."""
    return save_rule(rule, RuleFacts(**facts), by=by)


def refusal(verb, *args, **kwargs):
    """(code, field) of the refusal; nothing is kept."""
    with pytest.raises(DomainError) as refused, transaction():
        verb(*args, **kwargs)
    return refused.value.code, refused.value.field


def test_a_template_is_saved_and_changed(app):
    with transaction():
        template = save_template(None, **template_facts())
    with transaction():
        save_template(template, **template_facts(subject="Новая  тема"))
    assert template.subject == "Новая тема"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "  "}, ("name_empty", "name")),
        ({"subject": ""}, ("subject_empty", "subject")),
        ({"body": None}, ("body_empty", "body")),
        ({"subject": "{bill.number}"}, ("tag_unknown", "subject")),
        ({"body": "{bill.links}"}, ("tag_unknown", "body")),
    ],
)
def test_a_template_says_what_is_wrong_beside_the_field(app, change, expected):
    assert refusal(save_template, None, **template_facts(**change)) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [({"body": "{bill.url}"}, ("tag_misplaced", "body")), ({"subject": "{bill.amount}"}, ("tag_misplaced", "subject"))],
)
def test_a_template_in_use_keeps_to_the_tags_of_its_mailing(network, typed, expected):
    template = make_template(body="Занятие {lesson.date}", subject="Занятие")
    make_rule(network.lesnoy, template=template, kind=MailingKind.LESSON)
    facts = template_facts(**{"body": "Занятие {lesson.time}", "subject": "Занятие", **typed})
    assert refusal(save_template, template, **facts) == expected
    with transaction():
        save_template(template, **facts | {"body": "Занятие {lesson.time}", "subject": "Завтра"})
    assert template.body == "Занятие {lesson.time}"


@pytest.mark.parametrize("body", ["{bill.amount_subject_url}", "{customer.bills.amount_subjects_url}"])
@pytest.mark.spec("X6")
def test_either_spelling_is_saved(app, body):
    with transaction():
        assert save_template(None, **template_facts(body=body)).body == body


def test_template_names_are_unique(app):
    make_template(name="Счёт")
    assert refusal(save_template, None, **template_facts()) == ("name_taken", "name")


@pytest.mark.spec("B105")
def test_a_rule_needs_a_template(network):
    facts = rule_facts(network, ways=[Way(Channel.EMAIL, None)])
    assert refusal(save, None, **facts) == ("template_required", "template")


@pytest.mark.spec("B101")
def test_a_daily_rule_needs_a_time(network):
    assert refusal(save, None, **rule_facts(network, send_time=None)) == ("time_required", "send_time")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": ""}, ("name_empty", "name")),
        ({"branch": None}, ("branch_empty", "branch")),
        ({"periodicity": Periodicity.WEEKLY}, ("weekday_required", "weekday")),
        ({"periodicity": Periodicity.MONTHLY}, ("month_day_required", "month_day")),
        ({"periodicity": Periodicity.MONTHLY, "month_day": 32}, ("month_day_required", "month_day")),
        ({"term": Term.DAYS, "term_days": 0}, ("term_invalid", "term_days")),
    ],
)
def test_a_rule_says_what_is_wrong_beside_the_field(network, change, expected):
    assert refusal(save, None, **rule_facts(network, **change)) == expected


@pytest.mark.spec("B100")
@pytest.mark.parametrize(
    ("periodicity", "kept"),
    [(Periodicity.DAILY, (None, None)), (Periodicity.WEEKLY, (2, None)), (Periodicity.MONTHLY, (None, 31))],
)
def test_a_rule_keeps_only_the_day_its_periodicity_needs(network, periodicity, kept):
    facts = rule_facts(network, periodicity=periodicity, weekday=2, month_day=31)
    with transaction():
        rule = save(None, **facts)
    assert (rule.weekday, rule.month_day) == kept


def test_only_a_new_schedule_forgets_missed_moments(network):
    rule = make_rule(network.lesnoy)
    began = rule.schedule_since
    with clock.frozen(began + timedelta(hours=1)), transaction():
        rule.name = "Другое имя"
    assert rule.schedule_since == began
    with clock.frozen(began + timedelta(hours=2)), transaction():
        rule.is_active = False
    assert rule.schedule_since == began + timedelta(hours=2)
    with clock.frozen(began + timedelta(hours=3)), transaction():  # its times are those of another place now
        rule.branch_id = network.mira.id
    assert rule.schedule_since == began + timedelta(hours=3)


@pytest.mark.parametrize("status", RunStatus)
def test_a_rule_is_not_moved_to_another_branch_while_a_run_of_it_is_under_way(network, status):
    rule = make_rule(network.lesnoy)
    with transaction():
        run = run_now(rule, by=SYSTEM)
        run.status = status
    facts = rule_facts(network, branch=network.mira)
    if status in (RunStatus.DONE, RunStatus.CANCELLED):
        with transaction():
            save(rule, **facts)
        assert rule.branch_id == network.mira.id
    else:
        assert refusal(save, rule, **facts) == ("run_under_way", "branch")
        assert rule.branch_id == network.lesnoy.id


def test_all_the_rest_of_it_is_changed_meanwhile(network):
    rule = make_rule(network.lesnoy)
    with transaction():
        run_now(rule, by=SYSTEM)
    with transaction():
        save(rule, **rule_facts(network, name="Новое имя"))
    assert (rule.name, rule.branch_id) == ("Новое имя", network.lesnoy.id)


def test_the_run_of_another_rule_keeps_it_nowhere(network):
    rule, other = make_rule(network.lesnoy), make_rule(network.lesnoy)
    with transaction():
        run_now(other, by=SYSTEM)
        save(rule, **rule_facts(network, branch=network.mira))
    assert rule.branch_id == network.mira.id


def test_an_administrator_may_not_make_rules_or_templates(network):
    db.session.commit()
    with pytest.raises(Forbidden):
        save(None, **rule_facts(network, by=network.administrator))
    with pytest.raises(Forbidden):
        save_template(None, **template_facts(by=network.administrator))


@pytest.mark.spec("B109")
def test_a_rule_takes_no_template_with_tags_its_mailing_has_nothing_for(network):
    ways = [Way(Channel.EMAIL, make_template(body="{bill.url}"))]
    facts = rule_facts(network, ways=ways, kind=MailingKind.BIRTHDAY)
    assert refusal(save, None, **facts) == ("tag_misplaced", "template")
    with transaction():
        save(None, **rule_facts(network, ways=ways))
