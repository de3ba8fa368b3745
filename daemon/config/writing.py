"""Writes a first configuration, for an owner to change.

Rule: what stands under the name is whole, and nothing that already has the name is replaced.
"""

import os
import secrets
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

from daemon.config.loader import SEARCHED
from daemon.config.mistakes import ConfigError, Mistake
from daemon.config.sources import PATH_VARIABLE

Template: TypeAlias = Literal["example", "simulator"]


def choose_path(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where a new configuration is found first by every verb called in the same way."""
    return flag or Path(environ.get(PATH_VARIABLE) or SEARCHED[0])


def read_template(template: Template) -> str:
    """Return a configuration with comments: every key, or what trying the simulator needs."""
    return (resources.files("daemon.config") / f"{template}.toml").read_text(encoding="utf-8")


def write_new(path: Path, text: str) -> None:
    """Write `text` to a file that only its owner can read.

    Raises:
        FileExistsError: something has this name, be it a link that leads nowhere.
        ConfigError: the file cannot be written; nothing is left behind.
    """
    try:
        if path.is_dir():
            raise _unwritable(f"{path} is a folder: name a file, such as {path / SEARCHED[0]}")
        if not path.parent.is_dir():
            make = f"mkdir -p {shlex.quote(str(path.parent))}"
            raise _unwritable(f"{path}: there is no such folder; make it with {make}")
        _publish(path, text.encode())
    except OSError as failed:
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        raise _unwritable(f"{path} cannot be written: {failed.strerror}") from None


def _publish(path: Path, content: bytes) -> None:
    draft = path.with_name(f".suno-videod-{secrets.token_hex(8)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        # Unlike a rename, a link never takes a name that somebody else was quicker to take.
        os.link(draft, path, follow_symlinks=False)
    finally:
        draft.unlink(missing_ok=True)


def _unwritable(sentence: str) -> ConfigError:
    return ConfigError([Mistake("", None, sentence)])
