"""Makes HTML of what was found.

Rule: every value is text: control characters are spelled out and markup is escaped before it stands
on a page, wherever it came from. A page is made a piece at a time, and callbacks come in between.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import humanize
import jinja2
from markupsafe import Markup, escape

from daemon.dashboard.assets import Asset
from daemon.rules.redaction import escape_control
from daemon.views import show_time

TURN_SECONDS: Final = 0.001
_TEMPLATES: Final = Path(__file__).parent / "templates"


def _spell(value: object) -> object:
    # What is markup already was made of values that came through here.
    return escape_control(value) if type(value) is str else value


def _size(size_bytes: int | None) -> str:
    """Return a size for people; `live.js` spells sizes the same way."""
    return "unknown" if size_bytes is None else humanize.naturalsize(size_bytes, binary=True)


def _count(number: float, one: str, many: str = "") -> str:
    """Return `1 video` or `1,234 videos`."""
    return f"{humanize.intcomma(number)} {one if number == 1 else many or one + 's'}"


def _duration(seconds: float | None) -> str:
    """Return `3:07` for a film."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _words(text: str) -> Markup:
    """Return a sentence of ours: what stands between backticks is what somebody types."""
    parts = [escape(escape_control(part)) for part in text.split("`")]
    marked = [
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def tell_time(text: str, now: datetime) -> str:
    """Return `in 3 days` or `2 hours ago`."""
    seconds = (datetime.fromisoformat(text) - now).total_seconds()
    if abs(seconds) < 1:
        return "now"
    told = humanize.naturaldelta(abs(seconds))
    return f"in {told}" if seconds > 0 else f"{told} ago"


def is_past(text: str, now: datetime) -> bool:
    """Tell whether a moment is over."""
    return datetime.fromisoformat(text) <= now


class Pages:
    """The templates, ready to be filled."""

    def __init__(self, assets: dict[str, Asset]) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_spell,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {
            "size": _size,
            "count": _count,
            "duration": _duration,
            "words": _words,
            "sentence": _sentence,
            "comma": humanize.intcomma,
            "show_time": show_time,
        }
        self._environment.globals |= {"assets": assets, "tell_time": tell_time, "is_past": is_past}
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    async def render(self, name: str, **values: Any) -> str:
        """Return a page, or a part of one."""
        template = self._environment.get_template(name)
        values.setdefault("now", datetime.now(UTC))
        pieces, began = [], time.monotonic()
        for piece in template.generate(values):
            pieces.append(piece)
            if time.monotonic() - began > TURN_SECONDS:
                await asyncio.sleep(0)
                began = time.monotonic()
        return "".join(pieces)
