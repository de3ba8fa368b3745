"""The static files of the dashboard.

Rule: a fixed table is all that is served, each under the hash of its content, so that a browser may
keep it for ever and a new version has another address.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    "app.css": "text/css",
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "live.js": "text/javascript",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file."""

    url: str
    content: bytes
    content_type: str


def load_assets() -> dict[str, Asset]:
    """Read them all; return them by name."""
    found = {}
    for name, content_type in _TYPES.items():
        content = (_FOLDER / name).read_bytes()
        tag = hashlib.sha256(content).hexdigest()[:16]
        found[name] = Asset(f"/static/{tag}/{name}", content, content_type)
    return found


def send_asset(asset: Asset) -> web.Response:
    """Answer with a static file."""
    return web.Response(
        body=asset.content,
        content_type=asset.content_type,
        charset="utf-8",
        headers={"Cache-Control": "private, max-age=31536000, immutable"},
    )
