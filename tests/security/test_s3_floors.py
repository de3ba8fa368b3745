"""S3-01, the versions: no start with libraries that are too old to face strangers.

Rule: an old library is metadata that Python really finds, or a module that really fails.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from daemon.floors import FLOORS, check_floors, explain
from tests.stories.harness import configure, run_verb
from tests.stories.stage import Stage

ROOT = Path(__file__).parents[2]
GOOD = {"aiohttp": "3.14.5", "multidict": "6.9.1", "idna": "3.15"}


def test_s3_01_the_floors_are_those_of_the_package() -> None:
    """What pip is told to install is what the start asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {Requirement(one).name: Requirement(one).specifier for one in project["dependencies"]}
    for name, floor in FLOORS.items():
        assert asked[name] == Requirement(f"{name}{floor.wanted}").specifier


@pytest.mark.parametrize(
    ("name", "found", "allowed"),
    [
        ("aiohttp", "3.14.4", True),
        ("aiohttp", "3.14.10", True),
        ("aiohttp", "3.15", True),
        ("aiohttp", "3.15.0rc1", True),
        ("aiohttp", "3.14.4.post1", True),
        ("aiohttp", "3.14.4+local", True),
        ("aiohttp", "3.14.3", False),
        ("aiohttp", "3.14.4rc1", False),
        ("aiohttp", "3.14.4.dev0", False),
        ("aiohttp", "3.9.9", False),
        ("aiohttp", "3.14", False),
        ("aiohttp", "4", False),
        ("aiohttp", "4.0.0", False),
        ("aiohttp", "unknown", False),
        ("aiohttp", "", False),
        ("idna", "3.15", True),
        ("idna", "3.15.0", True),
        ("idna", "3.9", False),
        ("multidict", "6.9.0", False),
        ("multidict", "10.0", True),
    ],
)
def test_s3_01_versions_are_compared_by_their_numbers(
    name: str, found: str, *, allowed: bool
) -> None:
    """3.9 is older than 3.15, a candidate of the floor is older than the floor."""
    wrong = check_floors(lambda asked: {**GOOD, name: found}[asked])
    assert (wrong == []) == allowed
    assert all(f"{name} {found} is installed" in line for line in wrong)


def test_s3_01_all_that_is_wrong_is_said_at_once() -> None:
    """One start is enough to learn what to install, and why."""
    told = explain(check_floors({"aiohttp": "3.14.3", "multidict": None, "idna": "3.10"}.get))
    assert "aiohttp 3.14.3 is installed, >=3.14.4,<4 is needed: older ones" in told
    assert "multidict is not installed, multidict>=6.9.1 is needed" in told
    assert "idna 3.10 is installed, >=3.15 is needed: CVE-2026-45409" in told
    assert f"{sys.executable} -m pip install --only-binary :all: --require-hashes -r" in told
    assert re.search('"aiohttp>=3.14.4,<4" "multidict>=6.9.1" "idna>=3.15"$', told)


def refused(folder: Path, variable: str, value: str) -> str:
    """Start the daemon, which must refuse, and return what it said."""
    config = folder / "config.toml"
    config.write_text(configure("http://127.0.0.1:9"))
    config.chmod(0o600)
    ended = run_verb("-c", str(config), "serve", **{variable: value})  # type: ignore[arg-type]
    assert (ended.code, ended.output) == (1, ""), ended.errors
    assert "Traceback" not in ended.errors
    assert not (folder / "state").exists()
    return ended.errors


def test_s3_01_no_start_without_the_compiled_parser(tmp_path: Path) -> None:
    """The parser in Python had holes of its own, and a variable is enough to get it."""
    told = refused(tmp_path, "AIOHTTP_NO_EXTENSIONS", "1")
    assert "without its compiled HTTP parser" in told
    assert "unset AIOHTTP_NO_EXTENSIONS" in told


@pytest.mark.parametrize(
    ("name", "found"), [("aiohttp", "3.13.5"), ("multidict", "6.9.0"), ("idna", "3.14")]
)
def test_s3_01_no_start_with_an_old_library(tmp_path: Path, name: str, found: str) -> None:
    """The process looks at what Python would import, not at what was once locked."""
    folder = tmp_path / "elsewhere" / f"{name}-{found}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {found}\n")
    told = refused(tmp_path, "PYTHONPATH", str(folder.parent))
    assert f"{name} {found} is installed, {FLOORS[name].wanted} is needed" in told


def test_s3_01_an_aiohttp_that_cannot_even_be_imported_is_named(tmp_path: Path) -> None:
    """The versions are looked at before anything of aiohttp is imported."""
    place = tmp_path / "elsewhere"
    (place / "aiohttp").mkdir(parents=True)
    (place / "aiohttp" / "__init__.py").write_text("raise ImportError('ancient')\n")
    (place / "aiohttp-3.8.4.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: aiohttp\nVersion: 3.8.4\n"
    (place / "aiohttp-3.8.4.dist-info" / "METADATA").write_text(metadata)
    assert "aiohttp 3.8.4 is installed" in refused(tmp_path, "PYTHONPATH", str(place))


async def test_s3_01_what_is_locked_starts(stage: Stage) -> None:
    """The check is no obstacle to what was tested."""
    assert check_floors() == []
    daemon = await stage.daemon(None)
    assert daemon.ready
