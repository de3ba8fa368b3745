"""What a shut gate means for the videos, and what to do: for status, dashboard and notifications.

Rule: one truth for all who speak to people. `means` says first whether anything is lost by it.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Words(NamedTuple):
    """What happened, what it means for the videos, and what to do."""

    what: str
    means: str
    do: str


_ASKING: Final = "nothing is lost: callbacks are taken and known links are fetched"
GATES: Final[Mapping[str, Words]] = {
    "key": Words(
        "the provider refuses the API key",
        f"{_ASKING}. Nothing can be asked or submitted meanwhile, and the provider deletes videos "
        "after about 14 days",
        "put a valid key where provider.api_key is set, then systemctl reload suno-videod; where "
        "it is a credential: suno-videod config init --system --yes --api-key-file -, then "
        "systemctl restart suno-videod",
    ),
    "credits": Words(
        "the credits are used up",
        "nothing is lost: what was paid for is still fetched. Nothing can be submitted",
        "buy credits at the provider; submits that wait go on by themselves",
    ),
    "rate": Words(
        "the provider wants fewer calls",
        f"{_ASKING}. Questions take longer",
        "nothing, it opens by itself; if it comes again and again, lower "
        "provider.requests_per_second",
    ),
    "maintenance": Words(
        "the provider is under maintenance",
        f"{_ASKING}. Questions wait",
        "nothing, it opens by itself",
    ),
    "api": Words(
        "the provider's API does not answer",
        f"{_ASKING}. Questions wait and are tried again by themselves",
        "nothing for now; if it lasts for hours, look at the provider's own status page, and at "
        "the network of this machine (suno-videod doctor)",
    ),
    "disk": Words(
        "the disk for the videos takes no more",
        "nothing is lost: callbacks are taken, and nothing that is stored is touched. Downloads "
        "wait, and the provider deletes videos after about 14 days",
        "make room above disk.min_free, or mend the disk or the permissions of the download "
        "folder; it goes on by itself",
    ),
}
_NEW: Final = Words(
    "one kind of work waits", "nothing is lost by it", "nothing, it opens by itself"
)


def explain_gate(name: str) -> Words:
    """Return the words for a gate; a host's gate and one that is not known have words too."""
    kind, _, host = name.partition(":")
    if kind == "host" and host:
        return Words(
            f"{host} does not deliver its videos",
            "nothing is lost yet: downloads from there wait and are tried again, others go on",
            "nothing, unless deadlines come near (suno-videod status)",
        )
    return GATES.get(name, _NEW)
