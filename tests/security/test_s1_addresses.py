"""S1-01 to S1-03: the table of addresses, our own addresses, and addresses in place of names."""

import fcntl
import ipaddress
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.outbound import is_own
from daemon.rules.address import AddressPolicy, AddressRefused, check_address, check_link
from tests.security.door import LAX, STRICT, Names, try_chain

ROOT = Path(__file__).parent.parent.parent

# The requirement's own words: every network that is refused.
REFUSED = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
    *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    *("::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "fc00::/7", "fe80::/10"),
    *("fec0::/10", "ff00::/8", "5f00::/16", "::/3", "4000::/2", "8000::/1"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
]
NETWORKS = [ipaddress.ip_network(network) for network in REFUSED]


def neighbours() -> Iterator[str]:
    """Yield the address before and the address behind every refused network."""
    for network in NETWORKS:
        for at in (int(network[0]) - 1, int(network[-1]) + 1):
            if 0 <= at < 2**network.max_prefixlen:
                yield str(type(network[0])(at))


@pytest.mark.parametrize("network", REFUSED)
def test_s1_01_a_refused_network_is_refused_to_its_edges(network: str) -> None:
    """First, last and middle, and IPv4 also in the spelling that maps it into IPv6."""
    parsed = ipaddress.ip_network(network)
    for address in {parsed[0], parsed[-1], parsed[parsed.num_addresses // 2]}:
        spellings = [str(address)]
        if isinstance(address, ipaddress.IPv4Address):
            spellings.append(f"::ffff:{address}")
        for spelling in spellings:
            with pytest.raises(AddressRefused):
                check_address(spelling, 443, STRICT)


def test_s1_01_what_stands_beside_is_refused_only_by_another_line() -> None:
    """The table is no wider than it says."""
    public = 0
    for address in neighbours():
        parsed = ipaddress.ip_address(address)
        if not any(parsed in network for network in NETWORKS):
            check_address(address, 443, STRICT)
            public += 1
    assert public >= 30


@pytest.mark.parametrize("answer", [True, False])
def test_s1_01_the_standard_library_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, *, answer: bool
) -> None:
    """Whatever `is_global` and its kin say, the verdict stays."""
    flags = ["is_global", "is_private", "is_loopback", "is_multicast", "is_reserved"]
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for flag in flags:
            monkeypatch.setattr(kind, flag, answer)
    for network in NETWORKS:
        with pytest.raises(AddressRefused):
            check_address(str(network[0]), 443, STRICT)
    check_address("93.184.215.14", 443, STRICT)
    check_address("2606:4700::6810:84e5", 443, STRICT)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1%1", "2606:4700::1%"])
def test_s1_01_a_zone_is_refused(address: str) -> None:
    """A zone names one of our own interfaces."""
    with pytest.raises(AddressRefused):
        check_address(address, 443, LAX)


def addresses_of_this_machine() -> Iterator[str]:
    """Yield what the kernel says that its interfaces have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            try:
                got = fcntl.ioctl(control, 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an address
            yield socket.inet_ntoa(got[20:24])
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else []:
        packed, _, _, scope, *_ = line.split()
        if scope != "20":  # link-local ones are no addresses without their interface
            yield str(ipaddress.IPv6Address(int(packed, 16)))


def test_s1_02_every_address_of_this_machine_is_own() -> None:
    """Whatever its interfaces are, public or not."""
    found = list(addresses_of_this_machine())
    assert "127.0.0.1" in found
    assert [address for address in found if not is_own(address)] == []


ASSIGNED = """
import fcntl, socket, struct, asyncio
from tests.security.door import LAX, Names, try_chain

def assign(address):
    packed = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, socket.inet_aton(address))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8916, packed)
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 1))

async def main():
    for ours in (False, True):
        if ours:
            assign("8.8.4.4")
        for link in ("https://a.com/", "http://8.8.4.4/", "http://8.8.4.5/"):
            door, failure = await try_chain([link], LAX, Names({"*": ["8.8.4.4"]}))
            print(door.dialled, type(failure).__name__)

asyncio.run(main())
"""


def test_s1_02_an_own_address_is_known_from_the_moment_it_is_ours() -> None:
    """Nothing is remembered that could be wrong by now; second addresses count as well."""
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*alone, "true"], check=False).returncode:  # noqa: S603 - fixed words
        pytest.skip("this machine gives no network namespace")
    command = [*alone, sys.executable, "-c", ASSIGNED]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - fixed words
    assert told.stdout.splitlines() == [
        "[('8.8.4.4', 443)] Unreached",
        "[('8.8.4.4', 80)] Unreached",
        "[('8.8.4.5', 80)] Unreached",
        *["[] AddressRefused"] * 3,
    ]


@pytest.mark.parametrize("name", ["hooks.mydaemon.net", "HOOKS.mydaemon.NET", "Hooks.MyDaemon.net"])
@pytest.mark.parametrize("configured", ["hooks.mydaemon.net", "Hooks.MyDaemon.Net"])
async def test_s1_02_our_own_public_name_is_refused(name: str, configured: str) -> None:
    """A callback that makes us call ourselves would go round for ever."""
    policy = replace(LAX, own_names=frozenset({configured}))
    names = Names({"*": ["93.184.215.14"]})
    door, failure = await try_chain([f"https://{name}/"], policy, names)
    assert isinstance(failure, AddressRefused)
    assert not door.dialled
    assert not names.asked


@pytest.mark.parametrize("own", ["198.44.10.9", "::ffff:198.44.10.9", "2A01:4F8:C0:1:0::9"])
def test_s1_02_configured_own_addresses_are_refused_in_any_spelling(own: str) -> None:
    """One address has many spellings."""
    policy = replace(LAX, own_addresses=frozenset({own}))
    for address in ("198.44.10.9", "2a01:4f8:c0:1::9"):
        if (":" in own.removeprefix("::ffff:")) is (":" in address):
            with pytest.raises(AddressRefused, match="our own address"):
                check_address(address, 443, policy)


LITERALS = ["93.184.215.14", "[2606:4700::6810:84e5]", "[::ffff:93.184.215.14]"]


@pytest.mark.parametrize("literal", LITERALS)
async def test_s1_03_an_address_in_place_of_a_name_needs_permission(literal: str) -> None:
    """By default there is none; with it, the table still decides."""
    names = Names({})
    door, failure = await try_chain([f"https://{literal}/"], AddressPolicy(), names)
    assert isinstance(failure, AddressRefused)
    assert not door.dialled
    door, _ = await try_chain([f"https://{literal}/"], AddressPolicy(literals=True), names)
    assert door.reached
    assert not names.asked


@pytest.mark.parametrize(
    "literal",
    [
        *("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254"),
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "1.2.3.4.5"),
    ],
)
async def test_s1_03_no_spelling_of_an_inner_address_is_dialled(literal: str) -> None:
    """Strict or lax: neither the socket nor the resolver hears of it."""
    for policy in (STRICT, LAX):
        names = Names({"*": ["93.184.215.14"]})
        door, failure = await try_chain([f"https://{literal}/"], policy, names)
        assert isinstance(failure, AddressRefused)
        assert not door.dialled
        assert not names.asked


def test_s1_03_the_default_is_strict() -> None:
    """Who builds a policy without a word gets https to public names on 443."""
    assert check_link("https://cdn.provider-files.com/", AddressPolicy()).port == 443
    for link in ("http://a.com/", "https://a.com:8443/", "https://93.184.215.14/"):
        with pytest.raises(AddressRefused):
            check_link(link, AddressPolicy())
