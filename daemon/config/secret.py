"""A value that no output may show.

Rule: nothing prints a secret by accident; whoever needs the text says `reveal`.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import hmac
from typing import Final, NoReturn

MASK: Final = "***"


class Secret:
    """Text such as an API key. It compares in constant time and cannot be pickled or encoded."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself; the caller answers for where it goes."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, format_spec: str) -> str:
        return format(MASK, format_spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")
