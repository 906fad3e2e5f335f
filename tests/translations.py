"""Is every text a person sees translated? `python -m tests.translations` lists what is not (`make lint` runs it)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("ru",)  # English is the language of the code

# As in the Makefile's EXTRACT.
KEYWORDS = {**DEFAULT_KEYWORDS, "_l": None, "_p": ((1, "c"), 2), "_lp": ((1, "c"), 2), "_n": (1, 2)}


def extract() -> Catalog:
    """Every message of the code and the templates."""
    with (ROOT / "babel.cfg").open() as config:
        methods, options = parse_mapping_cfg(config)
    catalog = Catalog()
    for file, line, message, _comments, context in extract_from_dir(ROOT, methods, options, KEYWORDS):
        catalog.add(message, None, [(file, line)], context=context)
    return catalog


def problems(language: str) -> Iterator[str]:
    """One line per message without a translation, marked fuzzy, or whose placeholders differ."""
    path = ROOT / "crm" / "translations" / language / "LC_MESSAGES" / "messages.po"
    if not path.exists():
        yield f"{language}: there is no {path.relative_to(ROOT)}"
        return
    with path.open("rb") as file:
        known = read_po(file, locale=language)
    for message in extract():
        if not message.id:
            continue
        found = known.get(message.id, context=message.context)
        where = ", ".join(f"{file}:{line}" for file, line in message.locations[:1])
        texts = () if found is None else found.string if isinstance(found.string, tuple) else (found.string,)
        if found is None or not texts or not all(texts):
            yield f"{language}: {where}: not translated: {message.id!r}"
        elif found.fuzzy:
            yield f"{language}: {where}: fuzzy: {message.id!r}"
        else:
            for error in found.check(known):
                yield f"{language}: {where}: {error}: {message.id!r}"


def main() -> int:
    found = [line for language in LANGUAGES for line in problems(language)]
    print("\n".join(found) if found else "translations: complete")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
