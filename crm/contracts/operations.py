"""Verbs on texts of contracts."""

from __future__ import annotations

from flask_babel import gettext as _

from crm.access.actors import Actor, require
from crm.access.models import Company
from crm.clients.models import Client
from crm.clients.queries import payer_of
from crm.contracts.models import ContractTemplate
from crm.db import db
from crm.errors import NotFound
from crm.fields.queries import company_of
from crm.mailings.tags import check_tags_of_contract, hidden_tags, render


def save_contract(
    contract: ContractTemplate | None,
    *,
    company: Company | None = None,
    name: str,
    body: str,
    is_archived: bool,
    by: Actor,
) -> ContractTemplate:
    """Add a contract of a company, or change one. Raises DomainError "tag_unknown" or "tag_misplaced" by
    `body`. The caller commits.
    """
    require(by, "contract.edit" if contract else "contract.create")
    check_tags_of_contract(body)
    if contract is None:
        assert company is not None
        contract = ContractTemplate(company_id=company.id)
        db.session.add(contract)
    contract.name, contract.body, contract.is_archived = name.strip(), body, is_archived
    db.session.flush()
    return contract


def fill_contract(contract: ContractTemplate, client: Client, *, by: Actor) -> str:
    """The contract's text with the data of who signs it: of the client, or of whoever pays for him. Dots stand for what
    `by` is not shown.

    Raises NotFound for a client of another company, DomainError "bill_required" when the text speaks of a bill.
    """
    require(by, "contract.view")
    require(by, "client.view", client)
    if contract.company_id != company_of(client):
        raise NotFound("not_found", _("Nothing found at this address, or it belongs to another branch."))
    return render(contract.body, client=payer_of(client), hidden=hidden_tags(by))
