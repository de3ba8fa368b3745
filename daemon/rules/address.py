"""May we dial this link, this name, this address?

Rule: nothing is dialled that the policy does not allow, whoever wrote the link. The text of a link
is judged before any parser sees it, addresses are judged by the tables below and never by
`ipaddress.is_global` and its kin: those change between patch releases of Python and are wrong both
ways (all multicast, NAT64 and 6to4 relays count as global, 192.0.0.8 only sometimes).

A link passes three gates: `check_link` for its text, `check_answers` for what its name resolves to,
`check_address` for what is about to be connected. Networks in `allow_private` win over every other
rule about addresses; with them the rules on names and ports wait until the address is known.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin

from daemon.rules.failure import Reason, Refused

# IANA's special-purpose registry with its deprecated entries, multicast, class E, and one the
# registry does not know: Azure's WireServer.
_REFUSED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Only global unicast is assigned to hosts, so everything else is refused without a list of it:
# loopback, NAT64, unique local, link-local, site-local, multicast and whatever comes next.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_LOCAL_SUFFIXES = frozenset(
    {"localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan"}
    | {"arpa", "test", "invalid", "example", "onion", "alt"}
)
_STANDARD_PORTS = {"http": 80, "https": 443}
_LONGEST_LINK = 2048
_LONGEST_NAME = 253  # this and the label: RFC 1035 section 2.3.4
_LONGEST_LABEL = 63
_HIGHEST_PORT = 65535

# Parsers strip or map these before they look, so two of them can see two hosts.
_FORBIDDEN = re.compile(r"[\x00-\x20\\\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff]")
_ABSOLUTE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# No userinfo, no percent sign and nothing but ASCII: yarl maps circled digits to 127.0.0.1, and
# aiohttp sends userinfo as credentials.
_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f.]{0,4}:[0-9A-Fa-f:.]{1,44})\]|(?P<name>[A-Za-z0-9._-]+))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
# WHATWG URL, "ends in a number": what resolvers may read as an IPv4 address in a strange spelling.
_NUMBER = re.compile(r"[0-9]+|0x.*")


class AddressRefused(Refused):
    """The policy forbids this link or address. The message never holds a query string."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.ADDRESS_REFUSED, message)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What may be dialled. The default is the strict one: https to a public name on port 443.

    `allow_http` adds the scheme http and port 80. `allow_private` holds networks that win over
    every other rule about addresses. `allowed_hosts` holds names, `"*.example.com"` for everything
    below one; empty means any. `own_addresses` and `own_names` are ours and so never a file
    host. `literals` permits public IP addresses in place of a name.
    """

    allow_http: bool = False
    allow_private: tuple[IPv4Network | IPv6Network, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    own_addresses: frozenset[str] = frozenset()
    own_names: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset({443})
    literals: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A link whose text has passed.

    `text` is the link with scheme and host in lower case and the rest byte for byte, for signed
    links do not survive tidying. `host` is lower-case, an IPv6 address stands without brackets.
    """

    text: str
    scheme: str
    host: str
    port: int


def check_link(link: str, policy: AddressPolicy) -> Link:
    """Judge the raw text of a link, before any parser of URLs.

    Raises:
        AddressRefused: the text is odd, or scheme, host or port are not allowed.
    """
    if not 1 <= len(link) <= _LONGEST_LINK:
        raise AddressRefused(f"the link has {len(link)} characters, 1 to {_LONGEST_LINK} can be")
    _refuse_forbidden(link)
    absolute = _ABSOLUTE.fullmatch(link)
    if absolute is None:
        raise AddressRefused("the link is not of the form https://host/path")
    scheme = absolute["scheme"].lower()
    if scheme != "https" and not (scheme == "http" and policy.allow_http):
        raise AddressRefused(f"the scheme {scheme!r} is not allowed")
    authority = _AUTHORITY.fullmatch(absolute["authority"])
    if authority is None:
        raise AddressRefused("the link's host and port are not plainly a host and a port")
    host = (authority["ipv6"] or authority["name"]).lower()
    port = int(authority["port"] or _STANDARD_PORTS[scheme])
    if port > _HIGHEST_PORT:
        raise AddressRefused(f"{host}: there is no port {port}")
    if policy.allowed_hosts and not any(_matches(host, entry) for entry in policy.allowed_hosts):
        raise AddressRefused(f"{host} is not among the allowed hosts")
    if authority["ipv6"] or _is_ipv4(host):
        _check_literal(host, port, policy)
    else:
        _check_name(host, port, policy)
    text = f"{scheme}://{absolute['authority'].lower()}{absolute['rest']}"
    return Link(text, scheme, host, port)


def check_answers(host: str, addresses: Sequence[str], port: int, policy: AddressPolicy) -> None:
    """Judge what a name resolved to; one bad answer refuses the name.

    Raises:
        AddressRefused: an answer may not be dialled, or the name may not stand for it.
    """
    for address in addresses:
        try:
            check_address(address, port, policy)
        except AddressRefused as refusal:
            raise AddressRefused(f"{host}: {refusal.message}") from None
    if not all(_is_listed(_parsed(address), policy) for address in addresses):
        _check_public_name(host.lower(), policy)


def check_address(address: str, port: int, policy: AddressPolicy) -> None:
    """Judge one address that is about to be connected.

    Raises:
        AddressRefused: the address or the port is not allowed.
    """
    parsed = _parsed(address)
    if _is_listed(parsed, policy):
        return
    _check_port(address, port, policy)
    if any(parsed == _parsed(own) for own in policy.own_addresses):
        raise AddressRefused(f"{address} is our own address")
    if isinstance(parsed, IPv4Address):
        public = not any(parsed in network for network in _REFUSED_IPV4)
    else:
        public = parsed in _GLOBAL_UNICAST and not any(parsed in net for net in _REFUSED_IPV6)
    if not public:
        raise AddressRefused(f"{address} is not a public address")


def next_link(current: Link, location: str, policy: AddressPolicy) -> Link:
    """Judge where a redirect leads. `location` is the header as it came, RFC 9110 section 10.2.2.

    Raises:
        AddressRefused: the target is not allowed, or would leave https for http.
    """
    without_spaces = location.replace(" ", "%20")
    _refuse_forbidden(without_spaces)
    if location.startswith("//"):
        target = escape_spaces(f"{current.scheme}:{location}")
    elif _SCHEME.match(location):
        target = escape_spaces(location)
    elif location.startswith("/"):
        # urljoin would fold doubled slashes, and signatures cover them.
        target = urljoin(current.text, "/") + without_spaces[1:]
    else:
        target = urljoin(current.text, without_spaces)
    link = check_link(target, policy)
    if current.scheme == "https" and link.scheme == "http":
        raise AddressRefused(f"{link.host}: a redirect from https to http is not followed")
    return link


_HOST = re.compile(
    r"https?://(?:[^/?#@\\]*@)?([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]*)?(?:[/?#]|$)",
    re.ASCII | re.IGNORECASE,
)


def name_host(link: str) -> str | None:
    """Return the host of a link as a name to be shown; None where that would be a guess."""
    found = _HOST.match(link)
    return found[1].lower() if found else None


def escape_spaces(link: str) -> str:
    """Write the spaces behind the host as %20: the provider's file names can contain them.

    A space in front of that stays, and is refused with the link.
    """
    absolute = _ABSOLUTE.fullmatch(link)
    if absolute is None:
        return link
    start = absolute.start("rest")
    return link[:start] + link[start:].replace(" ", "%20")


def without_query(link: str) -> str:
    """Cut a link down to what a log may hold: no query, no fragment, no userinfo."""
    place, *secret = re.split("[?#]", link, maxsplit=1)
    place = re.sub("//[^/]*@", "//", place, count=1)
    return f"{place}?<redacted>" if secret else place


def _refuse_forbidden(text: str) -> None:
    found = _FORBIDDEN.search(text)
    if found:
        raise AddressRefused(f"the link contains the character U+{ord(found[0]):04X}")


def _matches(host: str, entry: str) -> bool:
    entry = entry.lower()
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _check_literal(host: str, port: int, policy: AddressPolicy) -> None:
    if not policy.literals and not _is_listed(_parsed(host), policy):
        raise AddressRefused(f"{host}: an address in place of a name is not allowed")
    check_address(host, port, policy)


def _check_name(host: str, port: int, policy: AddressPolicy) -> None:
    labels = host.split(".")
    if len(host) > _LONGEST_NAME or not all(1 <= len(part) <= _LONGEST_LABEL for part in labels):
        raise AddressRefused("the host has an empty or an overlong label")
    if _NUMBER.fullmatch(labels[-1]):
        raise AddressRefused(f"{host}: a host that ends in a number is no name")
    if not policy.allow_private:
        _check_public_name(host, policy)
        _check_port(host, port, policy)


def _check_public_name(host: str, policy: AddressPolicy) -> None:
    *above, last = host.split(".")
    if not above or last in _LOCAL_SUFFIXES:
        raise AddressRefused(f"{host} is not a public name")
    if any(host == own.lower() for own in policy.own_names):
        raise AddressRefused(f"{host} is our own name")


def _check_port(place: str, port: int, policy: AddressPolicy) -> None:
    if port not in policy.ports and not (port == _STANDARD_PORTS["http"] and policy.allow_http):
        raise AddressRefused(f"{place}: port {port} is not allowed")


def _parsed(address: str) -> IPv4Address | IPv6Address:
    """Read an address strictly; an IPv4 address mapped into IPv6 is judged as what it reaches."""
    if "%" in address:
        raise AddressRefused("an address with a zone is never public")
    try:
        parsed = ip_address(address)
    except ValueError:
        raise AddressRefused("an answer is not an address in its canonical spelling") from None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed


def _is_listed(address: IPv4Address | IPv6Address, policy: AddressPolicy) -> bool:
    return any(address in network for network in policy.allow_private)
