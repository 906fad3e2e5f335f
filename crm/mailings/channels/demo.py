"""SMS of the demo: kept beside its letters, where a newcomer reads them; nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path

from crm import mail_sink
from crm.mailings.channels.base import Fate, Letter, Outcome


class DemoSmsSender:
    """Puts messages into the mailbox of the demo in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, letter: Letter) -> Outcome:
        try:
            mail_sink.keep_sms(self._folder, sender=letter.sender_name, recipient=letter.recipient, text=letter.text)
        except OSError as error:
            return Outcome(Fate.UNREACHABLE, str(error))
        return Outcome(Fate.SENT)

    def close(self) -> None:
        """Nothing is open."""
