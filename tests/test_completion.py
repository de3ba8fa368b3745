"""What the tab key puts in: in bash, zsh and fish, with a daemon and without one."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli.completion import EVENTS
from daemon.config import environment
from tests.stories.broadcasting import Station, make_task, station

PROGRAM = Path(sys.executable).with_name("suno-videod")
IDS = ("abc-1", "abd-2", "zzz-3")


@pytest.fixture
def air(tmp_path: Path) -> Iterator[Station]:
    """Run a daemon's admin listener that knows three tasks."""
    with station(tmp_path) as found:
        for name in IDS:
            found.put(make_task(name, label="a b\x1b[31m\n"))
        yield found


def shell_environment(folder: Path) -> dict[str, str]:
    """Return the environment of somebody whose configuration is in `folder`."""
    return {
        **environment(),
        "PATH": f"{PROGRAM.parent}:{environment()['PATH']}",
        "SUNO_VIDEOD_CONFIG": str(folder / "config.toml"),
        "HOME": str(folder),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


def complete(folder: Path, *words: str) -> list[str]:
    """Return what is offered for the last word."""
    known = {
        **shell_environment(folder),
        "_SUNO_VIDEOD_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["suno-videod", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(  # noqa: S603 - our own program
        [PROGRAM], env=known, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_ids_states_events_and_levels_are_offered(air: Station) -> None:
    """Each where it belongs, by what was typed of it, and no id twice."""
    folder = air.socket.parent
    for verb in ("show", "retry", "forget", "watch"):
        assert complete(folder, verb, "ab") == ["abc-1", "abd-2"], verb
    assert complete(folder, "retry", "abc-1", "ab") == ["abd-2"]
    assert complete(folder, "logs", "--task", "z") == ["zzz-3"]
    assert complete(folder, "list", "--state", "f") == ["failed"]
    assert complete(folder, "list", "--state", "q") == ["quarantined"]
    assert complete(folder, "logs", "--level", "w") == ["warning"]
    assert complete(folder, "logs", "--event", "gate.") == [
        *("gate.*", "gate.closed", "gate.opened")
    ]
    assert "watch" in complete(folder, "w")
    config = str(folder / "config.toml")
    assert complete(Path("/"), "-c", config, "show", "z") == ["zzz-3"]


@pytest.mark.parametrize("trouble", ["nobody", "silent", "stranger", "mistake"])
def test_trouble_is_silence_and_soon(tmp_path: Path, trouble: str) -> None:
    """No daemon, one that hangs, somebody else, a broken configuration: nothing, within 0.5 s."""
    place = tmp_path / "admin.sock"
    (tmp_path / "config.toml").write_text(f'[admin]\nsocket = "{place}"\n')
    with socket.socket(socket.AF_UNIX) as listener:
        if trouble in {"silent", "stranger"}:
            listener.bind(str(place))
            listener.listen()
        if trouble == "mistake":
            (tmp_path / "config.toml").write_text("[nonsense\n")
        drip = None
        if trouble == "stranger":
            # It says more and more, and never enough.
            drip = subprocess.Popen(  # noqa: S603 - our own Python
                [sys.executable, "-c", DRIP], stdin=listener.fileno()
            )
        try:
            offered = complete(tmp_path, "show", "ab")
            taken = ask_directly(tmp_path)
        finally:
            if drip is not None:
                drip.kill()
                drip.wait()
    assert offered == []
    assert taken < 0.5


def ask_directly(folder: Path) -> float:
    """Return how long the question takes, without the start of a Python."""
    done = subprocess.run(  # noqa: S603 - our own Python
        [sys.executable, "-c", DIRECTLY, folder / "config.toml"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return float(done.stdout)


DIRECTLY = """
import sys, time, click, pathlib
from daemon.cli import completion, group
context = click.Context(group.cli)
context.params["flag"] = pathlib.Path(sys.argv[1])
begin = time.monotonic()
assert completion.complete_ids(context, click.Argument(["x"]), "") == []
print(time.monotonic() - begin)
"""
DRIP = """
import socket, time
visitor, _ = socket.socket(fileno=0).accept()
visitor.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9999999\\r\\n\\r\\n")
while True:
    visitor.sendall(b" ")
    time.sleep(0.05)
"""


def need(program: str, reason: str) -> str:
    """Return a program's path, or skip."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(reason)
    return found


def test_bash_completes_an_id(air: Station) -> None:
    """With the package bash-completion as with the bare shell: what readline would put in."""
    bash = need("bash", "needs the package bash")
    if not Path("/usr/share/bash-completion/bash_completion").exists():
        pytest.skip("needs the package bash-completion")
    for start in ("", "source /usr/share/bash-completion/bash_completion; "):
        script = f"""{start}eval "$(_SUNO_VIDEOD_COMPLETE=bash_source suno-videod)"
        complete -p suno-videod
        COMP_WORDS=(suno-videod show ab) COMP_CWORD=2
        _suno_videod_completion suno-videod
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(  # noqa: S603 - a shell
            [bash, "--norc", "-c", script],
            env=shell_environment(air.socket.parent),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.stderr == ""
        assert done.stdout.splitlines()[1:] == ["abc-1", "abd-2"]


def test_fish_completes_an_id(air: Station) -> None:
    """With what each task is, beside its id."""
    fish = need("fish", "needs the package fish")
    script = (
        "_SUNO_VIDEOD_COMPLETE=fish_source suno-videod | source; complete -C 'suno-videod show ab'"
    )
    done = subprocess.run(  # noqa: S603 - a shell
        [fish, "--no-config", "-c", script],
        env=shell_environment(air.socket.parent),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["abc-1", "abd-2"]
    assert "expected" in done.stdout
    assert "\x1b" not in done.stdout


def test_zsh_completes_an_id(air: Station) -> None:
    """On a terminal, with the tab key."""
    zsh = need("zsh", "needs the package zsh")
    known = {**shell_environment(air.socket.parent), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - a shell
        [zsh, "-f", "-i"],
        env=known,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""

    def until(pattern: str) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while not re.search(pattern, seen):
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65_536).decode(errors="replace")

    try:
        load = (
            "autoload -U compinit && compinit -D -u; "
            'eval "$(_SUNO_VIDEOD_COMPLETE=zsh_source suno-videod)"; echo rea""dy'
        )
        os.write(ours, load.encode() + b"\n")
        until("\nready|\rready")
        os.write(ours, b"suno-videod show zz\t")
        until("zzz-3")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)


def test_the_help_says_how(tmp_path: Path) -> None:
    """`--help` ends with the line for each shell, and each is what that shell understands."""
    done = subprocess.run(  # noqa: S603 - our own program
        [PROGRAM, "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    told = done.stdout.partition("Shell completion")[2]
    for shell in ("bash", "zsh", "fish"):
        assert f"_SUNO_VIDEOD_COMPLETE={shell}_source suno-videod" in told
        known = {**shell_environment(tmp_path), "_SUNO_VIDEOD_COMPLETE": f"{shell}_source"}
        script = subprocess.run(  # noqa: S603 - our own program
            [PROGRAM], env=known, capture_output=True, text=True, check=True, timeout=30
        )
        assert f"{shell}_complete" in script.stdout


def test_no_event_is_offered_twice() -> None:
    """The list is in order; that it is whole is tested with the table of the README."""
    assert list(EVENTS) == sorted(set(EVENTS))
