"""How is a thing named that the provider has not named?

Source: https://github.com/ulid/spec (48 bits of milliseconds, 80 bits of luck, Crockford base 32).
"""

from typing import Final

LUCK_BYTES: Final = 10
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LETTERS: Final = 26


def make_ulid(now: int, luck: bytes) -> str:
    """Return the ULID of `now` (milliseconds since 1970) and ten bytes of luck."""
    number = (now << 8 * LUCK_BYTES) | int.from_bytes(luck)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LETTERS)))
