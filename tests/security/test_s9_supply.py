"""S9, the supply chain: what is installed is what was tested, and what is run is what is installed.

Rule: commands are taken from the Makefile and the README as they stand there, and tried offline.
"""

import ast
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from daemon.config import environment
from tests.stories.harness import run_verb

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
HASHED: Final = {"--require-hashes", "--only-binary :all:"}
OURS: Final = {"--no-deps", "--no-build-isolation"}
SOURCES: Final = ("daemon", "pyproject.toml", "README.md", "LICENSE")
EPOCH: Final = "1700000000"


def run(*words: str, cwd: Path = ROOT, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(  # noqa: S603 - fixed words
        words,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), **environ},
    )


def recipe(*targets: str) -> str:
    """Return what make would run for a target."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs the package make")
    said = run(make, "--dry-run", "--always-make", f"PYTHON={sys.executable}", *targets)
    assert said.returncode == 0, said.stderr
    return said.stdout.replace("\\\n", " ")


def installs(text: str) -> list[str]:
    """Return what every call of pip in a text is given."""
    return re.findall(r"\bpip install (.+)", re.sub(r" +", " ", text))


@pytest.mark.parametrize(
    "text",
    [README, recipe(".venv/installed"), recipe(".venv-3.12/installed"), recipe("audit")],
    ids=["README", "make test", "make test-3.12", "make audit"],
)
def test_s9_01_only_locked_wheels_are_installed(text: str) -> None:
    """Every call of pip takes hashed wheels of a lock, or this very checkout and nothing else."""
    calls = installs(text)
    assert calls
    for call in calls:
        if "requirement" in call or ".lock" in call:
            assert all(word in call for word in HASHED), call
            (lock,) = re.findall(r"-r (\S+)", call)
            assert (ROOT / lock).is_file()
        else:
            assert all(word in call for word in OURS), call
            assert re.search(r" \.$", call), call


def build(source: Path, place: Path, kind: str = "wheel") -> Path:
    """Build the project as a release does, and return the file."""
    command = (sys.executable, "-I", "-m", "hatchling", "build", "--target", kind)
    said = run(*command, "--directory", str(place), cwd=source, SOURCE_DATE_EPOCH=EPOCH)
    assert said.returncode == 0, said.stderr
    (made,) = place.iterdir()
    return made


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_s9_01_pip_takes_nothing_else_with_these_options(tmp_path: Path) -> None:
    """A file with another hash is refused, and so is one that would run a build script."""
    call = next(call for call in installs(README) if " -r " in call)
    options = call.partition(" -r ")[0].split()
    wheels, sources = tmp_path / "wheels", tmp_path / "sources"
    wheel, source = build(ROOT, wheels), build(ROOT, sources, "sdist")

    def install(place: Path, known: str) -> "subprocess.CompletedProcess[str]":
        lock = tmp_path / "lock"
        lock.write_text(f"suno-videod=={wheel.name.split('-')[1]} --hash=sha256:{known}\n")
        pip = (sys.executable, "-m", "pip", "install", "--no-index", "--no-deps")
        places = ("--find-links", str(place), "--target", str(tmp_path / "installed"))
        return run(*pip, *places, *options, "-r", str(lock))

    tampered = install(wheels, "0" * 64)
    assert tampered.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in tampered.stderr
    built = install(sources, digest(source))
    assert built.returncode == 1
    assert "No matching distribution found" in built.stderr
    good = install(wheels, digest(wheel))
    assert good.returncode == 0, good.stderr


def test_s9_01_the_checkout_is_installed_without_an_index(tmp_path: Path) -> None:
    """The second line of the installation builds with what the first one installed."""
    (call,) = (call for call in installs(README) if " -r " not in call)
    copy = copied(tmp_path / "checkout")
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--no-index", "--target", str(target))
    said = run(*pip, *call.split()[:-1], str(copy))
    assert said.returncode == 0, said.stderr
    assert (target / "daemon" / "service.py").is_file()


def test_s9_02_the_audit_cannot_succeed_by_accident() -> None:
    """It is strict, asks about every lock, ends with its own code, and no test waits for it."""
    lines = [line for line in recipe("audit").splitlines() if "bin/pip-audit" in line]
    for line in lines:
        assert {"--strict", "--require-hashes", "--disable-pip"} <= set(line.split())
        assert not re.search(r"[|;&]|^-", line), line
    locks = ["requirements.lock", "requirements-extras.lock", "tests/requirements.lock"]
    assert [line.split()[-1] for line in lines] == locks
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # A dry run does not show the sign that lets make go on after a failure.
    assert not re.search(r"(?m)^\t[@+]*-(?!-)|^\.IGNORE", makefile)
    for target, needed in re.findall(r"(?m)^([a-z%-]+):(?!=)(.*)$", makefile):
        assert "audit" not in needed or target == "audit"
    assert "pip-audit" not in recipe("test")


def copied(place: Path) -> Path:
    """Copy what the wheel is made of, to a folder where every file is new."""
    place.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, place / name, copy_function=shutil.copy, ignore=left_out)
        else:
            shutil.copy(source, place / name)
    return place


def test_s9_04_the_same_source_gives_the_same_wheel(tmp_path: Path) -> None:
    """Neither place nor time nor modes of the files are in it."""
    one, other = copied(tmp_path / "one"), copied(tmp_path / "an" / "other place")
    for path in other.rglob("*.py"):
        path.chmod(0o600)
    wheels = [build(source, source.parent / f"{source.name}-wheel") for source in (one, other)]
    assert digest(wheels[0]) == digest(wheels[1])
    (other / "daemon" / "bell.py").write_text("# another source\n")
    assert digest(build(other, tmp_path / "third")) != digest(wheels[0])


def test_s9_04_nothing_around_the_program_is_run(tmp_path: Path) -> None:
    """As the unit starts it, neither the current folder nor PYTHONPATH can put code in front."""
    trap = tmp_path / "daemon"
    trap.mkdir()
    (trap / "__init__.py").write_text("raise SystemExit('trapped')\n")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('trapped')\n")
    unit = (ROOT / "systemd" / "suno-videod.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"(?m)^ExecStart=\S+ (.+) -c ", unit)

    def say(*words: str) -> str:
        ended = run(sys.executable, *words, "--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
        return ended.stdout + ended.stderr

    assert say(*command.split()).startswith("suno-videod, version ")
    assert "trapped" in say("-m", "daemon")


def test_s9_05_toml_is_the_only_form_of_configuration() -> None:
    """Nothing that is read can be code, and the reader of TOML is the standard library's."""
    others = {"yaml", "toml", "tomli", "tomlkit", "configparser", "pickle", "marshal", "shelve"}
    readers = set()
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & others, path
            if "tomllib" in names:
                readers.add(path.parent.name)
    assert readers == {"config"}


def test_s9_05_secrets_come_from_elsewhere_and_are_never_shown(tmp_path: Path) -> None:
    """A file, a credential or the file of all keys: `config show` and `check` mask each of them."""
    inline, beside, credential = "inline-secret-value", "secret-of-a-file", "secret-of-systemd"
    config = tmp_path / "config.toml"
    config.write_text(
        f'state_dir = "state"\n[callback]\ntokens = ["{inline}"]\nhmac_keys_file = "hmac_keys"\n'
    )
    for path, text in (
        (tmp_path / "hmac_keys", beside),
        (tmp_path / "provider.api_key", credential),
    ):
        path.write_text(f"{text}\n")
        path.chmod(0o600)
    config.chmod(0o600)
    for verb in ("show", "check"):
        ended = run_verb("-c", str(config), "config", verb, CREDENTIALS_DIRECTORY=str(tmp_path))
        assert ended.code == 0, ended.errors
        for secret in (inline, beside, credential):
            assert secret not in ended.output + ended.errors
    shown = run_verb(
        "-c", str(config), "config", "show", CREDENTIALS_DIRECTORY=str(tmp_path)
    ).output
    for key in ("callback.tokens", "callback.hmac_keys", "provider.api_key"):
        assert re.search(rf'(?m)^{re.escape(key)} .*"\*\*\*"', shown), shown


def test_s9_05_an_unknown_key_is_a_mistake(tmp_path: Path) -> None:
    """A setting that was mistyped is never left out in silence, in the file or the environment."""
    config = tmp_path / "config.toml"
    config.write_text('state_dir = "state"\n[provider]\napi_kye = "x"\n')
    config.chmod(0o600)
    ended = run_verb("-c", str(config), "config", "check", SUNO_VIDEOD_CALLBACK__TOKNES="[]")
    assert ended.code == 3
    assert "did you mean provider.api_key" in ended.errors or "api_key" in ended.errors
    assert "SUNO_VIDEOD_CALLBACK__TOKENS" in ended.errors
