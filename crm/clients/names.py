"""How a person is called where strangers may look."""

from __future__ import annotations

import re

_PATRONYMIC = re.compile(r".+(вич|вна|чна|ьич|оглы|кызы)$", re.IGNORECASE)


def discreet_name(name: str) -> str:
    """Enough for the payer to know himself, little for a stranger: «Анна Сергеевна К.», as banks write it.

    Cards hold both orders; the patronymic tells which word is the given name. Without one: the first word, initials.
    """
    words = name.split()
    at = next((i for i, word in enumerate(words) if i and _PATRONYMIC.match(word)), None)
    shown = words[:1] if at is None else words[at - 1 : at + 1]
    rest = words[1:] if at is None else words[: at - 1] + words[at + 1 :]
    return " ".join([*shown, *(f"{word[0]}." for word in rest)])
