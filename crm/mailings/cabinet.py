"""Messages of the client's cabinet: they stay where they are written, and are read when the client says so."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db
from crm.mailings.channels.base import Fate, Letter, Outcome
from crm.mailings.delivery import SENDERS, move_message
from crm.mailings.models import Message, MessageStatus

# Unknown: its worker died while it was noted as sent. There is no other place it could have got to.
_UNREAD = (MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.UNKNOWN)


class CabinetSender:
    """Noting a message as sent is all there is to it: from then on the client sees it."""

    def send(self, letter: Letter) -> Outcome:
        return Outcome(Fate.SENT)

    def close(self) -> None:
        """Nothing is open."""


def cabinet_messages(client: Client, *, limit: int = 50) -> list[Message]:
    """What the client's cabinet holds, read and unread, newest first."""
    return _found(client, (*_UNREAD, MessageStatus.READ), limit)


def unread_messages(client: Client, *, limit: int = 50) -> list[Message]:
    """What every page of the cabinet shows until it is read, newest first."""
    return _found(client, _UNREAD, limit)


def _found(client: Client, statuses: Collection[MessageStatus], limit: int) -> list[Message]:
    of_cabinet = (Message.client_id == client.id, Message.channel == Channel.CABINET, Message.status.in_(statuses))
    return list(db.session.scalars(select(Message).where(*of_cabinet).order_by(Message.id.desc()).limit(limit)))


def is_unread(message: Message) -> bool:
    return message.channel is Channel.CABINET and message.status in _UNREAD


def read_messages(client: Client, ids: Collection[int]) -> int:
    """Note that the client has read these messages of his cabinet; how many of them were unread. Those of others, and
    what has been read before, are left as they are. The caller commits.
    """
    unread = select(Message.id, Message.status).where(
        Message.id.in_(ids),
        Message.client_id == client.id,
        Message.channel == Channel.CABINET,
        Message.status.in_(_UNREAD),
    )
    found = db.session.execute(unread.order_by(Message.id)).all()
    return sum(move_message(id, status, MessageStatus.READ, error="") for id, status in found)


SENDERS[Channel.CABINET] = CabinetSender
