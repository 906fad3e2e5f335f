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
from crm.contacts.models import Channel
from crm.exchange import excel
from crm.mailings.preview import DryRun, PreviewLine, Who

PAGE = 100  # lines at once


def who_asked(args: Mapping[str, str]) -> tuple[Who, int]:
    """Of whom lines are asked for, and the id of the client they begin after."""
    who, after = args.get("who", ""), args.get("after", "")
    is_number = after.isascii() and after.isdigit() and len(after) < 19
    return cast(Who, who if who in {"yes", "no"} else ""), int(after) if is_number else 0


def dry_run_file(run: DryRun, name: str, *, place: Place, has_bills: bool) -> Response:
    """All lines as an Excel file, read and written a batch at a time. has_bills: accounts and sums are told as well."""
    hidden = field_rules(current_user, "client").hidden
    sees_bills = "amount" not in field_rules(current_user, "bill").hidden
    sees_debts = "balance" not in field_rules(current_user, "account").hidden
    columns = [excel.Column(_("Client"), "text", 30)]
    if has_bills:
        columns += [excel.Column(_("Account"), "text", 30), excel.Column(_("Sum"), "money")]
    columns += [
        excel.Column(_("Way of sending"), "text", 16),
        excel.Column(_("Recipient"), "text", 26),
        excel.Column(_("Why not"), "text", 50),
    ]

    def cells(line: PreviewLine) -> tuple[Any, ...]:
        is_seen = not hidden & ({"email"} if line.channel is Channel.EMAIL else {"phone", "extra_phone"})
        account = line.account.title if line.account is not None else None
        # Without an account it is a debt, which no bill asks for.
        sees_sum = sees_bills if line.account is not None else sees_debts
        bill = (account, line.amount if sees_sum else None) if has_bills else ()
        return (
            line.client.name if "name" not in hidden else None,
            *bill,
            str(line.channel.label) if line.channel is not None else None,
            line.recipient if is_seen else None,
            line.reason or None,
        )

    title = f"{_('Whom it concerns')} {name}"
    rows = (cells(line) for line in run.lines())
    chunks = excel.export_file(columns, rows, title=str(_("Whom it concerns")), time_zone=None)
    headers = {"Content-Disposition": excel.content_disposition(f"{title} {clock.today(place)}.xlsx")}
    return Response(chunks, mimetype=excel.XLSX, headers=headers)
