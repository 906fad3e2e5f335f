"""A dry run of a mailing as pages and Excel show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flask import Response
from flask_babel import gettext as _
from flask_login import current_user

from crm import clock
from crm.access.fields import field_rules
from crm.admin.kinds import Place
from crm.admin.money import sees_balances
from crm.admin.views.messages import recipient_shown
from crm.exchange import excel
from crm.mailings.preview import DryRun, PreviewLine, Who

PAGE = 100  # lines at once


def who_asked(args: Mapping[str, str]) -> tuple[Who, int]:
    """Of whom lines are asked for, and the id of the client they begin after."""
    who, after = args.get("who", ""), args.get("after", "")
    is_number = after.isascii() and after.isdigit() and len(after) < 19
    return cast(Who, who if who in {"yes", "no"} else ""), int(after) if is_number else 0


def sees_sum(line: PreviewLine) -> bool:
    """Whether this person sees the sum of a line: of a bill, or, without an account, of a debt no bill asks for."""
    return sees_bills() if line.account is not None else sees_debts()


def sees_bills() -> bool:
    return bool(current_user.may("bill.view")) and "amount" not in field_rules(current_user, "bill").hidden


def sees_debts() -> bool:
    return bool(current_user.may("account.view")) and sees_balances()


def dry_run_file(run: DryRun, name: str, *, place: Place, has_bills: bool) -> Response:
    """All lines as an Excel file, read and written a batch at a time. has_bills: accounts and sums are told as well."""
    sees_names = "name" not in field_rules(current_user, "client").hidden
    columns = [excel.Column(_("Client"), "text", 30)]
    if has_bills:
        columns += [excel.Column(_("Account"), "text", 30), excel.Column(_("Sum"), "money")]
    columns += [
        excel.Column(_("Way of sending"), "text", 16),
        excel.Column(_("Recipient"), "text", 26),
        excel.Column(_("Why not"), "text", 50),
    ]

    def cells(line: PreviewLine) -> tuple[Any, ...]:
        account = line.account.title if line.account is not None else None
        bill = (account, line.amount if sees_sum(line) else None) if has_bills else ()
        return (
            line.client.name if sees_names else None,
            *bill,
            str(line.channel.label) if line.channel is not None else None,
            recipient_shown(line.channel, line.recipient) or None,
            line.reason or None,
        )

    title = f"{_('Whom it concerns')} {name}"
    rows = (cells(line) for line in run.lines())
    chunks = excel.export_file(columns, rows, title=str(_("Whom it concerns")), time_zone=None)
    headers = {"Content-Disposition": excel.content_disposition(f"{title} {clock.today(place)}.xlsx")}
    return Response(chunks, mimetype=excel.XLSX, headers=headers)
