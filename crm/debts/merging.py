"""Debts of two cards of one person: what is owed stays what it is of, and as old as it is."""

from __future__ import annotations

from flask_babel import gettext as _

from crm.access.actors import Actor
from crm.clients.merging import BEFORE_EMPTYING
from crm.clients.models import Client
from crm.db import db
from crm.debts.queries import key_of_carried, unpaid_charges
from crm.ledger.models import Account, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, Posting, write


def carry_debt(account: Account, into: Account, kept: Client, by: Actor) -> None:
    """Transfer what is unpaid charge by charge, each with its day and what it is of: in one sum it would be the newest
    charge there, and of nothing.
    """
    postings = []
    for charge in unpaid_charges([account.id]).get(account.id, []):
        posted = db.session.get_one(Transaction, charge.transaction_id)
        postings.append(
            Posting(
                TransactionKind.TRANSFER,
                [Line(account, charge.unpaid), Line(into, -charge.unpaid)],
                account.branch_id,
                key_of_carried(account.id, charge.transaction_id),
                Cause(
                    client_id=kept.id,
                    subscription_id=charge.subscription_id,
                    bill_id=charge.bill_id,
                    visit_id=charge.visit_id,
                    lesson_id=posted.lesson_id,
                ),
                f"{_('Merging of two cards')}: {charge.comment or charge.kind.label}",
                charge.happened_at,
            )
        )
    if postings:
        write(postings, by=by)


BEFORE_EMPTYING.append(carry_debt)
