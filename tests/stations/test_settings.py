"""The configuration after a reload: taken whole or not at all, and with what has to stay."""

from pathlib import Path

import pytest

from daemon.config import ConfigError, load
from daemon.config.sections import KEYS, Config
from daemon.lock import StoreRefused
from daemon.logs import mask
from daemon.rules.schedule import MINUTE, SECOND
from daemon.rules.submission import NOWHERE
from daemon.settings import NEEDS_RESTART, Settings
from tests.stories.harness import Section, write_toml

TOKEN = "a-token-of-the-callback"


def read(folder: Path, **sections: Section) -> Config:
    """Return a configuration that a file in this folder holds."""
    path = folder / "config.toml"
    path.write_text(write_toml(sections))
    path.chmod(0o600)
    return load(path, {"HOME": str(folder)}).config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a state folder."""
    (tmp_path / "state").mkdir()
    return tmp_path


def test_what_changed_is_named_and_used(folder: Path) -> None:
    """Everything that follows from the configuration follows the new one."""
    settings = Settings(read(folder, callback={"tokens": [TOKEN]}))
    assert (settings.terms.has_key, settings.tokens) == (False, (TOKEN,))
    assert settings.callback_url == NOWHERE
    told = settings.take(
        read(
            folder,
            callback={
                "tokens": ["newer-token-of-the-callback", TOKEN],
                "public_url": "https://mv.example.com/video-callback/",
                "trust_link_after": "1m",
            },
            provider={"api_key": "a-key-of-the-provider", "retention": "1m"},
            poll={"interval": "10s", "first_after": "20s", "max_interval": "1m"},
            download={
                "retry_first": "1s",
                "retry_max": "1m",
                "allowed_hosts": ["a.example"],
                "allow_http": True,
                "allow_private": ["10.0.0.0/8"],
            },
        )
    )
    assert set(told[0]) == {
        *("callback.tokens", "callback.public_url", "callback.trust", "callback.trust_link_after"),
        *("provider.api_key", "provider.retention"),
        *("poll.interval", "poll.first_after", "poll.max_interval"),
        *("download.retry_first", "download.retry_max", "download.allowed_hosts"),
        *("download.allow_http", "download.allow_private"),
    }
    assert told[1] == []
    assert settings.tokens == ("newer-token-of-the-callback", TOKEN)
    url = "https://mv.example.com/video-callback/newer-token-of-the-callback"
    assert settings.callback_url == url
    assert mask("x newer-token-of-the-callback y") == "x *** y"
    pace = settings.terms.pace
    assert (pace.first_after_ms, pace.interval_ms) == (20 * SECOND, 10 * SECOND)
    assert pace.limit_ms == settings.terms.retry_limit_ms == MINUTE
    assert (settings.terms.retry_first_ms, settings.terms.has_key) == (SECOND, True)
    assert settings.retention_ms == settings.trust_link_after_ms == MINUTE
    policy = settings.policy
    assert policy.allow_http
    assert list(policy.own_names) == ["mv.example.com"]
    assert list(policy.allowed_hosts) == ["a.example"]
    assert [str(network) for network in policy.allow_private] == ["10.0.0.0/8"]


def test_what_needs_a_restart_keeps_its_value(folder: Path) -> None:
    """It is named at every reload until the restart, and the rest is taken."""
    first = read(folder, callback={"tokens": [TOKEN]})
    settings = Settings(first)
    moved = read(
        folder,
        callback={"tokens": [TOKEN], "listen": "127.0.0.1:9999", "path": "/other"},
        provider={"kind": "kie"},
        download={"concurrency": 9, "directory": "elsewhere"},
    )
    waiting = [
        *("callback.listen", "callback.path", "provider.kind", "provider.base_url"),
        "download.directory",
    ]
    for changed in (["download.concurrency"], []):
        told = settings.take(moved)
        assert (told[0], sorted(told[1])) == (changed, sorted(waiting))
    assert settings.config.callback == first.callback
    assert settings.config.provider == first.provider
    assert settings.config.download.directory == first.download.directory
    assert settings.config.download.concurrency == 9
    assert settings.take(first) == (["download.concurrency"], [])
    assert set(KEYS) >= NEEDS_RESTART


def test_a_state_folder_that_moves_waits_with_all_that_lies_in_it(folder: Path) -> None:
    """The generated token stays that of the folder in use."""
    settings = Settings(read(folder))
    path = folder / "config.toml"
    path.write_text(path.read_text().replace('"state"', '"elsewhere"'))
    _, waiting = settings.take(load(path, {"HOME": str(folder)}).config)
    assert sorted(waiting) == ["admin.socket", "download.directory", "state_dir"]
    assert not (folder / "elsewhere").exists()
    assert settings.config.state_dir == folder / "state"


def test_without_tokens_one_is_made_and_kept(folder: Path) -> None:
    """Removed tokens make room for the generated one, the same at every reload."""
    settings = Settings(read(folder, callback={"tokens": [TOKEN]}))
    told = settings.take(read(folder))
    assert told == (["callback.tokens"], [])
    (made,) = settings.tokens
    assert made == (folder / "state" / "callback-token").read_text().strip()
    assert mask(made) == "***"
    settings.take(read(folder, poll={"interval": "1s"}))
    assert settings.tokens == (made,)


def test_a_reload_that_fails_changes_nothing(folder: Path) -> None:
    """A token that cannot be read leaves every old value as it was."""
    first = read(folder, callback={"tokens": [TOKEN]})
    settings = Settings(first)
    (folder / "state" / "callback-token").write_text("")
    with pytest.raises(StoreRefused):
        settings.take(read(folder, poll={"interval": "1s"}))
    assert (settings.config, settings.tokens) == (first, (TOKEN,))
    assert settings.terms.pace.interval_ms == 30 * SECOND


def test_a_door_for_everyone_keeps_its_token(folder: Path) -> None:
    """The listener stays until a restart, so a file without both is refused whole."""
    admin = {"listen": "0.0.0.0:8081", "token": "a-token-of-the-admin"}
    first = read(folder, callback={"tokens": [TOKEN]}, admin=admin)
    settings = Settings(first)
    with pytest.raises(ConfigError, match=r"^admin\.listen: before a restart: .*admin\.token"):
        settings.take(read(folder, callback={"tokens": [TOKEN]}, poll={"interval": "1s"}))
    assert settings.config == first
    changed = settings.take(
        read(folder, callback={"tokens": [TOKEN]}, admin=admin | {"token": "another-admin-token"})
    )
    assert changed == (["admin.token"], [])


@pytest.mark.parametrize(
    ("public_url", "names", "addresses"),
    [
        ("https://MV.example.com/video-callback", {"mv.example.com"}, set()),
        ("https://198.44.10.9/video-callback", set(), {"198.44.10.9"}),
        ("https://[2a01:4f8:c0:1::9]/video-callback", set(), {"2a01:4f8:c0:1::9"}),
        (None, set(), set()),
    ],
)
def test_the_public_address_is_no_file_host(
    tmp_path: Path, public_url: str | None, names: set[str], addresses: set[str]
) -> None:
    """Behind a router it is on no device of this machine, so nobody but the owner knows it."""
    lines = ['state_dir = "state"', "[callback]"]
    lines += [f'public_url = "{public_url}"'] if public_url else []
    (tmp_path / "state").mkdir()
    (tmp_path / "config.toml").write_text("\n".join(lines))
    policy = Settings(load(tmp_path / "config.toml", {}).config).policy
    assert set(policy.own_names) == names
    assert set(policy.own_addresses) == addresses
