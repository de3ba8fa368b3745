"""The only door out: sessions, the address guard, redirects, and the customs house for errors.

Rule: no byte leaves for a file host before `daemon.rules.address` has allowed the text of the link,
every answer to its name, and the very address that is connected. The API key lives in a session of
its own, which talks to the operator's host and to no other. Every error of the network leaves here
as one of ours, in words without a query string.
"""

import errno
import re
import socket
import ssl
import string
from asyncio import timeout
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from daemon import __version__
from daemon.config.secret import Secret
from daemon.interim import bounded
from daemon.rules.address import (
    AddressPolicy,
    AddressRefused,
    Link,
    check_address,
    check_answers,
    check_link,
    next_link,
    without_query,
)
from daemon.rules.failure import Reason, Refused, Trouble, Unreached

_USER_AGENT = f"suno-videod/{__version__}"
_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_MOST_REDIRECTS = 5
_TRAVELLING_HEADERS = frozenset({"range", "if-range", "accept-encoding", "user-agent"})
_MIB = 1024 * 1024
# What the head of an answer may have; aiohttp's defaults moved before.
_LONGEST_LINE = 8190
_LONGEST_HEADER = 8190
_MOST_HEADERS = 128
_DNS_CACHE_SECONDS = 10
# Nobody's, reserved or to be discarded: where even these can be bound, binding proves nothing.
_NOBODYS = {socket.AF_INET: "240.0.0.1", socket.AF_INET6: "100::1"}

_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "the connection took too long"),
    (TimeoutError, "the host went silent"),
    (aiohttp.ClientPayloadError, "the body broke off or is not proper HTTP"),
    (aiohttp.ServerDisconnectedError, "the host hung up without an answer"),
    # Not the host's status: aiohttp reports its own failure to parse as a 400.
    (aiohttp.ClientResponseError, "the answer is not proper HTTP"),
    (HttpProcessingError, "the answer is not proper HTTP"),
)

# Happy eyeballs runs the socket factory in tasks of its own and melts the errors of several
# addresses into one plain OSError, so the guard leaves its refusals here as well.
_refusals: ContextVar[list[AddressRefused] | None] = ContextVar("_refusals", default=None)


Session: TypeAlias = aiohttp.ClientSession
"""What the stations are handed; only this module builds one."""


def api_session(
    base_url: str, api_key: Callable[[], Secret | None], total_timeout: float = 30.0
) -> Session:
    """Open the session for the operator's own `base_url`; request paths are relative to it.

    The host is trusted and not guarded, and it is the only one: a request to another origin raises
    AddressRefused before anything is sent, and a redirect raises Trouble. The key goes out as
    bearer. `total_timeout` is in seconds and covers the whole call. Answers are read with
    `read_answer`.
    """
    base = URL(base_url if base_url.endswith("/") else f"{base_url}/")

    async def stay(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        place = f"{request.url.scheme}://{request.url.host_port_subcomponent}"
        if place != f"{base.scheme}://{base.host_port_subcomponent}":
            raise AddressRefused(f"{place} is not the host of the API")
        key = api_key()
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key.reveal()}"
        response = await send(request)
        if response.status in _REDIRECTS:
            target = without_query(response.headers.get("Location", ""))
            response.close()
            # 303 is the answer to a request that was carried out (RFC 9110, 15.4.4).
            kind = Trouble if response.status == HTTPStatus.SEE_OTHER else Unreached
            raise kind(Reason.NETWORK, f"{place} redirects to {target!r}, base_url may be wrong")
        return response

    return Session(
        connector=bounded(aiohttp.TCPConnector()),
        base_url=base,
        headers={"User-Agent": _USER_AGENT},
        timeout=aiohttp.ClientTimeout(total=total_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
        middlewares=(stay,),
    )


def post_session(*, force_close: bool = False) -> Session:
    """Open the session for who posts to wherever it is told: the simulator, and to the operator."""
    connector = bounded(aiohttp.TCPConnector(limit=0, force_close=force_close))
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=connector, cookie_jar=jar, trust_env=False)


async def read_answer(response: aiohttp.ClientResponse, limit_bytes: int = _MIB) -> bytes:
    """Read a body of at most `limit_bytes` and let go of the connection.

    Raises:
        Trouble: the body broke off, or is longer than the limit.
    """
    body = bytearray()
    with customs():
        async with response:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > limit_bytes:
                    raise Trouble(
                        Reason.TOO_LARGE, f"the answer is longer than {limit_bytes} bytes"
                    )
    return bytes(body)


def file_session(
    policy: Callable[[], AddressPolicy],
    connect_timeout: float,
    stall_timeout: float,
    concurrency: int,
    read_bufsize: int = _MIB,
    *,
    tls: ssl.SSLContext | None = None,
    resolver: AbstractResolver | None = None,
    open_socket: Callable[[aiohttp.AddrInfoType], socket.socket] | None = None,
) -> Session:
    """Open the guarded session for file hosts. Use it through `get_file`.

    Timeouts are in seconds; `connect_timeout` holds for the name, and again for connection with
    TLS. `concurrency` is the number of connections open at one time, 0 for any. `tls` replaces the
    system's trust store, `resolver` the system's resolver behind the guard, and `open_socket` makes
    the socket once an address has passed.
    """
    connector = aiohttp.TCPConnector(
        resolver=_GuardedResolver(policy, resolver or aiohttp.ThreadedResolver(), connect_timeout),
        socket_factory=_guarded_factory(policy, open_socket or _open_socket),
        ssl=tls or True,
        limit=concurrency,
        limit_per_host=concurrency,
        force_close=True,
        ttl_dns_cache=_DNS_CACHE_SECONDS,
        dns_cache_max_size=256,
    )
    return Session(
        connector=bounded(connector),
        headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
        skip_auto_headers=("Accept",),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=stall_timeout
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
        read_bufsize=read_bufsize,
    )


@asynccontextmanager
async def get_file(
    session: Session,
    link: str,
    policy: AddressPolicy,
    headers: Mapping[str, str],
    read_bufsize: int | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask for a file and yield the answer behind its redirects, whatever its status.

    Every hop is judged again, and of `headers` only Range, If-Range, Accept-Encoding and User-Agent
    travel. The body is the caller's to read, with `read_chunk`; some two `read_bufsize` of it, in
    bytes, wait in memory until he does.

    Raises:
        AddressRefused: the link, or a hop, may not be dialled.
        Refused: the redirects lead nowhere: a loop, more than 5, or no Location.
        Trouble: the network or the host failed before an answer came.
    """
    travelling = {name: headers[name] for name in headers if name.lower() in _TRAVELLING_HEADERS}
    here = check_link(link, policy)
    seen: set[str] = set()
    while True:
        seen.add(_place(here))
        with customs():
            # `sock_read` begins anew with every byte, so a host could dribble headers for ever.
            async with timeout(_most_seconds(session.timeout)):
                response = await session.get(
                    _url(here),
                    headers=travelling,
                    allow_redirects=False,
                    read_bufsize=read_bufsize,
                )
        try:
            if response.status not in _REDIRECTS:
                yield response
                return
            here = _hop(here, response.headers.get("Location"), policy, seen)
        finally:
            response.close()


async def post_message(
    session: Session, link: str, policy: AddressPolicy, body: bytes, headers: Mapping[str, str]
) -> int:
    """Post `body` to a link that somebody else chose and return the HTTP status; no redirects.

    Raises:
        AddressRefused: the link may not be dialled.
        Trouble: the network or the host failed before an answer came.
    """
    here = check_link(link, policy)
    with customs():
        async with (
            timeout(_most_seconds(session.timeout)),
            session.post(_url(here), data=body, headers=headers, allow_redirects=False) as response,
        ):
            status: int = response.status
            return status


async def read_chunk(
    response: aiohttp.ClientResponse, stall_timeout: float, most_bytes: int = _MIB
) -> bytes:
    """Read what has arrived of a file, `b""` at its end; wait `stall_timeout` seconds at most.

    The end proves nothing: aiohttp ends normally on a broken connection when there is no length.

    Raises:
        Trouble: the body broke off, or nothing came.
    """
    with customs():
        # A malformed chunk in a later packet than the headers makes aiohttp 3.14 forget its reader:
        # neither data, nor an error, nor `sock_read` ever wakes it.
        async with timeout(stall_timeout):
            return await response.content.read(most_bytes)


def _most_seconds(limits: aiohttp.ClientTimeout) -> float:
    """Return how long name, connection and headers may take together."""
    return 2 * (limits.sock_connect or 0) + (limits.sock_read or 0)


def _hop(here: Link, location: str | None, policy: AddressPolicy, seen: set[str]) -> Link:
    if location is None:
        raise Refused(Reason.LINK_REFUSED, f"{here.host} redirects without saying where to")
    link = next_link(here, location, policy)
    if _place(link) in seen:
        raise Refused(Reason.LINK_REFUSED, f"{here.host} redirects in a circle")
    if len(seen) > _MOST_REDIRECTS:
        raise Refused(Reason.LINK_REFUSED, f"more than {_MOST_REDIRECTS} redirects")
    return link


def _place(link: Link) -> str:
    """Name what a link asks for in one spelling: its port written out, its fragment gone."""
    _, _, behind = link.text.partition("://")
    authority = re.match("[^/?#]*", behind)
    asked = behind[authority.end() if authority else 0 :].partition("#")[0]
    slash = "" if asked.startswith("/") else "/"
    return f"{link.scheme}://{link.host}:{link.port}{slash}{asked}"


@contextmanager
def customs() -> Iterator[None]:
    """Turn errors of the network into ours.

    It is for awaits on the network alone. A write to our own disk raises OSError too, and would be
    taken for the host's fault: it never stands inside. Bugs pass through.

    Raises:
        AddressRefused: the guard forbade what was about to be connected.
        Unreached: no connection came about.
        Trouble: anything else the network did; `stalled` when it went silent, else `network`.
    """
    refusals: list[AddressRefused] = []
    token = _refusals.set(refusals)
    try:
        yield
    # TimeoutError and ssl.SSLError are OSErrors. The cause is cut off on purpose: aiohttp writes
    # whole links into its errors, and a traceback would print them with their signatures.
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        if refusals:
            raise refusals[0] from None
        silent = isinstance(error, TimeoutError)
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
        reason = Reason.STALLED if silent and not connecting else Reason.NETWORK
        unreached = connecting or isinstance(error, aiohttp.ClientConnectorError)
        raise (Unreached if unreached else Trouble)(reason, _told(error)) from None
    finally:
        _refusals.reset(token)


def _told(error: Exception) -> str:
    """Say what happened in words that hold no link: most of aiohttp's own hold the whole one."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host}:{error.port} cannot be connected: {error.os_error}"
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    told = error.strerror if isinstance(error, OSError) else None
    return f"the connection broke: {told or type(error).__name__}"


def _url(link: Link) -> URL:
    """Build the request's URL byte for byte; only what is not ASCII is escaped.

    yarl reads the text once more. Where it sees another host than the rules did, nobody can say
    which one would be connected.
    """
    refusal = AddressRefused(f"{link.host}: two readers of the link disagree about it")
    try:
        url = URL(quote(link.text, safe=string.punctuation), encoded=True)
        read = (url.scheme, url.raw_host, url.port, url.raw_user, url.raw_password)
    except ValueError as error:
        raise refusal from error
    if read != (link.scheme, link.host, link.port, None, None):
        raise refusal
    return url


class _GuardedResolver(AbstractResolver):
    """Lets a name through only when all its answers may be dialled."""

    def __init__(
        self,
        policy: Callable[[], AddressPolicy],
        resolver: AbstractResolver,
        timeout_seconds: float,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._timeout_seconds = timeout_seconds

    async def resolve(  # type: ignore[explicit-override] # typing.override begins with 3.12
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        # aiohttp's own timeouts start behind the resolver, and libc's take minutes.
        async with timeout(self._timeout_seconds):
            answers = await self._resolver.resolve(host, port, family)
        if not answers:
            raise OSError("the name has no address")
        policy, addresses = self._policy(), [answer["host"] for answer in answers]
        check_answers(host, addresses, port, policy)
        # Only now, for a socket asks the resolver about whatever is no address.
        check_answers(host, addresses, port, _own(policy, addresses))
        return answers

    async def close(self) -> None:  # type: ignore[explicit-override] # likewise
        await self._resolver.close()


def _guarded_factory(
    policy: Callable[[], AddressPolicy],
    open_socket: Callable[[aiohttp.AddrInfoType], socket.socket],
) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Build the last gate: it sees every address, literals included, which skip the resolver."""

    def check_and_open(info: aiohttp.AddrInfoType) -> socket.socket:
        address, port = str(info[4][0]), int(info[4][1])
        try:
            check_address(address, port, policy())
            check_address(address, port, _own(policy(), [address]))
        except AddressRefused as refusal:
            noted = _refusals.get()
            if noted is not None:
                noted.append(refusal)
            # Anything but an OSError breaks happy eyeballs with an IndexError.
            raise OSError(errno.EACCES, refusal.message) from refusal
        return open_socket(info)

    return check_and_open


def _open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    return socket.socket(family, kind, protocol)


def _own(policy: AddressPolicy, addresses: Iterable[str]) -> AddressPolicy:
    """Add to a policy what the kernel knows: which of these addresses are this machine's."""
    ours = frozenset(address for address in addresses if is_own(address))
    return replace(policy, own_addresses=policy.own_addresses | ours) if ours else policy


def is_own(address: str) -> bool:
    """Tell whether an address is one of this machine's; some 50 us, so nothing is cached.

    A connection to it would go over the loopback device, past the firewall. Nothing is sent to find
    out. Connecting a datagram socket makes the kernel choose the address we would speak from, and
    to an own address it speaks from that address; but not where it is a second one of its network,
    for there it speaks from the first. Only own addresses (and those of groups) can be bound, but
    none where a sandbox forbids it, and on some machines all can (`ip_nonlocal_bind`).
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    family = socket.AF_INET if isinstance(parsed, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((str(parsed), 9))
        if ip_address(probe.getsockname()[0]) == parsed:
            return True
    return _can_bind(family, str(parsed)) and not _can_bind(family, _NOBODYS[family])


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True
