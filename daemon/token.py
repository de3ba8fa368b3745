"""The token of the callback path, when the configuration has none.

Rule: generated once, kept in the state folder, readable by the daemon's user only; the provider
keeps using the URL that it was given, so a token is never replaced behind its back.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from daemon.folder import sync_directory
from daemon.lock import StoreRefused

TOKEN_BYTES = 24


def token_path(state_dir: Path) -> Path:
    """Return where the generated token is kept."""
    return state_dir / "callback-token"


def read_token(state_dir: Path) -> str | None:
    """Return the generated token; None before the first start.

    Raises:
        StoreRefused: the file is there and cannot be used.
    """
    path = token_path(state_dir)
    try:
        token = path.read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreRefused(f"{path} cannot be read: {error}") from error
    if not token:
        raise StoreRefused(f"{path} is empty: restore it, or remove it to get a new URL")
    return token


def make_token(state_dir: Path) -> str:
    """Return the generated token, made durable before anybody learns it."""
    token = read_token(state_dir)
    if token is not None:
        # A backup that was put back, or a copy, may have left it open to others.
        with suppress(PermissionError):
            token_path(state_dir).chmod(0o600)
        return token
    token = secrets.token_urlsafe(TOKEN_BYTES)
    draft = token_path(state_dir).with_suffix(".new")
    descriptor = os.open(
        draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{token}\n")
        file.flush()
        os.fsync(descriptor)
    draft.replace(token_path(state_dir))
    sync_directory(state_dir)
    return token
