"""A forwarded address counts as far as trusted proxies wrote it, and no further."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.forwarded import find_client, group_client

TRUSTED = [ip_network(network) for network in ("127.0.0.1", "::1", "10.0.0.0/8")]
ATTACKER = "198.51.100.7"
CLIENT = "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", CLIENT, CLIENT),
        ("::1", CLIENT, CLIENT),
        ("::ffff:127.0.0.1", CLIENT, CLIENT),
        ("", CLIENT, CLIENT),
        ("127.0.0.1", "2001:db8::9", "2001:db8::9"),
        ("127.0.0.1", f"{ATTACKER}, {CLIENT}", CLIENT),
        ("127.0.0.1", f"127.0.0.1, {CLIENT}", CLIENT),
        ("127.0.0.1", f"{CLIENT}, 10.1.2.3", CLIENT),
        ("127.0.0.1", f"{ATTACKER},{CLIENT} , 10.1.2.3,::1", CLIENT),
        ("127.0.0.1", "10.1.2.3, 10.4.5.6", "10.1.2.3"),
        ("127.0.0.1", f"{CLIENT}, ::ffff:10.1.2.3", CLIENT),
    ],
)
def test_through_trusted_proxies(peer: str, forwarded: str, client: str) -> None:
    """Read from the right, trusted entries are skipped and the first other one is the client."""
    assert find_client(peer, [forwarded], TRUSTED) == client


@pytest.mark.parametrize("forwarded", [CLIENT, "127.0.0.1", f"{CLIENT}, 127.0.0.1", "nonsense"])
@pytest.mark.parametrize("peer", [ATTACKER, "192.168.0.1", "::2", "not an address"])
def test_from_anybody_else(peer: str, forwarded: str) -> None:
    """What a peer that is no trusted proxy says of itself is ignored."""
    assert find_client(peer, [forwarded], TRUSTED) == peer


@pytest.mark.parametrize(
    "forwarded",
    [
        [],
        [CLIENT, CLIENT],
        [""],
        [","],
        [f"{CLIENT},"],
        ["unknown"],
        [f"{CLIENT}:443"],
        ["[2001:db8::9]"],
        [f"evil, {CLIENT}"],
        ["203.0.113.009"],
        ["1.2.3"],
        [f"{CLIENT}\x00"],
        ["٢٠٣.0.113.9"],
        [", ".join([CLIENT] * 11)],
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", ""])
def test_odd_headers_are_ignored(peer: str, forwarded: list[str]) -> None:
    """None, several, too long a list or a bad address anywhere in it: the peer is the client."""
    assert find_client(peer, forwarded, TRUSTED) == peer


def test_the_longest_list_counts() -> None:
    """Ten entries are still read."""
    assert find_client("::1", [", ".join([CLIENT] * 10)], TRUSTED) == CLIENT


def test_without_trusted_proxies() -> None:
    """With an empty list only the unix socket is believed."""
    assert find_client("127.0.0.1", [CLIENT], []) == "127.0.0.1"
    assert find_client("", [CLIENT], []) == CLIENT


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_header(forwarded: list[str]) -> None:
    """Whatever stands there, an address comes out: the peer, or one that was in the header."""
    client = find_client("127.0.0.1", forwarded, TRUSTED)
    assert client == "127.0.0.1" or any(client in header for header in forwarded)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_who_is_counted_as_one_client(address: str, client: str) -> None:
    """A host with IPv6 has a whole network of addresses, and each would be a new client."""
    assert group_client(address) == client
