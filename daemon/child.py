"""Runs one program that is not trusted: under limits, in a time, with so much output and no more.

Between us and the program stands daemon/launcher.py, one process for each, because the limits have
to be set behind the fork, and because only a parent can find what left the program's group. The
launcher lives as long as its socket to us: closing that, or dying, ends the whole tree.

The limits of memory, processor time and file size hold for each process, not for all together.
Superusers have no limit of processes. What a program may see and do as our user, it may: it can
read our files, speak to our socket, send us signals, even kill its launcher. Then its group is
killed from here; what left the group lives until the service stops.

Rule: `run_child` returns, raises or is cancelled only when the program and all that it started is
gone, with its descriptors and its process ids, or when all patience for that has run out. It never
waits for the end of the output: whoever holds that open holds up nobody.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Final

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
KIB: Final = 1 << 10
MIB: Final = 1 << 20
_CHUNK: Final = 8 * KIB
_POLITE: Final = b"T"
_LEFT: Final = (b"exited ", b"killed ", b"failed ")
"""What the launcher hears, and says; its docstring tells the whole."""
_MARGIN_SECONDS: Final = 1.0
"""How much longer than the grace a polite end may take."""
_KILL_SECONDS: Final = 5.0
"""How long the launcher may take to kill everything; then it is killed itself."""
_GIVE_UP_SECONDS: Final = 2.0


class NotStarted(Exception):
    """The program did not run at all; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take; the first five hold for each process on its own."""

    address_space_bytes: int = 1024 * MIB
    cpu_seconds: int = 60
    file_size_bytes: int = 64 * MIB
    open_files: int = 64
    processes: int = 64
    """So many tasks more than our user has already (RLIMIT_NPROC counts them all)."""
    kept_bytes: int = 64 * KIB
    """Of each stream of output."""
    output_bytes: int = 16 * MIB
    """Of all output; a program that writes more is killed."""


class Cut(StrEnum):
    """Why a program did not end by itself."""

    TIME = "time"
    FLOOD = "flood"
    LOST = "lost"
    """Its launcher was killed, so how it ended, and what is left of it, is unknown."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: with a status, by a signal, or (`Cut.LOST`) nobody knows how."""

    status: int | None
    signal: int | None
    cut: Cut | None
    output: bytes
    errors: bytes
    """Empty unless they were asked for apart; else they are among the output."""
    dropped_bytes: int
    """What came beyond the bytes that were kept."""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, and content."""
        return self.status == 0 and self.cut is None


async def run_child(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    seconds: float,
    limits: Limits | None = None,
    stdin: bytes = b"",
    idle: bool = False,
    errors_apart: bool = False,
    grace_seconds: float = 5.0,
) -> Ended:
    """Run a program by its absolute path, without a shell, and return how it ended.

    It gets exactly this environment. After `seconds` it is asked to end (SIGTERM), and killed
    `grace_seconds` later; what it leaves behind when it ends by itself, too. Whoever cancels does
    the same, and waits for it; cancelling again kills at once. `idle` programs take what time of
    processor and disk nobody else wants.

    Raises:
        NotStarted: there is no such program or folder, or not the means to run it.
    """
    limits = limits or Limits()
    order = _order(argv, environment, directory, limits, idle=idle, grace_seconds=grace_seconds)
    try:
        child = _Child(order, stdin, limits, grace_seconds, errors_apart=errors_apart)
    except OSError as error:
        raise NotStarted(f"{argv[0]}: cannot start the launcher: {error.strerror}") from error
    try:
        await child.until_left(seconds)
        await child.until_gone()
        return child.ended(argv[0], directory)
    except asyncio.CancelledError:
        child.end()
        await child.until_gone()
        raise
    finally:
        child.close()


def _order(
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    limits: Limits,
    *,
    idle: bool,
    grace_seconds: float,
) -> bytes:
    """Return what the launcher is told, or refuse what no program can be given."""
    if not argv or not argv[0].startswith("/"):
        raise NotStarted(f"{argv[0] if argv else ''!r} is not an absolute path of a program")
    if any(not name or "=" in name for name in environment):
        raise NotStarted(f"{argv[0]}: a variable of the environment has no proper name")
    numbers = (
        round(grace_seconds * 1000),
        int(idle),
        limits.address_space_bytes,
        limits.cpu_seconds,
        limits.file_size_bytes,
        limits.open_files,
        limits.processes,
        # The launcher cannot see these where /proc hides what is not dumpable.
        sum(1 for _ in Path("/proc/self/task").iterdir()),
        len(argv),
    )
    pairs = (f"{name}={value}" for name, value in environment.items())
    texts = (str(directory), *argv, *pairs)
    if any("\0" in text for text in texts):
        raise NotStarted(f"{argv[0]!r}: an argument or variable holds a NUL")
    try:
        fields = [*(b"%d" % number for number in numbers), *map(os.fsencode, texts)]
    except UnicodeEncodeError as error:
        raise NotStarted(f"{argv[0]!r}: an argument or variable is no text") from error
    order = b"\0".join(fields)
    return len(order).to_bytes(8, "big") + order


class _Stream:
    """One stream of output: its beginning is kept, the rest is counted."""

    def __init__(self, file: FileIO, most: int) -> None:
        self.file = file
        self.kept = bytearray()
        self.total = 0
        self._most = most

    def take(self) -> bytes | None:
        """Read a little; return what, nothing at the end, None when there is none just now."""
        chunk: bytes | None = self.file.read(_CHUNK)
        if chunk:
            self.total += len(chunk)
            self.kept += chunk[: self._most - len(self.kept)]
        return chunk


class _Child:
    """A launcher, and the descriptors that lead to it and to its program.

    Callbacks of the event loop do everything: there is no task that somebody could cancel, and no
    transport that somebody could forget.
    """

    def __init__(
        self,
        order: bytes,
        stdin: bytes,
        limits: Limits,
        grace_seconds: float,
        *,
        errors_apart: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most_bytes = limits.output_bytes
        self._grace_seconds = grace_seconds
        self._cut: Cut | None = None
        self._said = b""
        self._left = self._loop.create_future()
        self._gone = self._loop.create_future()
        self._to_launcher = order
        self._to_program = stdin
        with ExitStack() as ours, ExitStack() as theirs:
            self._control, control = socket.socketpair()
            ours.enter_context(self._control)
            theirs.enter_context(control)
            self._control.setblocking(False)  # noqa: FBT003 - it takes no keyword
            source: FileIO | int = subprocess.DEVNULL
            self._input: FileIO | None = None
            if stdin:
                source, self._input = _pipe(theirs, ours)
                os.set_blocking(self._input.fileno(), False)
            pipes = [_pipe(ours, theirs) for _ in range(1 + errors_apart)]
            for file, _ in pipes:
                os.set_blocking(file.fileno(), False)
            self._streams = [_Stream(file, limits.kept_bytes) for file, _ in pipes]
            self._launcher = subprocess.Popen(  # noqa: S603 - our own script, and no shell
                (sys.executable, "-I", "-S", LAUNCHER, str(control.fileno())),
                stdin=source,
                stdout=pipes[0][1],
                stderr=pipes[-1][1],
                pass_fds=(control.fileno(),),
                start_new_session=True,
                cwd="/",
                env={},
            )
            self._descriptors = ours.pop_all()
        self._loop.add_reader(self._control, self._hear)
        for stream in self._streams:
            self._loop.add_reader(stream.file, self._read, stream)
        if self._input:
            self._loop.add_writer(self._input, self._feed)
        self._send()

    def _send(self) -> None:
        """Tell the launcher as much as it takes now; the rest when it takes more."""
        self._loop.remove_writer(self._control)
        try:
            sent = self._control.send(self._to_launcher)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is gone, and `_hear` notices
        self._to_launcher = self._to_launcher[sent:]
        if self._to_launcher:
            self._loop.add_writer(self._control, self._send)

    def _hear(self) -> None:
        try:
            said = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._said += said
        if not said:
            self._loop.remove_reader(self._control)
            _settle(self._gone)
        if not said or any(line.startswith(_LEFT) for line in self._said.split(b"\n")[:-1]):
            _settle(self._left)

    def _read(self, stream: _Stream) -> None:
        if stream.take() == b"":
            self._loop.remove_reader(stream.file)
        elif self._is_flooded():
            for flooded in self._streams:
                self._loop.remove_reader(flooded.file)
            self._cut = self._cut or Cut.FLOOD
            self._hang_up()
            _settle(self._left)

    def _is_flooded(self) -> bool:
        return sum(stream.total for stream in self._streams) > self._most_bytes

    def _feed(self) -> None:
        """Write what the program takes now of its input; close it behind the last byte."""
        assert self._input is not None  # noqa: S101 - for the type alone
        try:
            written = self._input.write(self._to_program[:_CHUNK]) or 0
        except OSError:
            self._to_program = b""  # nobody reads it any more
        else:
            self._to_program = self._to_program[written:]
        if not self._to_program:
            self._loop.remove_writer(self._input)
            self._input.close()

    async def until_left(self, seconds: float) -> None:
        """Wait until the program itself has ended; after its time it is asked to."""
        await asyncio.wait([self._left], timeout=seconds)
        if not self._left.done():
            self._cut = Cut.TIME
            self.end()

    async def until_gone(self) -> None:
        """Wait until nothing is left of the tree, with less and less patience.

        A cancellation takes what is left of the patience, and is handed on at the end.
        """
        cancelled: asyncio.CancelledError | None = None
        for seconds, then in (
            (self._grace_seconds + _MARGIN_SECONDS, self._hang_up),
            (_KILL_SECONDS, self._launcher.kill),
            (_GIVE_UP_SECONDS, self._launcher.kill),
        ):
            until = self._loop.time() + seconds
            while not self._is_reaped() and (left := until - self._loop.time()) > 0:
                try:
                    # Behind the end of the socket, the end of the process is a matter of moments.
                    await asyncio.sleep(0.001) if self._gone.done() else await asyncio.wait(
                        [self._gone], timeout=left
                    )
                except asyncio.CancelledError as error:
                    cancelled = error
                    self._hang_up()
                    until = min(until, self._loop.time() + _KILL_SECONDS)
            if self._is_reaped():
                break
            then()
        self._end_orphan()
        if cancelled:
            raise cancelled

    def _end_orphan(self) -> None:
        """Kill the group of a program whose launcher was killed: it may have outlived that."""
        words = self._words()
        if b"gone" not in words and (pid := words.get(b"started")):
            with suppress(OSError):
                os.killpg(int(pid), signal.SIGKILL)

    def _words(self) -> dict[bytes, bytes]:
        lines = (line.partition(b" ") for line in self._said.split(b"\n"))
        return {word: rest for word, _, rest in lines}

    def _is_reaped(self) -> bool:
        return self._gone.done() and self._launcher.poll() is not None

    def end(self) -> None:
        """Ask the launcher to end everything: politely, where there is a grace."""
        if self._gone.done():
            return
        if self._grace_seconds > 0:
            self._to_launcher += _POLITE
            self._send()
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        """Let the launcher kill everything at once, even one that somebody has stopped."""
        self._loop.remove_writer(self._control)
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._launcher.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Let go of everything; a launcher that still lives hears that, and kills."""
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        for stream in self._streams:
            self._loop.remove_reader(stream.file)
        if self._input and not self._input.closed:
            self._loop.remove_writer(self._input)
        self._descriptors.close()

    def ended(self, program: str, directory: Path) -> Ended:
        """Return how it ended; what still lies in the pipes is read, and no more waited for."""
        for stream in self._streams:
            while not self._is_flooded() and stream.take():
                pass
        words = self._words()
        if b"failed" in words:
            step, number = words[b"failed"].decode().split()
            where = {"program": "", "directory": f"folder {directory}: "}.get(step, f"{step}: ")
            raise NotStarted(f"{program}: {where}{os.strerror(int(number))}")
        kept = [bytes(stream.kept) for stream in self._streams]
        if not words.keys() & {b"started", b"gone"} and self._cut is None:
            told = kept[-1].decode(errors="replace").strip().rpartition("\n")[2]
            raise NotStarted(f"{program}: the launcher ended by itself: {told}")
        return Ended(
            status=int(words[b"exited"]) if b"exited" in words else None,
            signal=int(words[b"killed"]) if b"killed" in words else None,
            cut=self._cut if b"gone" in words else Cut.LOST,
            output=kept[0],
            errors=b"".join(kept[1:]),
            dropped_bytes=sum(stream.total - len(stream.kept) for stream in self._streams),
        )


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[FileIO, FileIO]:
    """Return the two ends of a pipe, each closed with its stack."""
    ends = os.pipe()
    return (
        reading.enter_context(FileIO(ends[0], "rb")),
        writing.enter_context(FileIO(ends[1], "wb")),
    )
