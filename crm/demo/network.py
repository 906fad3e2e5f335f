"""The company, its branches, its staff, what it sells and how it writes to its clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from decimal import Decimal

from crm.access.actors import SYSTEM
from crm.access.models import Branch, City, Company, Employee, Role, User
from crm.access.operations import create_user
from crm.access.requisites import set_requisites
from crm.db import db
from crm.ledger.models import AccountType
from crm.ledger.operations import create_account_type
from crm.mailings.operations import save_rule, save_template
from crm.subscriptions.models import Plan

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


@dataclass(frozen=True)
class DemoNetwork:
    """What the story needs to refer to. clerks: who serves the clients of a branch, heads: who may give money back and
    correct mistakes there, by branch id.
    """

    branches: list[Branch]
    account_types: list[AccountType]
    plans: list[Plan]
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
        Branch(company_id=company.id, city_id=city.id, name=name, time_zone=zone, address=address)
        for city, name, zone, address in (
            (samara, "Центр «Лесной»", "Europe/Samara", "г. Самара, ул. Придуманная, д. 1"),
            (samara, "Центр «Речной»", "Europe/Samara", "г. Самара, Выдуманная наб., д. 7"),
            (ekaterinburg, "Студия на Мира", "Asia/Yekaterinburg", "г. Екатеринбург, пл. Мира, д. 3"),
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
            name="Анна Ручейкова", position="Администратор", branch_id=lesnoy.id, user_id=users["administrator"].id
        ),
        Employee(name="Глеб Камышов", position="Инструктор", branch_id=rechnoy.id),
        Employee(name="Лариса Ольхина", position="Администратор", branch_id=rechnoy.id),
        Employee(name="Тимур Кедров", position="Инструктор", branch_id=mira.id),
        Employee(name="Полина Вязова", position="Администратор", branch_id=mira.id),
    ]
    plans = [
        Plan(name="4 занятия", price=Decimal("2400.00"), lessons=4, duration_days=30),
        Plan(name="8 занятий", price=Decimal("4400.00"), lessons=8, duration_days=30),
        Plan(name="12 занятий", price=Decimal("6000.00"), lessons=12, duration_days=30),
        Plan(name="Пробное занятие", price=Decimal("350.50"), lessons=1, duration_days=14),
    ]
    db.session.add_all([*employees, *plans])
    db.session.flush()
    account_types = [
        create_account_type(name="Депозиты", branches=branches, position=1, by=SYSTEM),
        create_account_type(name="Подарочный счёт", branches=[lesnoy, mira], position=2, by=SYSTEM),
        create_account_type(name="Корпоративный счёт", branches=[rechnoy, mira], position=3, by=SYSTEM),
    ]
    template = save_template(None, name="Счёт на оплату", subject="Счёт за занятия", body=LETTER, by=users["owner"])
    save_rule(
        None,
        name="Счета на оплату клиентам",
        branch=lesnoy,
        send_time=time(10),
        template=template,
        term_days=7,
        by=users["director"],
    )
    return DemoNetwork(
        branches=branches,
        account_types=account_types,
        plans=plans,
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
