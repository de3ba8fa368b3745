"""S7, systemd: the units are tight and fit the program, and the program keeps its side.

Rule: no test needs a systemd that runs: units are read by systemd-analyze, and what they forbid is
tried with the kernel's own means or compared with what the daemon does.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

import pytest

from daemon.cli.group import Exit
from daemon.config import environment
from daemon.rules.address import AddressPolicy, AddressRefused, check_address
from tests.stories.harness import API_KEY, PATIENCE_SECONDS, TOKEN, Daemon, configure, run_verb
from tests.stories.stage import Stage, check_film, failure
from tests.stories.test_restart_stories import (
    called,
    check_ledger,
    kept_socket,
    knock,
    passed,
    pid_of,
    recorder,
    started,
)

UNITS: Final = Path(__file__).parents[2] / "systemd"
SERVICE: Final = (UNITS / "suno-videod.service").read_text(encoding="utf-8")
FENCE: Final = UNITS / "suno-videod.service.d" / "10-addresses.conf"
THRESHOLD: Final = 15
"""Of 100; a unit without any of these lines has 96."""

TOO_OLD: Final = 77
FORBID_EXECUTABLE: Final = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def values(key: str, text: str = SERVICE) -> list[str]:
    """Return all values of a key of a unit, in order."""
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Ask systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs the package systemd")
    return subprocess.run(  # noqa: S603 - reads units
        [program, *arguments], capture_output=True, text=True, check=False
    )


class Wrapped(Daemon):
    """A daemon as the unit starts it, with something in front of it."""

    wrapper: tuple[str, ...] = ()

    def spawn(self, **environ: str) -> None:  # type: ignore[explicit-override]  # since 3.12
        """Start a process and return at once; its log goes to a file of its own."""
        self._runs += 1
        (command,) = values("ExecStart")
        words = command.split()[1:]
        words[words.index("-c") + 1] = str(self.config)
        with self._file("log").open("wb") as output, self._file("errors").open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*self.wrapper, sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**environment(), **environ},
            )


@asynccontextmanager
async def living(stage: Stage, *wrapper: str) -> AsyncIterator[Wrapped]:
    """Let a daemon do all its work once: a callback, a film, a verb, a reload, the end."""
    provider = await stage.provider()
    made = await stage.daemon(provider, start=False)
    daemon = Wrapped(made.folder, made.config.read_text())
    daemon.wrapper = wrapper
    try:
        await asyncio.to_thread(daemon.start)
        task_id = provider.add_task(callback_url=daemon.url)
        await daemon.until(task_id)
        check_film(daemon, provider, task_id)
        assert (await daemon.run("check")).code == 0
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.says("config.reloaded")
        yield daemon
        assert await daemon.stop() == 0
    finally:
        await asyncio.to_thread(daemon.end)


@contextmanager
def heard(folder: Path) -> Iterator[socket.socket]:
    """Listen as systemd does for notifications."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "notify"))
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def hear(listener: socket.socket, word: str) -> list[str]:
    """Return all that is said up to a word, each message whole."""
    said: list[str] = []
    while not said or word not in said[-1]:
        said.append(listener.recv(4096).decode())
    return said


async def test_s7_01_ready_means_that_callbacks_are_taken(stage: Stage, tmp_path: Path) -> None:
    """READY=1 comes when the ledger and the door are open, STOPPING=1 before anything is shut.

    In between the status says how it goes, and no message ever holds a secret.
    """
    door = tmp_path / "callback.sock"
    daemon = await stage.daemon(
        None, start=False, callback={"listen": f"unix:{door}", "trust": "confirm"}
    )
    head = f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    with heard(tmp_path) as listener:
        daemon.spawn(NOTIFY_SOCKET=listener.getsockname(), WATCHDOG_USEC="1000000")
        said = await asyncio.to_thread(hear, listener, "READY=1")
        assert said == ["READY=1"]
        reader, writer = await asyncio.open_unix_connection(door)
        writer.write(f"{head}{{}}".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        said += await asyncio.to_thread(hear, listener, "STATUS=")
        reader, writer = await asyncio.open_unix_connection(door)
        # A caller in mid-body is still there when the end begins, and is answered.
        writer.write(head.encode())
        daemon.process.terminate()
        said += await asyncio.to_thread(hear, listener, "STOPPING=1")
        assert daemon.process.poll() is None
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert await daemon.ended() == 0
    assert any("EXTEND_TIMEOUT_USEC=50000000" in one for one in said)
    assert not [one for one in said if TOKEN in one or API_KEY in one]


async def test_s7_02_only_what_was_passed_to_this_process_is_taken(stage: Stage) -> None:
    """A passed socket wins; variables that were meant for another process change nothing."""
    daemon = await recorder(stage)
    with socket.create_server(("127.0.0.1", 0)) as door, passed(daemon, door) as process:
        port = door.getsockname()[1]
        ready = await daemon.says("daemon.ready")
        assert ready["callback"] == f"http://127.0.0.1:{port}/video-callback"
        process.terminate()
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
        # The socket is still there for the next process.
        socket.create_connection(("127.0.0.1", port)).close()
    daemon = await stage.daemon(None, name="own", start=False)
    await asyncio.to_thread(
        lambda: daemon.start(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="callback")
    )
    assert (await daemon.post(failure("own-door"))).status == 200


async def test_s7_03_a_restart_under_load_drops_nobody(stage: Stage) -> None:
    """Behind a kept socket every caller is answered with 200 and recorded, restart or not."""
    daemon = await recorder(stage)
    with kept_socket(daemon) as place:
        await knock(place)
        await started(daemon)
        async with called(place) as tally:
            await tally.grow(100)
            os.kill(pid_of(daemon), signal.SIGTERM)
            await daemon.says("daemon.stopped")
            await started(daemon)
            await tally.grow(100)
        assert len(tally.acknowledged) == next(tally.numbers)
        await check_ledger(daemon, tally)


async def test_s7_04_only_a_mistake_of_a_person_is_not_tried_again(stage: Stage) -> None:
    """The unit starts the daemon for ever, except after the one code that says it is of no use."""
    assert values("Restart") == ["always"]
    assert values("StartLimitIntervalSec") == ["0"]
    (final,) = values("RestartPreventExitStatus")
    daemon = await stage.daemon(None, expect_errors=True)
    # Another daemon has the state: it may have gone by the next try.
    assert (await daemon.run("serve")).code == Exit.UNEXPECTED != int(final)
    mistaken = daemon.folder / "mistaken.toml"
    mistaken.write_text(f"{configure('http://127.0.0.1:9')}\n[pol]\ninterval = '1s'\n")
    mistaken.chmod(0o600)
    ended = await asyncio.to_thread(run_verb, "-c", str(mistaken), "serve")
    assert ended.code == Exit.CONFIGURATION == int(final)
    assert "pol" in ended.errors


@pytest.mark.parametrize("fenced", [False, True])
def test_s7_the_unit_is_tight(tmp_path: Path, *, fenced: bool) -> None:
    """Systemd's own measure stays below the threshold, with the drop-in and without it."""
    copy = tmp_path / "suno-videod.service"
    copy.write_text(SERVICE)
    if fenced:
        shutil.copytree(FENCE.parent, tmp_path / FENCE.parent.name)
    said = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", str(copy))
    assert said.returncode == 0, said.stdout
    assert "Overall exposure level" in said.stdout
    loose = tmp_path / "loose.service"
    loose.write_text(re.sub(r"(?m)^(Protect|Private|Capab|SystemCall).*\n", "", SERVICE))
    assert analyze("security", "--offline=true", f"--threshold={THRESHOLD}", str(loose)).returncode


def expand(*names: str) -> set[str]:
    """Return the system calls of sets such as @system-service, with those of the sets inside."""
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if not name.startswith("@"):
            found.add(name)
            continue
        lines = analyze("syscall-filter", name).stdout.splitlines()[1:]
        assert lines, name
        waiting += [line.strip() for line in lines if not line.strip().startswith("#")]
    return found


async def test_s7_the_filter_lets_the_daemon_work(stage: Stage, tmp_path: Path) -> None:
    """Whatever the daemon calls in its life is allowed, and no memory is made executable."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs the package strace")
    allow, deny = values("SystemCallFilter")
    allowed = expand("@default", *allow.split()) - expand(*deny.removeprefix("~").split())
    output = tmp_path / "strace.txt"
    async with living(stage, strace, "-D", "-f", "-qq", "-s", "0", "-o", str(output)):
        pass
    trace = output.read_text(errors="replace")
    used = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace, re.MULTILINE))
    assert {"openat", "fdatasync", "connect", "accept4"} <= used
    # SQLite gives its files to the owner of the database when it runs as root.
    assert used - allowed <= ({"fchown"} if os.geteuid() == 0 else set())
    # systemd forbids these calls without the kernel's help where that is too old to help.
    assert values("MemoryDenyWriteExecute") == ["yes"]
    assert not re.findall(r"^.*\bmprotect\(.*PROT_EXEC.*$", trace, re.MULTILINE)
    assert not re.findall(r"^.*\bmmap\(.*PROT_WRITE\|PROT_EXEC.*$", trace, re.MULTILINE)
    families = set(re.findall(r"\bsocket\((AF_\w+)", trace))
    assert families <= set(values("RestrictAddressFamilies")[0].split()) | {"AF_NETLINK"}


async def test_s7_the_daemon_works_without_executable_memory(stage: Stage) -> None:
    """What MemoryDenyWriteExecute= asks of the kernel hinders nothing."""
    wrapper = (sys.executable, "-c", FORBID_EXECUTABLE)
    tried = await asyncio.to_thread(
        subprocess.run,
        [*wrapper, sys.executable, "-c", "import mmap; mmap.mmap(-1, 4096, prot=7)"],
        capture_output=True,
        check=False,
    )
    if tried.returncode == TOO_OLD:
        pytest.skip("the kernel is older than 6.3")
    assert b"PermissionError" in tried.stderr
    async with living(stage, *wrapper):
        pass


def test_s7_the_fence_is_the_one_of_the_program() -> None:
    """The drop-in refuses what the daemon refuses to dial, to the address; but for the resolver."""
    text = FENCE.read_text(encoding="utf-8")
    networks = [ip_network(one) for line in values("IPAddressDeny", text) for one in line.split()]
    (allowed,) = values("IPAddressAllow", text)
    assert ip_network(allowed).num_addresses == 1
    assert values("SocketBindDeny", text) == ["any"]
    # Every network that either side names, whatever the daemon calls its tables.
    rules = (UNITS.parent / "daemon" / "rules" / "address.py").read_text(encoding="utf-8")
    named = [ip_network(one) for one in re.findall(r'"([0-9a-f.:]+/[0-9]+)"', rules)]
    assert named
    edges = {
        type(network[0])(edge)
        for network in [*networks, *named]
        for first, last in [(int(network[0]), int(network[-1]))]
        for edge in (first - 1, first, last, last + 1)
        if 0 <= edge < 2**network.max_prefixlen
    }
    luck = Random(7)
    edges |= {ip_address(luck.getrandbits(32)) for _ in range(20_000)}
    edges |= {ip_address(luck.getrandbits(128)) for _ in range(2_000)}
    for address in edges:
        try:
            check_address(str(address), 443, AddressPolicy())
            refused = False
        except AddressRefused:
            refused = True
        assert refused == any(address in one for one in networks), address


def test_s7_no_line_of_the_fence_is_idle() -> None:
    """Nobody has to wonder which of two lines counts."""
    text = FENCE.read_text(encoding="utf-8")
    networks = [ip_network(one) for line in values("IPAddressDeny", text) for one in line.split()]
    for family in (IPv4Network, IPv6Network):
        ordered = sorted(one for one in networks if isinstance(one, family))
        assert not [pair for pair in pairwise(ordered) if pair[0].overlaps(pair[1])]


def test_s7_no_proc_is_hidden_that_is_read() -> None:
    """ProcSubset=pid hides /proc/sys, and without the id of the boot the ledger does not open."""
    daemon = UNITS.parent / "daemon"
    read = [
        path
        for path in daemon.rglob("*.py")
        if re.search(r'"/proc/[^s]|"/proc/sys', path.read_text())
    ]
    assert (values("ProcSubset") == []) == bool(read)


def test_s7_credentials_have_the_names_that_are_read(tmp_path: Path) -> None:
    """Each example of LoadCredential= in the unit is a secret that is taken from there."""
    examples = re.findall(r"(?m)^# LoadCredential=([^:]+):(/etc/suno-videod/\S+)$", SERVICE)
    assert len(examples) == 3
    config = tmp_path / "config.toml"
    config.write_text('state_dir = "state"\n')
    config.chmod(0o600)
    for name, _ in examples:
        credential = tmp_path / name
        credential.write_text("a-secret-of-a-credential\n")
        credential.chmod(0o600)
    ended = run_verb("-c", str(config), "config", "show", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert ended.code == 0, ended.errors
    assert "a-secret-of-a-credential" not in ended.output + ended.errors
    for name, _ in examples:
        (line,) = (line for line in ended.output.splitlines() if line.startswith(f"{name} "))
        assert "credential" in line, line


async def test_s7_the_usual_stop_takes_less_than_the_unit_gives(stage: Stage) -> None:
    """An idle daemon is gone at once, and none needs longer than TimeoutStopSec."""
    daemon = await stage.daemon(None)
    began = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - began < int(values("TimeoutStopSec")[0]) / 9
