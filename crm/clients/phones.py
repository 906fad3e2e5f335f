"""Phone numbers live in crm/phones.py, where companies use them too; kept here for those who look among clients."""

from crm.phones import format_phone, parse_phone, search_digits

__all__ = ["format_phone", "parse_phone", "search_digits"]
