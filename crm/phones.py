"""Phone numbers: from what people type to E.164 and back."""

from __future__ import annotations

import re

import phonenumbers
from flask_babel import gettext as _

from crm.errors import DomainError

REGION = "RU"  # numbers without a country code


def parse_phone(text: str, *, field: str | None = None) -> str | None:
    """E.164 (`+79181590830`) of a number in any usual spelling; None for an empty text.

    Raises DomainError("phone_invalid") for anything that is not a possible number.
    """
    if not text.strip():
        return None
    try:
        number = phonenumbers.parse(text, REGION)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise DomainError("phone_invalid", _("This does not look like a phone number."), field)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def format_phone(e164: str | None) -> str:
    """`+7 918 159-08-30`; an empty text for no number."""
    if not e164:
        return ""
    return phonenumbers.format_number(phonenumbers.parse(e164), phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def is_landline(e164: str) -> bool:
    """Whether it is a fixed line by the number itself, whatever a card says of it: no SMS gets there."""
    return phonenumbers.number_type(phonenumbers.parse(e164)) == phonenumbers.PhoneNumberType.FIXED_LINE


def search_digits(text: str) -> list[str]:
    """Runs of digits to look for when `text` could be part of a phone (three digits or more, no letters); else empty.

    A leading 8 or 7 may be the trunk prefix or the country code, so the rest without it is looked for as well.
    """
    if not re.fullmatch(r"[\d\s()+.\-–‑/]+", text):
        return []
    digits = re.sub(r"\D", "", text)
    if len(digits) < 3:
        return []
    return [digits, digits[1:]] if digits[0] in "78" and len(digits) > 3 else [digits]
