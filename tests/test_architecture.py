"""The shape of the code is a fact: imports point one way, and every fence stands."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DAEMON = ROOT / "daemon"
LINES_LIMIT = 450

LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "__init__",
        "rules",
        "config",
        "digest flow interim right_of_way",
        "traffic",
        "ballast bell child floors folder launcher logs metrics outbound process pulse",
        "herald strikes systemd wal",
        "broadcast connections disk",
        "listeners",
        "gates",
        "hooks lock news statements",
        "schema",
        "selections",
        "balances due_times intents outbox overview quarantine restoration sightings stock tally",
        "inspection",
        "commits database",
        "backup store token",
        "clock hosts overdue partial provider rounds soundness turnstile views watchdog",
        "wording",
        "attempt diagnosis_views progress targets",
        "announcer callback queue poller patience submitter courier download gateway premises",
        "asking diagnosis heartbeat restore",
        "office stream",
        "readings routes",
        "openapi",
        "admin dashboard settings",
        "simulator",
        "fittings",
        "assembly",
        "service",
        "client display installation",
        "bars standing storyline tail",
        "board",
        "live",
        "demo simulation",
        "cli",
        "__main__",
    )
)
"""The modules and packages of `daemon`, the lowest first: each imports only what stands lower."""

KNOWN_ALONE: Mapping[str, frozenset[str]] = {
    "rules": frozenset(),
    "simulator": frozenset({"rules"}),
    "client": frozenset({"config"}),
    "launcher": frozenset(),
}
"""What knows less of `daemon` than its level allows, and all that it knows."""

STANDARD_ALONE = ("rules", "client", "launcher", "systemd")
"""What needs no library: to stay pure, or to start fast."""

OUTSIDE_WORLD = frozenset(
    {
        *("asyncio", "logging", "os", "pathlib", "random", "secrets", "shutil", "socket"),
        *("subprocess", "tempfile", "threading", "time"),
    }
)
"""Where the standard library touches a clock, luck, a disk or a network."""

FENCES: Mapping[str, frozenset[str]] = {
    "aiosqlite": frozenset(
        f"daemon/{name}.py" for name in ("store", "commits", "database", "schema")
    ),
    "sqlite3": frozenset(
        f"daemon/{name}.py"
        for name in ("store", "commits", "database", "inspection", "backup", "soundness")
    ),
    "aiofiles": frozenset({"daemon/partial.py"}),
    "aiolimiter": frozenset({"daemon/provider.py"}),
}
"""Libraries that one place answers for, and that place."""


def modules() -> list[Path]:
    """Return every module of the program."""
    return sorted(DAEMON.rglob("*.py"))


def sources() -> list[Path]:
    """Return every Python file of the project."""
    return modules() + sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    """Return a file's path as people write it."""
    return path.relative_to(ROOT).as_posix()


def part(path: Path) -> str:
    """Return the module or package of `daemon` that a file belongs to."""
    return path.relative_to(DAEMON).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"), name(path))


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever the import stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: an import that is not absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    """Return the other parts of `daemon` that a file imports."""
    found = set()
    for imported in imports(path):
        package, second = f"{imported}.__init__".split(".")[:2]
        if package == "daemon":
            inside = (DAEMON / second).is_dir() or (DAEMON / f"{second}.py").is_file()
            found.add(second if inside else "__init__")
    return found - {part(path)}


def level(which: str) -> int:
    """Return how high a part stands."""
    return next(number for number, names in enumerate(LEVELS) if which in names)


def test_every_part_has_one_level() -> None:
    """Nothing stands outside the order, and the order names nothing that is gone."""
    listed = sorted(which for names in LEVELS for which in names)
    assert listed == sorted({part(path) for path in modules()})


def test_imports_point_one_way() -> None:
    """A module knows only what stands lower: no station another one, nobody the command line."""
    wrong = {
        f"{name(path)} imports {other}"
        for path in modules()
        for other in parts_imported(path)
        if level(other) >= level(part(path))
    }
    assert not wrong


@pytest.mark.parametrize("which", KNOWN_ALONE)
def test_some_know_even_less(which: str) -> None:
    """Rules know rules, and the simulated provider nothing of the daemon that it is to test."""
    known = set[str]().union(*(parts_imported(path) for path in modules() if part(path) == which))
    assert known == KNOWN_ALONE[which]


def libraries(which: str) -> set[str]:
    """Return the libraries, the standard one's modules included, that a part imports."""
    return {
        imported.partition(".")[0]
        for path in modules()
        if part(path) == which
        for imported in imports(path)
    }


@pytest.mark.parametrize("which", STANDARD_ALONE)
def test_some_need_no_library(which: str) -> None:
    """What is pure, or has to start fast, gets along with the standard library."""
    assert libraries(which) <= sys.stdlib_module_names | {"daemon"}


def test_rules_touch_nothing() -> None:
    """A rule has its time and its luck from its caller, and leaves files and sockets alone."""
    assert not libraries("rules") & OUTSIDE_WORLD


def test_no_circle_inside_a_package() -> None:
    """Modules of one package import one another one way too."""
    paths = {name(path).removesuffix(".py").replace("/", "."): path for path in modules()}
    waiting = {
        module: {
            other
            for imported in imports(path)
            for other in (imported, imported.rpartition(".")[0])
            if other in paths
        }
        for module, path in paths.items()
    }
    while free := {module for module, needed in waiting.items() if not needed}:
        waiting = {
            module: needed - free for module, needed in waiting.items() if module not in free
        }
    assert not waiting


@pytest.mark.parametrize("library", FENCES)
def test_one_place_answers_for_a_library(library: str) -> None:
    """SQL, threads for files and the pace of calls are each kept in one place."""
    users = {
        name(path)
        for path in modules()
        if any(imported.partition(".")[0] == library for imported in imports(path))
    }
    assert users
    assert users <= FENCES[library]


def test_sessions_are_built_at_the_only_door_out() -> None:
    """Whoever wants to leave goes through the address guard."""
    builders = {
        name(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ClientSession")
    }
    assert builders == {"daemon/outbound.py"}


def test_the_environment_is_read_in_one_place() -> None:
    """A setting that is not in the configuration cannot creep in."""
    pattern = re.compile(r"\bos\.(environ|getenv)\b|from os import .*\b(environ|getenv)\b")
    readers = {name(path) for path in modules() if pattern.search(ast.unparse(tree(path)))}
    assert readers == {"daemon/config/loader.py"}


def test_every_file_says_its_duty() -> None:
    """Who opens a file learns first what it is for."""
    assert not [name(path) for path in sources() if not ast.get_docstring(tree(path))]


def test_every_file_is_small() -> None:
    """A file that outgrew one idea is two files."""
    lines = {name(path): path.read_text(encoding="utf-8").count("\n") for path in sources()}
    assert not {path: count for path, count in lines.items() if count > LINES_LIMIT}


def test_nothing_is_left_undone() -> None:
    """Work that is still to be done stands in an issue and not in a comment."""
    # The words are cut so that this file does not hold them itself.
    note = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert not [name(path) for path in sources() if note.search(path.read_text(encoding="utf-8"))]


def test_nothing_is_mocked() -> None:
    """The simulator, a real ledger and a settable clock stand where a mock would."""
    mocked = re.compile(r"unittest|mock", re.IGNORECASE)
    assert not [
        (name(path), imported)
        for path in sources()
        for imported in imports(path)
        if mocked.search(imported)
    ]
