"""Many clerks on the same five accounts at once: nothing is lost, nobody sees an error, every sum is exact."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from tests.chaos.conftest import IS_LONG, Chaos

SECONDS = 30 if IS_LONG else 3


def _work(chaos: Chaos, *, processes: int, threads: int) -> None:
    with chaos.clerks(processes=processes, threads=threads, seconds=SECONDS) as program:
        assert program.wait(SECONDS + 120) == 0
    assert chaos.errors() == ""
    acknowledged = chaos.acknowledged()
    assert len(acknowledged) >= processes * threads
    expected, posted = Counter(chaos.before), chaos.posted()
    for done in acknowledged:
        for account_id, amount in done.moves.items():
            expected[account_id] += amount
        moves = {account_id: amount for account_id, amount in done.moves.items() if amount}
        assert {at: sum_ for at, sum_ in posted[done.key].items() if sum_} == moves
    assert chaos.balances() == expected
    assert len({done.key for done in acknowledged}) == len(acknowledged)
    # Nothing happened that nobody was told of: the openings are the only other transactions.
    assert len(posted) == len(acknowledged) + sum(balance == Decimal(1000) for balance in chaos.before.values())
    chaos.check()
    print(f"{len(acknowledged)} operations")


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_fifty_threads_on_postgresql(chaos: Chaos) -> None:
    _work(chaos, processes=5, threads=10)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_four_processes_on_sqlite(chaos: Chaos) -> None:
    _work(chaos, processes=4, threads=1)
