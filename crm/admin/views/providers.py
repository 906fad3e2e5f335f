"""«Каналы рассылок»: the services messages of a company go through."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import abort, flash, redirect, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, IntegerField, PasswordField, StringField, TextAreaField
from wtforms.validators import Length, NumberRange, Optional

from crm.access.models import Company
from crm.admin.base import KontoraView, QuickFilter, permission
from crm.admin.fields import REQUIRED, Form, MoneyField, PhoneField, ReferenceField
from crm.admin.kinds import NOTHING, JsonKind, Place
from crm.admin.labels import LABELS
from crm.admin.views.contacts import ICONS
from crm.config import SMS_BODY
from crm.db import transaction
from crm.mailings.channels.base import Fate
from crm.mailings.models import Provider, ProviderKind
from crm.mailings.providers import (
    BY_PHONE,
    CHANNELS,
    HEARD,
    ProviderFacts,
    callback_url,
    connect_provider,
    save_provider,
    try_provider,
)
from crm.once import AlreadySubmitted, SubmittedForm, fingerprint_of

# Names of a provider's options by those of the form's fields.
_OPTIONS = {"bot": "bot", "channel": "channel", "body": "body", "ok": "ok", "number": "id"}
_OPTION_LABELS = {
    "bot": _l("Name of the bot"),
    "channel": _l("Id of the channel"),
    "body": _l("Request"),
    "ok": _l("Sign of success"),
    "number": _l("Number of the message in the answer"),
}
_KEY_LABELS = {
    ProviderKind.HTTP: _lp("provider", "Key (token)"),
    ProviderKind.SMSRU: _lp("provider", "Key (api_id)"),
    ProviderKind.TELEGRAM: _lp("provider", "Token of the bot"),
    ProviderKind.VIBER: _lp("provider", "Token of the bot"),
    ProviderKind.WHATSAPP: _lp("provider", "Key of the API"),
}


class OptionsKind(JsonKind):
    """What a service wants besides, in a line."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return self.export(value) or NOTHING

    def export(self, value: Any) -> Any:
        names = {option: label for name, option in _OPTIONS.items() if (label := _OPTION_LABELS[name])}
        return ", ".join(f"{names.get(name, name)}: {told}" for name, told in (value or {}).items())


class ProviderForm(Form):
    """What every service is asked for. KIND: which it is; its fields, and no others, are in FIELDS."""

    KIND: ClassVar[ProviderKind]
    FIELDS: ClassVar[tuple[str, ...]] = ()

    url = StringField(
        _l("Address of the service"),
        [Length(max=500)],
        description=_l("Leave empty for the service's own address."),
        render_kw={"inputmode": "url", "autocomplete": "off", "placeholder": "https://"},
    )
    secret = PasswordField(
        _l("Key"),
        description=_l("Kept encrypted and never shown again. Leave empty to keep the present one."),
        render_kw={"autocomplete": "new-password"},
    )
    per_minute = IntegerField(
        _l("Messages a minute, at most"),
        [Optional(), NumberRange(min=1, message=_l("At least one message a minute."))],
        description=_l("The rest waits for its turn. Empty: without a limit."),
    )
    is_active = BooleanField(
        _l("Messages go through it"),
        default=True,
        description=_l("Switched off, SMS go by the settings of the installation, and the other channels wait."),
    )

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        if obj is not None:
            kwargs |= {name: obj.options.get(option, "") for name, option in _OPTIONS.items()}
        super().process(formdata, obj, *args, **kwargs)
        self["secret"].label.text = _KEY_LABELS[self.KIND]
        if obj is not None and obj.kind is not self.KIND:  # it takes the place of another service
            self["secret"].description = _l("Kept encrypted and never shown again.")
            if formdata is None:
                self["url"].data = ""

    def facts(self, company: Company) -> ProviderFacts:
        data = self.data
        options = {option: data[name] for name, option in _OPTIONS.items() if data.get(name)}
        return ProviderFacts(
            company,
            self.KIND,
            data["url"],
            data["secret"] or "",
            data.get("sender") or "",
            options,
            data["per_minute"],
            data.get("price"),
            data["is_active"],
        )


class PricedForm(ProviderForm):
    price = MoneyField(_l("Price of a message"), description=_l("Where the service does not tell the cost itself."))


class SmsForm(ProviderForm):
    price = MoneyField(
        _l("Price of an SMS"), description=_l("Of each part of a long one, where the service does not tell the cost.")
    )
    sender = StringField(
        _l("Sender's name"),
        [Length(max=11)],
        description=_l("Registered with the service; clients see it. Up to 11 Latin letters and digits."),
        render_kw={"autocomplete": "off"},
    )


class SmsRuForm(SmsForm):
    KIND = ProviderKind.SMSRU
    FIELDS = ("secret", "sender", "url", "price")


class HttpForm(SmsForm):
    KIND = ProviderKind.HTTP
    FIELDS = ("url", "secret", "sender", "body", "ok", "number", "price")

    url = StringField(
        _l("Address of the gateway"),
        [REQUIRED, Length(max=500)],
        description=_l("Where messages are posted to."),
        render_kw={"inputmode": "url", "autocomplete": "off", "placeholder": "https://"},
    )
    body = TextAreaField(
        _OPTION_LABELS["body"],
        [Length(max=2000)],
        description=_l(
            "JSON or a form, as the gateway wants it, with {phone} or {digits}, {text}, and perhaps {sender}, {token} "
            "(the key; without it there it goes in the header Authorization) and {key} (of the message)."
        ),
        render_kw={"rows": 3, "spellcheck": "false", "placeholder": SMS_BODY},
    )
    ok = StringField(
        _OPTION_LABELS["ok"],
        [Length(max=200)],
        description=_l(
            "Where the answer says that the message is taken: path=value, for example status=ok. Empty: any answer of "
            "success is enough."
        ),
    )
    number = StringField(
        _OPTION_LABELS["number"], [Length(max=200)], description=_l("Its path in the answer, for example data.0.id.")
    )


class TelegramForm(ProviderForm):
    KIND = ProviderKind.TELEGRAM
    FIELDS = ("bot", "secret", "url")

    bot = StringField(
        _OPTION_LABELS["bot"],
        [REQUIRED, Length(max=100)],
        description=_l("As in t.me/name: clients come to it by the link of their page of messages."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )


class ViberForm(PricedForm):
    KIND = ProviderKind.VIBER
    FIELDS = ("bot", "secret", "sender", "url", "price")

    bot = StringField(
        _OPTION_LABELS["bot"],
        [REQUIRED, Length(max=100)],
        description=_l("Its URI, as in viber://pa?chatURI=name."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    sender = StringField(
        _l("Sender's name"),
        [Length(max=28)],
        description=_l("Of the bot's greeting. Empty: the company's name."),
        render_kw={"autocomplete": "off"},
    )


class WhatsAppForm(PricedForm):
    KIND = ProviderKind.WHATSAPP
    FIELDS = ("channel", "secret", "url", "price")

    channel = StringField(
        _OPTION_LABELS["channel"],
        [REQUIRED, Length(max=100)],
        description=_l("channelId of the WhatsApp channel, from the settings of Wazzup."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )


FORMS: dict[ProviderKind, type[ProviderForm]] = {
    form.KIND: form for form in (SmsRuForm, HttpForm, TelegramForm, ViberForm, WhatsAppForm)
}


class TryForm(Form):
    phone = PhoneField(
        _l("Phone"), [REQUIRED], description=_l("Your own, say: a short text comes to it, at the service's price.")
    )


class ProviderView(KontoraView):
    """Without one, SMS go by the settings of the installation; messengers are not there."""

    entity = "provider"
    icon = "broadcast"
    channel_icons = ICONS
    column_list = ("channel", "kind", "company", "sender", "per_minute", "price", "is_active")
    column_details_list = (
        *("channel", "kind", "company", "url", "sender", "options", "per_minute", "price", "is_active", "created_at"),
    )
    column_labels = {
        "kind": _lp("provider", "Service"),
        "url": _l("Address of the service"),
        "sender": _l("Sender's name"),
        "options": _lp("provider", "Settings"),
        "per_minute": _l("Messages a minute, at most"),
        "price": _l("Price of a message"),
        "is_active": _l("Messages go through it"),
        "secret": _l("Key"),  # of the history
        **{f"options.{option}": _OPTION_LABELS[name] for name, option in _OPTIONS.items()},
    }
    column_kinds = {"options": OptionsKind()}
    column_filters = ("channel", "kind", "company", "is_active")
    column_default_sort = "id"
    creates = edits = True
    create_label = _l("Connect a channel")
    details_template = "admin/provider.html"
    empty_hint = _l(
        "Connect a service, and messages go out by SMS, Telegram, Viber or WhatsApp. Letters need none: they go by the "
        "settings of the installation."
    )

    def within_sight(self, query: Any) -> Any:
        return query.where(Provider.company_id.in_(self.companies_in_sight()))

    def quick_filters(self) -> list[QuickFilter]:
        return [QuickFilter(_l("Switched off"), (("f.is_active.is", "0"),))]

    def is_editable_inline(self, name: str) -> bool:
        """A service is changed with all of it in sight."""
        return False

    # --- entered ----------------------------------------------------------------------------------------------------

    def declared_form(self) -> type[Form]:
        """The fields of the service `?kind=` says, else of the row's own."""
        kind = _asked() or ProviderKind.HTTP
        if request.endpoint == "provider.edit_view":
            kind = self._kind_of(self.get_one(request.values.get("id")))
        own = FORMS[kind]
        names = (*own.FIELDS, "per_minute", "is_active")
        if request.endpoint == "provider.edit_view":
            return type(own.__name__, (own,), {"SECTIONS": ((kind.label, names),)})
        new = {
            "SECTIONS": ((kind.label, ("company", *names)),),
            "company": ReferenceField(Company, LABELS["company"]),
            "secret": PasswordField(
                _KEY_LABELS[kind],
                [REQUIRED],
                description=_l("Kept encrypted and never shown again."),
                render_kw={"autocomplete": "new-password"},
            ),
        }
        return type(f"New{own.__name__}", (own,), new)

    @staticmethod
    def _kind_of(row: Provider) -> ProviderKind:
        """Another service of the same channel may take its place."""
        asked = _asked()
        return asked if asked is not None and CHANNELS[asked] is row.channel else row.kind

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> Any:
        """Which service, then its form."""
        if not self.may_create:
            abort(403)
        if _asked() is None:
            return self.render("admin/provider_kinds.html", kinds=list(FORMS), channels=CHANNELS)
        return super().create_view()

    def save_new(self, form: Any) -> Any:
        return save_provider(None, form.facts(form.company.data), by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return save_provider(row, form.facts(row.company), by=current_user)

    # --- tried ------------------------------------------------------------------------------------------------------

    def details_context(self, row: Provider) -> dict[str, Any]:
        others = [kind for kind, channel in CHANNELS.items() if channel is row.channel and kind is not row.kind]
        return {
            "callback_url": callback_url(row) if row.kind in HEARD and self.may_edit else "",
            "may_connect": row.kind in HEARD and self.may_edit,
            "may_try": row.kind in BY_PHONE and self.may_edit,
            "has_secret": bool(row.secret),
            "others": others if self.may_edit else [],
        }

    @expose("/connect/", methods=("POST",))
    @permission("edit")
    def connect_view(self) -> Any:
        """«Подключить»: the service is told where to call us."""
        provider = self.get_one(request.form.get("id"))
        url = self.row_url(provider)
        if wrong := connect_provider(provider):
            flash(_("Not connected: %(reason)s", reason=wrong), "danger")
        else:
            flash(_("Connected: the service tells us what becomes of the messages and who comes to us."), "success")
        return redirect(url)

    @expose("/try/", methods=("GET", "POST"))
    @permission("edit")
    def try_view(self) -> Any:
        """«Проверить»: a short text to a phone that is given, once for a form."""
        provider: Provider = self.get_one(request.values.get("id"))
        if provider.kind not in BY_PHONE:
            abort(404)
        form, back = TryForm(request.form if request.method == "POST" else None), self.row_url(provider)
        if request.method == "POST" and form.validate():
            sent = fingerprint_of(request.full_path, request.form.items(multi=True))
            try:
                with transaction():
                    SubmittedForm.claim(request.form.get("form_key"), sent).url = back
            except AlreadySubmitted as first:
                flash(_("This had been done already; it was not done twice."), "info")
                return redirect(first.url)
            outcome = try_provider(provider, form.phone.data)
            if outcome.fate is Fate.SENT:
                flash(_("The service has taken the message: look whether it comes."), "success")
            elif outcome.fate is Fate.UNKNOWN:
                flash(
                    _("No clear answer came, the message may have left: %(reason)s", reason=outcome.reason), "warning"
                )
            else:
                flash(_("Not sent: %(reason)s", reason=outcome.reason), "danger")
            return redirect(back)
        page = self.render(
            "admin/form.html",
            form=form,
            row=None,
            title=_("Send a test message"),
            subtitle=f"{provider.kind.label} · {provider.company.name}",
            back=back,
            stale=[],
            submit=_("Send"),
        )
        return page, 422 if request.method == "POST" else 200


def _asked() -> ProviderKind | None:
    """Which service the address names."""
    name = request.args.get("kind", "")
    return next((kind for kind in ProviderKind if kind.value == name), None)
