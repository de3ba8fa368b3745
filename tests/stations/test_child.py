"""The child launcher runs a program as it was told, and reports how it ended."""

import asyncio
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.child import MIB, Cut, Ended, Limits, NotStarted, run_child
from daemon.launcher import _children, _scan_children
from tests.stations.launching import (
    descriptors,
    launchers,
    program,
    run,
    survivors,
)

CONTENT = Ended(status=0, signal=None, cut=None, output=b"", errors=b"", dropped_bytes=0)


def shell(text: str) -> list[str]:
    """Return how to call a line of shell, of which the test knows every word."""
    return ["/bin/sh", "-c", text]


@pytest.mark.parametrize("status", [0, 3, 127, 255])
async def test_the_exit_status_is_the_programs_own(status: int, tmp_path: Path) -> None:
    """Also those by which shells report something else."""
    ended = await run(shell(f"exit {status}"), tmp_path)
    assert ended == replace(CONTENT, status=status)
    assert ended.ok is (status == 0)


async def test_a_death_by_signal_is_not_taken_for_a_status(tmp_path: Path) -> None:
    """137 and SIGKILL are two things."""
    assert await run(shell("kill -KILL $$"), tmp_path) == replace(CONTENT, status=None, signal=9)
    assert await run(shell("exit 137"), tmp_path) == replace(CONTENT, status=137)


async def test_output_and_errors_come_together_or_apart(tmp_path: Path) -> None:
    """A decoder's answer must not be mixed with its complaints; a log is read in its order."""
    both = shell("echo answer; echo complaint >&2; echo answer")
    together = await run(both, tmp_path)
    assert (together.output, together.errors) == (b"answer\ncomplaint\nanswer\n", b"")
    apart = await run(both, tmp_path, errors_apart=True)
    assert (apart.output, apart.errors) == (b"answer\nanswer\n", b"complaint\n")


async def test_the_program_is_where_it_should_be(tmp_path: Path) -> None:
    """Its folder is the given one, its files are its own user's alone, it leads its own session."""
    text = """
print(os.getcwd(), oct(os.umask(0)), os.getsid(0) == os.getpgid(0) == os.getpid())
print(os.getsid(os.getppid()) == os.getpid())
"""
    ended = await run(program(tmp_path, text), tmp_path)
    assert ended.output.decode().split() == [str(tmp_path), "0o77", "True", "False"]


async def test_signals_are_as_a_program_expects_them(tmp_path: Path) -> None:
    """What Python and our caller ignore or block, the program does not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        ended = await run(["/bin/grep", "-E", "SigBlk|SigIgn", "/proc/self/status"], tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    masks = [int(line.split()[1], 16) for line in ended.output.splitlines()]
    # Signals 32 and 33 belong to the C library, and nobody else can set them.
    assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]


@pytest.mark.parametrize("size", [1, 70_000, 3 * MIB])
async def test_input_arrives_whole_and_ends(size: int, tmp_path: Path) -> None:
    """However much it is, while the output is read at the same time."""
    ended = await run(["/bin/cat"], tmp_path, stdin=b"x" * size)
    assert ended.status == 0
    assert len(ended.output) + ended.dropped_bytes == size


async def test_without_input_there_is_an_empty_one(tmp_path: Path) -> None:
    """A program that asks is not left waiting."""
    assert await run(["/bin/cat"], tmp_path) == CONTENT


@pytest.mark.parametrize("line", ["exit 0", "exec <&-; sleep 0.1; exit 0"])
async def test_input_that_nobody_reads_holds_up_nobody(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a full pipe nor a broken one is an error."""
    assert await run(shell(line), tmp_path, stdin=b"x" * MIB) == CONTENT
    assert not caplog.records


async def test_input_that_is_half_read_holds_up_nobody(tmp_path: Path) -> None:
    """Where there is room for a little, no more than that is written."""
    text = "os.read(0, 4096)\ntime.sleep(60)"
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, stdin=b"x" * MIB, seconds=1)
    assert ended.cut is Cut.TIME
    assert time.monotonic() - began < 10


async def test_the_beginning_of_the_output_is_kept_and_the_rest_counted(tmp_path: Path) -> None:
    """64 KiB of each stream, to the byte."""
    line = "head -c 100000 /dev/zero; head -c 65536 /dev/zero >&2"
    ended = await run(shell(line), tmp_path, errors_apart=True)
    assert (len(ended.output), len(ended.errors)) == (65_536, 65_536)
    assert ended.dropped_bytes == 100_000 - 65_536


async def test_what_lies_in_the_pipe_at_the_end_is_read(tmp_path: Path) -> None:
    """The last words of a program that ends at once are not lost."""
    for _ in range(3):
        # The loop is busy meanwhile, so the end and the words are seen at the same time.
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)
        ended = await run(shell("head -c 60000 /dev/zero; echo last"), tmp_path)
        assert ended.output.endswith(b"last\n")


async def test_an_environment_of_any_size_reaches_the_program(tmp_path: Path) -> None:
    """More than the socket to the launcher takes at once."""
    environment = {f"NAME{number}": "v" * 60_000 for number in range(10)}
    ended = await run(["/usr/bin/env"], tmp_path, environment=environment)
    assert len(ended.output) + ended.dropped_bytes == 10 * len("NAME0=\n") + 600_000


async def test_an_idle_program_stands_back(tmp_path: Path) -> None:
    """A decoder takes what nobody else wants; other programs are run as usual."""
    text = "print(os.sched_getscheduler(0) == os.SCHED_IDLE)"
    argv = program(tmp_path, text)
    assert (await run(argv, tmp_path, idle=True)).output == b"True\n"
    assert (await run(argv, tmp_path)).output == b"False\n"


async def test_the_disk_serves_an_idle_program_last(tmp_path: Path) -> None:
    """The class of ioprio_get(2)."""
    text = """
import ctypes
number = {"x86_64": 252, "aarch64": 31, "riscv64": 31}[os.uname().machine]
print(ctypes.CDLL(None).syscall(number, 1, 0) >> 13)
"""
    assert (await run(program(tmp_path, text), tmp_path, idle=True)).output == b"3\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "'' is not an absolute path of a program"),
        ([""], "'' is not an absolute path of a program"),
        (["true"], "'true' is not an absolute path of a program"),
        (["/nowhere/to/be found"], "/nowhere/to/be found: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd: Permission denied"),
        (["/usr"], "/usr: Permission denied"),
        (["/bin/true", "a\0b"], "'/bin/true': an argument or variable holds a NUL"),
        (["/bin/true", "\ud800"], "'/bin/true': an argument or variable is no text"),
        (["/bin/true", "x" * 200_000], "/bin/true: Argument list too long"),
    ],
)
async def test_what_cannot_be_started_is_told_apart(
    argv: list[str], said: str, tmp_path: Path
) -> None:
    """It never ran, and the reason is fit for a person."""
    before = descriptors()
    with pytest.raises(NotStarted) as refused:
        await run(argv, tmp_path)
    assert str(refused.value) == said
    assert descriptors() == before
    assert not launchers()


async def test_a_text_without_an_interpreter_is_no_program(tmp_path: Path) -> None:
    """No shell guesses what it might be."""
    file = tmp_path / "script"
    file.write_text("echo ran\n")
    file.chmod(0o755)
    with pytest.raises(NotStarted, match="Exec format error"):
        await run([str(file)], tmp_path)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The program is not blamed for it."""
    with pytest.raises(NotStarted, match=r"/bin/true: folder .*/gone: No such file or directory"):
        await run(["/bin/true"], tmp_path, directory=tmp_path / "gone")


@pytest.mark.parametrize("name", ["", "A=B"])
async def test_a_variable_needs_a_name(name: str, tmp_path: Path) -> None:
    """Nothing reaches the program as another variable than it was meant."""
    with pytest.raises(NotStarted, match="no proper name"):
        await run(["/bin/true"], tmp_path, environment={name: "value"})


async def test_without_a_launcher_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation is told as such, with what Python said."""
    monkeypatch.setattr("daemon.child.LAUNCHER", tmp_path / "launcher.py")
    with pytest.raises(NotStarted, match=r"launcher ended by itself: .*No such file"):
        await run(["/bin/true"], tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(NotStarted, match="cannot start the launcher: No such file"):
        await run(["/bin/true"], tmp_path)


async def test_without_descriptors_nothing_runs_and_nothing_leaks(tmp_path: Path) -> None:
    """Out of descriptors, those that were had already are given back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 3, before[1]))
    try:
        with pytest.raises(NotStarted, match="Too many open files"):
            await run(["/bin/true"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert descriptors() == count


async def test_many_programs_leave_no_trace(tmp_path: Path) -> None:
    """No descriptor, no process, and no memory is lost with any of them."""

    def kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    async def some(count: int) -> None:
        for number in range(count):
            ended = await run(shell(f"echo {number}"), tmp_path, stdin=b"x")
            assert ended == replace(CONTENT, output=b"%d\n" % number)

    await some(20)
    before, memory = descriptors(), kib()
    await some(60)
    assert descriptors() == before
    assert kib() - memory < 1024
    assert not launchers()


async def test_programs_run_beside_each_other(tmp_path: Path) -> None:
    """Twelve at once take about as long as one, and do not hold one another's pipes."""
    began = time.monotonic()
    ended = await asyncio.gather(
        *(run(shell(f"sleep 1; echo {number}"), tmp_path) for number in range(12))
    )
    assert [int(one.output) for one in ended] == list(range(12))
    assert time.monotonic() - began < 8
    assert not survivors(tmp_path)


def test_children_are_found_without_the_kernels_list() -> None:
    """A kernel without CONFIG_PROC_CHILDREN has only /proc as a whole."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "20"], {})
    try:
        assert pid in _children()
        assert pid in _scan_children(os.getpid())
        assert pid not in _scan_children(os.getppid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def test_the_defaults_are_the_documented_ones() -> None:
    """1 GiB, 60 s, 64 MiB, 64 files, 64 processes; 64 KiB kept of 16 MiB."""
    numbers = (1 << 30, 60, 64 << 20, 64, 64, 64 << 10, 16 << 20)
    assert Limits() == Limits(*numbers)


async def test_a_caller_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    """The least that can be said."""
    argv = ["/bin/true"]
    assert await run_child(argv, environment={}, directory=tmp_path, seconds=20) == CONTENT
