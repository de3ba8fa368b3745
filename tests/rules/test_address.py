"""What may be dialled, and what a hostile link can try."""

import ast
import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules import address as rules
from daemon.rules.address import (
    AddressPolicy,
    AddressRefused,
    Link,
    check_address,
    check_answers,
    check_link,
    escape_spaces,
    name_host,
    next_link,
    without_query,
)
from daemon.rules.failure import Reason, Refused

STRICT = AddressPolicy(
    own_addresses=frozenset({"80.90.100.110", "2A0A:1:2::0:7"}),
    own_names=frozenset({"me.video-host.net"}),
)
LAX = replace(STRICT, allow_http=True, ports=frozenset({443, 8080, 8443}), literals=True)
HOME = replace(STRICT, allow_http=True, allow_private=(ip_network("10.20.0.0/16"),))
POLICIES = st.sampled_from([STRICT, LAX, HOME])

# First and last address of every row of the tables that says no.
REFUSED_RANGES = [
    ("0.0.0.0", "0.255.255.255"),  # noqa: S104 - an address under test, nothing is bound
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
REFUSED_EDGES = sorted({edge for both in REFUSED_RANGES for edge in both})
PUBLIC_NEIGHBOURS = sorted(
    {
        str(ip_address(edge) + step)
        for first, last in REFUSED_RANGES
        for edge, step in ((first, -1), (last, 1))
        if 0 <= int(ip_address(edge)) + step < 2 ** ip_address(edge).max_prefixlen
    }
)
REFUSED_IN_DISGUISE = [
    "::1",
    "::127.0.0.9",
    "::ffff:127.0.0.9",
    "::ffff:a00:1",
    "::ffff:0:7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::5",
    "fe80::9",
    "fec0::9",
    "fd12:3456::1",
    "ff02::2",
    "ff0e::2",
    "5f00::2",
    "2001:4f::1",
    "80.90.100.110",
    "::ffff:80.90.100.110",
    "2a0a:1:2::7",
]
NO_ADDRESSES = ["", "localhost", "127.1", "010.1.1.1", "0x7f000001", "2a00::1%eth0", "[::1]"]

PUBLIC = "https://media.video-host.com/a.mp4"
GOOD_LINKS = [
    (STRICT, PUBLIC, "media.video-host.com", 443),
    (STRICT, "HtTpS://Media.Video-Host.COM:443/A.mp4?B=c", "media.video-host.com", 443),
    (STRICT, "https://a_b.xn--mnchen-3ya.de?sig=%2F+%7e==", "a_b.xn--mnchen-3ya.de", 443),
    (STRICT, "https://v.video-host.com/über/@x:1/[y]\u6b4c.mp4#@10.0.0.1", "v.video-host.com", 443),
    (STRICT, f"https://{'a' * 63}.io", f"{'a' * 63}.io", 443),
    (STRICT, f"https://{'abc.' * 62}abcde/", f"{'abc.' * 62}abcde", 443),
    (STRICT, PUBLIC + "?" + "x" * (2047 - len(PUBLIC)), "media.video-host.com", 443),
    (LAX, "http://media.video-host.com/a", "media.video-host.com", 80),
    (LAX, "http://media.video-host.com:8080/a", "media.video-host.com", 8080),
    (LAX, "https://8.8.4.4:8443/a", "8.8.4.4", 8443),
    (LAX, "http://[2A00:1450::5]/a", "2a00:1450::5", 80),
    (LAX, "https://[::ffff:8.8.4.4]/", "::ffff:8.8.4.4", 443),
    (HOME, "http://10.20.30.40:9000/a", "10.20.30.40", 9000),
    (HOME, "http://nas/a", "nas", 80),
    (HOME, "https://localhost:65535/a", "localhost", 65535),
    (HOME, "https://me.video-host.net:8/a", "me.video-host.net", 8),
]
BAD_LINKS = [
    (STRICT, "http://media.video-host.com/a", "scheme"),
    (STRICT, "https://media.video-host.com:8443/a", "port"),
    (STRICT, "https://media.video-host.com:80/a", "port"),
    (STRICT, "https://8.8.4.4/a", "in place of a name"),
    (STRICT, "https://[2a00:1450::5]/a", "in place of a name"),
    (STRICT, "https://me.video-host.net/a", "our own name"),
    (LAX, "https://ME.video-host.net/a", "our own name"),
    (LAX, "https://80.90.100.110/a", "our own address"),
    (LAX, "https://[2a0a:1:2::7]/a", "our own address"),
    (LAX, "http://8.8.4.4:22/a", "port"),
    (HOME, "http://8.8.4.4/a", "in place of a name"),
    (HOME, "http://10.21.0.1/a", "in place of a name"),
    (HOME, "http://2130706433/", "ends in a number"),
    (HOME, "http://me@nas/", "plainly"),
    (LAX, "http://10.1.2.3/", "not a public address"),
    (LAX, "http://[::ffff:10.1.2.3]/", "not a public address"),
    (LAX, "http://[::1.2]/", "canonical"),
    (LAX, "http://a.com:99999/", "no port 99999"),
    (LAX, "", "0 characters"),
    (LAX, PUBLIC + "?" + "x" * (2048 - len(PUBLIC)), "2049 characters"),
    *((LAX, link, "scheme") for link in ("ftp://a.com/", "wss://a.com/", "file:///etc/hosts")),
    *(
        (LAX, link, "form")
        for link in ("a.com/x", "//a.com/x", "https:/a.com", "https:a", "data:,")
    ),
    *((LAX, link, "U+") for link in (f" {PUBLIC}", "ht\ttps://a.com/", "https://a.com\\@b.com/")),
    *((LAX, PUBLIC + odd, "U+") for odd in " \t\n\0\\\x7f\x85\xa0\u2028\u2029\ufeff\ud800"),
]
BAD_HOSTS = {
    "ends in a number": "3232235521 0xa.1 10.1 08.8.4.4 1.2.3.4.5 a.0x",
    "not a public name": "db LOCALHOST a.local x.internal 1.in-addr.arpa",
    "label": f"a..com .com a.com. {'b' * 64}.com {'abc.' * 62}abcdef",
    "plainly": "a:b@c.com @c.com a.com%2e a,b a;b.com m\u00fc.de \u2461.com a|b.io [::1 [a.com] "
    "[8.8.4.4] [::1%25lo] a.com: a.com:-1 a.com:+80 a.com:0 a.com:080 a.com:8\uff10",
}
BAD_LINKS += [
    (LAX, f"http://{host}/", why) for why, hosts in BAD_HOSTS.items() for host in hosts.split()
]
BAD_LINKS += [(LAX, "http:///", "plainly")]


def refused_as(action: str) -> pytest.RaisesExc[AddressRefused]:
    """Expect the refusal whose message holds `action`."""
    return pytest.raises(AddressRefused, match=re.escape(action))


@pytest.mark.parametrize("address", PUBLIC_NEIGHBOURS)
def test_the_addresses_beside_a_refused_range_are_public(address: str) -> None:
    """The tables refuse no more than they say."""
    check_address(address, 443, STRICT)


@pytest.mark.parametrize("address", [*REFUSED_EDGES, *REFUSED_IN_DISGUISE, *NO_ADDRESSES])
def test_private_special_and_own_addresses_are_refused(address: str) -> None:
    """Every range that is not public is refused from its first address to its last."""
    with pytest.raises(AddressRefused) as caught:
        check_address(address, 443, LAX)
    assert caught.value.reason is Reason.ADDRESS_REFUSED
    assert isinstance(caught.value, Refused)


def test_the_tables_decide_and_not_the_standard_library() -> None:
    """No `is_*` property of an address is read: they change between patch releases."""
    tree = ast.parse(Path(rules.__file__).read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {name for name in read if name.startswith("is_")}


@pytest.mark.parametrize(
    ("policy", "port", "allowed"),
    [
        (STRICT, 443, True),
        (STRICT, 80, False),
        (STRICT, 8443, False),
        (LAX, 80, True),
        (LAX, 8443, True),
        (HOME, 443, True),
        (HOME, 80, True),
        (HOME, 8443, False),
    ],
)
def test_a_public_address_is_dialled_on_allowed_ports_only(
    policy: AddressPolicy, port: int, *, allowed: bool
) -> None:
    """Port 80 comes with `allow_http`; listed networks do not open ports of public addresses."""
    if allowed:
        check_address("8.8.4.4", port, policy)
    else:
        with refused_as(f"port {port}"):
            check_address("8.8.4.4", port, policy)


@pytest.mark.parametrize("address", ["10.20.255.255", "::ffff:10.20.0.1"])
def test_a_listed_network_wins_over_every_address_rule(address: str) -> None:
    """Own, private, any port: what the operator lists may be dialled."""
    check_address(address, 1, replace(HOME, own_addresses=frozenset({address})))


@pytest.mark.parametrize(("policy", "text", "host", "port"), GOOD_LINKS)
def test_a_good_link_passes_byte_for_byte(
    policy: AddressPolicy, text: str, host: str, port: int
) -> None:
    """Host and port are read from the text; nothing but the host's case is tidied."""
    link = check_link(text, policy)
    scheme, _, rest = text.partition("://")
    authority = re.match("[^/?#]*", rest)
    assert authority
    assert (link.scheme, link.host, link.port) == (scheme.lower(), host, port)
    assert link.text == f"{scheme.lower()}://{authority[0].lower()}{rest[authority.end() :]}"


@pytest.mark.parametrize(("policy", "text", "why"), BAD_LINKS)
def test_a_bad_link_is_refused_for_its_own_fault(
    policy: AddressPolicy, text: str, why: str
) -> None:
    """Each trick is met by the rule made for it, not by luck."""
    with refused_as(why):
        check_link(text, policy)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("cdn.com", False),
        ("a.cdn.com", True),
        ("A.B.CDN.com", True),
        ("xcdn.com", False),
        ("a.cdn.com.evil.net", False),
        ("exact.org", True),
        ("a.exact.org", False),
        ("10.20.0.1", False),
    ],
)
def test_allowed_hosts_match_on_a_label_boundary(host: str, *, allowed: bool) -> None:
    """A star stands for labels in front, never for a part of one; listed networks bend nothing."""
    policy = replace(HOME, allowed_hosts=("*.CDN.com", "exact.org"))
    if allowed:
        assert check_link(f"https://{host}/", policy).host == host.lower()
    else:
        with refused_as("not among the allowed hosts"):
            check_link(f"https://{host}/", policy)


def test_one_bad_answer_refuses_the_name() -> None:
    """A name that also points inside may not be dialled at its public address either."""
    check_answers("cdn.com", ["8.8.4.4", "2a00:1450::5"], 443, STRICT)
    with refused_as("10.0.0.1"):
        check_answers("cdn.com", ["8.8.4.4", "10.0.0.1"], 443, STRICT)


@pytest.mark.parametrize("host", ["nas", "db.LAN", "me.video-host.net"])
def test_a_name_that_is_not_public_may_stand_for_listed_addresses_only(host: str) -> None:
    """With listed networks the rules on names wait for the answer, and then hold."""
    check_answers(host, ["10.20.0.1", "10.20.0.2"], 9000, HOME)
    with pytest.raises(AddressRefused, match=r"name$"):
        check_answers(host, ["10.20.0.1", "8.8.4.4"], 443, HOME)


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("https://Other.com/b?c", "https://other.com/b?c"),
        ("//other.com/b", "https://other.com/b"),
        ("/b//c?d=%2e", "https://media.video-host.com/b//c?d=%2e"),
        ("../b/./c", "https://media.video-host.com/b/c"),
        ("b.mp4", "https://media.video-host.com/b.mp4"),
        ("?b=c", "https://media.video-host.com/a.mp4?b=c"),
        ("https://other.com/a b", "https://other.com/a%20b"),
        ("a b:c", "https://media.video-host.com/a%20b:c"),
        ("/..//10.0.0.1/", "https://media.video-host.com/..//10.0.0.1/"),
    ],
)
def test_a_redirect_is_resolved_against_where_it_came_from(location: str, text: str) -> None:
    """Absolute, without scheme, without host, relative: all lead where a browser would go."""
    assert next_link(check_link(PUBLIC, STRICT), location, STRICT).text == text


@pytest.mark.parametrize(
    "location",
    [
        "http://other.com/",
        "//10.0.0.1/",
        "///other.com",
        "https:other.com",
        "javascript:1",
        "\\\\other.com\\x",
        "/a\tb",
        "a\tb",
        "https://other .com/",
        "https://[::1/",
    ],
)
def test_a_redirect_is_judged_like_a_link_and_never_leaves_https(location: str) -> None:
    """A second hop has no more rights than the first."""
    with pytest.raises(AddressRefused):
        next_link(check_link(PUBLIC, LAX), location, LAX)


def test_a_redirect_from_http_to_https_is_an_improvement() -> None:
    """Only the way down is closed."""
    plain = check_link("http://a.com/", LAX)
    assert next_link(plain, "https://b.com/", LAX).scheme == "https"
    assert next_link(plain, "http://b.com/", LAX).scheme == "http"


@pytest.mark.parametrize(
    ("link", "escaped"),
    [
        ("https://a.com/_Lead Vocal.mp3?a b#c d", "https://a.com/_Lead%20Vocal.mp3?a%20b#c%20d"),
        ("https://a.com/a%20b+c", "https://a.com/a%20b+c"),
        (" https://a.com/a b", " https://a.com/a b"),
        ("https://a .com/a b", "https://a .com/a%20b"),
    ],
)
def test_spaces_are_escaped_behind_the_host_only(link: str, escaped: str) -> None:
    """A space that could hide a host stays, and is refused."""
    assert escape_spaces(link) == escaped


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://a.com/b.mp4", "https://a.com/b.mp4"),
        ("https://a.com/b@c?sig=s?t#u", "https://a.com/b@c?<redacted>"),
        ("https://a.com/b#token?x", "https://a.com/b?<redacted>"),
        ("https://user:p@ss@a.com/b", "https://a.com/b"),
        ("/b?c", "/b?<redacted>"),
    ],
)
def test_a_log_sees_no_secret_of_a_link(link: str, shown: str) -> None:
    """Query, fragment and userinfo stay out."""
    assert without_query(link) == shown


ODD = st.sampled_from("/@:[].%\\?# -_\u2460\uff0e\ud800\u0130")
PIECES = st.sampled_from(("https:", "http://", "::1", "127.0.0.1", "443", "0x7f", "a.com", "xn--"))
HOSTILE = st.text() | st.lists(ODD | PIECES | st.text(max_size=2), max_size=8).map("".join)


def is_well_formed(link: Link, policy: AddressPolicy) -> bool:
    """Tell whether the host is a plain name, or a literal that the policy permits."""
    try:
        ip_address(link.host)
    except ValueError:
        return re.fullmatch("[a-z0-9._-]+", link.host) is not None
    return policy in (LAX, HOME)


@given(HOSTILE, POLICIES)
@example("https://\u0130.com/", LAX)
def test_any_text_is_refused_or_has_a_plain_host(text: str, policy: AddressPolicy) -> None:
    """No string crashes the check, and none gets a strange host through."""
    for candidate in (text, f"https://{text}", f"https://{text}.com/", escape_spaces(text)):
        try:
            link = check_link(candidate, policy)
        except AddressRefused:
            continue
        assert is_well_formed(link, policy)
        assert check_link(link.text, policy) == link


@given(HOSTILE, POLICIES)
def test_any_location_is_refused_or_stays_on_https(location: str, policy: AddressPolicy) -> None:
    """No Location header crashes the check or leads down to http."""
    try:
        link = next_link(check_link(PUBLIC, policy), location, policy)
    except AddressRefused:
        return
    assert link.scheme == "https"
    assert is_well_formed(link, policy)


@given(HOSTILE, HOSTILE)
def test_no_query_survives_in_a_log(head: str, query: str) -> None:
    """Whatever the link looks like, nothing behind its first question mark is shown."""
    assert without_query(f"{head}?{query}") == without_query(f"{head}?")


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("https://Files.Example.com/a?token=secret", "files.example.com"),
        ("http://user:password@files.example.com:8443/a", "files.example.com"),
        ("https://files.example.com", "files.example.com"),
        ("https://files.example.com?x", "files.example.com"),
        ("https://[2001:DB8::1]:443/a", "[2001:db8::1]"),
        ("https://files.example.com\\@b/a", None),
        ("https://files.exa\x1bmple.com/a", None),
        ("https://m\xfcller.example/a", None),
        ("ftp://files.example.com/a", None),
        ("https:///a", None),
        ("", None),
    ],
)
def test_the_host_of_a_link_is_shown_or_not_guessed(link: str, name: str | None) -> None:
    """Nothing but a plain name or address gets into a log, a gate or a page."""
    assert name_host(link) == name
