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
from daemon.config.sections import ITEM_KEYS, KEYS, LISTS, SECTIONS
from daemon.config.spelling import quote

PREFIX: Final = "SUNO_VIDEOD_"
PATH_VARIABLE: Final = f"{PREFIX}CONFIG"

NAMES: Final = (*KEYS, *(f"{path}_file" for path, key in KEYS.items() if key.secret))
"""Every key and, for a secret `x`, its twin `x_file`."""

ITEM_NAMES: Final = {
    name: (*keys, *(f"{leaf}_file" for leaf, key in keys.items() if key.secret))
    for name, keys in ITEM_KEYS.items()
}
"""Every key of an item of each list, and the twins of its secrets."""

_PARTS: Final = {tuple(name.split(".")) for name in NAMES}
_VARIABLES: Final = {PREFIX + name.upper().replace(".", "__"): name for name in (*NAMES, *LISTS)}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_OTHERS = 0o006
_GROUP = 0o060
_SECRET_LIMIT = 65_536
_NO_LIST = "expected any number of tables, each written as [[{name}]]"

Parts: TypeAlias = tuple[str | int, ...]
"""A key path: ("poll", "interval"), or ("notify", 2, "events") with its number from 1."""
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
    parsed: bool = False
    """It is TOML, though it comes from the environment."""

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
        hint = ": run this as root (sudo)" if isinstance(failed, PermissionError) else ""
        raise ConfigError([Mistake("", None, f"{path}: {failed.strerror}{hint}")]) from None
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
        name, line = _path(parts), lines.get(parts) or lines.get(parts[:-1])
        if parts in _PARTS:
            given[name] = Given(name, line, "file", raw, name not in KEYS)
        elif _is_item(parts):
            given[name] = Given(name, line, "file", raw, _is_twin(parts))
        elif name in LISTS:
            mistakes.append(Mistake(name, line, _NO_LIST.format(name=name)))
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
        name = _VARIABLES.get(variable, "")
        raw = environ[variable]
        if name in LISTS:
            found, wrong = _read_list(name, variable, raw)
            given |= found
            mistakes += wrong
        elif name:
            given[name] = Given(variable, None, "environment", raw, name not in KEYS)
        else:
            hint = _close(variable.upper(), (*_VARIABLES, PATH_VARIABLE), 0.8)
            mistakes.append(Mistake(variable, None, f"unknown variable{_question(hint)}"))
    return given, mistakes


def _read_list(name: str, variable: str, text: str) -> tuple[dict[str, Given], list[Mistake]]:
    """Read a variable that holds a whole list, as an array of inline tables."""
    try:
        table = tomllib.loads(f"{name} = {text}")
    except (ValueError, RecursionError):
        table = {}
    if not (table.keys() == {name} and _is_list(table[name])):
        told = 'expected an array of tables such as [{ url = "https://..." }]'
        return {}, [Mistake(variable, None, told)]
    given, mistakes = {name: Given(variable, None, "environment", [])}, []
    for parts, raw in _entries(table):
        path = _path(parts)
        where = variable + path.removeprefix(name)
        if _is_item(parts):
            twin = _is_twin(parts)
            given[path] = Given(where, None, "environment", raw, twin, parsed=True)
        else:
            mistakes.append(Mistake(where, None, _unknown(parts, raw)))
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


def _entries(table: dict[str, Any]) -> Iterator[tuple[Parts, object]]:
    for name, content in table.items():
        if name in SECTIONS and isinstance(content, dict):
            for leaf, raw in content.items():
                yield (name, leaf), raw
        elif name in LISTS and _is_list(content):
            for number, item in enumerate(content, 1):
                yield (name, number), item
                for leaf, raw in item.items():
                    yield (name, number, leaf), raw
        else:
            yield (name,), content


def _is_list(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(item, dict) for item in content)


def _is_item(parts: Parts) -> bool:
    """Tell whether it is an item of a list, or one of its known keys."""
    match parts:
        case (str(_), int(_)):
            return True
        case (str(name), int(_), str(leaf)):
            return leaf in ITEM_NAMES[name]
    return False


def _is_twin(parts: Parts) -> bool:
    return len(parts) > 2 and parts[2] not in ITEM_KEYS[str(parts[0])]  # noqa: PLR2004 - a leaf


def _path(parts: Parts) -> str:
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{_shown(part)}" if name else _shown(part)
    return name


def _line_numbers(text: str) -> dict[Parts, int]:
    """Find the line on which each entry of valid TOML begins.

    Lines are gathered until they parse together, which makes one statement; it is then parsed again
    under the latest header.
    """
    found: dict[Parts, int] = {}
    items: dict[str | int, int] = {}
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
            if header.lstrip().startswith("[["):
                (name,) = tomllib.loads(header)
                items[name] = items.get(name, 0) + 1
        for parts, _ in _entries(tomllib.loads(f"{header}\n{statement}")):
            where = parts
            if header.lstrip().startswith("[[") and parts[1:] and isinstance(parts[1], int):
                # By itself, each is the first of its list.
                where = (parts[0], items[parts[0]], *parts[2:])
            found.setdefault(where, start)
        statement, start = "", number + 1
    return found


def _unknown(parts: Parts, raw: object) -> str:
    *above, last = parts
    leaf = str(last)
    if not above and _is_section(raw):
        hint = _close(leaf.lower(), (*SECTIONS, *LISTS), 0.6)
        shown = f"[[{hint}]]" if hint in LISTS else f"[{hint}]"
        return f"unknown section{_question(hint and shown)}"
    if above and above[0] in LISTS:
        hint = _close(leaf.lower(), ITEM_NAMES[str(above[0])], 0.6)
        return f"unknown key{_question(hint and f'{_path((*above, hint))}')}"
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
