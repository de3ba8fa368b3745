"""A first configuration is written whole or not at all, over nothing, and works as it stands."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

import pytest

from daemon.cli.group import cli
from daemon.config import ConfigError, environment, load
from daemon.config.writing import read_template, write_new
from tests.stations.quota import file_limit
from tests.stories.harness import Ended, ask, launch, read_lines, run_verb, started

ROOT = Path(__file__).parent.parent
EXAMPLE = read_template("example")
HOME = {"HOME": "/home/somebody"}
WAIT_SECONDS = 20


def init(folder: Path, *arguments: str, variable: str = "") -> Ended:
    """Write a configuration as somebody does who stands in `folder`."""
    command = [*arguments, "config", "init"]
    return run_verb(*command, cwd=folder, SUNO_VIDEOD_CONFIG=variable)


def next_steps(ended: Ended) -> list[list[str]]:
    """Return the commands that were printed, as a shell reads them."""
    lines = [line for line in ended.errors.splitlines() if line.startswith("  ")]
    return [shlex.split(line) for line in lines]


def test_a_new_owner_gets_every_key_explained(tmp_path: Path) -> None:
    """`config init` writes the example to ./config.toml, for its owner alone."""
    ended = init(tmp_path)
    assert (ended.code, ended.output) == (0, "config.toml\n")
    (path,) = tmp_path.iterdir()
    assert path.read_text(encoding="utf-8") == EXAMPLE
    assert path.stat().st_mode & 0o777 == 0o600
    assert next_steps(ended) == [
        ["suno-videod", "config", "check"],
        ["suno-videod", "serve"],
    ]


def test_the_file_goes_where_the_next_verb_looks(tmp_path: Path) -> None:
    """-c wins over $SUNO_VIDEOD_CONFIG; the steps that are printed work as they stand."""
    named, variable = tmp_path / "my first.toml", str(tmp_path / "variable.toml")
    by_variable = init(tmp_path, variable=variable)
    assert (by_variable.code, by_variable.output) == (0, f"{variable}\n")
    by_flag = init(tmp_path, "-c", str(named), variable=variable)
    assert (by_flag.code, by_flag.output) == (0, f"{named}\n")
    assert {path.name for path in tmp_path.iterdir()} == {named.name, "variable.toml"}
    for ended, path, extra in ((by_variable, variable, variable), (by_flag, named, "")):
        (program, *check), _ = next_steps(ended)
        assert program == "suno-videod"
        checked = run_verb(*check, cwd=tmp_path, SUNO_VIDEOD_CONFIG=extra)
        assert checked == (0, f"{path}: no mistakes\n", "")


@pytest.mark.parametrize("kind", ["file", "link that leads nowhere"])
def test_what_is_there_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    """A file, or a link, is never written over or followed: exit 7 and what to do instead."""
    path = tmp_path / "config.toml"
    if kind == "file":
        path.write_text('[log]\nlevel = "debug"\n')
    else:
        path.symlink_to(tmp_path / "elsewhere.toml")
    before = path.lstat()
    for more in ([], ["--simulator"]):
        ended = run_verb("-c", str(path), "config", "init", *more)
        assert (ended.code, ended.output) == (7, "")
        assert ended.errors.startswith(f"{path} is there already and stays as it is")
        assert f"suno-videod -c {path} config check" in ended.errors
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "{path} is a folder: name a file, such as {path}/config.toml"),
        ("no ne/x.toml", "{path}: there is no such folder; make it with mkdir -p '{path.parent}'"),
        ("f" * 256, "{path} cannot be written: File name too long"),
        # Nobody can make a file there, root included.
        ("/proc/config.toml", "{path} cannot be written: No such file or directory"),
    ],
)
def test_a_place_that_does_not_do_is_explained(tmp_path: Path, name: str, said: str) -> None:
    """What hinders is one sentence and exit 3, and nothing is left behind."""
    path = tmp_path / name
    ended = init(tmp_path, "-c", str(path))
    assert ended == (3, "", f"{said.format(path=path)}\n")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_named_where_nothing_can_be_written() -> None:
    """Who may not write the folder still hears the true reason."""
    with pytest.raises(FileExistsError):
        write_new(Path("/proc/version"), EXAMPLE)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A write that breaks off halfway leaves neither the file nor its draft."""
    with (
        file_limit(1_000),
        pytest.raises(ConfigError, match="cannot be written: File too large"),
    ):
        write_new(tmp_path / "config.toml", EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_of_several_at_once_one_wins(tmp_path: Path) -> None:
    """The name is taken once, with a whole file, and the others are told."""
    path = tmp_path / "config.toml"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runs = [launch("-c", str(path), "config", "init", **quiet) for _ in range(4)]
    assert sorted(run.wait(WAIT_SECONDS) for run in runs) == [0, 7, 7, 7]
    assert [found.name for found in tmp_path.iterdir()] == ["config.toml"]
    assert path.read_text(encoding="utf-8") == EXAMPLE


def test_the_trial_fits_the_simulator(tmp_path: Path) -> None:
    """The file has no mistake and no doubt, and asks where `simulate` listens by default."""
    path = tmp_path / "config.toml"
    ended = run_verb("-c", str(path), "config", "init", "--simulator")
    assert (ended.code, ended.output) == (0, f"{path}\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert run_verb("-c", str(path), "config", "check") == (0, f"{path}: no mistakes\n", "")
    config = load(path, HOME).config
    (listen,) = [
        option.default for option in cli.commands["simulate"].params if option.name == "listen"
    ]
    assert config.provider.base_url == f"http://{listen}"
    assert (config.state_dir, config.download.directory) == (
        tmp_path / "state",
        tmp_path / "videos",
    )


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def read_until(stream: IO[str] | None, word: str) -> None:
    """Read what a program says up to the line with `word`."""
    assert stream is not None
    assert any(word in line for line in stream)


def wait_for_task(path: Path) -> dict[str, Any]:
    """Wait until the only task of the ledger is done."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        listed = run_verb("-c", str(path), "list", "--json")
        assert listed.code == 0, listed
        tasks = read_lines(listed.output)
        if [task["state"] for task in tasks] == ["done"]:
            return tasks[0]
        assert time.monotonic() < until, tasks
        time.sleep(0.1)


def test_two_terminals_are_enough_to_see_a_video_arrive(tmp_path: Path) -> None:
    """`config init --simulator`, `simulate`, `serve`, one request: the video is on the disk."""
    path = tmp_path / "config.toml"
    ended = run_verb("-c", str(path), "config", "init", "--simulator")
    simulate, serve, callback_url, list_tasks = (step[1:] for step in next_steps(ended))
    assert (simulate, list_tasks) == (["simulate"], ["-c", str(path), "list"])
    # The two ports of the file may be taken on this machine.
    ports = {"8080": free_port(), "8090": free_port()}
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"\b80[89]0\b", lambda found: ports[found[0]], text), encoding="utf-8")
    config = load(path, HOME).config
    options = ["--listen", f"127.0.0.1:{ports['8090']}", "--render-seconds", "0.2"]
    with (
        started(*simulate, *options, "--file-size", "200K") as provider,
        started(*serve) as daemon,
    ):
        read_until(provider.stdout, "simulated provider on")
        read_until(daemon.stdout, "daemon.ready")
        printed = run_verb(*callback_url)
        assert (printed.code, printed.errors) == (0, "")
        url = printed.output.strip()
        assert url.startswith(f"http://127.0.0.1:{ports['8080']}/video-callback/")
        body = {"taskId": "song", "audioId": "any", "callBackUrl": url}
        headers = {"Authorization": "Bearer simulator"}
        place = f"{config.provider.base_url}/api/v1/mp4/generate"
        answer = asyncio.run(ask("POST", place, data=json.dumps(body).encode(), headers=headers))
        assert json.loads(answer.body)["code"] == 200
        task = wait_for_task(path)
    assert (task["callbacks"], task["source"]) == (1, "callback")
    video = Path(task["path"])
    assert video.parent == tmp_path / "videos"
    assert video.stat().st_size == task["size_bytes"] == 200 << 10


def test_what_was_changed_is_shown_with_its_origin(tmp_path: Path) -> None:
    """`config show` tells file, variable, secret file and credential apart, and no secret."""
    path = tmp_path / "config.toml"
    secrets = {"key": "secret-of-the-file", "admin.token": "secret-of-systemd"}
    write_new(
        path, read_template("simulator").replace('api_key = "simulator"', 'api_key_file = "key"')
    )
    for name, secret in secrets.items():
        write_new(tmp_path / name, f"{secret}\n")

    def show(*more: str) -> str:
        ended = run_verb(
            *("-c", str(path), "config", "show", *more),
            SUNO_VIDEOD_DISK__MIN_FREE="2G",
            SUNO_VIDEOD_CALLBACK__TOKENS='["secret-of-the-environment"]',
            CREDENTIALS_DIRECTORY=str(tmp_path),
        )
        assert (ended.code, ended.errors) == (0, "")
        return ended.output

    in_json, for_people = show("--json"), show()
    rows = {row["key"]: (row["value"], row["origin"]) for row in read_lines(in_json)}
    wanted = {
        "log.level": ('"info"', "default"),
        "poll.interval": ('"2s"', "file"),
        "disk.min_free": ('"2G"', "environment"),
        "callback.tokens": ('["***"]', "environment"),
        "provider.api_key": ('"***"', str(tmp_path / "key")),
        "admin.token": ('"***"', "credential"),
    }
    assert {key: rows[key] for key in wanted} == wanted
    for secret in (*secrets.values(), "secret-of-the-environment"):
        assert secret not in in_json + for_people


def build(source: Path, target: str, directory: Path) -> Path:
    """Build a wheel or an sdist without any network and return it."""
    subprocess.run(  # noqa: S603 - fixed words
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = directory.iterdir()
    return built


def test_an_installed_package_can_write_both(tmp_path: Path) -> None:
    """A wheel that was built from the sdist brings the files along; the example is in both."""
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "config.example.toml").read_text(encoding="utf-8") == EXAMPLE
    installed = tmp_path / "installed"
    shutil.unpack_archive(build(source, "wheel", tmp_path / "wheel"), installed, "zip")
    for template, more in (("example", []), ("simulator", ["--simulator"])):
        path = tmp_path / f"{template}.toml"
        # -P keeps the folder of the test out of the path, so that what runs is the wheel.
        script = (
            "from daemon import cli\n"
            f"assert cli.__file__.startswith({str(installed)!r})\n"
            "cli.main()"
        )
        subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-P", "-c", script, "-c", str(path), "config", "init", *more],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": str(installed)},
            check=True,
            capture_output=True,
        )
        assert path.read_text(encoding="utf-8") == (
            source / "daemon" / "config" / f"{template}.toml"
        ).read_text(encoding="utf-8")
