"""Plans: what is sold."""

from __future__ import annotations

from flask_babel import lazy_gettext as _l
from wtforms import BooleanField, IntegerField, StringField
from wtforms.validators import Length, NumberRange

from crm.admin.base import KontoraView
from crm.admin.fields import REQUIRED, Form, MoneyField


class PlanForm(Form):
    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    price = MoneyField(_l("Price"), [REQUIRED, NumberRange(min=0)])
    lessons = IntegerField(_l("Lessons"), [REQUIRED, NumberRange(0, 1000)])
    duration_days = IntegerField(_l("Days valid"), [REQUIRED, NumberRange(1, 3660)], default=30)
    is_archived = BooleanField(_l("In the archive"))


class PlanView(KontoraView):
    entity = "plan"
    icon = "card-list"
    column_list = ("name", "price", "lessons", "duration_days", "is_archived")
    column_searchable_list = ("name",)
    column_default_sort = "name"
    form = PlanForm
    creates = edits = True
    create_label = _l("Add a plan")
