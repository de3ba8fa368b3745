"""Every key has one spelling that fits its default, and a secret stays one."""

import copy
import json
import pickle
from collections.abc import Callable

import msgspec
import pytest

from daemon.config.sections import ITEM_KEYS, KEYS, LISTS, SECTIONS, Provider, Secret

DERIVED = {
    "state_dir",
    "callback.trust",
    "provider.base_url",
    "download.directory",
    "admin.socket",
}


def test_only_what_depends_on_the_machine_has_no_default() -> None:
    """Every other key can be left out without anybody settling it."""
    assert {name for name, key in KEYS.items() if key.default is msgspec.NODEFAULT} == DERIVED


def test_sections_are_frozen() -> None:
    """No part of the program can change what another one reads."""
    assert all(
        section.__struct_config__.frozen for section in [*SECTIONS.values(), *LISTS.values()]
    )
    assert len(SECTIONS) == 8


def test_the_secrets_are_known() -> None:
    """These keys are masked, redacted and may come from a file or a credential; two are lists."""
    assert [name for name, key in ITEM_KEYS["notify"].items() if key.secret] == ["url", "secret"]
    assert {name: key.listed for name, key in KEYS.items() if key.secret} == {
        "callback.tokens": True,
        "callback.hmac_keys": True,
        "provider.api_key": False,
        "heartbeat.url": False,
        "admin.token": False,
    }


SENTINEL = "sentinel-of-the-test"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        format,
        "{:>3}".format,
        "%s".__mod__,
        lambda secret: f"{secret!r} {secret!s} {secret}",
        lambda secret: str([secret, {"key": secret}]),
        lambda secret: json.dumps(secret, default=str),
        lambda secret: repr(Provider(base_url="https://x.example", api_key=secret)),
    ],
)
def test_secret_is_masked_wherever_it_is_printed(show: Callable[[Secret], str]) -> None:
    """Neither printing nor formatting nor what holds it shows the text."""
    shown = show(Secret(SENTINEL))
    assert SENTINEL not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "encode",
    [
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
        pickle.dumps,
        copy.deepcopy,
        lambda secret: msgspec.json.encode(Provider(base_url="https://x", api_key=secret)),
    ],
)
def test_secret_cannot_be_written_by_accident(encode: Callable[[Secret], object]) -> None:
    """No serialiser takes it."""
    with pytest.raises(TypeError):
        encode(Secret(SENTINEL))


def test_secret_is_compared_by_its_text() -> None:
    """Equal texts are equal secrets, a secret is no text, and only `reveal` gives it away."""
    secret = Secret("grün")
    assert secret == Secret("grün")
    assert secret != Secret("grau")
    assert secret != "grün"
    assert len({secret, Secret("grün"), Secret("grau")}) == 2
    assert secret.reveal() == "grün"
    assert not hasattr(secret, "__dict__")
