"""Texts of contracts, and a contract filled in for a client."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import request, url_for
from flask_admin import expose
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import BooleanField, StringField, TextAreaField
from wtforms.validators import Length

from crm.access.models import Company
from crm.admin.base import KontoraView, permission
from crm.admin.fields import REQUIRED, Form, ReferenceField
from crm.clients.models import Client
from crm.contracts.models import ContractTemplate
from crm.contracts.operations import fill_contract, save_contract
from crm.db import db
from crm.fields.queries import company_of
from crm.mailings.tags import OF_CONTRACT, hidden_tags, tags_about, tags_told


class ContractForm(Form):
    name = StringField(_l("Name"), [REQUIRED, Length(max=200)])
    body = TextAreaField(_l("Text"), [REQUIRED, Length(max=200_000)], render_kw={"rows": 20})
    is_archived = BooleanField(_l("In the archive"))


class NewContractForm(ContractForm):
    company = ReferenceField(Company, _l("Company"))


class ContractView(KontoraView):
    entity = "contract"
    icon = "file-earmark-ruled"
    column_list = ("name", "company", "is_archived")
    column_searchable_list = ("name",)
    column_default_sort = "name"
    creates = edits = True
    create_label = _l("Add a contract")
    empty_hint = _l("Add the text of a contract: it is filled in and printed from a client's card.")

    def within_sight(self, query: Any) -> Any:
        return query.where(ContractTemplate.company_id.in_(self.companies_in_sight()))

    def declared_form(self) -> type[Form]:
        return NewContractForm if request.endpoint == "contract.create_view" else ContractForm

    def save_new(self, form: Any) -> Any:
        return save_contract(None, **form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return save_contract(row, **form.data, by=current_user)

    def answer(self, form: Any, change: Any, **kwargs: Any) -> Any:
        tags = tags_about(OF_CONTRACT)
        return super().answer(form, change, template="admin/template_form.html", tags=tags, **kwargs)

    @expose("/print/<id>/")
    @permission("view")
    def print_view(self, id: str) -> Any:
        """A contract of the client's company, filled in; with several, he chooses which."""
        clients = self.view_of(Client)
        client = clients.get_one(id)  # type: ignore[union-attr]
        query = sa.select(ContractTemplate).where(
            ContractTemplate.company_id == company_of(client), ContractTemplate.is_archived.is_(False)
        )
        contracts = list(db.session.scalars(query.order_by(ContractTemplate.name)))
        asked = request.args.get("contract")
        contract = next((item for item in contracts if str(item.id) == asked), next(iter(contracts), None))
        text = fill_contract(contract, client, by=current_user) if contract else ""
        return self.render(
            "admin/contract.html",
            client=client,
            contract=contract,
            contracts=contracts,
            text=text,
            has_dots=contract is not None and not hidden_tags(current_user).isdisjoint(tags_told(contract.body)),
            back=url_for("client.card_view", id=client.id),
        )
