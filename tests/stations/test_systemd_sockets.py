"""Sockets that systemd passes: which are taken, how they are served, and who is answered last."""

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from aiohttp import web

from daemon.config.sections import TcpEndpoint
from daemon.listeners import Runner, close, listen, listen_on, public_runner
from daemon.systemd import PassedWrongly, for_children, take_sockets

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


PassOn = Callable[..., tuple[dict[str, str], int]]


@pytest.fixture
def pass_on() -> Iterator[PassOn]:
    """Put copies of descriptors in a row, as systemd does; return the variables and the first."""
    placed: list[int] = []

    def place(*descriptors: int) -> tuple[dict[str, str], int]:
        first = fcntl.fcntl(descriptors[0], fcntl.F_DUPFD, 900)
        placed.extend(range(first, first + len(descriptors)))
        for number, descriptor in enumerate(descriptors, first):
            os.dup2(descriptor, number)
        return {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(descriptors)),
            "LISTEN_FDNAMES": ":".join(f"name{number}" for number in range(len(descriptors))),
        }, first

    yield place
    for descriptor in placed:
        with suppress(OSError):
            os.close(descriptor)


def listening(family: socket.AddressFamily, address: object, kind: int) -> socket.socket:
    """Bind and listen."""
    sock = socket.socket(family, kind)
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen()
    return sock


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """A listening socket that stays open when ours is closed, as systemd's does."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as sock:
        yield sock


def test_all_that_was_passed_is_taken(pass_on: PassOn, tmp_path: Path) -> None:
    """IPv4, IPv6 and unix sockets come in order; no child inherits them and no call blocks."""
    with ExitStack() as stack:
        ours = [
            stack.enter_context(listening(family, address, socket.SOCK_STREAM))
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", 0)),
                (socket.AF_INET6, ("::1", 0)),
                (socket.AF_UNIX, str(tmp_path / "sock")),
            )
        ]
        taken = take_sockets(*pass_on(*(sock.fileno() for sock in ours)))
        for mine, sock in zip(ours, taken, strict=True):
            stack.enter_context(sock)
            assert sock.getsockname() == mine.getsockname()
            assert not sock.get_inheritable()
            assert sock.gettimeout() == 0


@pytest.mark.parametrize("pid", [None, "", "1", "x"])
def test_what_another_process_was_passed_is_left_alone(
    pass_on: PassOn, door: socket.socket, pid: str | None
) -> None:
    """Variables that were inherited speak of descriptors that are not ours."""
    environ, first = pass_on(door.fileno())
    others = environ | {"LISTEN_PID": pid} if pid is not None else {"LISTEN_FDS": "1"}
    assert take_sockets(others, first) == ()


@pytest.mark.parametrize("count", ["", "-1", "many"])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    """Without a number nobody knows what was passed."""
    with pytest.raises(PassedWrongly, match="LISTEN_FDS"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def unheard(_: Path) -> int:
    """A stream socket that does not listen, as after a bind alone or with Accept=yes."""
    return socket.socket().detach()


def datagrams(_: Path) -> int:
    """What ListenDatagram= passes."""
    return socket.socket(type=socket.SOCK_DGRAM).detach()


def packets(folder: Path) -> int:
    """What ListenSequentialPacket= passes: it listens, and is no stream."""
    return listening(socket.AF_UNIX, str(folder / "s"), socket.SOCK_SEQPACKET).detach()


def pipe(_: Path) -> int:
    """What ListenFIFO= passes."""
    reading, writing = os.pipe()
    os.close(writing)
    return reading


@pytest.mark.parametrize("make", [unheard, datagrams, packets, pipe])
def test_anything_but_a_listening_stream_is_refused(
    make: Callable[[Path], int], pass_on: PassOn, tmp_path: Path, door: socket.socket
) -> None:
    """The text names descriptor and name, and the good ones are not kept either."""
    wrong = make(tmp_path)
    environ, first = pass_on(door.fileno(), wrong)
    with pytest.raises(PassedWrongly, match=rf"descriptor {first + 1} \(name1\)"):
        take_sockets(environ, first)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    os.close(wrong)


def test_a_descriptor_that_is_not_there_is_refused(pass_on: PassOn, door: socket.socket) -> None:
    """A number too high is said like any other mistake, names or not."""
    environ, first = pass_on(door.fileno())
    del environ["LISTEN_FDNAMES"]
    with pytest.raises(PassedWrongly, match=rf"descriptor {first + 1}: Bad file"):
        take_sockets(environ | {"LISTEN_FDS": "2"}, first)


def test_no_child_hears_what_systemd_says_to_us() -> None:
    """Sockets, notifications and watchdog are between systemd and this process."""
    kept = {"PATH": "/bin", "LISTENER": "x", "STATE_DIRECTORY": "/s"}
    ours = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC")
    assert for_children(kept | dict.fromkeys(ours, "1")) == kept


def app(seconds: float = 0) -> Runner:
    """Make a listener that answers after some time."""

    async def answer(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(seconds)
        return web.Response(text="heard")

    return public_runner(answer)


async def test_each_kind_of_address_is_shown(tmp_path: Path) -> None:
    """The log says where callbacks come in, in the form of `callback.listen`'s own listeners."""
    name = f"\0suno-videod-test-{os.getpid()}"
    runner = app()
    with ExitStack() as stack:
        for family, address, shown in (
            (socket.AF_INET, ("127.0.0.1", 0), "http://127.0.0.1:{}"),
            (socket.AF_INET6, ("::1", 0), "http://[::1]:{}"),
            (socket.AF_UNIX, str(tmp_path / "sock"), f"unix:{tmp_path}/sock"),
            (socket.AF_UNIX, name, f"unix:@{name[1:]}"),
        ):
            sock = stack.enter_context(listening(family, address, socket.SOCK_STREAM))
            port = sock.getsockname()[1]
            assert await listen_on(runner, sock) == shown.format(port)
        await close([runner])
        assert (tmp_path / "sock").is_socket()


async def test_the_queue_does_not_shrink(door: socket.socket) -> None:
    """Hundreds wait in a passed socket's queue while nobody accepts, and none is turned away."""
    runner = app()
    await listen_on(runner, door.dup())
    with ExitStack() as stack:
        # Not one step of the event loop in between: the kernel alone takes them.
        for _ in range(300):
            stack.enter_context(closing(socket.create_connection(door.getsockname(), 0.5)))
    await close([runner])


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("passed", [True, False])
async def test_who_was_accepted_at_the_last_moment_is_answered(
    door: socket.socket, steps: int, *, passed: bool
) -> None:
    """Whatever step of accepting the end falls into, who knocked before it gets an answer."""
    runner = app()
    if passed:
        await listen_on(runner, door.dup())
        address = door.getsockname()
    else:
        url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o600)
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address) as caller:
        caller.sendall(REQUEST)
        for _ in range(steps):
            await asyncio.sleep(0)
        await close([runner])
        caller.settimeout(0.5)
        assert b"\r\nConnection: close\r\n" in caller.recv(4096)


async def test_who_is_slow_to_speak_is_heard(door: socket.socket) -> None:
    """A request that needs a tenth of a second more than its connection is answered too."""
    runner = app()
    await listen_on(runner, door.dup())
    reader, writer = await asyncio.open_connection(*door.getsockname())
    ending = asyncio.create_task(close([runner]))
    await asyncio.sleep(0.1)
    writer.write(REQUEST)
    assert b"\r\nConnection: close\r\n" in await reader.readuntil(b"heard")
    writer.close()
    await ending


async def test_a_passed_socket_goes_on_queueing(door: socket.socket) -> None:
    """Who calls between two processes is answered by the second one."""
    first, second = app(), app()
    await listen_on(first, door.dup())
    await close([first])
    reader, writer = await asyncio.open_connection(*door.getsockname())
    writer.write(REQUEST)
    await listen_on(second, door.dup())
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await close([second])


async def test_the_last_answer_says_that_it_is_the_last(door: socket.socket) -> None:
    """A connection is kept until the end begins; then its next answer tells the caller to leave."""
    runner = app(0.3)
    await listen_on(runner, door.dup())
    reader, writer = await asyncio.open_connection(*door.getsockname())
    writer.write(REQUEST)
    assert b"Connection: close" not in await reader.readuntil(b"heard")
    writer.write(REQUEST)
    await asyncio.sleep(0.1)
    ending = asyncio.create_task(close([runner]))
    assert b"\r\nConnection: close\r\n" in await reader.readuntil(b"heard")
    assert await reader.read() == b""
    writer.close()
    await ending


async def test_an_idle_caller_is_sent_away_in_order(door: socket.socket) -> None:
    """A kept connection without a request ends with FIN and no reset, and holds nobody up."""
    runner = app()
    await listen_on(runner, door.dup())
    reader, writer = await asyncio.open_connection(*door.getsockname())
    writer.write(REQUEST)
    await reader.readuntil(b"heard")
    async with asyncio.timeout(2):
        await close([runner])
    assert await reader.read() == b""
    writer.close()
