"""S6-03 and S6-04: what runs as our user learns no secret, and is never out of our hands."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.child import Cut
from tests.stations.launching import (
    ESCAPED,
    LINGER,
    ROOT,
    Outsider,
    descriptors,
    launchers,
    needs_root,
    outsider,
    program,
    run,
    survivors,
)


@pytest.fixture(scope="module")
def other_user() -> Iterator[Outsider]:
    """A user without rights; the superuser may read everything."""
    with outsider() as made:
        yield made


SPY = """
pid = sys.argv[1]
def attempt(what):
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror
    return "read"
def descriptors():
    try:
        return os.listdir(f"/proc/{pid}/fd") and "read"
    except OSError as error:
        return error.strerror
print(*[attempt(what) for what in ("environ", "maps", "mem")], descriptors(), sep=", ")
"""


@needs_root
@pytest.mark.parametrize(
    ("protect", "said"),
    [("protect_memory()", ", ".join(["Permission denied"] * 4)), ("", "read, read, ")],
)
async def test_s6_03_a_program_cannot_read_the_daemon(
    protect: str, said: str, other_user: Outsider
) -> None:
    """Neither its environment nor its memory nor its descriptors; without the protection it can."""
    spy = program(other_user.folder, SPY, "spy.py")[-1]
    text = f"""
{protect}
argv = [sys.executable, "-I", "-S", {spy!r}, str(os.getpid())]
run = run_child(argv, environment={{}}, directory=Path("/"), seconds=20)
print(asyncio.run(run).output.decode())
"""
    assert other_user.run(text).startswith(said)


@needs_root
async def test_s6_03_a_program_cannot_read_its_launcher(other_user: Outsider) -> None:
    """Nor speak to the daemon through its descriptors."""
    spy = program(other_user.folder, SPY.replace("sys.argv[1]", "os.getppid()"), "spy.py")[-1]
    text = f"""
argv = [sys.executable, "-I", "-S", {spy!r}]
run = run_child(argv, environment={{}}, directory=Path("/"), seconds=20)
print(asyncio.run(run).output.decode())
"""
    assert other_user.run(text).strip() == ", ".join(["Permission denied"] * 4)


async def test_s6_03_the_daemon_protects_itself_first() -> None:
    """Before it opens anything, so also where it then refuses to start."""
    text = """
import asyncio, ctypes
from daemon.config import load
from daemon.service import serve
environ = {"SUNO_VIDEOD_STATE_DIR": "/dev/null/nowhere", "HOME": "/dev/null/nowhere"}
get = lambda: ctypes.CDLL(None).prctl(3, *map(ctypes.c_ulong, (0, 0, 0, 0)))
before = get()
status = asyncio.run(serve(load(None, environ), environ))
print([before, status, get()])
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[1, 1, 0]", done.stderr


async def test_s6_04_a_grandchild_that_holds_the_output_holds_up_nobody(tmp_path: Path) -> None:
    """It is ended when the program has ended, and did not even have to be waited for."""
    text = f"if os.fork() == 0:\n  exec({LINGER!r})\nprint('done', flush=True)\nos._exit(0)"
    ended = await run(program(tmp_path, text), tmp_path)
    assert (ended.ok, ended.output) == (True, b"done\n")
    assert not survivors(tmp_path)


async def test_s6_04_a_deaf_program_is_killed(tmp_path: Path) -> None:
    """SIGTERM, the grace, SIGKILL."""
    ended = await run(program(tmp_path, LINGER), tmp_path, seconds=0.5, grace_seconds=0.5)
    assert (ended.signal, ended.cut) == (9, Cut.TIME)


async def test_s6_04_a_flood_is_counted_and_ended(tmp_path: Path) -> None:
    """64 KiB are kept, 16 MiB are read."""
    ended = await run(["/usr/bin/yes"], tmp_path)
    assert (ended.cut, len(ended.output)) == (Cut.FLOOD, 65_536)
    assert ended.dropped_bytes < 17 << 20


async def test_s6_04_setsid_is_no_way_out(tmp_path: Path) -> None:
    """What left group and session is found as a child of the launcher."""
    ended = await run(program(tmp_path, ESCAPED), tmp_path)
    assert ended.status == 0
    assert (tmp_path / "lingers").exists()
    assert not survivors(tmp_path)


async def test_s6_04_many_programs_leak_nothing(tmp_path: Path) -> None:
    """Not one descriptor, and not one process."""
    await run(["/bin/true"], tmp_path)
    before, began = descriptors(), time.monotonic()
    count = 0
    while count < 40 and time.monotonic() - began < 20:
        assert (await run(["/bin/true"], tmp_path)).ok
        count += 1
    assert count >= 20
    assert descriptors() == before
    assert not launchers()
