"""What stands around the program holds together: lock files, unit, package, set-up, changelog."""

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from daemon import __version__, listeners
from daemon.cli.group import Exit, cli
from daemon.config import load
from daemon.config.endpoints import format_endpoint
from daemon.simulator.faults import SCENARIOS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNIT = ROOT / "systemd" / "suno-videod.service"
SOCKET = UNIT.with_suffix(".socket")
DROP_IN = UNIT.with_suffix(".service.d") / "10-addresses.conf"
LOCKS = ("requirements.lock", "tests/requirements.lock")
EXTRAS = "requirements-extras.lock"


def locked(name: str) -> dict[str, str]:
    """Return the pinned versions of a lock file, whatever the platform."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


def allows(requirement: str, pins: dict[str, str]) -> bool:
    """Tell whether a lock file holds a version that a requirement allows."""
    wanted = Requirement(requirement)
    version = pins.get(canonicalize_name(wanted.name))
    return version is not None and wanted.specifier.contains(version)


@pytest.mark.parametrize("name", [*LOCKS, EXTRAS, "tests/audit.lock"])
def test_a_lock_pins_and_hashes_everything_and_names_no_place(name: str) -> None:
    """What is installed is what was tested, wherever it is fetched from."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.split(
        r"^(?=[A-Za-z])", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE
    )
    for entry in filter(None, entries):
        assert re.match(r"[a-z0-9-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert not re.search(r"^ *--?(i|f|index|extra|find|trusted)\b", text, re.MULTILINE)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """A dependency that was added or raised is locked too; the server gets no test tool.

    What builds the project is on the server: it is installed from its source.
    """
    runtime, everything = (locked(name) for name in LOCKS)
    groups = PROJECT["dependency-groups"]
    assert groups["build"] == PROJECT["build-system"]["requires"]
    for requirement in [*PROJECT["project"]["dependencies"], *groups["build"]]:
        assert allows(requirement, runtime), requirement
    for requirement in [*groups["test"], *groups["lint"]]:
        assert allows(requirement, everything), requirement
        assert Requirement(requirement).name not in runtime
    for requirement in groups["audit"]:
        assert allows(requirement, locked("tests/audit.lock")), requirement
    assert runtime.items() <= everything.items()


def unit(path: Path = UNIT) -> configparser.ConfigParser:
    """Return a unit; of a repeated key only the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path, encoding="utf-8")
    return parser


def verify(folder: Path, *units: Path, mistake: bool = False) -> subprocess.CompletedProcess[str]:
    """Let systemd read copies of units, whose programs are replaced by one that is here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs the package systemd")
    copies = [folder / path.relative_to(UNIT.parent) for path in units]
    for path, copy in zip(units, copies, strict=True):
        text = re.sub(
            r"(?m)(?<=^Exec)(Start|Reload)=\S+", rf"\1={sys.executable}", path.read_text()
        )
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text)
    if mistake:
        copies[-1].write_text(f"{copies[-1].read_text()}NoSuchKey=1\n")
    # A drop-in is found beside its unit.
    named = [str(copy) for copy in copies if copy.parent == folder]
    return subprocess.run(  # noqa: S603 - reads units
        [analyze, "verify", *named], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "units", [(UNIT,), (UNIT, SOCKET), (UNIT, DROP_IN), (UNIT, SOCKET, DROP_IN)]
)
def test_systemd_understands_the_units(units: tuple[Path, ...], tmp_path: Path) -> None:
    """No unknown key and no misplaced one, the service alone or with its socket and drop-in."""
    said = verify(tmp_path, *units)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert "NoSuchKey" in verify(tmp_path, *units, mistake=True).stderr


def test_the_unit_fits_the_program() -> None:
    """It calls a verb that is there, gives up only on its word, and gives it time to stop."""
    service = unit()["Service"]
    command = service["ExecStart"].split()
    assert command[:4] == ["/opt/suno-videod/bin/python", "-I", "-m", "daemon"]
    assert command[-1] in cli.commands
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == str(Exit.CONFIGURATION)
    assert int(service["TimeoutStopSec"]) > 2 * listeners.DRAIN_SECONDS
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_unit_gives_the_program_what_it_needs() -> None:
    """The state folder, the socket's folder, the notifications, and no more."""
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "User": "suno-videod",
        "StateDirectory": "suno-videod",
        "StateDirectoryMode": "0750",
        "RuntimeDirectory": "suno-videod",
        "WatchdogSec": "90",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
        "MemoryDenyWriteExecute": "yes",
        "PrivateMounts": "yes",
        "NoExecPaths": "-/var/lib/suno-videod",
        # A child that is killed, for its memory or at the end, says nothing about the daemon.
        "OOMPolicy": "continue",
        "KillMode": "mixed",
    }
    service = unit()["Service"]
    assert {key: service[key] for key in expected} == expected


def test_the_socket_fits_the_program() -> None:
    """Who enables it changes no address, and callbacks queue as they do without it."""
    section = unit(SOCKET)["Socket"]
    assert section["ListenStream"] == format_endpoint(load(None, {}).config.callback.listen)
    assert int(section["Backlog"]) == listeners.BACKLOG
    assert section["FileDescriptorName"] == "callback"
    assert section["SocketGroup"] == unit()["Service"]["Group"]
    assert section["TriggerLimitIntervalSec"] == "0"
    assert "Accept" not in section
    assert unit(SOCKET)["Install"]["WantedBy"] == "sockets.target"


def test_the_wheel_holds_the_program_and_nothing_else(tmp_path: Path) -> None:
    """An installation can play the demo, whose clips are no Python, and brings no tests along."""
    subprocess.run(  # noqa: S603 - fixed words
        [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "wheel",
            "--directory",
            str(tmp_path),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob(f"suno_videod-{__version__}-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "daemon").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {
        f"daemon/units/{path.relative_to(ROOT / 'systemd').as_posix()}"
        for path in (ROOT / "systemd").rglob("*")
        if path.is_file()
    }
    assert {name for name in names if ".dist-info/" not in name} == here
    assert any(name.endswith(".mp4") for name in here)


def test_the_version_has_its_entry() -> None:
    """Nothing is released without a word about it, and the figure in it is true."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert heads[1].startswith(__version__)
    assert f"{len(SCENARIOS)} scenarios" in changelog


def test_an_old_python_is_told_so_in_one_sentence() -> None:
    """Who has no Python 3.11 learns it at once, and what to do."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs the package make")
    said = subprocess.run(  # noqa: S603 - fixed words
        [make, "--always-make", "PYTHON=false", "test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr.startswith("suno-videod needs Python 3.11 or newer, and false is not:")


def test_every_system_package_says_who_needs_it() -> None:
    """`make tools` installs nothing that no test asks for by name."""
    lines = (ROOT / "tests" / "system-packages.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.partition("#") for line in lines if not line.startswith("#")]
    for package, _, comment in entries:
        tests = re.findall(r"tests/\S+\.py", comment)
        assert tests
        for test in tests:
            text = (ROOT / test).read_text(encoding="utf-8")
            assert f"needs the package {package.strip()}" in text
