"""Until when is a certificate valid?

Rule: bytes in, times out; nothing is verified here. The standard library tells the dates only of a
certificate that it trusts, and of one that it does not trust they are the first thing to know.

Source: https://www.rfc-editor.org/rfc/rfc5280#section-4.1 (DER, X.690).
"""

from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_LONG: Final = 0x80
_CENTURY: Final = 50
"""RFC 5280, 4.1.2.5.1: a year of two digits from 50 on is of the last century."""


def read_validity(der: bytes) -> tuple[datetime, datetime]:
    """Return the first and the last moment at which a certificate is valid.

    Raises:
        ValueError: it is no certificate.
    """
    try:
        _, certificate, _ = _take(der, _SEQUENCE)
        _, fields, _ = _take(certificate, _SEQUENCE)
        if fields[0] == _VERSION:
            _, _, fields = _take(fields)
        # Serial number, algorithm, issuer; then the dates.
        for _ in range(3):
            _, _, fields = _take(fields)
        _, dates, _ = _take(fields, _SEQUENCE)
        kind, begin, dates = _take(dates)
        last_kind, end, _ = _take(dates)
        return _read_time(kind, begin), _read_time(last_kind, end)
    except (IndexError, UnicodeDecodeError) as wrong:
        raise ValueError("no certificate") from wrong


def _take(data: bytes, wanted: int | None = None) -> tuple[int, bytes, bytes]:
    """Return the tag and the content of the first value, and what stands behind it."""
    tag, length, start = data[0], data[1], 2
    if wanted is not None and tag != wanted:
        raise ValueError("no certificate")
    if length & _LONG:
        start += length & ~_LONG
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("no certificate")
    return tag, data[start : start + length], data[start + length :]


def _read_time(tag: int, data: bytes) -> datetime:
    text = data.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _CENTURY else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no certificate")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
