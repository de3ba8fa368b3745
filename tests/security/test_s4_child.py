"""S4-04 and S4-05: no program that we start takes more than its share, or learns what it need not.

Landlock and seccomp of S4-04 are not required by the design.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.child import Cut, Limits
from tests.stations.launching import (
    ROOT,
    Outsider,
    needs_root,
    outsider,
    program,
    run,
    survivors,
    until,
)


@pytest.fixture(scope="module")
def other_user() -> Iterator[Outsider]:
    """A user without rights; the superuser's processes are not counted."""
    with outsider() as made:
        yield made


async def daemon_says(text: str) -> str:
    """Run a daemon of a few lines in a process of its own; return what it prints."""
    argv = [sys.executable, "-c", text]
    done = await asyncio.to_thread(
        subprocess.run, argv, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return str(done.stdout)


async def test_s4_04_two_gibibytes_of_memory_are_refused(tmp_path: Path) -> None:
    """The program fails, and nobody else has to make room."""
    ended = await run(program(tmp_path, "block = bytearray(2 << 30)"), tmp_path)
    assert ended.status == 1
    assert ended.output.endswith(b"MemoryError\n")


async def test_s4_04_a_file_of_100_mebibytes_is_refused(tmp_path: Path) -> None:
    """It ends at 64, and so does the program."""
    text = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nopen('big', 'wb').write(bytes(100 << 20))"
    )
    ended = await run(program(tmp_path, text), tmp_path)
    assert ended.signal == signal.SIGXFSZ
    assert (tmp_path / "big").stat().st_size == 64 << 20


@pytest.mark.parametrize(
    ("text", "number"),
    [("", signal.SIGXCPU), ("signal.signal(signal.SIGXCPU, signal.SIG_IGN)", signal.SIGKILL)],
)
async def test_s4_04_a_spin_ends(text: str, number: int, tmp_path: Path) -> None:
    """After its seconds of processor time, long before its time is up; deaf ones a second later."""
    argv = program(tmp_path, f"{text}\nwhile True:\n    pass")
    ended = await run(argv, tmp_path, limits=Limits(cpu_seconds=1), seconds=60)
    assert (ended.signal, ended.cut) == (number, None)


async def test_s4_04_the_sixty_fifth_file_is_refused(tmp_path: Path) -> None:
    """Descriptors 0 to 63, and no more."""
    text = """
try:
    while True:
        last = os.dup(0)
except OSError as error:
    print(last, error.strerror)
"""
    assert (await run(program(tmp_path, text), tmp_path)).output == b"63 Too many open files\n"


async def test_s4_04_all_limits_are_hard(tmp_path: Path) -> None:
    """A program cannot lift what it was given; there is no core file either."""
    ended = await run(["/bin/cat", "/proc/self/limits"], tmp_path)
    lines = ended.output.decode().splitlines()
    found = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert found["Max address space"] == [str(1 << 30)] * 2
    assert found["Max cpu time"] == ["60", "61"]
    assert found["Max file size"] == [str(64 << 20)] * 2
    assert found["Max open files"] == ["64"] * 2
    assert found["Max core file size"] == ["0"] * 2
    assert found["Max processes"][0] == found["Max processes"][1] != "unlimited"


async def test_s4_04_a_stricter_limit_of_the_daemon_stays() -> None:
    """What systemd forbids the service, no program of it gets."""
    text = """
import asyncio, resource
from pathlib import Path
from daemon.child import run_child
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
argv = ["/bin/sh", "-c", "ulimit -H -f"]
run = run_child(argv, environment={}, directory=Path("/"), seconds=20)
print(asyncio.run(run).output.decode())
"""
    # In blocks of 512 bytes.
    assert int(await daemon_says(text)) == 2048


BOMB = """
import signal
def burst():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.005)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
burst()
"""
ESCAPING_BOMB = BOMB.replace("os.fork()", "os.fork() or os.setsid()")


@needs_root
@pytest.mark.parametrize("text", [BOMB, ESCAPING_BOMB])
async def test_s4_04_a_fork_bomb_is_small_and_ends(text: str, other_user: Outsider) -> None:
    """As many processes as it may have, none when its time is up, and the daemon goes on."""
    bomb = program(other_user.folder, text, "bomb.py")[-1]
    daemon = f"""
argv = [sys.executable, "-I", "-S", {bomb!r}]
async def main():
    options = {{"environment": {{}}, "directory": Path("/"), "grace_seconds": 0.2}}
    ended = await run_child(argv, seconds=2, limits=Limits(processes=30), **options)
    after = await run_child(["/bin/echo", "on"], seconds=20, **options)
    print(json.dumps([ended.signal, ended.cut, after.output.decode()]))
asyncio.run(main())
"""
    most = 0
    with other_user.start(daemon) as process:
        try:

            def is_over() -> bool:
                nonlocal most
                most = max(most, other_user.tasks())
                return process.poll() is not None

            await until(is_over, 30)
        finally:
            process.kill()
            said = process.communicate()[0]
    assert said == '[9, "time", "on\\n"]\n'
    # The daemon and the launcher are the two it comes on top of.
    assert 25 <= most <= 34
    assert other_user.tasks() == 0


@needs_root
async def test_s4_04_processes_come_on_top_of_what_the_daemon_has(other_user: Outsider) -> None:
    """The kernel counts all tasks of a user, so its own threads must not use up the share."""
    text = """
import threading
stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(40)]
for thread in threads:
    thread.start()
options = {"environment": {}, "directory": Path("/"), "seconds": 20}
argv = ["/bin/sh", "-c", "ulimit -p; /bin/true && /bin/echo forked"]
print(asyncio.run(run_child(argv, limits=Limits(processes=5), **options)).output.decode())
stop.set()
"""
    # 40 threads, the one of the daemon, the one of the launcher, and five.
    assert other_user.run(text).split() == ["47", "forked"]


@needs_root
async def test_s4_04_a_setuid_program_gains_nothing(other_user: Outsider) -> None:
    """PR_SET_NO_NEW_PRIVS: who we run as, everything behind us stays."""
    file = other_user.folder / "id"
    shutil.copy("/usr/bin/id", file)
    file.chmod(0o4755)
    plain = f"import subprocess\nprint(subprocess.run([{str(file)!r}, '-u'], capture_output=True))"
    if "stdout=b'0\\n'" not in other_user.run(plain):
        pytest.skip("setuid has no effect on this file system")
    launched = f"""
options = {{"environment": {{}}, "directory": Path("/"), "seconds": 20}}
print(asyncio.run(run_child([{str(file)!r}, "-u"], **options)).output.decode())
"""
    assert int(other_user.run(launched)) == other_user.uid


async def test_s4_04_no_new_privileges(tmp_path: Path) -> None:
    """The kernel says so itself."""
    ended = await run(["/bin/grep", "NoNewPrivs", "/proc/self/status"], tmp_path)
    assert ended.output.split() == [b"NoNewPrivs:", b"1"]


async def test_s4_04_no_descriptor_above_the_third_reaches_a_program(tmp_path: Path) -> None:
    """Not even one that somebody made inheritable by mistake."""
    with socket.socket() as leaked, (tmp_path / "secret").open("w") as file:
        for descriptor in (leaked.fileno(), file.fileno()):
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keyword
        os.dup2(file.fileno(), 200, inheritable=True)
        try:
            text = "print(sorted(os.listdir('/proc/self/fd')))"
            ended = await run(program(tmp_path, text), tmp_path, stdin=b"x", errors_apart=True)
        finally:
            os.close(200)
    # The fourth is the list that is being read.
    assert ended.output == b"['0', '1', '2', '3']\n"


async def test_s4_04_the_environment_is_the_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a word of the daemon's own, in whatever locale it runs."""
    for name in ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "SUNO_VIDEOD_API_KEY"):
        monkeypatch.setenv(name, "sentinel")
    monkeypatch.setenv("LC_ALL", "C")
    assert (await run(["/usr/bin/env"], tmp_path)).output == b""
    given = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TITLE": "a=b \n\udcff é"}
    ended = await run(["/usr/bin/env", "-0"], tmp_path, environment=given)
    pairs = [os.fsdecode(pair) for pair in ended.output.split(b"\0")[:-1]]
    assert sorted(pairs) == sorted(f"{name}={value}" for name, value in given.items())


async def test_s4_04_the_environment_is_not_on_a_command_line(tmp_path: Path) -> None:
    """Command lines can be read by everybody, also the launcher's."""
    text = "print(open(f'/proc/{os.getppid()}/cmdline').read())"
    argv = program(tmp_path, text)
    ended = await run(argv, tmp_path, environment={"KEY": "sentinel"})
    assert b"launcher.py" in ended.output
    assert b"sentinel" not in ended.output
    text = "print(open(f'/proc/{os.getppid()}/environ').read())"
    if os.geteuid() == 0:
        assert (await run(program(tmp_path, text), tmp_path)).output == b"\n"


async def test_s4_04_it_works_where_memory_is_never_both_written_and_run() -> None:
    """MemoryDenyWriteExecute= of systemd, here by the kernel's own PR_SET_MDWE."""
    text = """
import asyncio, ctypes
from pathlib import Path
libc = ctypes.CDLL(None)
print(libc.prctl(65, *map(ctypes.c_ulong, (1, 0, 0, 0))))
from daemon.child import run_child
from daemon.process import protect_memory
protect_memory()
run = run_child(["/bin/true"], environment={}, directory=Path("/"), seconds=20, idle=True)
print(asyncio.run(run).ok)
"""
    refused, worked = (await daemon_says(text)).split()
    if refused != "0":
        pytest.skip("this kernel is older than PR_SET_MDWE")
    assert worked == "True"


async def test_s4_05_every_program_has_an_end(tmp_path: Path) -> None:
    """A program that only waits uses no processor time, and no other limit would end it."""
    began = time.monotonic()
    ended = await run(["/bin/sleep", "60"], tmp_path, seconds=0.5)
    assert ended.cut is Cut.TIME
    assert 0.5 <= time.monotonic() - began < 4


async def test_s4_05_the_time_ends_the_whole_group(tmp_path: Path) -> None:
    """Pipelines do not stay behind half."""
    sleeper = " ".join(program(tmp_path, "time.sleep(50)"))
    argv = ["/bin/sh", "-c", f"{sleeper} | {sleeper} & {sleeper} | {sleeper}"]
    running = asyncio.create_task(run(argv, tmp_path, seconds=2))
    # Four, and the shells, on whose command lines the names stand too.
    await until(lambda: len(survivors(tmp_path)) >= 5)
    assert (await running).cut is Cut.TIME
    assert not survivors(tmp_path)


async def test_s4_05_out_of_memory_the_machine_takes_the_program_first(tmp_path: Path) -> None:
    """Not the daemon, which holds what nobody else knows."""
    ended = await run(program(tmp_path, "print(open('/proc/self/oom_score_adj').read())"), tmp_path)
    assert ended.output.split() == [b"1000"]
