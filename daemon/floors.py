"""The libraries that read what strangers send: are they new enough to do it safely?

Rule: looked at before the daemon opens anything, and at what is really installed: who updates by
hand, or runs with a distribution's packages, never met the lock file. pyproject.toml asks for the
same versions.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_NUMBERS: Final = re.compile(r"(?:\d+!)?(\d+(?:\.\d+)*)(.*)", re.DOTALL)
_UNFINISHED: Final = re.compile(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)", re.IGNORECASE)


@dataclass(frozen=True)
class Floor:
    """Which versions of a library will do, and why no older one."""

    least: str
    why: str
    below: str | None = None
    """The first version that nobody has tried."""

    @property
    def wanted(self) -> str:
        """What pip calls it."""
        return f">={self.least}" + (f",<{self.below}" if self.below else "")

    def allows(self, found: str) -> bool:
        """Tell whether a version will do; one that cannot be read will not."""
        here = _order(found)
        return (
            here is not None
            and here >= (_order(self.least) or here)
            and (self.below is None or here < (_order(self.below) or here))
        )


FLOORS: Final[Mapping[str, Floor]] = {
    "aiohttp": Floor(
        "3.14.4",
        "older ones never close silent and dripping connections, and have some 35 advisories",
        "4",
    ),
    "multidict": Floor("6.9.1", "CVE-2026-104874"),
    "idna": Floor("3.15", "CVE-2026-45409"),
}


def find_version(name: str) -> str | None:
    """Return the version of a library that is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_floors(look: Callable[[str], str | None] = find_version) -> list[str]:
    """Return what is wrong with the libraries, a sentence each; nothing wrong is an empty list."""
    wrong = []
    for name, floor in FLOORS.items():
        found = look(name)
        if found is None:
            wrong.append(f"{name} is not installed, {name}{floor.wanted} is needed")
        elif not floor.allows(found):
            reason = floor.why if _is_older(found, floor) else "nobody has tried it"
            wrong.append(f"{name} {found} is installed, {floor.wanted} is needed: {reason}")
    if not wrong and not _has_parser():
        wrong.append(
            "aiohttp runs without its compiled HTTP parser: the one in Python had holes of its own"
            " (unset AIOHTTP_NO_EXTENSIONS where it is set)"
        )
    return wrong


def explain(wrong: list[str]) -> str:
    """Return what a person reads: all that is wrong, and the command that mends it."""
    asked = " ".join(f'"{name}{floor.wanted}"' for name, floor in FLOORS.items())
    return "\n".join(
        [
            "the daemon does not start with these libraries:",
            *(f"  {line}" for line in wrong),
            "install what was tested, in a checkout of the project:",
            f"  {_PIP} --require-hashes -r requirements.lock",
            "or without one:",
            f"  {_PIP} --upgrade --force-reinstall {asked}",
        ]
    )


_PIP: Final = f"{sys.executable} -m pip install --only-binary :all:"


def _has_parser() -> bool:
    # Only aiohttp itself knows whether it will use it.
    return hasattr(importlib.import_module("aiohttp.http_parser"), "HttpRequestParserC")


def _is_older(found: str, floor: Floor) -> bool:
    here, least = _order(found), _order(floor.least)
    return here is None or least is None or here < least


def _order(text: str) -> tuple[tuple[int, ...], bool] | None:
    """Return what versions are compared by: the numbers, and whether it is a finished one."""
    found = _NUMBERS.match(text)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _UNFINISHED.match(found[2]) is None
