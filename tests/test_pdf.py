"""render_pdf(): what is typed is printed as it is."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pypdf

from crm.pdf import render_pdf

DATA: dict[str, Any] = {
    "lang": "ru",
    "title": "Квитанция № 1",
    "company": "ООО «Лесная школа»",
    "place": [],
    "marks": [],
    "facts": [],
    "accounts": [],
    "comment": "",
    "labels": {"comment": "Комментарий", "signatures": [], "note": ""},
}


def text_of(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(BytesIO(pdf)).pages)


def test_nothing_in_the_data_is_taken_for_markup() -> None:
    typed = '#panic("x") *b* _i_ $x^2$ @a <b> \\n #import "/etc/passwd" = h'
    assert typed in " ".join(text_of(render_pdf("receipt", {**DATA, "comment": typed})).split())


def test_cyrillic_and_the_rouble_are_in_the_fonts_of_the_package() -> None:
    data = {**DATA, "facts": [["Ёлка", "1\xa0234,50\xa0₽"]]}
    pdf = pypdf.PdfReader(BytesIO(render_pdf("receipt", data)))
    assert "Ёлка 1 234,50 ₽" in pdf.pages[0].extract_text().replace("\xa0", " ")
    fonts = pdf.pages[0]["/Resources"]["/Font"]
    names = {str(font.get_object()["/BaseFont"]) for font in fonts.values()}
    assert all("LibertinusSerif" in name or "NewCM10" in name for name in names), names


def test_a_slip_is_one_page_however_long() -> None:
    comment = "Очень длинный комментарий. " * 200 + "Щ" * 300
    pdf = pypdf.PdfReader(BytesIO(render_pdf("receipt", {**DATA, "comment": comment})))
    (page,) = pdf.pages
    assert 226 < page.mediabox.width < 228  # 80 mm
    drawn = page.extract_text().replace("\u200b", "").replace("\n", "")
    assert drawn.count("Щ") == 300
