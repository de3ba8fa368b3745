"""Who failed how often: the window, the limit, and what is forgotten first."""

import pytest

from daemon import strikes
from daemon.strikes import CLIENTS_LIMIT, STRIKES_LIMIT, STRIKES_SECONDS, Strikes


@pytest.fixture
def clock() -> list[float]:
    """A clock of one second that a test may set."""
    return [1000.0]


@pytest.fixture
def counted(clock: list[float]) -> Strikes:
    """Strikes by that clock."""
    return Strikes(lambda: clock[0])


def test_the_sixth_failure_is_one_too_many(counted: Strikes) -> None:
    """Five are forgiven; asking counts nothing, and says the same as counting would."""
    for _ in range(STRIKES_LIMIT):
        assert not counted.is_out("192.0.2.1")
        assert not counted.count("192.0.2.1")
    assert counted.is_out("192.0.2.1")
    assert counted.is_out("192.0.2.1")
    assert counted.count("192.0.2.1")
    assert not counted.is_out("192.0.2.2")


def test_a_failure_is_forgotten_after_a_minute(counted: Strikes, clock: list[float]) -> None:
    """Each by itself: the window slides, and who goes on failing stays out."""
    for _ in range(STRIKES_LIMIT):
        counted.count("192.0.2.1")
    clock[0] += STRIKES_SECONDS - 1
    assert counted.count("192.0.2.1")
    clock[0] += 1
    assert not counted.is_out("192.0.2.1")
    for _ in range(STRIKES_LIMIT - 1):
        assert not counted.count("192.0.2.1")
    assert counted.is_out("192.0.2.1")
    clock[0] += STRIKES_SECONDS
    assert not counted.is_out("192.0.2.1")


def test_the_addresses_of_one_network_are_one_client(counted: Strikes) -> None:
    """An IPv6 host has 2**64 of them; a mapped IPv4 address is the IPv4 address."""
    for number in range(STRIKES_LIMIT):
        counted.count(f"2001:db8::{number}")
        counted.count(f"::ffff:192.0.2.{number}")
    assert counted.is_out("2001:db8::ffff")
    assert not counted.is_out("2001:db8:0:1::1")
    assert not counted.is_out("192.0.2.1")
    for _ in range(STRIKES_LIMIT):
        counted.count("::ffff:198.51.100.7")
    assert counted.is_out("198.51.100.7")


@pytest.mark.parametrize("odd", ["", "nonsense", "fe80::1%eth0", "\udcff"])
def test_any_text_is_a_client(counted: Strikes, odd: str) -> None:
    """A unix socket has no address, and a scope may hold anything."""
    for _ in range(STRIKES_LIMIT):
        assert not counted.count(odd)
    assert counted.is_out(odd)


def test_the_memory_is_bounded(counted: Strikes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client whose last failure is oldest is forgotten first, and only he."""
    assert CLIENTS_LIMIT == 10_000
    monkeypatch.setattr(strikes, "CLIENTS_LIMIT", 3)
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        for _ in range(STRIKES_LIMIT):
            counted.count(client)
    counted.count("192.0.2.1")
    counted.count("192.0.2.4")
    assert not counted.is_out("192.0.2.2")
    assert counted.is_out("192.0.2.1")
    assert counted.is_out("192.0.2.3")
