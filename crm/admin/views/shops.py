"""«Интернет-эквайринг»: the shops clients pay through."""

from __future__ import annotations

from typing import Any

from flask import flash, redirect, request
from flask_admin import expose
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, PasswordField, StringField
from wtforms.validators import Length

from crm.access.models import Branch, Company
from crm.admin.base import KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, EnumField, Form, ReferenceField
from crm.admin.kinds import NOTHING, JsonKind, Place, ReferenceKind
from crm.db import end_reading
from crm.payments.gateways import notice_url
from crm.payments.gateways.base import GatewayError
from crm.payments.gateways.fiscal import PaymentMode, PaymentSubject, Receipts, TaxSystem, Vat
from crm.payments.models import GatewayKind, Shop
from crm.payments.shops import change_shop, check_shop, create_shop

# The names of a receipt's fields in the form.
_RECEIPT = ("tax_system", "vat", "payment_mode", "payment_subject", "receipt_email")


class ReceiptsKind(JsonKind):
    """How receipts are made out, in a line."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return self.export(value) or NOTHING

    def export(self, value: Any) -> Any:
        receipts = Receipts.read(value or {})
        if receipts is None:
            return ""
        return ", ".join(str(part.label) for part in (receipts.tax_system, receipts.vat, receipts.mode))


class BranchKind(ReferenceKind):
    """The one branch, or all."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return super().show(value, place) if value else str(_l("All branches of the company"))


class ShopForm(Form):
    SECTIONS: Any = (
        (_l("Contract with the service"), ("gateway", "shop_id", "secret", "name", "branch", "is_active")),
        (_l("Receipts by 54-FZ"), ("sends_receipts", *_RECEIPT)),
    )

    SECRET = _l("Secret key or terminal password")
    gateway = EnumField(GatewayKind, _l("Payment service"))
    shop_id = StringField(
        _l("Shop ID or terminal key"),
        [REQUIRED, Length(max=100)],
        description=_l("YooKassa: shopId. T-Bank: the terminal key."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    secret = PasswordField(
        SECRET,
        description=_l("Kept encrypted and never shown again. Leave empty to keep the present one."),
        render_kw={"autocomplete": "new-password"},
    )
    name = StringField(
        _l("Name"), [REQUIRED, Length(max=200)], description=_l("For yourselves: clients do not see it.")
    )
    branch = ReferenceField(Branch, _l("Branch"), is_optional=True, blank=_l("All branches of the company"))
    is_active = BooleanField(
        _l("New payments go through it"),
        default=True,
        description=_l("Switched off, it still answers for the payments begun and their refunds."),
    )
    sends_receipts = BooleanField(
        _l("Send receipts with the payments"),
        description=_l("Where the service has a cash register connected, it refuses payments without a receipt."),
    )
    tax_system = EnumField(TaxSystem, _l("Tax system"), default=TaxSystem.USN_INCOME)
    vat = EnumField(Vat, _l("VAT rate"))
    payment_mode = EnumField(
        PaymentMode, _lp("receipt", "Way of payment"), description=_l("Money that tops up an account is an advance.")
    )
    payment_subject = EnumField(PaymentSubject, _l("Subject of payment"))
    receipt_email = StringField(
        _l("E-mail for receipts"),
        [Length(max=254)],
        description=_l("Where a receipt goes when the client has neither e-mail nor phone."),
        render_kw={"inputmode": "email", "autocomplete": "off"},
    )

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        receipts = Receipts.read(obj.options) if obj is not None else None
        if receipts is not None:
            kwargs |= {
                "sends_receipts": True,
                "tax_system": receipts.tax_system,
                "vat": receipts.vat,
                "payment_mode": receipts.mode,
                "payment_subject": receipts.subject,
                "receipt_email": receipts.email,
            }
        super().process(formdata, obj, *args, **kwargs)


class NewShopForm(ShopForm):
    """Whose contract it is stays."""

    SECTIONS = (
        (ShopForm.SECTIONS[0][0], ("company", *ShopForm.SECTIONS[0][1])),
        ShopForm.SECTIONS[1],
    )

    company = ReferenceField(Company, _l("Company"))
    secret = PasswordField(
        ShopForm.SECRET,
        [REQUIRED],
        description=_l("Kept encrypted and never shown again."),
        render_kw={"autocomplete": "new-password"},
    )


class ShopView(KontoraView):
    """Without one, and without the demo bank, clients have nothing to press: money is taken at the desk."""

    entity = "shop"
    icon = "credit-card"
    column_list = ("name", "gateway", "shop_id", "company", "branch", "options", "is_active")
    column_details_list = (*column_list, "created_at")
    column_labels = {
        "shop_id": _l("Shop ID or terminal key"),
        "options": _l("Receipts by 54-FZ"),
        "is_active": _l("New payments go through it"),
        # Of the history.
        "secret": ShopForm.SECRET,
        "options.tax_system": _l("Tax system"),
        "options.vat": _l("VAT rate"),
        "options.payment_mode": _lp("receipt", "Way of payment"),
        "options.payment_subject": _l("Subject of payment"),
        "options.receipt_email": _l("E-mail for receipts"),
    }
    column_kinds = {"options": ReceiptsKind(), "branch": BranchKind(Branch, small=True)}
    column_filters = ("gateway", "company", "branch", "is_active")
    column_searchable_list = ("name", "shop_id")
    column_default_sort = "name"
    creates = edits = True
    create_label = _l("Connect a shop")
    details_template = "admin/shop.html"
    empty_hint = _l(
        "Connect YooKassa or T-Bank, and clients pay their bills online. Until then payments are taken at the desk."
    )

    def within_sight(self, query: Any) -> Any:
        return query.where(Shop.company_id.in_(self.companies_in_sight()))

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("Switched off"), (("f.is_active.is", "0"),))]

    def declared_form(self) -> type[Form]:
        return NewShopForm if request.endpoint == "shop.create_view" else ShopForm

    def is_editable_inline(self, name: str) -> bool:
        """A contract is changed with all of it in sight."""
        return False

    def save_new(self, form: Any) -> Any:
        return create_shop(**_facts(form), by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return change_shop(row, **_facts(form), by=current_user)

    def details_context(self, row: Shop) -> dict[str, Any]:
        return {
            "notice_url": notice_url(row.gateway.value),
            "is_told_in_requests": row.gateway is GatewayKind.TBANK,
            "may_check": self.may_edit_row(row),
            "has_secret": bool(row.secret),
        }

    @expose("/check/", methods=("POST",))
    @permission("edit")
    def check_view(self) -> Any:
        """«Проверить подключение»: the service is asked whether the keys are right."""
        shop = self.get_one(request.form.get("id"))
        url = self.row_url(shop)
        try:
            said = check_shop(shop, by=current_user)
        except GatewayError as error:
            flash(str(error), "danger")
        else:
            flash(said, "success")
        end_reading()
        return redirect(url)


def _facts(form: Any) -> dict[str, Any]:
    """What create_shop() and change_shop() take."""
    facts = {name: value for name, value in form.data.items() if name not in {"sends_receipts", *_RECEIPT}}
    said = form.data
    facts["receipts"] = (
        Receipts(
            said["tax_system"],
            said["vat"],
            said["payment_mode"],
            said["payment_subject"],
            said["receipt_email"].strip(),
        )
        if said["sends_receipts"]
        else None
    )
    return {**facts, "secret": facts["secret"] or ""}
