"""Attacks that go on while somebody else chats: the other is served, and the memory stays bounded (conftest.py)."""

import statistics

import pytest
from attacks import ATTACKS, SETTINGS, watch

#: Seconds; against hanging alone, since machines are shared. tests/bench/hostile.py shows the times.
GUARD = 10.0
TIMES = 10
#: Seconds. Alone, /livez takes a millisecond or two, of which most is the test's own.
LIVEZ = 0.1


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_neighbour_is_served_beside(make_server, attack):
    server = make_server(config=SETTINGS)
    worker = server.worker()
    seen = watch(server, attack, seconds=2)
    assert statistics.median(seen.beside) <= TIMES * statistics.median(seen.whole)
    assert statistics.median(seen.alive_beside) <= max(TIMES * max(seen.alive_alone), LIVEZ)
    assert max(seen.beside + seen.alive_beside) <= GUARD
    assert server.process.poll() is None and server.worker() == worker
