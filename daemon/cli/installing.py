"""`config init --system`: shows what the installation as a service would change, and changes it.

Rule: without `yes` nothing is touched. What is written stands under its name when it is whole, with
its owner and mode; what it replaces is kept beside it.
"""

import difflib
import os
import secrets
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from daemon.cli.group import Exit, Invocation
from daemon.config import load
from daemon.config.endpoints import parse_public_url
from daemon.config.sections import KEYS, Config
from daemon.config.sources import read_secret_file
from daemon.installation import (
    CONFIGURATION,
    CREDENTIAL_FOLDER,
    NAME,
    STANDARD_VENV,
    USERS,
    Facts,
    Planned,
    is_credential,
    is_hidden,
    plan,
    read_resolvers,
    resolve,
)

_RESOLVERS: Final = Path("/etc/resolv.conf")
_SYSTEMD_RUNS: Final = Path("/run/systemd/system")
_MASK: Final = Path("/dev/null")
_KEPT_SUFFIX: Final = ".old"
_NEXT: Final = """\
next: {edit}, then
  suno-videod config check
  systemctl enable --now suno-videod.socket suno-videod.service
  suno-videod doctor
  suno-videod callback-url"""

_NEXT_AFTER_UPDATE: Final = """\
next: what runs goes on with the old files and the old key until
  systemctl restart suno-videod
  suno-videod doctor"""


class _Refused(click.ClickException):
    exit_code = Exit.REFUSED


@dataclass(frozen=True, slots=True)
class _Change:
    planned: Planned
    verb: str
    """What happens to it: made, written, replaced, kept, or nothing."""
    before: bytes = b""


def install(
    invocation: Invocation,
    *,
    yes: bool,
    root: Path,
    public_url: str | None,
    api_key_file: str | None,
) -> int:
    """Show, or with `yes` make, the installation below `root`."""
    # What runs this is not what an image will have.
    venv = Path(sys.prefix) if root == Path("/") else STANDARD_VENV
    if is_hidden(venv):
        raise _Refused(
            f"this is installed in {venv}, which the service may not see: install it into "
            "/opt/suno-videod, and run this from there (README.md, First installation)"
        )
    if root == Path("/") and is_hidden(Path(sys.base_prefix)):
        raise _Refused(
            f"{venv} uses the Python of {sys.base_prefix}, which the service may not see: remove "
            f"{venv}, and make it anew with /usr/bin/python3 -m venv {venv}"
        )
    if yes and os.geteuid():
        raise _Refused("only root can write there: type sudo before it")
    if public_url is not None:
        try:
            public_url = parse_public_url(public_url)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong), param_hint="--public-url") from wrong
    facts = Facts(
        venv=venv,
        config=_read_configuration(root, invocation),
        public_url=public_url,
        api_key=_read_key(api_key_file),
        resolvers=read_resolvers(_read_text(_below(root, _RESOLVERS))),
        credentials=_find_credentials(root),
    )
    changes = [_compare(root, planned) for planned in plan(facts, resolve)]
    for change in changes:
        _show(root, change)
    if public_url and facts.config is not None:
        click.echo(f"{CONFIGURATION} stays as it is: set callback.public_url in it", err=True)
    if not yes:
        click.echo("nothing was changed: add --yes to do it", err=True)
        return Exit.DONE
    _apply(root, changes)
    edit = f"look through {CONFIGURATION}"
    if not public_url and facts.config is None:
        edit = f"set callback.public_url in {CONFIGURATION}"
    if not facts.api_key and not facts.credentials:
        edit += ", and give the API key with --api-key-file"
    told = _NEXT.format(edit=edit) if facts.config is None else _NEXT_AFTER_UPDATE
    click.echo(told, err=True)
    return Exit.DONE


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_configuration(root: Path, invocation: Invocation) -> Config | None:
    """Return the configuration that is there; one with mistakes ends this with all of them."""
    path = _below(root, CONFIGURATION)
    return load(path, invocation.environ).config if path.exists() else None


def _read_key(source: str | None) -> str | None:
    if source is None:
        return None
    if source == "-":
        given = sys.stdin.readline().strip()
    else:
        try:
            given = str(read_secret_file(Path(source), listed=False))
        except OSError as failed:
            raise click.BadParameter(
                f"{source}: {failed.strerror}", param_hint="--api-key-file"
            ) from failed
        except ValueError as wrong:
            raise click.BadParameter(f"{source}: {wrong}", param_hint="--api-key-file") from wrong
    try:
        KEYS["provider.api_key"].spelling.read(given)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--api-key-file") from wrong
    return given


def _find_credentials(root: Path) -> list[str]:
    try:
        found = os.listdir(_below(root, CREDENTIAL_FOLDER))  # noqa: PTH208 - names are wanted
    except OSError:
        return []
    return [name for name in found if is_credential(name)]


def _compare(root: Path, planned: Planned) -> _Change:
    """Find out what has to be done to a place.

    Nothing is written where a link leads out of `root`, nor a unit that somebody has masked.
    """
    path = _below(root, planned.path)
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise _Refused(f"{path.parent} leads out of {root}, and nothing is written there")
    if path.is_symlink() and path.readlink() == _MASK:
        raise _Refused(f"{path.name} is masked: systemctl unmask {path.name}, and run this again")
    try:
        found = path.stat(follow_symlinks=False)
        match planned.content:
            case None:
                same = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == planned.mode
                return _Change(planned, "unchanged" if same else "mode")
            case Path():
                same = path.is_symlink() and path.readlink() == planned.content
                return _Change(planned, "unchanged" if same else "kept")
            case bytes():
                if planned.keep:
                    return _Change(planned, "kept")
                before = path.read_bytes()
                same = before == planned.content
                same = same and stat.S_IMODE(found.st_mode) == planned.mode
                return _Change(planned, "unchanged" if same else "replaced", before)
    except FileNotFoundError:
        return _Change(planned, "made" if planned.content is None else "written")
    except PermissionError:
        return _Change(planned, "unreadable")


_WORDS: Final = {
    "made": "make",
    "written": "write",
    "replaced": "replace",
    "mode": "set mode",
    "kept": "leave",
    "unchanged": "as it is",
    "unreadable": "only root",
}


def _show(root: Path, change: _Change) -> None:
    """Print what is done to a place, and how a text changes that is no secret."""
    planned = change.planned
    about = f"{planned.mode:o} root:{planned.group}"
    if isinstance(planned.content, Path):
        about = f"-> {planned.content}"
    click.echo(f"{_WORDS[change.verb]:<9} {_below(root, planned.path)}  {about}")
    secret = planned.path.parent == CREDENTIAL_FOLDER
    if change.verb == "replaced" and isinstance(planned.content, bytes) and not secret:
        before, after = (
            text.decode("utf-8", "replace").splitlines()
            for text in (change.before, planned.content)
        )
        for line in difflib.unified_diff(before, after, "now", "then", lineterm="", n=1):
            click.echo(f"          {line}")
    if planned.path == USERS:
        click.echo(f"{'run':<9} systemd-sysusers, which makes the user {NAME} where there is none")


def _apply(root: Path, changes: list[_Change]) -> None:
    for change in changes:
        planned, path = change.planned, _below(root, change.planned.path)
        group = 0 if planned.group == "root" else _find_group(root)
        if planned.content is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=planned.mode)
            os.chown(path, 0, group, follow_symlinks=False)
            path.chmod(planned.mode)
        elif change.verb in {"written", "replaced"}:
            path.parent.mkdir(parents=True, exist_ok=True)
            if change.verb == "replaced" and path.parent != _below(root, CREDENTIAL_FOLDER):
                _publish(path.with_name(path.name + _KEPT_SUFFIX), change.before, planned.mode, 0)
            _publish(path, planned.content, planned.mode, group)
        if planned.path == USERS:
            _run("systemd-sysusers", f"--root={root}", planned.path.name)
    if root == Path("/") and _SYSTEMD_RUNS.is_dir():
        _run("systemctl", "daemon-reload")


def _find_group(root: Path) -> int:
    """Return the number of the service's group, which systemd-sysusers has just made."""
    for line in _read_text(root / "etc/group").splitlines():
        name, _, rest = line.partition(":")
        if name == NAME:
            return int(rest.split(":")[1])
    raise _Refused(f"there is no group {NAME}: systemd-sysusers did not make it")


def _publish(path: Path, content: bytes | Path, mode: int, group: int) -> None:
    """Give a whole file, or a link, its name; whatever had it before is gone then."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}.new")
    try:
        if isinstance(content, Path):
            draft.symlink_to(content)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fchown(file.fileno(), 0, group)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _run(*command: str) -> None:
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise _Refused(f"{command[0]} is not on this machine: is it run by systemd?")
    done = subprocess.run([program, *command[1:]], check=False)  # noqa: S603 - of the system
    if done.returncode:
        raise _Refused(
            f"{' '.join(command)} failed; what was written stays, and this can be run again"
        )
