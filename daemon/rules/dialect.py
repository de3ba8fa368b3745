"""How do the providers differ that speak this protocol?

Rule: what one provider says in its own way stands in one `Dialect`; a fourth speaker is one more
entry of `DIALECTS`, and nothing else changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Outcome(Enum):
    """What an answer to one of our own calls means for our calls."""

    ANSWERED = "answered"
    UNKNOWN = "unknown"
    KEY = "key"
    CREDITS = "credits"
    RATE = "rate"
    MAINTENANCE = "maintenance"
    TROUBLE = "trouble"
    """The call failed, and perhaps all calls do."""
    ODD = "odd"
    """A readable answer that no rule knows: trouble of this call alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider. Paths are relative to `base_url`.

    `codes` says what a code in the body means for our calls; one that is neither there nor a
    success is trouble of the call. `fresh_link_path` makes a short-lived link out of one that is
    refused, where the provider has such a call.
    """

    base_url: str
    codes: Mapping[int, Outcome]
    credit_path: str
    fresh_link_path: str | None = None


_SUNOAPI_CODES: Mapping[int, Outcome] = MappingProxyType(
    {
        401: Outcome.KEY,
        403: Outcome.KEY,
        405: Outcome.RATE,
        429: Outcome.CREDITS,
        430: Outcome.RATE,
        455: Outcome.MAINTENANCE,
    }
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        # https://docs.sunoapi.org/suno-api/create-music-video: 429 is "insufficient credits".
        # https://docs.sunoapi.org/suno-api/get-remaining-credits
        "sunoapi": Dialect(
            base_url="https://api.sunoapi.org",
            codes=_SUNOAPI_CODES,
            credit_path="api/v1/generate/credit",
        ),
        # https://docs.api.box/suno-api/create-music-video has the same table.
        "apibox": Dialect(
            base_url="https://api.api.box",
            codes=_SUNOAPI_CODES,
            credit_path="api/v1/generate/credit",
        ),
        # https://docs.kie.ai/suno-api/create-music-video: 429 is "call frequency too high".
        # https://docs.kie.ai/common-api/get-account-credits
        # https://docs.kie.ai/common-api/download-url
        "kie": Dialect(
            base_url="https://api.kie.ai",
            codes=MappingProxyType(
                {
                    401: Outcome.KEY,
                    402: Outcome.CREDITS,
                    403: Outcome.KEY,
                    429: Outcome.RATE,
                    430: Outcome.RATE,
                    455: Outcome.MAINTENANCE,
                }
            ),
            credit_path="api/v1/chat/credit",
            fresh_link_path="api/v1/common/download-url",
        ),
    }
)
"""`provider.kind` -> how it speaks."""
