"""How a person is called where strangers may look."""

from __future__ import annotations

import re

_PATRONYMIC = re.compile(r".+(вич|вна|чна|ьич|оглы|кызы)$", re.IGNORECASE)


# Given names by which a word of a card is known to be one, whichever stands first.
_NAMES = """
александр алексей анатолий андрей антон аркадий арсений артем артемий артур богдан борис вадим валентин валерий
василий виктор виталий влад владимир владислав всеволод вячеслав геннадий георгий герман глеб григорий давид даниил
данил данила демид денис дмитрий евгений егор елисей захар иван игнат игорь илья карим кирилл константин лев леонид
лука макар максим марат марк матвей мирон мирослав михаил назар никита николай олег павел петр платон прохор родион
роман ростислав руслан савелий саша святослав семен сергей станислав степан тарас тимофей тимур федор филипп шамиль
эдуард эмиль эрик юрий ян ярослав
агата аделина алевтина александра алена алина алиса алия алла алсу альбина амина анастасия ангелина анжелика анна
антонина арина валентина валерия варвара василиса вера вероника виктория виолетта влада галина дарина дарья диана
дина ева евгения екатерина елена елизавета есения жанна зарина златослава злата зоя инна ира ирина камилла карина
катя кира кристина ксения лада лана лариса лера лиана лидия лилия лина лиза любовь людмила майя маргарита марина
мария марьям маша мила милана мирослава надежда наталия наталья нелли ника нина оксана олеся ольга полина раиса регина
римма роза руслана светлана серафима снежана соня софия софья стефания таисия тамара татьяна ульяна фаина эвелина
элина эльвира эльмира юлиана юлия юля яна ярослава ясмина
"""
_GIVEN = frozenset(_NAMES.split())


def first_name(name: str) -> str:
    """What a person is called by among his own: «Виктор». Of two words neither of which is known as a given name, the
    second: cards of those who have no patronymic are mostly filled in surname first.
    """
    words = name.split()
    at = next((i for i, word in enumerate(words) if i and _PATRONYMIC.match(word)), None)
    if at is not None:
        return words[at - 1]
    known = next((word for word in words if word.lower().replace("ё", "е") in _GIVEN), None)
    return known or " ".join(words[1:2] or words)


def discreet_name(name: str) -> str:
    """Enough for the payer to know himself, little for a stranger: «Анна Сергеевна К.», as banks write it.

    Cards hold both orders; the patronymic tells which word is the given name. Without one: the first word, initials.
    """
    words = name.split()
    at = next((i for i, word in enumerate(words) if i and _PATRONYMIC.match(word)), None)
    shown = words[:1] if at is None else words[at - 1 : at + 1]
    rest = words[1:] if at is None else words[: at - 1] + words[at + 1 :]
    return " ".join([*shown, *(f"{word[0]}." for word in rest)])
