"""Speaks to people through Apprise: a program of its own, run for one message and gone.

Rule: the daemon never imports Apprise: it takes half a second and 40 MiB, blocks, and a service
that hangs can only be ended together with its process. A URL holds tokens, so it comes over
standard input and is repeated nowhere.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import apprise

_NICE: Final = 10
_CUT: Final = 500


def main() -> None:
    """Read one wish, `{"check": [url]}` or `{"url", "title", "text"}`, and answer it."""
    # A sandbox may forbid it.
    with suppress(OSError):
        os.nice(_NICE)
    logging.disable(logging.CRITICAL)
    wish = json.load(sys.stdin)
    answer = {"known": list(map(_is_known, wish["check"]))} if "check" in wish else _send(wish)
    json.dump(answer, sys.stdout)


def _is_known(url: str) -> bool:
    return apprise.Apprise.instantiate(url, suppress_exceptions=True) is not None


def _send(wish: Mapping[str, str]) -> dict[str, Any]:
    asset = apprise.AppriseAsset(app_id="suno-videod", app_desc="suno-videod", app_url="")
    sender = apprise.Apprise(asset=asset)
    if not sender.add(wish["url"]):
        return {"sent": False, "said": "Apprise does not understand this url"}
    logging.disable(logging.NOTSET)
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as output:  # type: ignore[no-untyped-call]
        sent = sender.notify(
            body=wish["text"], title=wish["title"], body_format=apprise.NotifyFormat.TEXT
        )
        said = " ".join(output.getvalue().split())
    return {"sent": bool(sent), "said": said[:_CUT]}


if __name__ == "__main__":
    main()
