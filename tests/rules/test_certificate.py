"""Dates are read from a certificate that nobody verified."""

import random
import ssl
from datetime import UTC, datetime

import pytest
import trustme

from daemon.rules.certificate import read_validity


def der(begin: datetime, end: datetime) -> bytes:
    """Return a certificate with these dates."""
    issued = trustme.CA().issue_cert("mv.example.com", not_before=begin, not_after=end)
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.mark.parametrize("last_year", [2027, 2049, 2050, 2099])
def test_both_kinds_of_time_are_read(last_year: int) -> None:
    """UTCTime ends with 2049; later years are GeneralizedTime."""
    begin = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    end = datetime(last_year, 12, 31, 23, 59, 58, tzinfo=UTC)
    assert read_validity(der(begin, end)) == (begin, end)


def test_what_is_none_is_refused_and_nothing_else_happens() -> None:
    """Cut and flipped bytes give dates or ValueError, whatever they are."""
    whole = der(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    luck = random.Random(7)
    for number in range(2_000):
        piece = bytearray(whole[: luck.randrange(len(whole))] if number % 2 else whole)
        for _ in range(3):
            if piece:
                piece[luck.randrange(min(len(piece), 250))] = luck.randrange(256)
        try:
            read_validity(bytes(piece))
        except ValueError:
            continue
    with pytest.raises(ValueError, match="no certificate"):
        read_validity(b"")
    with pytest.raises(ValueError, match="no certificate"):
        read_validity(whole[:60])
