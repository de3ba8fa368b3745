"""Can every `[[notify]]` be told something?

Rule: no message repeats a URL. Whether Apprise understands one costs half a second, so only who
starts, reloads or checks asks it; that it is installed is looked at always.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from daemon.rules.target import is_web, name_of

SECONDS: Final = 30.0
_INSTALL: Final = (
    "telling people through {scheme} needs Apprise, which is not installed here: "
    f"{sys.executable} -m pip install apprise, or use an http(s) URL"
)
_HERALD: Final = (sys.executable, "-I", "-m", "daemon.herald")

Found = Iterator[tuple[int, str, str]]


def find_wrong(entries: Sequence[Mapping[str, Any]], *, thorough: bool) -> Found:
    """Yield number, key and message for what is wrong between the values of the entries.

    A key that is missing is itself mistaken and was reported.
    """
    urls = {
        number: entry["url"].reveal() for number, entry in enumerate(entries, 1) if "url" in entry
    }
    for number, url in urls.items():
        first = next(other for other, same in urls.items() if same == url)
        if first != number:
            yield number, "url", f"notify[{first}] has the same: put the events of both there"
        if entries[number - 1].get("secret") and not is_web(url):
            yield number, "secret", "expected none: only what goes to http(s) is signed"
    people = {number: url for number, url in urls.items() if not is_web(url)}
    if people and find_spec("apprise") is None:
        for number, url in people.items():
            yield number, "url", _INSTALL.format(scheme=name_of(url))
    elif people and thorough:
        yield from _ask_apprise(people)


def _ask_apprise(urls: Mapping[int, str]) -> Found:
    wish = json.dumps({"check": list(urls.values())})
    try:
        asked = subprocess.run(  # noqa: S603 - our own program
            _HERALD, input=wish, capture_output=True, text=True, timeout=SECONDS, check=True, env={}
        )
        known = json.loads(asked.stdout)["known"]
    except (OSError, subprocess.SubprocessError, ValueError):
        for number, url in urls.items():
            told = f"Apprise, which {name_of(url)} needs, does not work: install it again"
            yield number, "url", told
        return
    for (number, url), fits in zip(urls.items(), known, strict=True):
        if not fits:
            told = (
                f"Apprise does not understand this {name_of(url)} URL: "
                "https://appriseit.com says how each service's is written"
            )
            yield number, "url", told
