"""What somebody wrote, and where: the file, the environment, a file with a secret, a credential.

Rule: only names are judged here. What has a known name comes back as `Given` with its place; the
rest comes back as a `Mistake` with the name that was probably meant.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from daemon.config.mistakes import ConfigError, Mistake, describe_syntax
from daemon.config.sections import KEYS, SECTIONS
from daemon.config.spelling import quote

PREFIX: Final = "SUNO_VIDEOD_"
PATH_VARIABLE: Final = f"{PREFIX}CONFIG"

NAMES: Final = (*KEYS, *(f"{path}_file" for path, key in KEYS.items() if key.secret))
"""Every key and, for a secret `x`, its twin `x_file`."""

_PARTS: Final = {tuple(name.split(".")) for name in NAMES}
_VARIABLES: Final = {PREFIX + name.upper().replace(".", "__"): name for name in NAMES}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_OTHERS = 0o006
_GROUP = 0o060
_SECRET_LIMIT = 65_536

Origin: TypeAlias = Literal["file", "environment", "credential"]


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written: `key` and `line` say where, as in a `Mistake`.

    `raw` is what TOML gave, the text of a variable, or the path of a credential.
    """

    key: str
    line: int | None
    origin: Origin
    raw: object
    twin: bool = False
    """It names the file that holds the secret."""

    def mistake(self, message: str) -> Mistake:
        """Say what is wrong with this value."""
        return Mistake(self.key, self.line, message)


def read_file(path: Path) -> tuple[dict[str, Given], list[Mistake]]:
    """Read a configuration file: the values under known names, and the mistakes in names.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        text = path.read_bytes().decode().replace("\r\n", "\n")
    except OSError as failed:
        raise ConfigError([Mistake("", None, f"{path}: {failed.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Mistake("", None, f"{path}: not UTF-8 text")]) from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as wrong:  # beyond syntax: endless numbers and brackets
        raise ConfigError([describe_syntax(str(wrong), text)], path) from None
    lines = _line_numbers(text)
    given: dict[str, Given] = {}
    mistakes: list[Mistake] = []
    for parts, raw in _entries(table):
        name, line = ".".join(map(_shown, parts)), lines[parts]
        if parts in _PARTS:
            given[name] = Given(name, line, "file", raw, name not in KEYS)
        elif name in SECTIONS:
            mistakes.append(Mistake(name, line, f"expected a section, written as [{name}]"))
        else:
            mistakes.append(Mistake(name, line, _unknown(parts, raw)))
    return given, mistakes


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Given], list[Mistake]]:
    """Pick the variables that set a key; other variables of ours are mistakes."""
    given: dict[str, Given] = {}
    mistakes: list[Mistake] = []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == PATH_VARIABLE:
            continue
        if variable in _VARIABLES:
            name = _VARIABLES[variable]
            raw = environ[variable]
            given[name] = Given(variable, None, "environment", raw, name not in KEYS)
        else:
            hint = _close(variable.upper(), (*_VARIABLES, PATH_VARIABLE), 0.8)
            mistakes.append(Mistake(variable, None, f"unknown variable{_question(hint)}"))
    return given, mistakes


def read_secret_file(path: Path, *, listed: bool) -> str | list[str]:
    """Read a file with a secret, or a systemd credential, as TOML would give it.

    A `listed` secret is one a line; line ends and blanks around a secret are no part of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty, no text, far too long, or has more lines than the key takes.
    """
    with path.open("rb") as file:
        content = file.read(_SECRET_LIMIT + 1)
    if len(content) > _SECRET_LIMIT:
        raise ValueError(f"expected at most {_SECRET_LIMIT} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("expected UTF-8 text") from None
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    if not lines:
        raise ValueError("the file is empty")
    if listed:
        return lines
    if len(lines) > 1:
        raise ValueError(f"expected one line, not {len(lines)}")
    return lines[0]


def open_to(path: Path) -> Literal["everyone", "its group"] | None:
    """Tell who besides the owner may read or write `path`.

    Raises:
        OSError: it cannot be looked at.
    """
    bits = path.stat().st_mode
    if bits & _OTHERS:
        return "everyone"
    return "its group" if bits & _GROUP else None


def _entries(table: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, content in table.items():
        if name in SECTIONS and isinstance(content, dict):
            for leaf, raw in content.items():
                yield (name, leaf), raw
        else:
            yield (name,), content


def _line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Find the line on which each entry of valid TOML begins.

    Lines are gathered until they parse together, which makes one statement; it is then parsed again
    under the latest header.
    """
    found: dict[tuple[str, ...], int] = {}
    header = statement = ""
    start = 1
    for number, line in enumerate(text.split("\n"), 1):
        statement = f"{statement}\n{line}" if statement else line
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            header, statement = statement, ""
        for parts, _ in _entries(tomllib.loads(f"{header}\n{statement}")):
            found.setdefault(parts, start)
        statement, start = "", number + 1
    return found


def _unknown(parts: tuple[str, ...], raw: object) -> str:
    *above, leaf = parts
    if not above and _is_section(raw):
        hint = _close(leaf.lower(), SECTIONS, 0.6)
        return f"unknown section{_question(hint and f'[{hint}]')}"
    prefix = "".join(f"{part}." for part in above)
    beside = [name for name in NAMES if name.rpartition(".")[0] == prefix.rstrip(".")]
    elsewhere = [name for name in NAMES if name.endswith(f".{leaf}")]
    hint = elsewhere[0] if elsewhere else _close(f"{prefix}{leaf}".lower(), beside, 0.8)
    return f"unknown key{_question(hint)}"


def _is_section(raw: object) -> bool:
    tables = raw if isinstance(raw, list) else [raw]
    return bool(tables) and all(isinstance(table, dict) for table in tables)


def _close(name: str, known: Iterable[str], likeness: float) -> str | None:
    found = difflib.get_close_matches(name, known, n=1, cutoff=likeness)
    return found[0] if found else None


def _question(hint: str | None) -> str:
    return f"; did you mean {hint}?" if hint else ""


def _shown(part: str) -> str:
    return part if _BARE_KEY.fullmatch(part) else quote(part)
