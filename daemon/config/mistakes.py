"""What is wrong with the configuration, said so that a person can mend it.

Rule: every mistake that can be found is in one `ConfigError`, in the order of the file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)| \(at end of document\)")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend.

    `key` is named as it was written: a key path in the file, a variable, an option, or "" where no
    key is to blame. `line` counts from 1 in the configuration file; elsewhere there is none.
    """

    key: str
    line: int | None
    message: str


class ConfigError(Exception):
    """The configuration cannot be used; the text has one line for each of `mistakes`."""

    def __init__(self, mistakes: Iterable[Mistake], path: Path | None = None) -> None:
        self.mistakes = tuple(sorted(mistakes, key=_line))
        self.path = path
        super().__init__("\n".join(_sentence(mistake, path) for mistake in self.mistakes))


def describe_syntax(message: str, text: str) -> Mistake:
    """Turn what tomllib says about `text` into a mistake with its line."""
    place = _PLACE.search(message)
    what = f"not valid TOML: {_PLACE.sub('', message)}"
    if place is None or place[1] is None:
        return Mistake("", text.rstrip().count("\n") + 1, f"{what} (at the end of the file)")
    return Mistake("", int(place[1]), f"{what} (column {place[2]})")


def _line(mistake: Mistake) -> tuple[bool, int]:
    return mistake.line is None, mistake.line or 0


def _sentence(mistake: Mistake, path: Path | None) -> str:
    place = f"{path}:{mistake.line}: " if mistake.line else ""
    key = f"{mistake.key}: " if mistake.key else ""
    return f"{place}{key}{mistake.message}"
