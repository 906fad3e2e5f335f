"""What stands where in the panel's menu."""

from __future__ import annotations

from typing import Any

from flask_admin import Admin
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm.access.models import Branch, City, Company, Employee, RoleSettings, User
from crm.admin.base import KontoraView
from crm.admin.views.access import BranchView, CityView, CompanyView, EmployeeView, UserView
from crm.admin.views.audit import AuditView
from crm.admin.views.background import JobView
from crm.admin.views.bills import BillView
from crm.admin.views.calendar import CalendarView
from crm.admin.views.cashflow import MovementView
from crm.admin.views.catalogue import HolidayView, LessonTypeView, RoomView, SubjectView
from crm.admin.views.charges import ChargeView
from crm.admin.views.clients import ClientView
from crm.admin.views.contracts import ContractView
from crm.admin.views.debts import DebtorView
from crm.admin.views.fields import FieldView
from crm.admin.views.groups import ClientGroupView
from crm.admin.views.ledger import AccountTypeView, AccountView
from crm.admin.views.lesson_reports import AttendanceReportView, RoomLoadView, SubscriptionsReportView
from crm.admin.views.mailings import MailingRuleView
from crm.admin.views.marking import AttendanceView
from crm.admin.views.messages import MessageView
from crm.admin.views.operations import OperationView
from crm.admin.views.payments import NoticeView, PaymentView, RefundView
from crm.admin.views.planning import BookingView
from crm.admin.views.plans import PlanView
from crm.admin.views.providers import ProviderView
from crm.admin.views.reports import ArchivedClientsView, ReportView, StaffActionsView
from crm.admin.views.roles import RoleView
from crm.admin.views.runs import MailingRunView
from crm.admin.views.schedule import LessonView
from crm.admin.views.schedules import ScheduleView
from crm.admin.views.shops import ShopView
from crm.admin.views.subscriptions import SubscriptionView
from crm.admin.views.tasks import TaskView
from crm.admin.views.templates import EmailTemplatesView, SmsTemplatesView, TemplateView
from crm.admin.views.tills import ShiftView, TillView
from crm.admin.views.visits import VisitView
from crm.admin.views.waiting import WaitingView
from crm.audit.models import AuditEntry
from crm.background.models import BackgroundJob
from crm.bills.models import Bill
from crm.catalogue.models import Holiday, LessonType, Room, Subject
from crm.clients.models import Client
from crm.contracts.models import ContractTemplate
from crm.debts.debtors import Debtor
from crm.exchange.schedules.models import ExportSchedule
from crm.fields.models import CustomField
from crm.ledger.history import AccountOperation
from crm.ledger.models import Account, AccountType
from crm.mailings.charges import Charge
from crm.mailings.models import MailingRule, MailingRun, Message, Provider, Template
from crm.payments.models import GatewayNotice, Payment, Refund, Shop
from crm.schedule.marks import LessonMark
from crm.schedule.models import Booking, ClientGroup, Lesson, Waiting
from crm.subscriptions.models import Plan, Subscription
from crm.tasks.models import Task
from crm.tills.models import Shift, Till
from crm.tills.movements import Movement
from crm.visits.models import Visit

LESSONS, ACCOUNTS, FINANCE = _l("Lessons"), _l("Client accounts"), _l("Finance")
SUBSCRIPTIONS = _l("Subscriptions")
MAILINGS, REPORTS, SETTINGS = _l("Auto-actions and mailings"), _l("Reports"), _l("Settings")


def add_views(admin: Admin) -> None:
    """Register every view; categories appear in the order of their first view."""
    admin.add_views(
        ClientView(Client, _l("Clients")),
        VisitView(Visit, _l("Visits")),
        TaskView(Task, _l("Tasks")),
        CalendarView(_l("Schedule of lessons"), LESSONS),
        ClientGroupView(ClientGroup, _l("Groups"), LESSONS),
        LessonView(Lesson, _l("List of lessons"), LESSONS),
        AttendanceView(LessonMark, _l("Attendance"), LESSONS),
        BookingView(Booking, _l("Bookings of rooms"), LESSONS),
        WaitingView(Waiting, _l("Waiting list"), LESSONS),
        SubjectView(Subject, _l("Subjects"), LESSONS),
        LessonTypeView(LessonType, _l("Lesson types"), LESSONS),
        RoomView(Room, _l("Rooms"), LESSONS),
        HolidayView(Holiday, _l("Days off"), LESSONS),
        AccountView(Account, _l("List of accounts"), ACCOUNTS),
        OperationView(AccountOperation, _l("Operations on accounts"), ACCOUNTS),
        DebtorView(Debtor, _l("Debtors"), ACCOUNTS),
        AccountTypeView(AccountType, _l("Account types"), ACCOUNTS),
        BillView(Bill, _l("Bills"), FINANCE),
        PaymentView(Payment, _l("Payments"), FINANCE),
        RefundView(Refund, _l("Refunds through the bank"), FINANCE),
        TillView(Till, _l("Tills and accounts"), FINANCE),
        ShiftView(Shift, _l("Shifts"), FINANCE),
        MovementView(Movement, _l("Money movement"), FINANCE),
        SubscriptionView(Subscription, _l("Subscriptions sold"), SUBSCRIPTIONS),
        PlanView(Plan, _l("Plans"), SUBSCRIPTIONS),
        MailingRuleView(MailingRule, _l("Automatic mailings"), MAILINGS),
        MailingRunView(MailingRun, _l("Mailing runs"), MAILINGS),
        TemplateView(Template, _l("Templates of messages"), MAILINGS),
        EmailTemplatesView(_l("Email templates"), MAILINGS, endpoint="emailtemplates"),
        SmsTemplatesView(_l("SMS templates"), MAILINGS, endpoint="smstemplates"),
        MessageView(Message, _l("Messages"), MAILINGS),
        ChargeView(Charge, _l("Costs of messages"), MAILINGS),
        ScheduleView(ExportSchedule, _l("Exports by the clock"), MAILINGS),
        AttendanceReportView(_l("Report on attendance"), REPORTS, endpoint="attendancereport"),
        RoomLoadView(_l("Load of rooms"), REPORTS, endpoint="roomload"),
        SubscriptionsReportView(_l("Ending soon"), REPORTS, endpoint="endingsoon"),
        SubscriptionsReportView(_lp("subscriptions", "Used up"), REPORTS, endpoint="usedup"),
        SubscriptionsReportView(_lp("subscriptions", "Not paid"), REPORTS, endpoint="notpaid"),
        ArchivedClientsView(_l("Archived clients"), REPORTS, endpoint="archivedclients"),
        StaffActionsView(_l("Report on staff actions"), REPORTS, endpoint="staffactions"),
        UserView(User, _l("Users"), SETTINGS),
        RoleView(RoleSettings, _l("Roles"), SETTINGS),
        EmployeeView(Employee, _l("Employees"), SETTINGS),
        BranchView(Branch, _l("Branches"), SETTINGS),
        CityView(City, _l("Cities"), SETTINGS),
        CompanyView(Company, _l("Companies"), SETTINGS),
        ShopView(Shop, _l("Internet acquiring"), SETTINGS),
        ProviderView(Provider, _l("Mailing channels"), SETTINGS),
        ContractView(ContractTemplate, _l("Contracts"), SETTINGS),
        NoticeView(GatewayNotice, _l("Notices of banks"), SETTINGS),
        FieldView(CustomField, _l("Card fields"), SETTINGS),
        AuditView(AuditEntry, _l("Change log"), SETTINGS),
        JobView(BackgroundJob, _l("My jobs"), SETTINGS),
    )


def menu_sections(admin: Admin) -> list[tuple[Any, list[KontoraView | ReportView]]]:
    """The menu as the current user may see it: (title or None, views), in the order of registration."""
    sections: dict[Any, list[KontoraView | ReportView]] = {}
    for view in admin._views:
        if isinstance(view, KontoraView | ReportView) and view.is_in_menu and view.is_accessible():
            sections.setdefault(view.category, []).append(view)
    return list(sections.items())
