"""Two cards of one person made one: find the other card, compare, confirm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import abort, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField

from crm.admin.base import permission
from crm.admin.columns import GridColumn
from crm.admin.fields import REQUIRED, Form
from crm.admin.importing import ImportableView
from crm.clients.merging import Merge, merge_clients, plan_merge
from crm.clients.models import Client
from crm.clients.queries import duplicates, find_clients, likely_duplicates
from crm.errors import DomainError
from crm.ledger.models import Account, Unit
from crm.ledger.queries import accounts_of

DUPLICATES = _l("Likely duplicates")
COMPARED = (
    "name",
    "surname",
    "patronymic",
    "kind",
    "phone",
    "phone_kind",
    "extra_phone",
    "extra_phone_kind",
    "email",
    "birth_date",
    "payer",
    "branch",
    "discount",
    "comment",
)


class MergeForm(Form):
    is_sure = BooleanField(
        _l("I have compared the cards: this is one person. A merge cannot be undone."),
        [REQUIRED],
    )


@dataclass(frozen=True)
class ComparedField:
    """A line of the comparison: HTML of the field on both cards, and on the one that stays afterwards."""

    label: Any
    kept: Any
    gone: Any
    after: Any

    @property
    def is_filled(self) -> bool:
        return bool(self.kept != self.after)


@dataclass(frozen=True)
class MoneySums:
    """What both cards have on their money accounts. after = kept + gone: a merge changes no sum."""

    kept: Decimal
    gone: Decimal

    @property
    def after(self) -> Decimal:
        return self.kept + self.gone


class CardMergingView(ImportableView):
    """Of the view of clients: what is asked of a card that was merged is asked of the one that stays."""

    list_template = "admin/clients.html"

    def get_one(self, id: Any) -> Any:
        row = super().get_one(id)
        if row.merged_into is None:  # also when that card is in a branch out of sight
            return row
        asked = {**request.args.to_dict(), **(request.view_args or {})}
        if request.method in {"GET", "HEAD"} and asked.get("id") == id:
            abort(redirect(url_for(request.endpoint or "", **{**asked, "id": row.merged_into_id})))
        return row.merged_into

    @expose("/card/<id>/merge/", methods=("GET", "POST"))
    @permission("merge")
    def merge_view(self, id: str) -> Any:
        """«Объединить с другой карточкой»: without ?with= the other card is looked for."""
        client = self.get_one(id)
        if "with" not in request.args:
            text = request.args.get("q", "").replace("\x00", "").strip()[:200]
            return self.render(
                "admin/merge_find.html",
                client=client,
                text=text,
                found=[card for card in find_clients(text, by=current_user) if card is not client],
                duplicates=likely_duplicates(client, by=current_user),
                known_by=self._known_by,
            )
        # Not the card it leads to: a form sent twice finds it merged.
        other = super().get_one(request.args["with"])
        form, merge = MergeForm(request.form), None
        try:
            merge = plan_merge(client, other, by=current_user)
        except DomainError as error:
            if request.method == "GET":
                form.form_errors.append(str(error))
        return self.answer(
            form,
            lambda: merge_clients(client, other, by=current_user),
            title=_("Merge two cards of one person"),
            back=url_for(".merge_view", id=client.id),
            done=lambda merged: self.row_url(merged.kept),
            said=merge and self._protocol(merge),
            template="admin/merge.html",
            client=client,
            other=other,
            merge=merge,
            compared=self._compared(merge) if merge else [],
            moved=self._moved(merge.others) if merge else {},
            sums=MoneySums(_money_of(client), _money_of(other)),
            is_money=_is_money,
            sees_accounts=current_user.may("account.view"),
        )

    @expose("/duplicates/")
    @permission("merge")
    def duplicates_view(self) -> Any:
        """«Возможные дубли»: cards of this branch, or of all in sight, that may be one person's."""
        return self.render(
            "admin/duplicates.html", groups=duplicates(by=current_user), known_by=self._known_by, title=DUPLICATES
        )

    def _known_by(self, client: Client) -> list[Any]:
        """What tells one card from another of the same name, without what is hidden."""
        names = ("phone", "extra_phone", "email", "birth_date", "branch", "status")
        columns = self.without_hidden([self.column(name) for name in names], client)
        return [self.plain_cell(client, column) for column in columns if column.value(client)]

    def _compared(self, merge: Merge) -> list[ComparedField]:
        kept, gone = merge.kept, merge.gone
        columns = [*(self.column(name) for name in COMPARED), *self.custom_columns(self.companies_of(kept))]
        lines = []
        for column in self.without_hidden(self.without_hidden(columns, kept), gone):
            before = self.plain_cell(kept, column)
            line = ComparedField(
                column.label, before, self.plain_cell(gone, column), self._after(merge, column, before)
            )
            if column.value(kept) or column.value(gone) or column.name in merge.facts:
                lines.append(line)
        return lines

    def _after(self, merge: Merge, column: GridColumn, before: Any) -> Any:
        """The field as the card that stays will show it."""
        name, place = column.name, self.place_of(merge.kept)
        if name == "payer":
            return column.kind.show(merge.payer, place)
        if name.startswith("custom."):
            key = name.removeprefix("custom.")
            is_filled = key in merge.facts.get("custom", {}) and key not in merge.kept.custom
            return self.plain_cell(merge.gone, column) if is_filled else before
        return column.kind.show(merge.facts[name], place) if name in merge.facts else before

    def _moved(self, counts: Mapping[str, int]) -> dict[Any, int]:
        """How many rows go over, by what this person calls them; those he may not see are other records."""
        views = {view.model.__tablename__: view for view in self.admin._views if getattr(view, "model", None)}
        found: dict[Any, int] = {}
        for table, count in counts.items():
            view = views.get(table)
            name = view.name if view is not None and view.is_accessible() else _("Other records")
            found[name] = found.get(name, 0) + count
        return found

    def _protocol(self, merge: Merge) -> str:
        """What was done, in one line for the top of the card."""
        counts = self._moved(merge.others)
        if merge.accounts and current_user.may("account.view"):
            counts = {_("Client's accounts"): len(merge.accounts), **counts}
        if merge.family:
            counts[_("Family")] = len(merge.family)
        said = _("“%(gone)s” is merged into this card.", gone=f"{merge.gone.shown_name} #{merge.gone.id}")
        return " ".join([said, *(f"{name}: {count}." for name, count in counts.items())])


def _is_money(account: Account) -> bool:
    return account.unit is Unit.MONEY


def _money_of(client: Client) -> Decimal:
    return sum((account.balance for account in accounts_of(client.id)), Decimal(0))
