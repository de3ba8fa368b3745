"""S1 as properties: any string is refused, or leads to a plain host at an allowed address."""

import asyncio
import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.rules.address import AddressRefused, check_address, check_link
from daemon.rules.failure import Refused, StepFailed
from tests.security.door import LAX, POLICIES, STRICT, Door, Names, is_outside, try_chain

PUBLIC = "93.184.215.14"
CDN = "https://cdn.provider-files.com/v.mp4"

# Characters that some parser strips, maps or splits at, beside any at all.
_ODD = st.sampled_from(
    "/@:[].%\\?#&;,|~ -_0x\t\r\n\0\u2460\u24db\uff0e\u3002\uff11\u2044\u0130\u200d\xad"
)
_NAMES = st.sampled_from(
    [
        *("a.com", "cdn.provider-files.com", "localhost", "db.internal", "hooks.mydaemon.net"),
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", PUBLIC),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2606:4700::1]"),
        *("169.254.169.254", "198.44.10.9", "[fe80::1%25lo]", "xn--a", "1.2.3.4.5", ".", ""),
    ]
)
_SCHEMES = st.sampled_from(["https://", "http://", "HTTPS://", "//", "ws://", "https:", "file:///"])
_PORTS = st.sampled_from(["", ":", ":443", ":80", ":8080", ":22", ":0443", ":+80", ":\uff18"])
_ADDRESSES = st.ip_addresses().map(str)
_TAIL = st.text(max_size=8) | _ODD | st.just("/v.mp4?a=b#c")
_PUBLIC_NAMES = st.from_regex(r"[a-z0-9_-]{1,9}(\.[a-z0-9_-]{1,5}){1,3}", fullmatch=True)
LINKS = st.one_of(
    st.text(max_size=40),
    st.lists(_ODD | _NAMES | _SCHEMES | _PORTS | st.text(max_size=3), max_size=8).map("".join),
    st.tuples(_SCHEMES, _NAMES | _PUBLIC_NAMES, _PORTS, _TAIL).map("".join),
    st.tuples(_SCHEMES, _ODD, _NAMES, _ODD, _TAIL).map("".join),
    st.tuples(_SCHEMES, st.ip_addresses(v=4).map(str), _PORTS, _TAIL).map("".join),
    st.tuples(_SCHEMES, st.ip_addresses(v=6).map("[{}]".format), _PORTS, _TAIL).map("".join),
    st.tuples(st.just("https://"), _PUBLIC_NAMES, _TAIL).map("".join),
)
ANSWERS = st.lists(
    st.sampled_from([PUBLIC, "2606:4700::6810:84e5", "8.8.8.8"]) | _ADDRESSES | _NAMES, max_size=4
)
POLICY_NAMES = st.sampled_from(sorted(POLICIES))


def is_literal(host: str) -> bool:
    """Tell whether a host is an address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@given(LINKS, POLICY_NAMES)
@example("https://a.com/", "strict")
@example(f"http://{PUBLIC}/", "lax")
@settings(max_examples=300)
def test_s1_04_any_text_is_refused_or_has_one_plain_host(text: str, policy_name: str) -> None:
    """A name of letters, digits, dots and hyphens that is no number; an address only when lax."""
    policy = POLICIES[policy_name]
    try:
        link = check_link(text, policy)
    except AddressRefused:
        return
    if is_literal(link.host):
        assert policy is LAX
        assert is_outside(link.host)
    else:
        assert re.fullmatch(r"[a-z0-9._-]+", link.host)
        assert not re.fullmatch(r"[0-9]+|0x.*", link.host.rpartition(".")[2])
        assert "." in link.host
    assert link.scheme in ({"https", "http"} if policy is LAX else {"https"})
    assert link.port in ({80, 443, 8080, 8443} if policy is LAX else {443})
    assert check_link(link.text, policy) == link


def allowed_only(door: Door, names: Names) -> None:
    """Hold that what was dialled is public, on a port of web servers, and one of the answers."""
    for address, port in door.dialled:
        assert is_outside(address)
        assert port in {80, 443, 8080, 8443}
        assert not names.asked or address in names.answers["*"]


@given(LINKS, ANSWERS, POLICY_NAMES)
@example("https://a.com/", [PUBLIC], "strict")
@example("https://a.com/", [PUBLIC, "127.0.0.1"], "strict")
@example(f"http://{PUBLIC}:8080/", [], "lax")
@settings(max_examples=100)
def test_s1_06_any_text_is_refused_or_dialled_at_an_allowed_address(
    text: str, answers: list[str], policy_name: str
) -> None:
    """Through a real session, whatever the name resolves to."""
    names, policy = Names({"*": answers}), POLICIES[policy_name]
    door, failure = asyncio.run(try_chain([text], policy, names))
    assert isinstance(failure, StepFailed)
    allowed_only(door, names)
    good = bool(answers) and all(is_literal(answer) and is_outside(answer) for answer in answers)
    if names.asked:
        assert door.reached is good
    if isinstance(failure, Refused):
        assert not door.dialled
    if text == "https://a.com/" and answers == [PUBLIC]:
        assert door.reached


@given(LINKS, ANSWERS)
@example("https://edge.provider-files.com/", [PUBLIC])
@example("/v2.mp4", [])
@settings(max_examples=40)
def test_s1_08_any_location_is_refused_or_dialled_at_an_allowed_address(
    location: str, answers: list[str]
) -> None:
    """The second hop has a host of its own or the first one's, and never an inner address."""
    names = Names({"*": answers, "cdn.provider-files.com": [PUBLIC]})
    door, _ = asyncio.run(try_chain([CDN, location], STRICT, names))
    assert len(door.served) <= 2
    for address, port in door.dialled:
        assert is_outside(address)
        assert port == 443
    assert all(_is_name(host) for host in names.asked)


def _is_name(host: str) -> bool:
    return re.fullmatch(r"[a-z0-9._-]+", host) is not None and host != "hooks.mydaemon.net"


@given(st.ip_addresses())
@settings(max_examples=300)
def test_s1_01_any_address_is_judged_as_the_registries_say(
    address: IPv4Address | IPv6Address,
) -> None:
    """Two tables, written down apart, agree; and mapping an IPv4 address changes nothing."""
    for text in {str(address), *([f"::ffff:{address}"] if address.version == 4 else [])}:
        try:
            check_address(text, 443, STRICT)
        except AddressRefused:
            assert not is_outside(text)
        else:
            assert is_outside(text)
