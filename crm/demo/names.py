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


@dataclass(frozen=True)
class Person:
    """Surname, given name and, of a grown-up, patronymic; surname: in the masculine, for the rest of the family."""

    name: str
    surname: str


def grown_up(chance: random.Random) -> Person:
    surname, patronym = chance.choice(_FAMILIES), chance.choice(_PATRONYMS)
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
