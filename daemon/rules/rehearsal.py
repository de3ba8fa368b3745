"""A test callback: it goes the whole way of a real one, and is about no task.

Rule: only a body with this one member, a null `data` and no task id is a test, so no message of a
provider is ever taken for one. What is recognised by its path or its header is refused like
anything else, and only counted apart.
"""

import json
import re
from typing import Final

NONCE: Final = re.compile(r"[0-9a-f]{32}")
MEMBER: Final = "suno_videod_test"
HEADER: Final = "X-Suno-Videod-Test"
"""Carries the nonce too: a request that lost its path or its token is known by it."""
WRONG_TOKEN: Final = "suno-videod-test-"  # noqa: S105 - it opens nothing
"""What the last segment of a path begins with that is to be refused, on purpose."""


def make_body(nonce: str) -> bytes:
    """Return the body of a test callback."""
    return json.dumps(
        {"code": 200, "msg": "suno-videod test", "data": None, MEMBER: nonce}
    ).encode()


def find_nonce(document: dict[str, object]) -> str | None:
    """Return the nonce of a test callback; None when it is none."""
    nonce = document.get(MEMBER)
    if isinstance(nonce, str) and NONCE.fullmatch(nonce) and document.get("data", 0) is None:
        return nonce
    return None


def read_nonce(header: str | None) -> str | None:
    """Return the nonce that a header carries; None when it is missing, or none of ours."""
    return header if header is not None and NONCE.fullmatch(header) else None
