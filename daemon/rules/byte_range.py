"""Which part of a file does somebody want who asks for a part?

Rule: what cannot be understood is as if it had not been asked for, and the whole file is right
(RFC 9110, section 14.2); only what lies behind the end is refused.
"""

import re
from typing import Final

_ONE: Final = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII)


class Unsatisfiable(Exception):
    """The part that is wanted lies behind the end of the file."""


def cut(header: str | None, size_bytes: int) -> range | None:
    """Return the bytes that a Range header names; None: all of them.

    Several parts at once are not offered: the whole file is an answer to them too.

    Raises:
        Unsatisfiable: there is no such byte.
    """
    found = _ONE.fullmatch(header) if header else None
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        first, end = max(0, size_bytes - int(found[2])), size_bytes
    else:
        first = int(found[1])
        end = min(size_bytes, int(found[2]) + 1) if found[2] else size_bytes
        if found[2] and int(found[2]) < first:
            return None
    if first >= size_bytes or first >= end:
        raise Unsatisfiable
    return range(first, end)
