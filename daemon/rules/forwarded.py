"""Who is at the other end, when a proxy stands between?

Rule: a forwarded address counts only as far as proxies that we trust wrote it.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

ENTRIES_LIMIT: Final = 10

Network = IPv4Network | IPv6Network


def find_client(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the client's address: `peer`, or what trusted proxies say of it.

    `forwarded` holds the X-Forwarded-For headers. The list is read from the right, trusted entries
    are skipped, and the first other one is the client. An empty `peer` is a unix socket, which only
    a local proxy reaches. More than one header, too many entries or a bad address: the header is
    ignored.
    """
    if len(forwarded) != 1 or not (peer == "" or _is_trusted(peer, trusted)):
        return peer
    entries = [entry.strip() for entry in forwarded[0].split(",")]
    if len(entries) > ENTRIES_LIMIT or any(_parse(entry) is None for entry in entries):
        return peer
    for entry in reversed(entries):
        if not _is_trusted(entry, trusted):
            return entry
    return entries[0]


def group_client(address: str) -> str:
    """Return whom an address stands for: an IPv6 host is given 2**64 of them (RFC 6177)."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), 64), strict=False))
    return address if parsed is None else str(parsed)


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(
        parsed in network for network in trusted if network.version == parsed.version
    )


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
