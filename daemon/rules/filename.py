"""What is a file called on disk?

Rule: no text from outside enters a path before it went through `filter_field`, so a name has no
separator, no leading dot from a field and no character that a shell or a terminal could trip over.
"""

import hashlib
import re
from typing import Final

FIELD_LIMIT: Final = 64
"""Characters of one field; three fields and a suffix stay below the 255 bytes of a name."""

_CLEAN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGITS = 12


def filter_field(text: str) -> str:
    """Return `text` as it may stand in a file name.

    Plain text passes as it is. Otherwise foreign characters become `_`, and `-` plus 12 hex digits
    of the SHA-256 of the original follow, so that two different texts share no name by accident.
    """
    if _CLEAN.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    room = FIELD_LIMIT - _DIGITS - 1
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', text)[:room]}-{digest}"


def name_video(template: str, *, task_id: str, label: str | None, date: str) -> str:
    """Fill `download.file_name`; `date` is the UTC day of adoption as YYYY-MM-DD."""
    name = template.format(
        task_id=filter_field(task_id),
        label=filter_field(label) if label else "",
        date=filter_field(date),
    )
    # Whoever writes `rm *` there would give an option.
    return f"_{name[1:]}" if name.startswith("-") else name


def name_partial(task_id: str) -> str:
    """Return the name of the partial file inside `.partial/`.

    The digest is always there: two ids that share a name, by design of an attacker or on a file
    system that folds case, would write into one another's film.
    """
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{filter_field(task_id)[:32]}-{digest}.part"


def name_beside(name: str, sha256: str) -> str:
    """Return the name for content whose own name is taken by something else."""
    return f"{name.removesuffix('.mp4')}-{sha256[:8]}.mp4"
