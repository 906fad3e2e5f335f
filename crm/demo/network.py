"""The company, its branches, its staff, what it sells and how it writes to its clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch, City, Company, Employee, Role, User
from crm.access.operations import create_user
from crm.access.requisites import set_requisites
from crm.catalogue.models import LessonFormat, LessonType, Room, Subject
from crm.catalogue.operations import create_holiday, create_lesson_type, create_room, create_subject
from crm.catalogue.queries import instructors_of
from crm.contacts.models import Channel
from crm.db import db
from crm.ledger.models import AccountType
from crm.ledger.operations import create_account_type
from crm.mailings.models import Term
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.templates import save_template
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount
from crm.subscriptions.plans import create_plan

PASSWORD = "demo"  # noqa: S105 - that is what it is for

# Numbers of no real company or bank: there is no region 00. Their check digits agree, as the forms demand.
REQUISITES = {
    "name": "Клуб «Прилесье»",
    "legal_name": "Общество с ограниченной ответственностью «Прилесье»",
    "inn": "0063012344",
    "kpp": "006301001",
    "ogrn": "1020063001232",
    "address": "443000, г. Самара, ул. Придуманная, д. 1",
    "bank_name": "АО «Банк для примера»",
    "bic": "040036789",
    "settlement_account": "40702810400000001234",
    "correspondent_account": "30101810900000000789",
    "phone": "+7 999 000-00-00",
    "email": "club@example.org",
    "offer_url": "https://example.org/offer",
}

LETTER = """Здравствуйте, {customer.name}!

Мы выставили вам счёт за занятия с {bill.begin_date} по {bill.end_date}.
Сумма: {bill.amount} ₽.

Посмотреть и оплатить: {bill.url}

Клуб «Прилесье»"""
THANKS = """Здравствуйте, {customer.name}!

Спасибо, мы получили {payment.amount} ₽ за занятия с {bill.begin_date} по {bill.end_date}.
Деньги на счёте: {payment.account}.

Клуб «Прилесье»"""
SMS = "Счёт за занятия, {bill.amount} р.: {bill.url}"

SUBJECTS = ("Английский язык", "Робототехника", "Рисование", "Подготовка к школе")
# (name, format, price of a single visit, minutes)
LESSON_TYPES = (
    ("Групповое занятие", LessonFormat.GROUP, "700.00", 60),
    ("Индивидуальное занятие", LessonFormat.INDIVIDUAL, "1500.00", 45),
    ("Мастер-класс", LessonFormat.OTHER, "900.50", 90),
)
# (name, capacity), by branch
ROOMS = (
    (("Кабинет 1", 8), ("Кабинет 2", 6), ("Большой зал", 20)),
    (("Класс у реки", 10), ("Мастерская", 8)),
    (("Студия", 12), ("Малая студия", None)),
)
SIX_DAYS = {**{str(day): ["09:00", "21:00"] for day in range(5)}, "5": ["10:00", "18:00"]}
SEVEN_DAYS = {str(day): ["09:00", "21:00"] for day in range(7)}


@dataclass(frozen=True)
class DemoNetwork:
    """What the story needs to refer to. clerks: who serves the clients of a branch, heads: who may give money back and
    correct mistakes there, by branch id. plans: those of lessons paid for at once first; subjects, lesson_types: by
    name; rooms, instructors: by branch id.
    """

    branches: list[Branch]
    account_types: list[AccountType]
    plans: list[Plan]
    subjects: dict[str, Subject]
    lesson_types: dict[str, LessonType]
    rooms: dict[int, list[Room]]
    instructors: dict[int, list[Employee]]
    employees: dict[int, list[Employee]]
    clerks: dict[int, User]
    heads: dict[int, User]
    owner: User


def build_network() -> DemoNetwork:
    """Make it all. The caller commits."""
    company = Company()
    set_requisites(company, by=SYSTEM, **REQUISITES)
    samara, ekaterinburg = City(name="Самара"), City(name="Екатеринбург")
    db.session.add_all([company, samara, ekaterinburg])
    db.session.flush()
    lesnoy, rechnoy, mira = branches = [
        Branch(company_id=company.id, city_id=city.id, name=name, time_zone=zone, address=address, working_hours=hours)
        for city, name, zone, address, hours in (
            (samara, "Центр «Лесной»", "Europe/Samara", "г. Самара, ул. Придуманная, д. 1", SIX_DAYS),
            (samara, "Центр «Речной»", "Europe/Samara", "г. Самара, Выдуманная наб., д. 7", SEVEN_DAYS),
            (ekaterinburg, "Студия на Мира", "Asia/Yekaterinburg", "г. Екатеринбург, пл. Мира, д. 3", SIX_DAYS),
        )
    ]
    db.session.add_all(branches)
    db.session.flush()
    users = {
        login: create_user(
            email=f"{login}@demo.test", name=name, password=PASSWORD, role=role, branches=at, cities=cities, by=SYSTEM
        )
        for login, name, role, at, cities in (
            ("owner", "Ольга Берестова", Role.OWNER, [], []),
            ("regional", "Роман Заречный", Role.REGIONAL_DIRECTOR, [], [samara]),
            ("director", "Дарья Соснина", Role.DIRECTOR, [lesnoy], []),
            ("administrator", "Анна Ручейкова", Role.ADMINISTRATOR, [lesnoy, rechnoy], []),
            ("manager", "Максим Дубков", Role.MANAGER, [lesnoy], []),
            ("instructor", "Инна Лугова", Role.INSTRUCTOR, [lesnoy], []),
            ("support", "Семён Тропов", Role.SUPPORT, [], []),
        )
    }
    employees = [
        Employee(name="Инна Лугова", position="Инструктор", branch_id=lesnoy.id, user_id=users["instructor"].id),
        Employee(
            name="Анна Ручейкова",
            position="Администратор",
            branch_id=lesnoy.id,
            user_id=users["administrator"].id,
            teaches=False,
        ),
        Employee(name="Глеб Камышов", position="Инструктор", branch_id=rechnoy.id),
        Employee(name="Лариса Ольхина", position="Администратор", branch_id=rechnoy.id, teaches=False),
        Employee(name="Тимур Кедров", position="Инструктор", branch_id=mira.id),
        Employee(name="Полина Вязова", position="Администратор", branch_id=mira.id, teaches=False),
        Employee(name="Фёдор Полянский", position="Инструктор", branch_id=lesnoy.id),
    ]
    db.session.add_all(employees)
    db.session.flush()
    subjects = {name: create_subject(name=name, position=number, by=SYSTEM) for number, name in enumerate(SUBJECTS)}
    lesson_types = {
        name: create_lesson_type(
            name=name, format=format, single_price=Decimal(price), duration_minutes=minutes, position=number, by=SYSTEM
        )
        for number, (name, format, price, minutes) in enumerate(LESSON_TYPES)
    }
    rooms = {branch.id: _rooms(branch, names) for branch, names in zip(branches, ROOMS, strict=True)}
    plans = _plans(subjects, lesson_types, lesnoy)
    for branch in branches:
        new_year = date(clock.today(branch).year + 1, 1, 1)
        create_holiday(
            branch=branch, day=new_year, until=new_year.replace(day=8), name="Новогодние каникулы", by=SYSTEM
        )
    account_types = [
        create_account_type(name="Депозиты", branches=branches, position=1, by=SYSTEM),
        create_account_type(name="Подарочный счёт", branches=[lesnoy, mira], position=2, by=SYSTEM),
        create_account_type(name="Корпоративный счёт", branches=[rechnoy, mira], position=3, by=SYSTEM),
    ]
    template = save_template(None, name="Счёт на оплату", subject="Счёт за занятия", body=LETTER, by=users["owner"])
    save_template(None, name="Ссылка на счёт (SMS)", channel=Channel.SMS, subject="", body=SMS, by=users["owner"])
    facts = RuleFacts(
        name="Счета на оплату клиентам",
        branch=lesnoy,
        send_time=time(10),
        ways=[Way(Channel.EMAIL, template)],
        term=Term.WEEK_1,
    )
    save_rule(None, facts, by=users["director"])
    return DemoNetwork(
        branches=branches,
        account_types=account_types,
        plans=plans,
        subjects=subjects,
        lesson_types=lesson_types,
        rooms=rooms,
        instructors={branch.id: instructors_of(branch) for branch in branches},
        employees={
            branch.id: [employee for employee in employees if employee.branch_id == branch.id] for branch in branches
        },
        clerks={
            lesnoy.id: users["administrator"],
            rechnoy.id: users["administrator"],
            mira.id: users["owner"],
        },
        heads={lesnoy.id: users["director"], rechnoy.id: users["regional"], mira.id: users["owner"]},
        owner=users["owner"],
    )


def thank_from_now_on() -> None:
    """Switch the letters of thanks on: what was paid in the story before has nobody's letter in the mailbox."""
    save_template(
        None, name="Спасибо за оплату", subject="Мы получили вашу оплату", body=THANKS, is_thanks=True, by=SYSTEM
    )


def _rooms(branch: Branch, names: Sequence[tuple[str, int | None]]) -> list[Room]:
    return [
        create_room(branch=branch, name=name, capacity=capacity, position=number, by=SYSTEM)
        for number, (name, capacity) in enumerate(names)
    ]


def _plans(subjects: dict[str, Subject], lesson_types: dict[str, LessonType], lesnoy: Branch) -> list[Plan]:
    """One of each sort: by the number of lessons or without, paid at once or lesson by lesson, on one account or on its
    own, for some lessons or for all, here or everywhere.
    """
    group, individual, _workshop = lesson_types.values()
    english = subjects["Английский язык"]
    return [
        create_plan(**{"position": number, "by": SYSTEM, **facts})  # type: ignore[arg-type]
        for number, facts in enumerate(
            (
                {"name": "4 занятия", "price": Decimal("2400.00"), "lessons": 4},
                {"name": "8 занятий", "price": Decimal("4400.00"), "lessons": 8},
                {"name": "12 занятий", "price": Decimal("6000.00"), "lessons": 12},
                {
                    **{"name": "Знакомство с центром", "price": Decimal("350.50"), "lessons": 1, "duration_days": 14},
                    "is_trial": True,
                },
                {"name": "Групповые занятия, 8", "price": Decimal("4200.00"), "lessons": 8, "lesson_types": [group]},
                {
                    **{"name": "Индивидуальные занятия, 4", "price": Decimal("5200.00"), "lessons": 4},
                    **{"lesson_types": [individual], "account": PlanAccount.SEPARATE},
                },
                {
                    **{"name": "8 занятий с оплатой по занятиям", "price": Decimal("5000.00"), "lessons": 8},
                    "charge": ChargeMoment.PER_LESSON,
                },
                {
                    **{"name": "Английский без ограничений", "price": Decimal("7900.00"), "lessons": None},
                    **{"lesson_types": [group], "subjects": [english], "branches": [lesnoy]},
                },
            )
        )
    ]
