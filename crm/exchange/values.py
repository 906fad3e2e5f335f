"""What cells hold, in the spellings people and other systems use, as values. Each raises DomainError with the reason.

A cell is a str, float, bool, date, datetime, time or timedelta, as the reader gives it; text is "" when empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from flask_babel import gettext as _

from crm import clock
from crm.access.models import Branch
from crm.access.operations import normalise_email
from crm.db import MAX_AMOUNT, amount
from crm.errors import DomainError
from crm.exchange.reading import is_blank
from crm.phones import parse_phone as parse_phone_text

MAX_COUNT = 10_000

# Thousands may be set apart by a space of any kind, or by a dot or a comma when the other one stands before kopecks.
_NUMBER = re.compile(
    r"(?P<sign>[-−+]?)\s*"
    r"(?:(?P<whole>\d+|\d{1,3}(?:[\s']\d{3})+)(?:[.,](?P<minor>\d{1,2}))?"
    r"|(?P<commas>\d{1,3}(?:,\d{3})+)\.(?P<after_dot>\d{1,2})"
    r"|(?P<dots>\d{1,3}(?:\.\d{3})+),(?P<after_comma>\d{1,2}))"
    r"\s*(?:₽|руб(?:\.|лей|ля|ль)?|р\.?|rub)?",
    re.I,
)
_PHONE = re.compile(r"[\d\s()+./\-‐‑–—]*")
_DAY_FIRST = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})")
_YEAR_FIRST = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ]00:00(?::00)?)?")


def parse_text(cell: Any) -> str:
    """Text as it stands, without spaces around it; a whole number without its `.0`."""
    if is_blank(cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def parse_name(cell: Any) -> str:
    """One line of text with single spaces, 200 characters at most."""
    name = " ".join(parse_text(cell).split())
    if len(name) > 200:
        raise DomainError("too_long", _("The name is longer than 200 characters."))
    return name


def parse_required_name(cell: Any) -> str:
    name = parse_name(cell)
    if not name:
        raise DomainError("empty", _("The name is missing."))
    return name


def parse_phone(cell: Any) -> str | None:
    """E.164, from text or from a number Excel made of it; None for empty."""
    text = parse_text(cell)
    try:
        if not _PHONE.fullmatch(text):  # a lenient parser would pick a number out of any text
            raise DomainError("phone_invalid", text)
        return parse_phone_text(text)
    except DomainError:
        raise DomainError("phone_invalid", _("“%(value)s” is not a phone number.", value=_shown(cell))) from None


def parse_required_phone(cell: Any) -> str:
    phone = parse_phone(cell)
    if phone is None:
        raise DomainError("empty", _("The phone is missing; it is how a client is recognised."))
    return phone


def parse_email(cell: Any) -> str:
    """Lower case, trimmed; empty for none."""
    text = parse_text(cell)
    try:
        return normalise_email(text) if text else ""
    except DomainError:
        raise DomainError("email_invalid", _("“%(value)s” is not an e-mail address.", value=_shown(cell))) from None


def parse_past_date(cell: Any, *, today: date) -> date | None:
    """A day from 1900 to `today`: a date, `31.12.2019`, `31/12/2019`, `31.12.19` or `2019-12-31`; None for empty.

    A year of two digits is the latest such year that has not yet to come.
    """
    if is_blank(cell):
        return None
    day = _day(cell, today)
    if day is None:
        raise DomainError("date_invalid", _("“%(value)s” is not a date.", value=_shown(cell)))
    if not date(1900, 1, 1) <= day <= today:
        raise DomainError("date_invalid", not_past(cell))
    return day


def parse_day(cell: Any, *, today: date) -> date | None:
    """A day in any of these spellings, however late; None for empty. today: see parse_past_date."""
    day = None if is_blank(cell) else _day(cell, today)
    if day is None and not is_blank(cell):
        raise DomainError("date_invalid", _("“%(value)s” is not a date.", value=_shown(cell)))
    return day


def parse_number(cell: Any) -> Decimal | None:
    """A number in the spellings of sums, with what stands after the point as it is; None for empty."""
    if is_blank(cell):
        return None
    value = _number(cell)
    if value is None and isinstance(cell, str) and re.fullmatch(r"[-−+]?\d+[.,]\d+", cell.strip()):
        value = Decimal(cell.strip().replace(",", ".").replace("−", "-"))
    if value is None:
        raise DomainError("number_invalid", _("“%(value)s” is not a number.", value=_shown(cell)))
    return value


def not_past(cell: Any) -> str:
    """The reason a day that has yet to come, or is too long ago, is refused."""
    return _("“%(value)s” is in the future or before 1900.", value=_shown(cell))


def latest_day(branches: Iterable[Branch]) -> date:
    """Today where the day is furthest on. A line's own branch may be behind it: importers check that, too."""
    return max((clock.today(branch) for branch in branches), default=clock.now().date())


def _day(cell: Any, today: date) -> date | None:
    if isinstance(cell, datetime):
        return cell.date()
    if isinstance(cell, date):
        return cell
    text = parse_text(cell) if isinstance(cell, str) else ""
    try:
        if match := _YEAR_FIRST.fullmatch(text):
            return date(int(match[1]), int(match[2]), int(match[3]))
        if match := _DAY_FIRST.fullmatch(text):
            year = int(match[4])
            if len(match[4]) == 2:
                year += 2000
                if date(year, int(match[3]), int(match[1])) > today:
                    year -= 100
            return date(year, int(match[3]), int(match[1]))
    except ValueError:
        pass
    return None


def parse_amount(cell: Any) -> Decimal:
    """A sum: a number, or text like `1 234,50 ₽`, `-715,65 руб.`, `1,234.50`; an empty cell is zero."""
    value = _number(cell)
    if value is None or value != amount(value) or abs(value) > MAX_AMOUNT:
        raise DomainError("amount_invalid", _("“%(value)s” is not a sum.", value=_shown(cell)))
    return amount(value)


def parse_count(cell: Any) -> int:
    """A whole number of lessons; an empty cell is zero. None are owed: lessons left never fall below zero."""
    value = _number(cell)
    if value is None or value != int(value) or not 0 <= value <= MAX_COUNT:
        raise DomainError("count_invalid", _("“%(value)s” is not a number of lessons.", value=_shown(cell)))
    return int(value)


def _number(cell: Any) -> Decimal | None:
    if is_blank(cell):
        return Decimal(0)
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int | float):
        # Sixteen digits and more are noise of binary arithmetic: 0.1+0.2 is shown by Excel as 0.3, and is 0.3 here.
        value = Decimal(f"{cell:.15g}") if abs(cell) < 10**12 else None
        return value
    if not isinstance(cell, str) or not (match := _NUMBER.fullmatch(cell.strip())):
        return None
    whole = re.sub(r"\D", "", match["whole"] or match["commas"] or match["dots"])
    minor = match["minor"] or match["after_dot"] or match["after_comma"] or "0"
    return Decimal(f"{'-' if match['sign'] in {'-', '−'} else ''}{whole}.{minor}")


def _shown(cell: Any) -> str:
    """The cell as the person sees it in the file, short."""
    text = f"{cell:%d.%m.%Y}" if isinstance(cell, date) else parse_text(cell)
    return text if len(text) <= 60 else f"{text[:59]}…"
