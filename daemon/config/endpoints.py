"""Addresses, hosts and URLs of the configuration, as people write them.

Rule: what is returned is complete and in one spelling (host in lower case, no slash at the end), so
nobody parses or normalises it again.
"""

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec

_PORT_LIMIT = 65_535
_HOST_LIMIT = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_VISIBLE = re.compile(r"[!-~]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?=.)")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")

Network: TypeAlias = IPv4Network | IPv6Network


class TcpEndpoint(msgspec.Struct, frozen=True):
    """Where a listener binds: a name or an address without brackets; port 0 is any free one."""

    host: str
    port: int


class UnixEndpoint(msgspec.Struct, frozen=True):
    """Where a listener binds: a socket in the file system."""

    path: Path


Endpoint: TypeAlias = TcpEndpoint | UnixEndpoint


def parse_endpoint(text: str) -> Endpoint | None:
    """Read "host:port", "[::1]:port" or "unix:/path"; "" is None, no listener at all.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("unix:"):
        return UnixEndpoint(parse_path(text.removeprefix("unix:")))
    return parse_tcp_endpoint(text)


def parse_tcp_endpoint(text: str) -> TcpEndpoint | None:
    """Read "host:port" or "[::1]:port"; "" is None, no listener at all.

    Raises:
        ValueError: it is none of these.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ValueError('expected an address such as "127.0.0.1:8080" or "[::1]:8080"')
    if int(port) > _PORT_LIMIT:
        raise ValueError(f"expected a port from 0 to {_PORT_LIMIT}, not {port}")
    if not host:
        raise ValueError('expected a host before the port, such as "0.0.0.0" for every address')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('expected an IPv6 address in brackets, such as "[::1]:8080"')
    return TcpEndpoint(parse_host(host), int(port))


def format_endpoint(endpoint: Endpoint | None) -> str:
    """Print `endpoint` as it is read; None as ""."""
    if isinstance(endpoint, TcpEndpoint):
        return f"{bracket(endpoint.host)}:{endpoint.port}"
    return f"unix:{endpoint.path}" if endpoint else ""


def bracket(host: str) -> str:
    """Write a host as it stands before a port: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def parse_path(text: str) -> Path:
    """Read the path of a file or folder, absolute or not.

    Raises:
        ValueError: it is empty or holds a NUL.
    """
    if not text or "\0" in text:
        raise ValueError("expected a path that is not empty")
    return Path(text)


def parse_host(text: str) -> str:
    """Read a host name or an IP address without brackets.

    Raises:
        ValueError: it is neither; a port, a scheme or a `*` is none of it.
    """
    host = text.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
    named = all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    if not named or len(host) > _HOST_LIMIT:
        raise ValueError('expected a host alone, such as "example.com" or "127.0.0.1"')
    return host


def parse_host_pattern(text: str) -> str:
    """Read a host, or "*.example.com" for every host below one.

    Raises:
        ValueError: it is neither.
    """
    stem = text.removeprefix("*.")
    try:
        host = parse_host(stem)
    except ValueError:
        host = ""
    if not host or (stem != text and is_address(host)):
        raise ValueError('expected a host such as "example.com" or "*.example.com"')
    return host if stem == text else f"*.{host}"


def parse_network(text: str) -> Network:
    """Read a network such as "10.0.0.0/8", or one address.

    Raises:
        ValueError: it is neither, or bits are set behind the prefix.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError('expected a network such as "10.0.0.0/8"') from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f'expected the network "{network}", or one address without "/"')
    return network


def format_network(network: Network) -> str:
    """Print `network`, one address without its prefix length."""
    return str(network.network_address if network.num_addresses == 1 else network)


def parse_url_path(text: str) -> str:
    """Read a URL path such as "/video-callback", of plain segments.

    Raises:
        ValueError: a segment is empty, a dot segment (RFC 3986, 3.3) or needs escaping.
    """
    head, *segments = text.split("/")
    if head or not segments or not all(map(is_segment, segments)):
        raise ValueError(
            'expected a path such as "/video-callback": a "/" first, none last, no "//", no "." or '
            '".." as a segment, only letters, digits and . _ ~ -'
        )
    return text


def is_segment(text: str) -> bool:
    """Tell whether `text` can be one URL path segment as it stands (RFC 3986, unreserved)."""
    return bool(_SEGMENT.fullmatch(text)) and text not in {".", ".."}


def parse_public_url(text: str) -> str:
    """Read the absolute http or https URL under which others reach us, without a slash at its end.

    Raises:
        ValueError: it is no such URL, or has a user, a query or a fragment.
    """
    parts = _split(text, 'expected a URL such as "https://mv.example.com/video-callback"')
    return parts.geturl().rstrip("/")


def parse_base_url(text: str) -> str:
    """Read the URL of an API that gets our key: https, or http to this machine only.

    Raises:
        ValueError: it is no such URL, or has a user, a query or a fragment.
    """
    parts = _split(text, 'expected a URL such as "https://api.sunoapi.org"')
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("expected https: the API key would travel in the clear")
    return parts.geturl().rstrip("/")


def parse_hook_url(text: str) -> str:
    """Read a URL that we are to ask, as it stands: https, or http to this machine only.

    Raises:
        ValueError: it is no such URL.
    """
    wanted = 'expected a URL such as "https://hooks.example.com/..."'
    if not _VISIBLE.fullmatch(text):
        raise ValueError(f"{wanted}, in ASCII without blanks")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parse_host(parts.hostname or "")
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in {"http", "https"} or port == 0 or "#" in text:
        raise ValueError(wanted)
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("expected https, except to this machine: it would travel in the clear")
    return text


def parse_target_url(text: str) -> str:
    """Read where events go: like `parse_hook_url`, or a URL of Apprise, of which others judge.

    Raises:
        ValueError: it is neither.
    """
    scheme = _SCHEME.match(text)
    if scheme is None or not _VISIBLE.fullmatch(text):
        raise ValueError(
            'expected a URL such as "https://hooks.example.com/..." or "ntfy://...", in ASCII '
            "without blanks"
        )
    return parse_hook_url(text) if scheme[1].lower() in {"http", "https"} else text


def is_loopback(host: str) -> bool:
    """Tell whether `host` names this machine without asking a resolver (RFC 6761, 6.3)."""
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def is_address(host: str) -> bool:
    """Tell whether `host` is an IP address, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _split(text: str, wanted: str) -> SplitResult:
    """Take an http(s) URL apart; the text never enters a message, for it may hold a password."""
    # urlsplit drops tabs and line ends and lets other odd characters pass, so they go first.
    if not _VISIBLE.fullmatch(text):
        raise ValueError(f"{wanted}, in ASCII without blanks")
    try:
        parts = urlsplit(text)
        port = parts.port
        parse_host(parts.hostname or "")
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in {"http", "https"} or port == 0:
        raise ValueError(wanted)
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError(f"{wanted}, without user, query or fragment")
    return parts._replace(netloc=parts.netloc.lower())
