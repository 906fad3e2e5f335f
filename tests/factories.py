"""Rows for tests, made through the operations that make them in life; what does not matter to a test has a default.

Each commits, so that a test client, another thread or another process sees the row at once.
"""

from __future__ import annotations

import itertools
import uuid
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM, Actor
from crm.access.models import Branch, City, Company, Employee, Role, User
from crm.access.operations import hash_password
from crm.background.models import BackgroundJob
from crm.background.operations import EXECUTORS, start_job
from crm.bills.models import Bill
from crm.bills.operations import issue_bill
from crm.catalogue.models import Holiday, LessonFormat, LessonType, Room, Subject
from crm.clients.models import Client, ClientStatus
from crm.clients.operations import create_client
from crm.contacts.models import Channel
from crm.db import db, transaction
from crm.exchange.schedules.models import ExportSchedule
from crm.exchange.schedules.operations import create_schedule
from crm.ledger.models import Account, AccountKind, AccountType
from crm.mailings.models import (
    BilledAccounts,
    MailingKind,
    MailingRule,
    MailingWay,
    Message,
    MessageCharge,
    Periodicity,
    Provider,
    ProviderKind,
    Template,
)
from crm.mailings.providers import ProviderFacts, save_provider
from crm.payments.crediting import credit
from crm.payments.models import GatewayKind, GatewayNotice, NoticeStatus, Payment, PaymentMethod, Refund, Shop
from crm.payments.operations import open_account_paid, top_up
from crm.payments.shops import create_shop
from crm.schedule.bookings import create_booking
from crm.schedule.enrolment import enrol
from crm.schedule.models import Booking, ClientGroup, Lesson
from crm.subscriptions.models import Plan, Subscription
from crm.subscriptions.operations import sell_subscription
from crm.tasks.models import Task, TaskKind
from crm.tasks.operations import create_task
from crm.tills.models import Shift, Till, TillKind
from crm.tills.moves import take_other
from crm.tills.operations import create_till
from crm.tills.queries import money_in
from crm.tills.shifts import open_shift
from crm.visits.models import Visit
from crm.visits.operations import book_visit

PASSWORD = "demo"

_numbers = itertools.count(1)


class Network(SimpleNamespace):
    """One small network; see make_network()."""

    company: Company
    moscow: City
    samara: City
    lesnoy: Branch
    rechnoy: Branch
    mira: Branch
    owner: User
    regional: User
    director: User
    administrator: User
    manager: User
    instructor: User
    support: User
    employee: Employee
    account_type: AccountType
    plan: Plan

    @property
    def users(self) -> list[User]:
        """One of each role."""
        return [
            self.owner,
            self.regional,
            self.director,
            self.administrator,
            self.manager,
            self.instructor,
            self.support,
        ]


@cache
def _password_hash() -> str:
    """Argon2 is slow on purpose; once per run is enough for a password everybody shares."""
    return hash_password(PASSWORD)


def make_network() -> Network:
    """Two branches in Moscow (lesnoy, rechnoy), one in Samara an hour ahead (mira); a user of each role.

    The regional director has Moscow; director, administrator, manager and instructor have lesnoy only.
    The account type «Депозиты» is offered everywhere. Everybody's password is PASSWORD.
    """
    with transaction():
        company = Company(
            name="Лесная школа",
            legal_name="ООО «Лесная школа»",
            inn="7700000009",
            kpp="770001001",
            ogrn="1027700000008",
            address="Москва, Лесная ул., 1",
            bank_name="АО «Пример Банк»",
            bic="044525999",
            settlement_account="40702810600000000001",
            correspondent_account="30101810600000000999",
            phone="+74950000001",
            email="school@demo.test",
        )
        moscow, samara = City(name="Москва"), City(name="Самара")
        db.session.add_all([company, moscow, samara])
        db.session.flush()
        lesnoy, rechnoy, mira = (
            Branch(company_id=company.id, city_id=city.id, name=name, time_zone=zone)
            for city, name, zone in (
                (moscow, "Лесной", "Europe/Moscow"),
                (moscow, "Речной", "Europe/Moscow"),
                (samara, "Мира", "Europe/Samara"),
            )
        )
        db.session.add_all([lesnoy, rechnoy, mira])
        db.session.flush()
        account_type = AccountType(name="Депозиты", branches=[lesnoy, rechnoy, mira])
        plan = Plan(name="8 занятий", price=Decimal("4000.00"), lessons=8)
        employee = Employee(name="Вера Тренер", position="Тренер", branch_id=lesnoy.id)
        db.session.add_all([account_type, plan, employee])
    users = {
        "owner": make_user(Role.OWNER),
        "regional": make_user(Role.REGIONAL_DIRECTOR, cities=[moscow]),
        "director": make_user(Role.DIRECTOR, branches=[lesnoy]),
        "administrator": make_user(Role.ADMINISTRATOR, branches=[lesnoy]),
        "manager": make_user(Role.MANAGER, branches=[lesnoy]),
        "instructor": make_user(Role.INSTRUCTOR, branches=[lesnoy]),
        "support": make_user(Role.SUPPORT),
    }
    return Network(
        company=company,
        moscow=moscow,
        samara=samara,
        lesnoy=lesnoy,
        rechnoy=rechnoy,
        mira=mira,
        account_type=account_type,
        plan=plan,
        employee=employee,
        **users,
    )


def make_user(
    role: Role, *, branches: list[Branch] | None = None, cities: list[City] | None = None, **changes: Any
) -> User:
    """A staff user with the password PASSWORD."""
    number = next(_numbers)
    with transaction():
        user = User(
            **{
                "email": f"{role.value}-{number}@demo.test",
                "name": f"{role.value.replace('_', ' ').capitalize()} {number}",
                "password_hash": _password_hash(),
                "role": role,
                "branches": branches or [],
                "cities": cities or [],
                "created_at": clock.now(),
                **changes,
            }
        )
        db.session.add(user)
    return user


def make_employee(branch: Branch, **changes: Any) -> Employee:
    with transaction():
        employee = Employee(**{"name": f"Сотрудник {next(_numbers)}", "branch_id": branch.id, **changes})
        db.session.add(employee)
    return employee


def make_client(branch: Branch, *, by: Actor = SYSTEM, **changes: Any) -> Client:
    """A payer with a phone and an e-mail of his own; pass payer= for a child."""
    number = next(_numbers)
    facts = {
        "name": f"Клиент {number:05d}",
        "phone": f"+7918{number:07d}",
        "email": f"client{number}@demo.test",
        **changes,
    }
    with transaction():
        return create_client(branch=branch, by=by, **facts)


def make_child(payer: Client, **changes: Any) -> Client:
    """Somebody `payer` pays for, without phone or e-mail."""
    facts = {"name": f"Ребёнок {next(_numbers):05d}", "phone": "", "email": "", **changes}
    return make_client(db.session.get_one(Branch, payer.branch_id), payer=payer, **facts)


def make_account_type(*branches: Branch, **changes: Any) -> AccountType:
    with transaction():
        account_type = AccountType(**{"name": f"Тип счёта {next(_numbers)}", "branches": list(branches), **changes})
        db.session.add(account_type)
    return account_type


def make_account(
    client: Client,
    account_type: AccountType | None = None,
    *,
    balance: Decimal | int = 0,
    method: PaymentMethod = PaymentMethod.CASH,
    by: Actor = SYSTEM,
    employee: Employee | None = None,
) -> Account:
    """A deposit of the client, opened in his branch; with a balance, paid by `method`."""
    branch = db.session.get_one(Branch, client.branch_id)
    account_type = account_type or db.session.scalars(select(AccountType).order_by(AccountType.id)).first()
    with transaction():
        return open_account_paid(
            client,
            account_type or make_account_type(branch),
            branch=branch,
            initial_balance=Decimal(balance) if balance else None,
            method=method if balance else None,
            by=by,
            employee=employee,
        )


def make_payment(
    account: Account, amount: Decimal | int = 100, *, method: PaymentMethod = PaymentMethod.CASH, **changes: Any
) -> Payment:
    """Money taken at the desk onto `account`."""
    with transaction():
        return top_up(account, amount=Decimal(amount), method=method, **{"by": SYSTEM, **changes})


def make_refund(account: Account, *, reason: str = "Ошиблись суммой") -> Refund:
    """A payment received online a moment ago and refunded in whole; the bank has not answered yet."""
    with transaction():
        payment = Payment(
            branch_id=account.branch_id,
            client_id=account.client_id,
            account_id=account.id,
            method=PaymentMethod.ONLINE,
            amount=Decimal(50),
            gateway="demo",
            external_id=f"fixture-{uuid.uuid4()}",
            created_at=clock.now(),
            author_name="demo",
        )
        db.session.add(payment)
        db.session.flush()
        credit(payment)
        refund = Refund(
            branch_id=account.branch_id,
            payment_id=payment.id,
            account_id=account.id,
            amount=payment.amount,
            reason=reason,
            created_at=clock.now(),
            next_poll_at=clock.now(),
            author_name="system",
        )
        db.session.add(refund)
        db.session.flush()
    return refund


def make_notice(**changes: Any) -> GatewayNotice:
    """A notice of the demo bank about a payment nobody knows."""
    now = clock.now()
    facts = {
        "gateway": "demo",
        "external_id": "unknown",
        "event": "payment.updated",
        "body": "{}",
        "digest": uuid.uuid4().hex,
        "status": NoticeStatus.UNKNOWN,
        "received_at": now,
        "next_try_at": now,
        **changes,
    }
    with transaction():
        notice = GatewayNotice(**facts)
        db.session.add(notice)
        db.session.flush()
    return notice


def make_shop(
    branch: Branch, *, gateway: GatewayKind = GatewayKind.YOOKASSA, is_own: bool = False, **changes: Any
) -> Shop:
    """A shop of the branch's company at a local service of tests/gateways; is_own: of this branch only."""
    keys = {
        GatewayKind.YOOKASSA: {"shop_id": "100001", "secret": "test_secret"},
        GatewayKind.TBANK: {"shop_id": "1111111111111DEMO", "secret": "secret password"},
    }
    facts = {
        **{"branch": branch if is_own else None, "name": gateway.value, "receipts": None},
        **keys[gateway],
        **changes,
    }
    with transaction():
        return create_shop(company=branch.company, gateway=gateway, by=SYSTEM, **facts)


def make_provider(company: Company, kind: ProviderKind = ProviderKind.SMSRU, **changes: Any) -> Provider:
    """What messages of the company go through; options as the kind wants them."""
    options = {ProviderKind.TELEGRAM: {"bot": "demo_bot"}, ProviderKind.VIBER: {"bot": "demo"}}
    facts = {
        "url": "https://sms.demo.test" if kind is ProviderKind.HTTP else "",
        "secret": "key-of-the-service",
        "options": options.get(kind, {"channel": "1"} if kind is ProviderKind.WHATSAPP else {}),
        **changes,
    }
    with transaction():
        return save_provider(None, ProviderFacts(company, kind, **facts), by=SYSTEM)


def make_charge(message: Message, amount: Decimal | str = "2.50", **changes: Any) -> MessageCharge:
    """What a message has cost, as delivery notes it."""
    company = db.session.get_one(Branch, message.branch_id).company_id
    facts = {"company_id": company, "message_id": message.id, "amount": Decimal(amount), "at": clock.now(), **changes}
    with transaction():
        charge = MessageCharge(**facts)
        db.session.add(charge)
        db.session.flush()
    return charge


def make_bill(client: Client, *, by: Actor = SYSTEM, **changes: Any) -> Bill:
    """A bill of 1500 by hand for the coming thirty days, without an end of the term."""
    today = clock.today(db.session.get_one(Branch, client.branch_id))
    facts = {
        "amount": Decimal("1500.00"),
        "period_from": today,
        "period_to": today + timedelta(days=29),
        **changes,
    }
    with transaction():
        return issue_bill(client, by=by, **facts)


def make_plan(**changes: Any) -> Plan:
    with transaction():
        plan = Plan(**{"name": f"Абонемент {next(_numbers)}", "price": Decimal("4000.00"), "lessons": 8, **changes})
        db.session.add(plan)
    return plan


def make_subscription(
    client: Client, plan: Plan | None = None, *, starts_on: date | None = None, by: Actor = SYSTEM, **changes: Any
) -> Subscription:
    """A subscription sold to the client today; discount= and account= as the sale takes them."""
    plan = plan or db.session.scalars(select(Plan).order_by(Plan.id)).first() or make_plan()
    today = clock.today(db.session.get_one(Branch, client.branch_id))
    with transaction():
        return sell_subscription(client, plan, starts_on=starts_on or today, by=by, **changes)


def make_subject(**changes: Any) -> Subject:
    with transaction():
        subject = Subject(**{"name": f"Предмет {next(_numbers)}", **changes})
        db.session.add(subject)
    return subject


def make_lesson_type(format: LessonFormat = LessonFormat.GROUP, **changes: Any) -> LessonType:
    """A type of lessons of an hour, 700 for a single visit."""
    facts = {"name": f"Тип занятия {next(_numbers)}", "single_price": Decimal("700.00"), "format": format, **changes}
    with transaction():
        lesson_type = LessonType(**facts)
        db.session.add(lesson_type)
    return lesson_type


def make_room(branch: Branch, **changes: Any) -> Room:
    with transaction():
        room = Room(**{"branch_id": branch.id, "name": f"Зал {next(_numbers)}", **changes})
        db.session.add(room)
    return room


def make_holiday(branch: Branch, day: date, **changes: Any) -> Holiday:
    with transaction():
        holiday = Holiday(branch_id=branch.id, day=day, **changes)
        db.session.add(holiday)
    return holiday


def make_group(branch: Branch, **changes: Any) -> ClientGroup:
    """A group of lessons of a type of its own, without anybody in it."""
    facts = {"branch_id": branch.id, "name": f"Группа {next(_numbers)}", **changes}
    if not {"lesson_type", "lesson_type_id"} & facts.keys():
        facts["lesson_type_id"] = make_lesson_type().id
    with transaction():
        group = ClientGroup(**facts)
        db.session.add(group)
    return group


def make_lesson(branch: Branch, *clients: Client, **changes: Any) -> Lesson:
    """A planned lesson of an hour that begins in an hour, with these clients enrolled."""
    starts_at = changes.pop("starts_at", clock.now() + timedelta(hours=1))
    facts = {
        "branch_id": branch.id,
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(hours=1),
        "created_at": clock.now(),
        **changes,
    }
    if not {"lesson_type", "lesson_type_id"} & facts.keys():
        facts["lesson_type_id"] = make_lesson_type().id
    with transaction():
        lesson = Lesson(**facts)
        db.session.add(lesson)
        db.session.flush()
        for client in clients:
            enrol(lesson, client, by=SYSTEM)
    return lesson


def make_booking(room: Room, *, by: Actor = SYSTEM, **changes: Any) -> Booking:
    """The room is booked for an hour that begins in an hour."""
    starts_at = changes.pop("starts_at", clock.now() + timedelta(hours=1))
    facts = {"starts_at": starts_at, "ends_at": starts_at + timedelta(hours=1), **changes}
    with transaction():
        return create_booking(room, **facts, by=by)


def make_task(branch: Branch, *, by: Actor = SYSTEM, **changes: Any) -> Task:
    """Something to be done today in the branch."""
    facts = {"kind": TaskKind.OTHER, "text": f"Дело {next(_numbers)}", "due_on": clock.today(branch), **changes}
    with transaction():
        return create_task(branch, **facts, by=by)


def make_visit(client: Client, *, by: Actor = SYSTEM, **changes: Any) -> Visit:
    """The client is expected in an hour, for a service of 700."""
    facts = {
        "service": f"Услуга {next(_numbers)}",
        "starts_at": clock.now() + timedelta(hours=1),
        "price": Decimal("700.00"),
        **changes,
    }
    with transaction():
        return book_visit(client, by=by, **facts)


def make_template(**changes: Any) -> Template:
    facts = {
        "name": f"Шаблон {next(_numbers)}",
        "subject": "Счёт на оплату",
        "body": "Здравствуйте!\nСчёт на {bill.amount}: {bill.url}",
        **changes,
    }
    with transaction():
        template = Template(**facts)
        db.session.add(template)
    return template


def make_rule(branch: Branch, *, template: Template | None = None, **changes: Any) -> MailingRule:
    """A daily mailing of bills by e-mail at 10:00 of the branch."""
    template = template or make_template()
    facts = {
        "branch_id": branch.id,
        "name": f"Рассылка {next(_numbers)}",
        "kind": MailingKind.BILLS,
        "accounts": BilledAccounts.ALL,
        "statuses": [ClientStatus.ACTIVE.value],
        "periodicity": Periodicity.DAILY,
        "send_time": time(10),
        "created_at": clock.now(),
        **changes,
    }
    channel = facts.pop("channel", template.channel)
    with transaction():
        rule = MailingRule(**facts, ways=[MailingWay(position=0, channel=channel, template=template)])
        db.session.add(rule)
    return rule


def make_message(client: Client, **changes: Any) -> Message:
    """A letter in the outbox, due now."""
    facts = {
        "branch_id": client.branch_id,
        "channel": Channel.EMAIL,
        "client_id": client.id,
        "recipient": client.email or "nobody@demo.test",
        "subject": "Письмо",
        "body": "Здравствуйте!",
        "dedupe_key": f"test:{next(_numbers)}",
        "next_try_at": clock.now(),
        "created_at": clock.now(),
        "author_name": SYSTEM.name,
        **changes,
    }
    with transaction():
        message = Message(**facts)
        db.session.add(message)
    return message


def house_balance(kind: AccountKind, branch: Branch) -> Decimal:
    """What a house account holds, from its entries: cash in the desk, revenue earned. Positive for what is there."""
    from sqlalchemy import func

    from crm.ledger.models import Entry

    total = db.session.scalar(
        select(func.coalesce(func.sum(Entry.amount), 0))
        .join(Entry.account)
        .where(Account.kind == kind, Account.branch_id == branch.id)
    )
    return -Decimal(total or 0)


def make_job(by: User, *, title: str = "Дело", **facts: Any) -> BackgroundJob:
    """A job of a kind that does nothing, waiting."""
    EXECUTORS.setdefault("test.nothing", lambda job, progress: None)
    with transaction():
        return start_job(facts.pop("kind", "test.nothing"), by=by, title=title, **facts)


def make_schedule(by: User, **changes: Any) -> ExportSchedule:
    """The clients of `by` every Monday at nine, Moscow time, to one address."""
    facts: dict[str, Any] = {
        "entity": "client",
        "selection": [],
        "columns": ["name", "phone"],
        "branch_id": None,
        "locale": "ru",
        "time_zone": "Europe/Moscow",
        "name": "Клиенты по понедельникам",
        "periodicity": Periodicity.WEEKLY,
        "weekdays": [0],
        "month_day": None,
        "send_time": time(9),
        "recipients": "boss@demo.test",
        **changes,
    }
    with transaction():
        return create_schedule(**facts, by=by)


def make_till(branch: Branch, *, kind: TillKind = TillKind.CASH, money: Decimal | int = 0, **changes: Any) -> Till:
    """A till of the branch; `money` came into it for reasons of the business's own."""
    facts: dict[str, Any] = {"name": f"Касса {next(_numbers)}", **changes}
    uses_shifts = facts.pop("uses_shifts", False)
    with transaction():
        till = create_till(kind=kind, branch=branch, **facts, by=SYSTEM)
        if money:
            take_other(till, amount=Decimal(money), comment="Внесено", by=SYSTEM)
        if uses_shifts:
            till.uses_shifts = True
    return till


def make_shift(till: Till, counted: Decimal | int | None = None, *, by: Actor = SYSTEM, comment: str = "") -> Shift:
    """An open shift; without a sum, as much was counted as there should be."""
    with transaction():
        return open_shift(till, counted=money_in(till) if counted is None else Decimal(counted), by=by, comment=comment)
