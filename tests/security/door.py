"""The guarded door with nobody behind it: names that are told, sockets that are only noted.

Rule: no packet leaves. Earlier hops of a redirect go to a server on loopback, whatever address was
to be dialled; the socket of the last hop is never made.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import asyncio
import errno
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final

import aiohttp
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from daemon.outbound import file_session, get_file, read_chunk
from daemon.rules.address import AddressPolicy
from daemon.rules.failure import StepFailed

STRICT: Final = AddressPolicy(
    own_addresses=frozenset({"198.44.10.9", "2a01:4f8:c0:1::9"}),
    own_names=frozenset({"hooks.mydaemon.net"}),
)
LAX: Final = replace(STRICT, allow_http=True, ports=frozenset({80, 443, 8080, 8443}), literals=True)
POLICIES: Final = {"strict": STRICT, "lax": LAX}
TLS_PORTS: Final = frozenset({443, 8443})
ANYBODY: Final = ("*.provider-files.com", "cdn.evil-cdn.com", "a.com")


@dataclass(frozen=True)
class Case:
    """One line of the table: a link, or a chain of links, and what must become of it."""

    name: str
    allowed: bool
    policy: AddressPolicy
    layer: str
    chain: tuple[str, ...]
    names: Mapping[str, Sequence[str]]


def read_cases(path: Path) -> list[Case]:
    """Read a table of cases; a seventh column is passed over."""
    cases = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line or line.startswith("#"):
            continue
        name, verdict, policy, layer, link, names = line.split("\t")[:6]
        links = json.loads(link)
        chain = (links,) if isinstance(links, str) else tuple(links)
        allowed = {"allow": True, "deny": False}[verdict]
        cases.append(Case(name, allowed, POLICIES[policy], layer, chain, json.loads(names)))
    return cases


CASES: Final = read_cases(Path(__file__).with_name("ssrf_cases.tsv"))


# Written down once more, from the registries: the table under test does not judge itself.
_INSIDE = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3", "168.63.129.16/32"),
        "198.44.10.9/32",
    )
)
_OUTSIDE6 = IPv6Network("2000::/3")
_INSIDE6 = tuple(
    IPv6Network(network)
    for network in (
        *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        "2a01:4f8:c0:1::9/128",
    )
)


def is_outside(address: str) -> bool:
    """Tell whether an address is public and not ours, by the registries."""
    parsed = ip_address(address)
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _INSIDE)
    return parsed in _OUTSIDE6 and not any(parsed in network for network in _INSIDE6)


class Names(AbstractResolver):
    """A resolver that knows what it was told, and what it was asked; "*" is any host."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - the base's signature
    ) -> list[ResolveResult]:
        """Give the answers that were set; "never" never comes."""
        self.asked.append(host)
        known = self.answers.get(host, self.answers.get("*"))
        if known is None:
            raise OSError(None, "Name or service not known")
        if "never" in known:
            await asyncio.Event().wait()
        return [_answer(host, port, address) for address in known]

    async def close(self) -> None:
        """Have nothing to close."""


def _answer(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


class NoSocket(OSError):
    """Whoever asked for the last socket got none."""


class _Diverted(socket.socket):
    target: tuple[str, int]

    def connect(self, _address: object) -> None:
        super().connect(self.target)


@dataclass
class Door:
    """What became of the sockets: `dialled` of all hops, `reached` when the last one asked."""

    hops: int
    servers: Mapping[bool, int]
    served: list[bytes] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    reached: bool = False

    def open_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Note the address; make a socket to loopback, or none for the last hop."""
        address, port = str(info[4][0]), int(info[4][1])
        self.dialled.append((address, port))
        if len(self.served) >= self.hops - 1:
            self.reached = True
            raise NoSocket(errno.ECONNREFUSED, "no packet leaves")
        made = _Diverted(socket.AF_INET, socket.SOCK_STREAM)
        made.target = ("127.0.0.1", self.servers[port in TLS_PORTS])
        return made


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def _proving() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert(*ANYBODY).configure_cert(context)
    return context


@cache
def trusting() -> ssl.SSLContext:
    """Return our own side of TLS with the servers on loopback."""
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context


@asynccontextmanager
async def redirecting(locations: Sequence[str], status: int = 302) -> AsyncIterator[Door]:
    """Serve redirects to `locations` in turn, with and without TLS."""
    door, visits = Door(len(locations) + 1, {}), set[asyncio.Task[None]]()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            to = locations[len(door.served)].encode("utf-8", "replace")
            door.served.append(asked)
            head = b"HTTP/1.1 %d Go\r\nContent-Length: 0\r\nLocation: " % status
            writer.write(head + to + b"\r\nURI: https://127.0.0.1/\r\nSet-Cookie: a=b\r\n\r\n")
            await writer.drain()
        writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.create_task(visit(reader, writer)))

    plain = await asyncio.start_server(welcome, "127.0.0.1", 0)
    safe = await asyncio.start_server(welcome, "127.0.0.1", 0, ssl=_proving())
    door.servers = {
        tls: server.sockets[0].getsockname()[1] for tls, server in ((False, plain), (True, safe))
    }
    try:
        yield door
    finally:
        plain.close()
        safe.close()
        await asyncio.wait_for(asyncio.gather(*visits), 5)


async def try_chain(
    chain: Sequence[str], policy: AddressPolicy, names: Names
) -> tuple[Door, StepFailed]:
    """Ask for a file through a real session, and return what became of it."""
    door = Door(1, {})
    if len(chain) == 1:
        return door, await _fail(chain[0], policy, names, door)
    async with redirecting(chain[1:]) as door:
        return door, await _fail(chain[0], policy, names, door)


async def _fail(link: str, policy: AddressPolicy, names: Names, door: Door) -> StepFailed:
    opened = file_session(
        lambda: policy, 5, 5, 4, tls=trusting(), resolver=names, open_socket=door.open_socket
    )
    try:
        async with (
            opened as session,
            get_file(session, link, policy, {}) as response,
        ):
            body = await read_chunk(response, 1)
    except StepFailed as failure:
        return failure
    raise AssertionError(f"{link!r} was fetched: {body!r}")
