"""Languages: the user's choice, else the browser's; English in code, Russian in the catalogue. Formatters of values."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date as babel_date
from babel.dates import format_timedelta
from babel.numbers import format_currency, parse_pattern
from flask import Flask, has_request_context, request
from flask_babel import Babel, get_locale
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from crm import clock

LANGUAGES = ("ru", "en")
babel = Babel()

_LOCALES = {language: Locale(language) for language in LANGUAGES}
_RUSSIAN = _LOCALES["ru"]
_CODE_CLOSE = re.compile(r"([A-Z]{3})(?=\d)")
_MONEY = parse_pattern("#,##0.00")  # read once: a page shows hundreds of sums


def select_language() -> str:
    """Language of this request; Russian outside one (jobs write to clients of Russian businesses)."""
    if not has_request_context():
        return "ru"
    chosen = getattr(current_user, "locale", None) or request.cookies.get("lang")
    if chosen in LANGUAGES:
        return str(chosen)
    return _preferred(request.headers.get("Accept-Language", "")[:500])


def person_locale() -> Locale:
    """The same as a locale, found in less time than Flask-Babel takes to remember it for the request."""
    return _LOCALES[select_language()]


@lru_cache(1000)
def _preferred(header: str) -> str:
    """The one of our languages a browser likes best; browsers say the same over and over."""
    return parse_accept_header(header, LanguageAccept).best_match(LANGUAGES) or "ru"


def money(value: Decimal | None, currency: str | None = None, locale: Locale | None = None) -> str:
    """`1 234,50` in the person's language; with a currency code `1 234,50 ₽`. locale: the person's by default."""
    if value is None:
        return ""
    return _written(value, currency, (locale or get_locale() or _RUSSIAN).language)


@lru_cache(5000)
def _written(value: Decimal, currency: str | None, language: str) -> str:
    """Most sums are prices, which are seldom new ones."""
    locale = _LOCALES[language]
    if not currency:
        return str(_MONEY.apply(value, locale))
    # English has no sign for the rouble, and puts a code as close to the sum as it would put a sign.
    return _CODE_CLOSE.sub("\\1\xa0", format_currency(value, currency, locale=locale))


# Whole groups of three or no groups: `12,34.5` is a slip of the finger, not 1234.50.
_IN_THOUSANDS = re.compile(
    r"-?[0-9]{1,3}(?:(?:\s+[0-9]{3})+(?:[.,][0-9]*)?|(?:,[0-9]{3})+\.[0-9]*|(?:\.[0-9]{3})+,[0-9]*)"
)


def read_money(text: str) -> Decimal:
    """A sum as people type it: `1 234,50`, `1,234.50`, `99.9`, with or without ₽. Raises ValueError with the reason."""
    plain = re.sub(r"^-\s+", "-", text.replace("₽", "").replace("−", "-").strip())
    if _IN_THOUSANDS.fullmatch(plain):
        plain = re.sub(r"\s", "", plain)
        if "," in plain and "." in plain:
            plain = plain.replace(min(",.", key=plain.index), "")
    plain = plain.replace(",", ".")
    if not re.fullmatch(r"-?(\d{1,15}(\.\d*)?|\.\d+)", plain, re.ASCII):
        raise ValueError(_("Enter a sum in numbers, for example 1500 or 99,90."))
    value = round(Decimal(plain), 2)
    if value != Decimal(plain):
        raise ValueError(_("A sum has two digits after the comma at most."))
    return value


def day(value: date | None, locale: Locale | None = None) -> str:
    """`31.01.2027` in Russian, `31 Jan 2027` in English. locale: the person's by default."""
    if value is None:
        return ""
    locale = locale or get_locale() or _RUSSIAN
    return f"{value:%d.%m.%Y}" if locale.language == "ru" else babel_date(value, "d MMM y", locale=locale)


def moment(value: datetime | None, time_zone: str = "Europe/Moscow") -> str:
    """A day and a time on the wall clock of `time_zone`."""
    if value is None:
        return ""
    there = value.astimezone(ZoneInfo(time_zone))
    return f"{day(there.date())} {there:%H:%M}"


def ago(value: datetime) -> str:
    """How long ago: `3 hours ago`, `2 days ago`."""
    return format_timedelta(value - clock.now(), add_direction=True, locale=get_locale() or _RUSSIAN)


def register(app: Flask) -> None:
    babel.init_app(
        app,
        default_locale="ru",
        default_timezone="UTC",
        locale_selector=person_locale,
        default_translation_directories=str(Path(__file__).parent / "translations"),
    )
    app.jinja_env.filters.update(money=money, day=day, moment=moment, ago=ago)
    app.jinja_env.globals.update(get_locale=get_locale)
