"""The address guard: names, sockets, certificates and our own addresses."""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from daemon import outbound
from daemon.outbound import customs, file_session, get_file, is_own, read_chunk
from daemon.rules.address import AddressPolicy, AddressRefused, Link, check_link
from daemon.rules.failure import Reason, Trouble

STRICT = AddressPolicy()
LOOPBACK = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.1/32"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfilm"


@asynccontextmanager
async def host(
    answer: bytes = OK, *, heard: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run a raw server with one answer for everybody. Yield its port."""
    visits: set[asyncio.Task[None]] = set()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            if heard is not None:
                heard.append(asked)
            writer.write(answer)
            await writer.drain()
        writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.create_task(visit(reader, writer)))

    server = await asyncio.start_server(welcome, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*visits), 5)


class Names(AbstractResolver):
    """A resolver that knows what it was told."""

    def __init__(self, host: str, *answers: str) -> None:
        self.answers = {host: answers}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the answers that were set for `host`; "never" never comes."""
        if "never" in self.answers[host]:
            await asyncio.Event().wait()
        return [
            ResolveResult(hostname=host, host=to, port=port, family=family, proto=0, flags=0)
            for to in self.answers[host]
        ]

    async def close(self) -> None:
        """Have nothing to close."""


async def fetch(
    link: str,
    policy: AddressPolicy,
    names: AbstractResolver | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    open_socket: Callable[[aiohttp.AddrInfoType], socket.socket] | None = None,
) -> bytes:
    """Get the first bytes of a file the way a download does."""
    async with (
        file_session(
            lambda: policy, 0.3, 0.3, 1, tls=tls, resolver=names, open_socket=open_socket
        ) as session,
        get_file(session, link, policy, {}) as response,
    ):
        return await read_chunk(response, 0.3)


def diverted(dialled: list[str], port: int) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Make sockets that note whom they should connect to, and connect to loopback instead."""

    class Diverted(socket.socket):
        def connect(self, address: object) -> None:
            assert isinstance(address, tuple)
            dialled.append(address[0])
            super().connect(("127.0.0.1", port))

    return lambda info: Diverted(*info[:3])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Be a private certificate authority."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Make our side of TLS, trusting the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def proving(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Make a server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_a_public_name_is_dialled_at_its_answer_and_proves_itself(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """The strict policy lets the ordinary case through, and TLS holds the host to its name."""
    dialled: list[str] = []
    async with host(tls=proving(authority, "cdn.film.com")) as port:
        sockets = diverted(dialled, port)
        names = Names("cdn.film.com", "8.8.4.4")
        link = "https://CDN.film.com/"
        assert await fetch(link, STRICT, names, tls=trusting, open_socket=sockets) == b"film"
    assert dialled == ["8.8.4.4"]


async def test_a_certificate_for_another_name_is_trouble(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Whoever answers at the address must be the host of the link."""
    async with host(tls=proving(authority, "other.film.com")) as port:
        link, names = f"https://cdn.film.com:{port}/", Names("cdn.film.com", "127.0.0.1")
        with pytest.raises(Trouble, match="certificate") as caught:
            await fetch(link, LOOPBACK, names, tls=trusting)
    assert caught.value.reason is Reason.NETWORK


async def test_a_certificate_of_an_unknown_authority_is_trouble(authority: trustme.CA) -> None:
    """Without a private authority the system's trust store decides."""
    async with host(tls=proving(authority, "127.0.0.1")) as port:
        with pytest.raises(Trouble, match="certificate"):
            await fetch(f"https://127.0.0.1:{port}/", LOOPBACK)


async def test_a_redirect_from_https_to_http_is_not_followed(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Even with http allowed, a film that began under TLS stays there."""
    heard: list[bytes] = []
    async with host(heard=heard) as plain:
        hop = f"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:{plain}/\r\n\r\n".encode()
        async with host(hop, tls=proving(authority, "127.0.0.1")) as port:
            with pytest.raises(AddressRefused, match="https to http"):
                await fetch(f"https://127.0.0.1:{port}/", LOOPBACK, tls=trusting)
    assert not heard


@pytest.mark.parametrize(
    "answers",
    [
        ("127.0.0.1",),
        ("8.8.4.4", "10.0.0.1"),
        ("8.8.4.4", "::1"),
        ("64:ff9b::a9fe:a9fe",),
        ("fe80::1%lo",),
        ("nonsense",),
    ],
)
async def test_one_bad_answer_keeps_every_socket_closed(answers: tuple[str, ...]) -> None:
    """Mixed answers are refused before any of them is dialled."""
    dialled: list[str] = []
    with pytest.raises(AddressRefused):
        await fetch(
            "https://a.com/", STRICT, Names("a.com", *answers), open_socket=diverted(dialled, 1)
        )
    assert not dialled


async def test_a_name_that_moves_inside_is_refused_the_second_time() -> None:
    """An answer that was good once proves nothing about the next one."""
    names = Names("a.com", "127.0.0.1")
    async with host() as port, file_session(lambda: LOOPBACK, 1, 1, 1, resolver=names) as session:
        link = f"http://a.com:{port}/"
        async with get_file(session, link, LOOPBACK, {}) as response:
            assert response.status == 200
        names.answers["a.com"] = ("127.0.0.2",)
        assert isinstance(session.connector, aiohttp.TCPConnector)
        session.connector.clear_dns_cache()
        with pytest.raises(AddressRefused):
            await session.get(link)


@pytest.mark.parametrize("answers", [(), ("never",)])
async def test_a_name_without_an_answer_is_trouble_and_no_refusal(answers: tuple[str, ...]) -> None:
    """The name may come back: nothing is dialled, and the link is not blamed."""
    with pytest.raises(Trouble) as caught:
        await fetch("https://a.com/", STRICT, Names("a.com", *answers))
    assert caught.value.reason is Reason.NETWORK


async def test_the_systems_resolver_stands_behind_the_guard() -> None:
    """A name of the hosts file is looked up, and refused for where it leads."""
    policy = replace(STRICT, allow_private=(ip_network("192.0.2.0/24"),))
    with pytest.raises(AddressRefused, match="not a public address"):
        await fetch("https://localhost/", policy)


@pytest.mark.parametrize("answers", [("127.0.0.2",), ("127.0.0.2", "127.0.0.3", "::1")])
async def test_the_socket_guard_holds_alone(answers: tuple[str, ...]) -> None:
    """Were the resolver's check blind, the last gate refuses, under happy eyeballs as well."""
    policy = replace(LOOPBACK, ports=frozenset({443}))
    async with file_session(lambda: policy, 1, 1, 1) as session:
        assert isinstance(session.connector, aiohttp.TCPConnector)
        session.connector._resolver = Names("a.com", *answers)
        with pytest.raises(AddressRefused, match="not a public address"):
            async with get_file(session, "https://a.com/", policy, {}):
                pass


async def test_an_address_in_a_link_meets_the_socket_guard() -> None:
    """It never comes by the resolver. Outside customs the socket stays as closed as inside."""
    heard: list[bytes] = []
    policy = replace(STRICT, ports=frozenset(range(65536)))
    async with host(heard=heard) as port, file_session(lambda: policy, 1, 1, 1) as session:
        for link in (f"http://127.0.0.1:{port}/", f"http://[::ffff:127.0.0.1]:{port}/"):
            with pytest.raises(AddressRefused, match="not a public address"), customs():
                await session.get(link)
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(link)
    assert not heard


OWN_ADDRESS = """
import asyncio, fcntl, runpy, socket, struct, sys
from daemon.rules.address import AddressPolicy, AddressRefused

here = runpy.run_path(sys.argv[1])

address = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, socket.inet_aton("8.8.4.4"))
up = struct.pack("16sh", b"lo", 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    for request, value in ((0x8916, address), (0x8914, up)):
        fcntl.ioctl(control, request, value)

async def main():
    dialled = []
    policy = AddressPolicy(allow_http=True, literals=True)
    names = here["Names"]("a.com", "9.9.9.9", "8.8.4.4")
    links = ("http://8.8.4.4/", "http://[::ffff:8.8.4.4]/", "http://a.com/", "http://8.8.4.5/")
    for link in links:
        try:
            await here["fetch"](link, policy, names, open_socket=here["diverted"](dialled, 1))
        except AddressRefused as refusal:
            print(refusal)
    print(dialled)
    # As proxies that share an address set it: then everything can be bound.
    with open("/proc/sys/net/ipv4/ip_nonlocal_bind", "w") as switch:
        switch.write("1")
    print([here["is_own"](address) for address in ("8.8.4.4", "9.9.9.9")])

asyncio.run(main())
"""


def test_an_address_of_this_machine_is_refused_though_it_is_public() -> None:
    """Found by asking the kernel, in a network of its own where 8.8.4.4 is ours.

    So is 8.8.4.5, from which the kernel does not speak: as from the second address of a network.
    """
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*alone, "true"], check=False).returncode:  # noqa: S603 - fixed words
        pytest.skip("this machine gives no network namespace")
    told = subprocess.run(  # noqa: S603 - fixed words
        [*alone, sys.executable, "-c", OWN_ADDRESS, __file__],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == [
        "8.8.4.4 is our own address",
        "::ffff:8.8.4.4 is our own address",
        "a.com: 8.8.4.4 is our own address",
        "8.8.4.5 is our own address",
        "[]",
        "[True, False]",
    ]


@pytest.mark.parametrize(
    ("address", "own"), [("127.0.0.1", True), ("203.0.113.9", False), ("8.8.4.4", False)]
)
def test_the_kernel_tells_which_addresses_are_ours(address: str, *, own: bool) -> None:
    """Nothing is sent to find out, and an address elsewhere is not ours, reached or not."""
    assert is_own(address) is own


@given(st.text("abcXYZ019.-_~:/?#[]@!$&'()*+,;=%^|<>\"`{}\u00e9\u6b4c\U0001f3b5\u200d"))
def test_yarl_reads_every_allowed_link_as_the_rules_do(text: str) -> None:
    """What passes the text check has one reading, and every byte of its path goes out."""
    policy = replace(STRICT, literals=True, ports=frozenset(range(1, 65536)))
    for candidate in (f"https://{text}", f"https://8.8.4.4{text}", f"https://a.com/{text}"):
        try:
            link = check_link(candidate, policy)
        except AddressRefused:
            continue
        url = outbound._url(link)
        assert url.raw_host == link.host
        if text.isascii() and link.host == "a.com":
            path, _, query = f"/{text}".partition("#")[0].partition("?")
            assert url.raw_path_qs == (f"{path}?{query}" if query else path)


@pytest.mark.parametrize(
    "text", ["https://b.com/", "https://a.com:1/", "https://u@a.com/", "https://a.com:99999/"]
)
def test_a_link_that_two_readers_see_differently_is_refused(text: str) -> None:
    """Where yarl sees another place than the rules did, nothing is sent."""
    with pytest.raises(AddressRefused, match="disagree"):
        outbound._url(Link(text, "https", "a.com", 443))
