"""From files, variables and credentials to one frozen configuration.

Rule: `load` returns final values only, or raises one `ConfigError` that holds every mistake. The
environment of the process is read here and nowhere else.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from daemon.config.agreement import SHORT_SECRET, find_conflicts, find_doubts
from daemon.config.mistakes import ConfigError, Mistake
from daemon.config.notifying import find_wrong
from daemon.config.secret import MASK
from daemon.config.sections import (
    ITEM_KEYS,
    KEYS,
    LISTS,
    SECTIONS,
    Config,
    Key,
    Secret,
    UnixEndpoint,
)
from daemon.config.sources import (
    PATH_VARIABLE,
    Given,
    open_to,
    read_environment,
    read_file,
    read_secret_file,
)
from daemon.config.spelling import PATH, Spelling, WrongType
from daemon.rules.dialect import DIALECTS
from daemon.rules.target import tokens_of

__all__ = ["ConfigError", "Loaded", "Mistake", "environment", "find", "load", "show"]

SEARCHED: Final = (Path("config.toml"), Path("/etc/suno-videod/config.toml"))
"""Where a configuration file is looked for when none is named."""

CREDENTIALS: Final = "credentials"
"""A folder beside the configuration, of secrets that systemd passes to the daemon as credentials:
root's own verbs find them there."""
_FOLDER = "suno-videod"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration and where it came from.

    `origins` says for every key path "default", "file", "environment", "credential" or the path of
    the file that held the secret. `secrets` are all secret values, for redaction.
    """

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...]
    path: Path | None
    secrets: tuple[Secret, ...]


def environment() -> Mapping[str, str]:
    """Return a copy of the environment of this process."""
    return dict(os.environ)


def find(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file to use, or None for the defaults.

    Raises:
        ConfigError: the flag or the variable names a file that does not exist.
    """
    variable = environ.get(PATH_VARIABLE)
    named = flag or (Path(variable) if variable else None)
    if named is None:
        return next(filter(_exists, SEARCHED), None)
    if not _exists(named):
        name = "--config" if flag else PATH_VARIABLE
        raise ConfigError([Mistake(name, None, f"there is no file {named}")])
    return named


def load(path: Path | None, environ: Mapping[str, str], *, thorough: bool = False) -> Loaded:
    """Read the file `path` (None for none), the environment and the credentials.

    `thorough` also asks what takes its time: whether Apprise understands its URLs.

    Raises:
        ConfigError: with every mistake; only a file that is not TOML hides those behind it.
    """
    in_file, mistakes = read_file(path) if path else ({}, [])
    in_environment, more = read_environment(environ)
    draft = _Draft(path, environ, [*mistakes, *more])
    for name, key in KEYS.items():
        draft.take(name, key, (in_environment, in_file))
    for name in LISTS:
        draft.take_list(name, in_environment if name in in_environment else in_file)
    draft.fill()
    draft.compare()
    draft.check_targets(thorough=thorough)
    draft.check_tls()
    if draft.mistakes:
        raise ConfigError(draft.mistakes, path)
    inline = [name for name in in_file if name in draft.secrets]
    if path and inline and open_to(path) == "everyone":
        draft.warnings.append(
            f"{path}: everyone can read {', '.join(inline)}; run chmod 600 {path}"
        )
    return Loaded(
        config=_build(draft.values, draft.lists),
        origins=MappingProxyType(draft.origins),
        warnings=(*draft.warnings, *find_doubts(draft.values)),
        path=path,
        secrets=tuple(_secrets(draft.values, draft.lists)),
    )


def show(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return key path, value as TOML and origin of every key; secrets are masked.

    A key without a value shows `spelling.UNSET`, which is not TOML.
    """
    rows = []
    for name, key, value in _values(loaded.config):
        shown = key.spelling.write(value)
        for secret in loaded.secrets:
            # A token that was pasted with the URL, say.
            if len(secret.reveal()) >= SHORT_SECRET:
                shown = shown.replace(secret.reveal(), MASK)
        rows.append((name, shown, loaded.origins[name]))
    return rows


def _values(config: Config) -> Iterator[tuple[str, Key, Any]]:
    for name, key in KEYS.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        yield name, key, value
    for name, keys in ITEM_KEYS.items():
        for number, item in enumerate(getattr(config, name), 1):
            for leaf, key in keys.items():
                yield f"{name}[{number}].{leaf}", key, getattr(item, leaf)


class _Draft:
    """What is settled so far, and what there is to say about the rest."""

    def __init__(
        self, path: Path | None, environ: Mapping[str, str], mistakes: list[Mistake]
    ) -> None:
        self.base = (path or SEARCHED[0]).absolute().parent
        self.environ = environ
        self.mistakes = mistakes
        self.warnings: list[str] = []
        self.given: dict[str, Given] = {}
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.lists: dict[str, int] = {}
        self.secrets = {name for name, key in KEYS.items() if key.secret}

    def take_list(self, name: str, layer: Mapping[str, Given]) -> None:
        """Settle every item of a list, and report what an item lacks."""
        number = 1
        while item := layer.get(f"{name}[{number}]"):
            for leaf, key in ITEM_KEYS[name].items():
                path = f"{name}[{number}].{leaf}"
                if key.secret:
                    self.secrets.add(path)
                self.take(path, key, (layer,))
                if path in self.given:
                    continue
                if key.default is msgspec.NODEFAULT:
                    told = f"expected a value: each [[{name}]] needs one"
                    self.mistakes.append(Mistake(f"{item.key}.{leaf}", item.line, told))
                else:
                    self.values[path], self.origins[path] = key.default, "default"
            number += 1
        self.lists[name] = number - 1

    def check_targets(self, *, thorough: bool) -> None:
        """Report each [[notify]] that nothing can be told to."""
        for number, leaf, told in find_wrong(
            list(_items(self.values, "notify", self.lists["notify"])), thorough=thorough
        ):
            self.mistakes.append(self.given[f"notify[{number}].{leaf}"].mistake(told))

    def take(self, name: str, key: Key, layers: Iterable[Mapping[str, Given]]) -> None:
        """Settle one key if anybody gave it."""
        given = self._choose(name, key, layers)
        if given is None:
            return
        self.given[name] = given
        try:
            self.values[name], self.origins[name] = self._read(given, key)
        except ValueError as wrong:
            self.mistakes.append(given.mistake(str(wrong)))

    def fill(self) -> None:
        """Settle what nobody gave."""
        static = {name: key.default for name, key in KEYS.items()}
        for name, default in (static | _derive(self.values, self.environ)).items():
            if name not in self.given:
                self.values[name], self.origins[name] = default, "default"

    def compare(self) -> None:
        """Report the values that do not go together, where somebody gave one of them."""
        for keys, message in find_conflicts(self.values):
            given = next(self.given[name] for name in keys if name in self.given)
            self.mistakes.append(given.mistake(message))

    def check_tls(self) -> None:
        """Report a certificate or a key that cannot be served with."""
        names = ("callback.tls_certificate", "callback.tls_private_key")
        certificate, private_key = (self.values.get(name) for name in names)
        if certificate is None or private_key is None:
            return
        from daemon.config.tls import load_tls  # noqa: PLC0415 - most go without, and start faster

        given = self.given[names[1]]
        try:
            load_tls(certificate, private_key)
            if open_to(private_key) == "everyone":
                self.mistakes.append(given.mistake(_exposed(private_key)))
        except ValueError as wrong:
            self.mistakes.append(given.mistake(str(wrong)))

    def _choose(self, name: str, key: Key, layers: Iterable[Mapping[str, Given]]) -> Given | None:
        for layer in layers:
            value, twin = layer.get(name), layer.get(f"{name}_file")
            if value and twin:
                self.mistakes.append(twin.mistake(f"{value.key} is set too; keep one of the two"))
            if value or twin:
                return value or twin
        passed = self.environ.get("CREDENTIALS_DIRECTORY")
        credential = Path(passed or self.base / CREDENTIALS, name)
        # The daemon's own user may not enter the folder, and is passed what he needs.
        there = _exists if passed else _readable
        if key.secret and there(credential):
            return Given(name, None, "credential", credential)
        return None

    def _read(self, given: Given, key: Key) -> tuple[Any, str]:
        if isinstance(given.raw, Path):
            secret = _read_secret(given.raw, key)
            passed = self.environ.get("CREDENTIALS_DIRECTORY")
            if not passed and open_to(given.raw) == "everyone":
                raise ValueError(_exposed(given.raw))
            return secret, given.origin
        if not given.twin:
            return self._anchor(_interpret(given, key.spelling)), given.origin
        path = self._anchor(_interpret(given, PATH))
        secret = _read_secret(path, key)
        match open_to(path):
            case "everyone":
                raise ValueError(_exposed(path))
            case "its group":
                self.warnings.append(f"{given.key}: the group of {path} can read or change it")
        return secret, str(path)

    def _anchor(self, value: Any) -> Any:
        """Make a path absolute: it starts at the configuration file, or at home after "~"."""
        match value:
            case UnixEndpoint(path=path):
                return UnixEndpoint(self._anchor(path))
            case Path(parts=("~", *below)):
                home = self.environ.get("HOME")
                if not home:
                    raise ValueError('expected a path without "~": there is no $HOME')
                return Path(home, *below)
            case Path():
                return self.base / value
        return value


def _exposed(path: Path) -> str:
    return f"{path}: everyone can read or change it; run chmod 600 {path}"


def _interpret(given: Given, spelling: Spelling) -> Any:
    """Read a variable as TOML where that gives the type of the key, else as a string."""
    if given.origin == "environment" and not given.parsed:
        with suppress(tomllib.TOMLDecodeError, WrongType):
            parsed = tomllib.loads(f"value = {given.raw}")
            if parsed.keys() == {"value"}:
                return spelling.read(parsed["value"])
    return spelling.read(given.raw)


def _read_secret(path: Path, key: Key) -> Any:
    try:
        return key.spelling.read(read_secret_file(path, listed=key.listed))
    except OSError as failed:
        raise ValueError(f"{path}: {failed.strerror}") from None
    except ValueError as wrong:
        raise ValueError(f"{path}: {wrong}") from None


def _derive(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the defaults that depend on the machine or on other keys."""
    state_dir: Path = values.get("state_dir") or _find_state_dir(environ)
    runtime_dir = _first_folder(environ, "RUNTIME_DIRECTORY")
    return {
        "state_dir": state_dir,
        "callback.trust": "confirm" if values.get("provider.api_key") else "callback",
        "provider.base_url": DIALECTS[
            values.get("provider.kind", KEYS["provider.kind"].default)
        ].base_url,
        "download.directory": state_dir / "videos",
        "admin.socket": (runtime_dir or state_dir) / "admin.sock",
    }


def _find_state_dir(environ: Mapping[str, str]) -> Path:
    if folder := _first_folder(environ, "STATE_DIRECTORY"):
        return folder
    # XDG base directory specification 0.8: a path that is not absolute is ignored.
    if (xdg := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(xdg, _FOLDER)
    if home := environ.get("HOME"):
        return Path(home, ".local/state", _FOLDER)
    # Without a home this is a system service whose unit has no StateDirectory=.
    return Path("/var/lib", _FOLDER)


def _first_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first of the folders that systemd passes (systemd.exec(5): colons between)."""
    folder = environ.get(variable, "").partition(":")[0]
    return Path(folder) if folder else None


def _items(values: Mapping[str, Any], name: str, count: int) -> Iterator[dict[str, Any]]:
    for number in range(1, count + 1):
        paths = {leaf: f"{name}[{number}].{leaf}" for leaf in ITEM_KEYS[name]}
        yield {leaf: values[path] for leaf, path in paths.items() if path in values}


def _build(values: Mapping[str, Any], lists: Mapping[str, int]) -> Config:
    settled: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        fields = msgspec.structs.fields(section)
        settled[name] = section(**{field.name: values[f"{name}.{field.name}"] for field in fields})
    for name, item in LISTS.items():
        settled[name] = tuple(item(**fields) for fields in _items(values, name, lists[name]))
    return Config(**settled, **{name: values[name] for name in KEYS if "." not in name})


def _secrets(values: Mapping[str, Any], lists: Mapping[str, int]) -> Iterator[Secret]:
    for entry in _items(values, "notify", lists["notify"]):
        if entry["secret"] is not None:
            yield from (entry["secret"], Secret(entry["secret"].reveal().removeprefix("whsec_")))
        yield from _with_tokens(entry["url"])
    if values["heartbeat.url"]:
        yield from _with_tokens(values["heartbeat.url"])
    for name, key in KEYS.items():
        if key.listed and key.secret:
            yield from values[name]
        elif key.secret and values[name]:
            yield values[name]


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK)


def _with_tokens(url: Secret) -> Iterator[Secret]:
    yield url
    yield from map(Secret, tokens_of(url.reveal()))


def _exists(path: Path) -> bool:
    """Tell whether something is there, be it only a folder that we may not enter."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # reading it will say what is wrong
    return True
