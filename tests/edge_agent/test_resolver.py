from __future__ import annotations

import socket
import threading

import pytest

from edge_agent.delivery.resolver import Found, Resolver
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import free_port


class Names:
    """A lookup that answers when it is told to."""

    def __init__(self, found: Found) -> None:
        self.asked = 0
        self.answer = threading.Event()
        self._found = found

    def __call__(self, *_: object, **__: object) -> Found:
        self.asked += 1
        assert self.answer.wait(60)
        return self._found


def at(*ports: int) -> Found:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]


def test_resolver_gives_up_in_time_and_joins_the_same_lookup_the_next_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = Names(at(server.getsockname()[1]))
        resolver = Resolver(0.05, names)
        for _ in range(5):
            with pytest.raises(socket.gaierror, match=r"no answer about broker\.site"):
                resolver.connect("broker.site", 1883, 1)
        assert names.asked == 1
        assert sum(thread.name == "names" for thread in threading.enumerate()) == 1
        names.answer.set()
        wait_until(lambda: not any(thread.name == "names" for thread in threading.enumerate()))
        resolver.connect("broker.site", 1883, 1).close()  # by the answer that came late
        assert names.asked == 1
        resolver.connect("broker.site", 1883, 1).close()
        assert names.asked == 2


def test_resolver_takes_the_first_address_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = Names(at(free_port(), server.getsockname()[1]))
        names.answer.set()
        with Resolver(5, names).connect("broker.site", 1883, 1) as sock:
            assert sock.getpeername() == server.getsockname()


def test_resolver_nobody_listens_is_the_error_of_the_last_address() -> None:
    names = Names(at(free_port(), free_port()))
    names.answer.set()
    with pytest.raises(ConnectionRefusedError):
        Resolver(5, names).connect("broker.site", 1883, 1)


def test_resolver_tells_a_name_that_can_be_none_and_one_that_is_none() -> None:
    with pytest.raises(ValueError, match="label"):
        Resolver().connect("a" * 70 + ".site", 1883, 1)
    with pytest.raises(socket.gaierror):
        Resolver().connect("broker.invalid", 1883, 1)
