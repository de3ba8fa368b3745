"""What must never be read in any output?

Rule: secrets are replaced by their value wherever they stand, and links lose their query, for that
is where file hosts put signatures.
"""

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "***"
SHOWN_LIMIT: Final = 7
"""So many first characters of a secret give nothing away, and stand in many an honest text."""
# Paths of real links hold raw spaces, so a link reaches to the first question mark on its line.
# JSON may write the slashes as "\/".
# A link without one is taken too, or each scheme in a row of them would be read to the row's end.
_LINK = re.compile(r"(\b(?:https?|ftp):\\?/\\?/[^?#'\"<>\r\n]+)(\?[^\s'\"<>]*)?", re.IGNORECASE)
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def order_secrets(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the secrets worth searching for, the longest first: one may contain another."""
    return tuple(sorted({secret for secret in secrets if secret}, key=len, reverse=True))


def redact(value: object, secrets: tuple[str, ...]) -> object:
    """Return `value` with every secret masked, in texts, lists and mappings alike.

    What is neither of these nor a number becomes the text that it would be printed as.
    """
    if type(value) is str:
        # Nearly all of them, many thousand times a second.
        return _redact_text(value, secrets)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {redact(key, secrets): redact(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, secrets) for item in value]
    if isinstance(value, tuple):
        return tuple(redact(item, secrets) for item in value)
    if isinstance(value, bytes):
        return _redact_text(value.decode("utf-8", "backslashreplace"), secrets)
    return _redact_text(str(value), secrets)


def _redact_text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    if "?" not in text:
        return text
    return _LINK.sub(lambda found: f"{found[1]}?{MASK}" if found[2] else found[0], text)


def cut_secret(text: str, secrets: tuple[str, ...]) -> str:
    """Mask the beginning of a secret at the end of `text`, which may have been cut there."""
    for secret in secrets:
        if secret[: SHOWN_LIMIT + 1] not in text[-len(secret) :]:
            continue
        for length in range(len(secret) - 1, SHOWN_LIMIT, -1):
            if text.endswith(secret[:length]):
                return text[:-length] + MASK
    return text


def escape_control(text: str) -> str:
    """Return `text` as a terminal may show it: control characters and bidi marks spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(
        lambda found: found[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text
    )
