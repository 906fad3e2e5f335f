"""A centre lived through the panel, and beside it a model that knows neither the ledger nor how it counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import func, select

from crm import clock
from crm.access.models import Branch
from crm.catalogue.models import LessonType
from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account, AccountKind, Entry, Transaction, TransactionKind, Unit
from crm.ledger.operations import base_account
from crm.ledger.queries import check_ledger
from crm.schedule.models import Attendance, Lesson, Mark
from crm.subscriptions.models import ChargeMoment, Plan, PlanAccount, Subscription, SubscriptionStatus
from tests.admin.world import send
from tests.factories import house_balance

OFF = (Mark.PRESENT, Mark.ABSENT)


def rounded(value: Fraction) -> Decimal:
    """Half up to the kopeck."""
    return Decimal(int(value * 100 + Fraction(1, 2))) / 100


@dataclass(eq=False)
class Sold:
    """A subscription as the model has it. lessons None: without a limit; freezes: (first day, last day or None)."""

    id: int
    student: int
    payer: int
    branch: int
    cost: Decimal
    lessons: int | None
    types: frozenset[int]
    is_per_lesson: bool
    is_separate: bool
    starts: date
    ends: date
    left: int = 0
    added: int = 0
    used: int = 0
    taken: Decimal = Decimal(0)
    is_living: bool = True
    freezes: list[tuple[date, date | None]] = field(default_factory=list)

    def covers(self, type_id: int, day: date) -> bool:
        rests = any(first <= day and (last is None or day <= last) for first, last in self.freezes)
        return (
            self.is_living
            and self.starts <= day <= self.ends
            and (self.lessons is None or self.left > 0)
            and (not self.types or type_id in self.types)
            and not rests
        )


@dataclass(frozen=True)
class Source:
    """What a mark was written off from. price: money taken."""

    sold: Sold | None = None
    extra: tuple[int, int] | None = None
    price: Decimal = Decimal(0)
    is_free: bool = False


class Centre:
    """Verbs that go through the panel and tell the model; agree() compares the two."""

    def __init__(self, network: Any, web: Any) -> None:
        self.network = network
        self.web = {branch.id: web(network.owner, branch) for branch in (network.lesnoy, network.rechnoy, network.mira)}
        self.base: dict[tuple[int, int], Decimal] = defaultdict(Decimal)  # by payer and branch
        self.own: dict[int, Decimal] = defaultdict(Decimal)  # by subscription
        self.extra: dict[tuple[int, int], int] = defaultdict(int)  # lessons by student and type
        self.sold: dict[int, Sold] = {}
        self.sources: dict[int, Source] = {}  # by attendance
        self.marks: dict[int, Mark] = {}
        self.families_come: set[int] = set()
        self.families_tried: set[int] = set()
        self.received: dict[int, Decimal] = defaultdict(Decimal)  # by branch, refunds deducted
        self.earned: dict[int, Decimal] = defaultdict(Decimal)
        self.granted = self.used = self.returned = self.given = 0
        self.debts: set[AccountKind] = set()  # kinds of accounts on which a debt has been seen

    # --- selling ------------------------------------------------------------------------------------------------------

    def sell(self, student: Client, plan: Plan, *, discount: Decimal = Decimal(0), way: str = "debt") -> Sold:
        today = clock.today(student.branch)
        path = f"/admin/client/card/{student.id}/subscription/new/"
        asked = {"plan": str(plan.id), "discount": str(discount) if discount else "", "way": way}
        self._send(student.branch_id, path, starts_on=today.isoformat(), **asked)
        row = self._newest(student)
        cost = plan.price - discount - min(student.discount, plan.price)
        return self._note_sale(row, plan, cost, today, way)

    def _newest(self, student: Client) -> Subscription:
        query = select(Subscription).where(Subscription.client_id == student.id).order_by(Subscription.id.desc())
        return db.session.scalars(query.limit(1)).one()

    def _note_sale(self, row: Subscription, plan: Plan, cost: Decimal, starts: date, way: str) -> Sold:
        student = row.client
        sold = self.sold[row.id] = Sold(
            id=row.id,
            student=student.id,
            payer=student.payer_id or student.id,
            branch=student.branch_id,
            cost=cost,
            lessons=plan.lessons,
            types=frozenset(one.id for one in plan.lesson_types),
            is_per_lesson=plan.charge is ChargeMoment.PER_LESSON,
            is_separate=plan.account is PlanAccount.SEPARATE,
            starts=starts,
            ends=starts + timedelta(days=plan.duration_days - 1),
            left=plan.lessons or 0,
        )
        self.granted += sold.left
        if not sold.is_per_lesson:
            self._charge(sold, cost)
            if way == "cash":
                self._credit(sold, cost)
                self.received[sold.branch] += cost
        return sold

    def _charge(self, sold: Sold, amount: Decimal) -> None:
        self.earned[sold.branch] += amount
        self._credit(sold, -amount)

    def _credit(self, sold: Sold, amount: Decimal) -> None:
        """Onto the account the subscription is kept on."""
        if sold.is_separate:
            self.own[sold.id] += amount
        else:
            self.base[sold.payer, sold.branch] += amount

    def pay(self, client: Client, amount: Decimal, sold: Sold | None = None) -> None:
        """Cash onto the payer's base account, or onto that of a subscription."""
        payer_id = client.payer_id or client.id
        account = base_account(payer_id, client.branch_id)
        if sold is not None:
            query = select(Account).where(Account.subscription_id == sold.id, Account.kind == AccountKind.SUBSCRIPTION)
            account = db.session.scalars(query).one()
            self.own[sold.id] += amount
        else:
            self.base[payer_id, client.branch_id] += amount
        db.session.commit()
        self._send(client.branch_id, f"/admin/account/{account.id}/top-up/", amount=str(amount), method="cash")
        self.received[client.branch_id] += amount

    # --- lessons ------------------------------------------------------------------------------------------------------

    def mark(self, lesson: Lesson, marks: Mapping[int, Mark], *, then: str = "") -> None:
        """By student id."""
        rows = {one.client_id: one for one in lesson.attendances if one.mark is not Mark.CANCELED}
        form = {f"mark-{rows[student].id}": mark.value for student, mark in marks.items()}
        form |= {f"seen-{rows[student].id}": str(rows[student].version) for student in marks}
        day = clock.local(lesson.starts_at, lesson.branch).date()
        changed = {rows[student]: mark for student, mark in marks.items() if rows[student].mark is not mark}
        facts = [(one.id, one.client, one.by_group, one.is_trial, mark) for one, mark in changed.items()]
        answer = self.web[lesson.branch_id].post(f"/admin/lesson/{lesson.id}/marks/", data={**form, "then": then})
        assert answer.status_code == 302, answer.text
        for id, *_rest in facts:
            self._give_back(id, facts)
        for id, student, by_group, is_trial, mark in facts:
            if mark in OFF and id not in self.sources:
                self._write_off(id, student, lesson, day, by_group=by_group, is_trial=is_trial, mark=mark)
            self.marks[id] = mark
        self.families_come |= {
            student.payer_id or student.id for _id, student, _group, _trial, mark in facts if mark is Mark.PRESENT
        }
        db.session.expire_all()

    def _give_back(self, id: int, facts: Iterable[Any]) -> None:
        mark = next(mark for other, *_rest, mark in facts if other == id)
        if mark in OFF or id not in self.sources:
            return
        source = self.sources.pop(id)
        if source.is_free:
            raise AssertionError("the scenario leaves trial lessons as they are")
        if source.sold is not None:
            source.sold.used -= 1
            if source.sold.lessons is not None:
                source.sold.left += 1
                self.used -= 1
            source.sold.taken -= source.price
            self._charge(source.sold, -source.price)
        elif source.extra is not None:
            self.extra[source.extra] += 1
            self.used -= 1
        else:
            attendance = db.session.get_one(Attendance, id)
            payer = attendance.client.payer_id or attendance.client_id
            self.base[payer, attendance.branch_id] += source.price
            self.earned[attendance.branch_id] -= source.price

    def _write_off(
        self, id: int, student: Client, lesson: Lesson, day: date, *, by_group: bool, is_trial: bool, mark: Mark
    ) -> None:
        payer, type_id = student.payer_id or student.id, lesson.lesson_type_id
        if is_trial or (by_group and mark is Mark.PRESENT and self._is_new(payer)):
            self.families_tried.add(payer)
            self.sources[id] = Source(is_free=True)
            return
        good = [sold for sold in self.sold.values() if sold.student == student.id and sold.covers(type_id, day)]
        if good:
            sold = min(good, key=lambda one: (one.ends, one.id))
            price = Decimal(0)
            if sold.is_per_lesson:
                assert sold.lessons
                price = rounded(Fraction(sold.cost) * (sold.used + 1) / sold.lessons) - sold.taken
                sold.taken += price
                self._charge(sold, price)
            sold.used += 1
            if sold.lessons is not None:
                sold.left -= 1
                self.used += 1
            self.sources[id] = Source(sold, price=price)
        elif self.extra[student.id, type_id]:
            self.extra[student.id, type_id] -= 1
            self.used += 1
            self.sources[id] = Source(extra=(student.id, type_id))
        else:
            price = lesson.lesson_type.single_price
            self.base[payer, lesson.branch_id] -= price
            self.earned[lesson.branch_id] += price
            self.sources[id] = Source(price=price)

    def _is_new(self, payer: int) -> bool:
        bought = any(sold.payer == payer for sold in self.sold.values())
        return not bought and payer not in self.families_come and payer not in self.families_tried

    def usable(self, student: Client, type_id: int, day: date) -> list[Sold]:
        return [sold for sold in self.sold.values() if sold.student == student.id and sold.covers(type_id, day)]

    # --- the life of a subscription -----------------------------------------------------------------------------------

    def freeze(self, sold: Sold, from_on: date, until_on: date | None = None) -> None:
        until = until_on.isoformat() if until_on else ""
        path = f"/admin/subscription/{sold.id}/freeze/"
        self._send(sold.branch, path, from_on=from_on.isoformat(), until_on=until, comment="Болезнь")
        sold.freezes.append((from_on, until_on))
        if until_on is not None:  # by when it is over, the end has moved on
            sold.ends += until_on - from_on + timedelta(days=1)

    def resume(self, sold: Sold, on: date) -> None:
        self._send(sold.branch, f"/admin/subscription/{sold.id}/resume/", on=on.isoformat())
        first, _last = sold.freezes.pop()
        sold.freezes.append((first, on - timedelta(days=1)))
        sold.ends += on - first

    def recalculate(self, sold: Sold, plan: Plan, *, amount: Decimal | None = None) -> Sold:
        """cost / lessons × left of the old one goes into the new one, which is on the base account."""
        student = db.session.get_one(Client, sold.student)
        path = f"/admin/subscription/{sold.id}/recalculate/?plan={plan.id}"
        by_hand = {} if amount is None else {"amount": str(amount).replace(".", ",")}
        self._send(sold.branch, path, **by_hand)
        assert sold.lessons is not None
        cost = plan.price - min(student.discount, plan.price)
        worth = rounded(Fraction(sold.cost) * sold.left / (sold.lessons + sold.added))
        credit = worth if amount is None else cost - amount
        self._end(sold)
        self._charge(sold, -credit)
        new = self._note_sale(self._newest(student), plan, cost, clock.today(student.branch), "debt")
        if sold.is_separate and self.own[sold.id] > 0:
            self._credit(new, self.own.pop(sold.id))
        return new

    def give_back(self, sold: Sold, *, single_price: Decimal, way: str) -> Decimal:
        """Return it: the refund is what was paid less the lessons used at the price of a single visit."""
        db.session.commit()
        self._send(sold.branch, f"/admin/subscription/{sold.id}/return/", way=way)
        unpaid = max(Decimal(0), -self.own[sold.id]) if sold.is_separate else Decimal(0)
        used = sold.used * single_price
        refund = max(Decimal(0), sold.cost - unpaid - used)
        self._end(sold)
        self._charge(sold, -(sold.cost - min(sold.cost, used)))
        if way == "cash":
            self._credit(sold, -refund)
            self.received[sold.branch] -= refund
        if sold.is_separate and self.own[sold.id] > 0:
            self.base[sold.payer, sold.branch] += self.own.pop(sold.id)
        return refund

    def cancel(self, sold: Sold) -> None:
        """The sale was a mistake."""
        self._send(sold.branch, f"/admin/subscription/{sold.id}/mistaken-sale/", comment="Ошибка")
        self._charge(sold, -sold.cost)
        self._end(sold)

    def _end(self, sold: Sold) -> None:
        self.returned += sold.left
        sold.left, sold.is_living = 0, False

    def add_lessons(self, student: Client, count: int, *, sold: Sold | None = None, type_: Any = None) -> None:
        form = {"count": str(count)} | ({"subscription": str(sold.id)} if sold else {"lesson_type": str(type_.id)})
        self._send(student.branch_id, f"/admin/client/card/{student.id}/lessons/add/", **form)
        self.granted += count
        if sold is not None:
            sold.left += count
            sold.added += count
        else:
            self.extra[student.id, type_.id] += count

    def transfer_lessons(self, source: Client, target: Client, lesson_type: LessonType, count: int, page: Any) -> None:
        path = f"/admin/client/card/{source.id}/lessons/transfer/?to={target.id}"
        answer = send(page, path, lesson_type=str(lesson_type.id), count=str(count))
        assert answer.status_code == 302, answer.text
        today, wanted = clock.today(source.branch), count
        giving = [one for one in self.sold.values() if one.student == source.id and one.is_living and one.left]
        for sold in sorted(giving, key=lambda one: (one.ends, one.id)):
            is_good = not sold.types or lesson_type.id in sold.types
            if is_good and not sold.is_per_lesson and sold.lessons is not None and sold.ends >= today:
                taken = min(wanted, sold.left)
                sold.left -= taken
                wanted -= taken
        taken = min(wanted, self.extra[source.id, lesson_type.id])
        self.extra[source.id, lesson_type.id] -= taken
        assert wanted == taken
        self.extra[target.id, lesson_type.id] += count
        self.given += count
        db.session.expire_all()

    def set_discount(self, student: Client, amount: Decimal) -> None:
        path = f"/admin/client/card/{student.id}/discount/"
        self._send(student.branch_id, path, amount=str(amount), reason="Многодетная семья")

    def _send(self, branch_id: int, path: str, **changes: Any) -> None:
        answer = send(self.web[branch_id], path, **changes)
        assert answer.status_code == 302, (path, answer.status_code, answer.text)
        db.session.expire_all()

    # --- is it all there? ---------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """Every subscription, account and sum is what the model has; the ledger is sound."""
        db.session.expire_all()
        for row in db.session.scalars(select(Subscription)):
            sold = self.sold[row.id]
            assert row.lessons_left == sold.left, row
            if row.status is SubscriptionStatus.ACTIVE:
                assert row.ends_on == sold.ends, row
        of_clients = select(Account).where(Account.client_id.is_not(None))
        for account in db.session.scalars(of_clients):
            assert account.balance == self._expected(account), (account.kind, account.client_id, account.balance)
            if account.balance < 0:
                self.debts.add(account.kind)
        self._lessons_agree()
        for branch in db.session.scalars(select(Branch)):
            assert house_balance(AccountKind.CASH, branch) == self.received[branch.id], branch.name
            assert self._revenue(branch) == self.earned[branch.id], branch.name
        assert check_ledger() == []

    def _expected(self, account: Account) -> Decimal:
        assert account.client_id is not None
        if account.kind is AccountKind.SUBSCRIPTION:
            return self.own[account.subscription_id or 0]
        if account.kind is AccountKind.LESSONS and account.subscription_id is not None:
            return Decimal(self.sold[account.subscription_id].left)
        if account.kind is AccountKind.LESSONS:
            return Decimal(self.extra[account.client_id, account.lesson_type_id or 0])
        return self.base[account.client_id, account.branch_id]

    def _lessons_agree(self) -> None:
        """granted = used + left + returned, transferred from one to another: by the model, and by the ledger alone."""
        left = sum(sold.left for sold in self.sold.values()) + sum(self.extra.values())
        assert self.granted == self.used + left + self.returned
        moved = _lessons_moved()
        granted = -moved[AccountKind.SERVICE, "granted"]
        assert granted == self.granted
        assert moved[AccountKind.SERVICE, "returned"] == self.returned
        assert moved[AccountKind.ATTENDED, "granted"] + moved[AccountKind.ATTENDED, "returned"] == self.used
        by_accounts = select(func.coalesce(func.sum(Account.balance), 0)).where(Account.kind == AccountKind.LESSONS)
        assert Decimal(db.session.scalar(by_accounts) or 0) == left
        given = select(func.coalesce(func.sum(Entry.amount), 0)).join(Entry.transaction)
        given = given.where(Transaction.kind == TransactionKind.LESSONS_TRANSFER, Entry.amount > 0)
        assert Decimal(db.session.scalar(given) or 0) == self.given
        marked = select(Attendance.id, Attendance.mark).where(Attendance.mark.in_((*OFF, Mark.EXCUSED)))
        assert dict(iter(db.session.execute(marked))) == {
            id: mark for id, mark in self.marks.items() if mark is not Mark.PLANNED
        }

    @staticmethod
    def _revenue(branch: Branch) -> Decimal:
        """What was earned, discounts deducted."""
        return -house_balance(AccountKind.REVENUE, branch) - house_balance(AccountKind.DISCOUNTS, branch)


def _lessons_moved() -> dict[tuple[AccountKind, str], Decimal]:
    """Sums of the house's lesson entries by account and direction."""
    query = (
        select(Account.kind, Transaction.kind, func.sum(Entry.amount))
        .join(Entry.account)
        .join(Entry.transaction)
        .where(Account.unit == Unit.LESSON, Account.client_id.is_(None))
        .group_by(Account.kind, Transaction.kind)
    )
    moved: dict[tuple[AccountKind, str], Decimal] = defaultdict(Decimal)
    back = {TransactionKind.RETURN, TransactionKind.REVERSAL}
    for account, kind, amount in db.session.execute(query):
        moved[account, "returned" if kind in back else "granted"] += Decimal(amount)
    return moved
