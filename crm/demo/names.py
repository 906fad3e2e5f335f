"""Made-up people: ordinary Russian names put together by chance."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MEN = "Алексей Андрей Артём Борис Виктор Глеб Денис Егор Иван Кирилл Лев Максим Никита Павел Роман Семён Тимур Фёдор"
_WOMEN = "Алина Анна Вера Галина Дарья Елена Жанна Инна Ксения Лариса Мария Нина Ольга Полина Римма София Таисия Юлия"
_FATHERS = "Алексеев Андреев Борисов Викторов Денисов Егоров Иванов Кириллов Львов Максимов Павлов Романов Фёдоров"
_SURNAMES = (
    "Берёзкин Ветров Голубкин Дождиков Ежов Журавкин Зимин Ивушкин Калинкин Лесков Малинкин Незабудкин Огоньков "
    "Пёрышкин Рощин Синицын Тропинин Умелов Филинов Холмов Цветков Черёмухин Шишкин Щеглов Яблочкин Ягодкин"
)
_MALE, _FEMALE = _MEN.split(), _WOMEN.split()
_PATRONYMS, _FAMILIES = _FATHERS.split(), _SURNAMES.split()
_ROOTS = (
    "Берёз Бобр Ворон Галк Глух Гриб Дрозд Дуб Дятл Ёлк Журавл Зайц Звон Зябл Ив Калин Камыш Клён Кот Кулик Курган "
    "Лебед Лип Лис Лопух Мал Мельник Молок Морош Мотыл Огонь Ольх Орех Осин Пастух Перепел Песк Плот Полын Рогоз "
    "Рябин Сапож Скворц Снегир Сокол Соловь Сорок Сосн Стриж Тетерев Тополь Трав Туман Удод Хвощ Хмел Чайк Чиж Щук"
)
_ENDINGS = ["ёв", "ин", "кин", "ков", "ников", "нин", "ов", "цев", "чиков", "ышев"]
_RARER = [root + ending for root in _ROOTS.split() for ending in _ENDINGS]


@dataclass(frozen=True)
class Person:
    """Surname, given name and, of a grown-up, patronymic; surname: in the masculine, for the rest of the family."""

    name: str
    surname: str


def surname_of_many(chance: random.Random) -> str:
    """A surname out of a crowd: half bear one of 26, most of the rest one of 590, one in 2000 a double one."""
    draw = chance.random()
    if draw < 0.5:
        return chance.choice(_FAMILIES)
    if draw < 0.9995:
        return chance.choice(_RARER)
    return f"{chance.choice(_FAMILIES)}-{chance.choice(_RARER)}"


def grown_up(chance: random.Random, surname: str | None = None) -> Person:
    surname, patronym = surname or chance.choice(_FAMILIES), chance.choice(_PATRONYMS)
    if chance.random() < 0.6:  # mothers come more often
        return Person(f"{surname}а {chance.choice(_FEMALE)} {patronym}на", surname)
    return Person(f"{surname} {chance.choice(_MALE)} {patronym}ич", surname)


def child_of(parent: Person, chance: random.Random) -> Person:
    if chance.random() < 0.5:
        return Person(f"{parent.surname}а {chance.choice(_FEMALE)}", parent.surname)
    return Person(f"{parent.surname} {chance.choice(_MALE)}", parent.surname)


def phone_of(number: int) -> str:
    """The phone of the number-th payer, E.164."""
    return f"+7900{number:07d}"
