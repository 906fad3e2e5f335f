"""«Расходы на сообщения»: what a message has cost its company, with the message beside it, as one row to read.

Mapped onto the join of charge and message, as ledger/history.py does for accounts: filters, sorts, totals, exports and
the row scope take it like a table.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Mapped, column_property, relationship

from crm.access.models import Branch, Company
from crm.access.scope import BranchScoped
from crm.clients.models import Client
from crm.contacts.models import Channel, MessageKind
from crm.db import Model, read_only
from crm.mailings.models import Message, MessageCharge

charges: Table = MessageCharge.__table__  # type: ignore[assignment]
messages: Table = Message.__table__  # type: ignore[assignment]


@read_only
class Charge(BranchScoped, Model):
    """A message that was not free. delivery.py is what writes. id is the charge's, branch_id the message's; at: when
    the message was sent, the last time if it was sent again; amount: for all times together.
    """

    __tablename__ = "message_charge"
    __table__ = charges.join(messages, messages.c.id == charges.c.message_id)
    __mapper_args__ = {"primary_key": [charges.c.id], "include_properties": []}  # the columns named here and no others
    __audited__ = False

    id: Mapped[int] = column_property(charges.c.id)
    at: Mapped[datetime] = column_property(charges.c.at)
    amount: Mapped[Decimal] = column_property(charges.c.amount)
    company_id: Mapped[int] = column_property(charges.c.company_id)
    message_id: Mapped[int] = column_property(charges.c.message_id)

    branch_id: Mapped[int] = column_property(messages.c.branch_id)
    client_id: Mapped[int] = column_property(messages.c.client_id)
    channel: Mapped[Channel] = column_property(messages.c.channel)
    kind: Mapped[MessageKind] = column_property(messages.c.kind)
    author_name: Mapped[str] = column_property(messages.c.author_name)

    company: Mapped[Company] = relationship(foreign_keys=company_id, viewonly=True)
    branch: Mapped[Branch] = relationship(foreign_keys=branch_id, viewonly=True)
    client: Mapped[Client] = relationship(foreign_keys=client_id, viewonly=True)
    message: Mapped[Any] = relationship("Message", foreign_keys=message_id, viewonly=True)

    def __str__(self) -> str:
        return f"#{self.message_id}"
