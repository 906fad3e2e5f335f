"""kill -9 at random moments: what was acknowledged is there afterwards, and the ledger check finds nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from crm.config import read_settings
from tests.chaos.conftest import IS_LONG, Chaos, application_on, make_chaos
from tests.factories import make_network
from tests.servers import own_postgresql, wait_until

KILLS = 30 if IS_LONG else 3
SERVER_KILLS = 10 if IS_LONG else 1
# Long enough for the program to start on a busy machine; it never lives to the end of it.
FOREVER = 600
PROCESSES, THREADS = 4, 2


def _settled(chaos: Chaos, *, kills: int) -> None:
    """Every clerk finds in the database what his journal says; a killed one had at most one operation under way."""
    acknowledged, posted = chaos.acknowledged(), chaos.posted()
    for done in acknowledged:
        found = {account_id: amount for account_id, amount in posted[done.key].items() if amount}
        assert found == {account_id: amount for account_id, amount in done.moves.items() if amount}
    openings = sum(balance != 0 for balance in chaos.before.values())
    assert 0 <= len(posted) - len(acknowledged) - openings <= kills * PROCESSES * THREADS


def _busy(chaos: Chaos, already: int) -> bool:
    """Whether clerks have been told of something since."""
    return len(chaos.acknowledged()) > already


def test_killed_clerks_lose_nothing_they_were_told(chaos: Chaos) -> None:
    chance = random.Random(4)
    for kill in range(1, KILLS + 1):
        already = len(chaos.acknowledged())
        with chaos.clerks(processes=PROCESSES, threads=THREADS, seconds=FOREVER) as program:
            wait_until(lambda: _busy(chaos, already), seconds=60, what="the clerks did not begin")  # noqa: B023
            time.sleep(chance.uniform(0, 0.7))
            os.killpg(program.pid, signal.SIGKILL)
            assert program.wait() == -signal.SIGKILL
        chaos.check()
        _settled(chaos, kills=kill)
    assert chaos.errors() == ""


def test_a_killed_postgresql_loses_nothing_it_acknowledged(tmp_path: Path, valkey_url: str) -> None:
    """The server's processes are killed under the clerks, and it recovers from its log."""
    chance = random.Random(4)
    with own_postgresql(is_durable=True) as server:
        settings = read_settings({"DATABASE_URL": server.url, "REDIS_URL": valkey_url, "DATA_DIR": str(tmp_path)})
        with application_on(settings):
            chaos = make_chaos(settings, make_network(), tmp_path)
            with chaos.clerks(processes=PROCESSES, threads=THREADS, seconds=FOREVER, may_lose_server=True) as program:
                for kill in range(1, SERVER_KILLS + 1):
                    already = len(chaos.acknowledged())
                    wait_until(lambda: _busy(chaos, already), seconds=60, what="nobody got anything done")  # noqa: B023
                    time.sleep(chance.uniform(0, 0.7))
                    server.crash()
                    server.start()
                    chaos.check()
                    _settled(chaos, kills=kill)
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
            chaos.check()
            _settled(chaos, kills=SERVER_KILLS + 1)
            assert chaos.errors() == ""
