"""What the forms of mailings ask about ways of sending: up to three, in the order they are tried, each with a text."""

from __future__ import annotations

from typing import Any

from flask_babel import lazy_gettext as _l
from wtforms import Field
from wtforms.fields.choices import SelectChoice

from crm.admin.fields import EnumField, Form, ReferenceField
from crm.contacts.models import Channel
from crm.mailings.models import MailingKind, MailingRule, Template
from crm.mailings.tags import templates_for

# «Способ рассылки» in the order of the form; WhatsApp takes the place of SMS where its provider is set.
WAYS = (Channel.EMAIL, Channel.SMS, Channel.TELEGRAM, Channel.VIBER, Channel.PUSH, Channel.CABINET)
# What the names of a way's fields end in.
NUMBERS = ("", "_2", "_3")
WAY_FIELDS = frozenset(f"way{number}" for number in NUMBERS)
_NEXT_WAY = _l("If it does not get through")
OFFERED = _l("The list has the templates whose tags suit this type of mailing.")


def _way_field(label: Any, *, is_optional: bool, **kwargs: Any) -> EnumField:
    return EnumField(Channel, label, members=WAYS, is_optional=is_optional, **kwargs)


def template_field(**kwargs: Any) -> ReferenceField:
    return ReferenceField(Template, _l("Template"), is_optional=True, **kwargs)


class WaysForm(Form):
    """The ways, and the template of each: of letters for letters, of SMS for all the others, and only such as a mailing
    of its kind can fill in. A next way is another than the former ones.
    """

    way = _way_field(
        _l("Way of sending"),
        is_optional=False,
        default=Channel.EMAIL,
        description=_l("Where a provider of WhatsApp is connected, SMS go to WhatsApp through it."),
    )
    template = template_field(description=OFFERED)
    way_2 = _way_field(
        _NEXT_WAY,
        is_optional=True,
        description=_l("Tried where the client has no address for the former way, or it was refused for certain."),
    )
    template_2 = template_field()
    way_3 = _way_field(_NEXT_WAY, is_optional=True)
    template_3 = template_field()

    def process(self, formdata: Any = None, obj: Any = None, *args: Any, **kwargs: Any) -> None:
        super().process(formdata, obj, *args, **kwargs)
        self._offer()

    @property
    def mailing_kind(self) -> MailingKind | None:
        """What is mailed, as it stands in the form; None when that makes no sense."""
        raise NotImplementedError

    def _offer(self) -> None:
        """Choices by what else is chosen. A way chosen twice stays, to be told of."""
        templates: list[Template] = list(self.template.rows.values())
        if self.mailing_kind is not None:
            templates = templates_for(self.mailing_kind, templates)
        former = set[Channel | None]()
        for number in NUMBERS:
            way: Field = self[f"way{number}"]
            way.choices = [
                SelectChoice(channel.value, channel.label)
                for channel in WAYS
                if channel is way.data or channel not in former
            ]
            if number:
                way.choices.insert(0, SelectChoice("", "—"))
            former.add(way.data)
            template, is_letter = self[f"template{number}"], way.data is Channel.EMAIL
            offered = [row for row in templates if (row.channel is Channel.EMAIL) is is_letter]
            template.choices = [template.choices[0], *(SelectChoice(str(row.id), row.name) for row in offered)]

    def settle(self) -> None:
        """What does not fit what else is chosen is let go: of a form not sent for good."""
        former = set[Channel]()
        for number in NUMBERS:
            way = self[f"way{number}"]
            if number and way.data in former:
                way.data = None
            former.add(way.data)
        self._offer()
        for number in NUMBERS:
            field = self[f"template{number}"]
            if field.data not in [field.rows[item.value] for item in field.choices[1:]]:
                field.data = None

    def is_way_shown(self, name: str) -> bool:
        """Whether the field of a way is asked for: those of a next one when the former is chosen."""
        _name, _, number = name.rpartition("_")
        if number == "3":
            return self.way_2.data is not None and (name == "way_3" or self.way_3.data is not None)
        return name == "way_2" or number != "2" or self.way_2.data is not None

    def is_shown(self, name: str) -> bool:
        """Whether the field means anything to the mailing as it stands in the form."""
        return self.is_way_shown(name)

    def validate(self, *args: Any, **kwargs: Any) -> bool:
        for name, field in self._fields.items():
            if not self.is_shown(name):
                field.process(None)
                field.raw_data = []  # what was sent of it is as if it was not
        return super().validate(*args, **kwargs)

    def chosen_ways(self) -> list[tuple[str, Channel]]:
        """What the names of their fields end in, and the channels, in their order."""
        chosen = [(number, self[f"way{number}"].data) for number in NUMBERS if self.is_way_shown(f"way{number}")]
        return [(number, channel) for number, channel in chosen if channel is not None]


def kept_ways(rule: MailingRule) -> dict[str, Any]:
    """The ways of a rule as the form's fields begin with them."""
    found: dict[str, Any] = {}
    for number, way in zip(NUMBERS, rule.ways, strict=False):
        found |= {f"way{number}": way.channel, f"template{number}": way.template}
    return found
