"""The configuration as it holds now, for parts that outlive a reload.

Rule: whoever needs a value that a reload may change asks for it at each use and never keeps it.
What cannot change while the process runs keeps its old value and is named.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from daemon.config import ConfigError, Mistake
from daemon.config.agreement import find_conflicts
from daemon.config.endpoints import is_address
from daemon.config.sections import KEYS, LISTS, SECTIONS, Config
from daemon.logs import hide
from daemon.rules.address import AddressPolicy
from daemon.rules.schedule import REFRESH_MS, Pace
from daemon.rules.submission import NOWHERE
from daemon.rules.verdict import Terms
from daemon.token import make_token

NEEDS_RESTART: Final = frozenset(
    {
        *("state_dir", "callback.listen", "callback.path", "provider.kind", "provider.base_url"),
        *("callback.tls_certificate", "callback.tls_private_key"),
        *("download.directory", "download.file_mode", "download.directory_mode"),
        *("download.connect_timeout", "download.stall_timeout"),
        *("admin.socket", "admin.listen", "log.format"),
    }
)
"""Keys of open sockets, folders and sessions."""


class Settings:
    """The configuration and what follows from it; `take` replaces it.

    Raises:
        StoreRefused: the generated token can neither be read nor written.
    """

    def __init__(self, config: Config) -> None:
        self._use(config)

    def take(self, config: Config) -> tuple[list[str], list[str]]:
        """Use a new configuration; return the keys that changed and those that need a restart.

        Raises:
            ConfigError: it does not go together with what needs a restart.
            StoreRefused: the generated token can neither be read nor written.
        """
        before, after = _values(self.config), _values(config)
        differing = [name for name in before if before[name] != after[name]]
        waiting = [name for name in differing if name in NEEDS_RESTART]
        kept = {name: before[name] for name in waiting}
        # A listener that stays open for everyone must not lose its token.
        conflicts = find_conflicts({**after, **kept})
        mistakes = [Mistake(keys[0], None, f"before a restart: {told}") for keys, told in conflicts]
        if mistakes:
            raise ConfigError(mistakes)
        self._use(_replace(config, kept))
        return [name for name in differing if name not in NEEDS_RESTART], waiting

    def _use(self, config: Config) -> None:
        # Whatever can fail comes first: a reload is taken whole or not at all.
        tokens = tuple(token.reveal() for token in config.callback.tokens)
        if not tokens:
            tokens = (make_token(config.state_dir),)
        hide(tokens)
        self.tokens = tokens
        self.config = config
        self.terms = _terms(config)
        self.policy = _policy(config)
        self.retention_ms = ms(config.provider.retention)
        self.trust_link_after_ms = ms(config.callback.trust_link_after)

    @property
    def longest_pause_ms(self) -> int:
        """The longest that anything is put off: nothing is due later than this from now."""
        return max(REFRESH_MS, ms(self.config.poll.max_interval), self.terms.retry_limit_ms)

    @property
    def callback_url(self) -> str:
        """What the provider is given as `callBackUrl`."""
        public = self.config.callback.public_url
        return f"{public}/{self.tokens[0]}" if public else NOWHERE


def ms(span: timedelta) -> int:
    """Return a duration in whole milliseconds."""
    return int(span.total_seconds() * 1000)


def _values(config: Config) -> Mapping[str, Any]:
    values = {name: getattr(config, name) for name in LISTS}
    for name in KEYS:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def _replace(config: Config, kept: Mapping[str, Any]) -> Config:
    changed: dict[str, Any] = {name: kept[name] for name in kept if "." not in name}
    for section in SECTIONS:
        fields = {
            name.partition(".")[2]: value
            for name, value in kept.items()
            if name.startswith(f"{section}.")
        }
        changed[section] = msgspec.structs.replace(getattr(config, section), **fields)
    return msgspec.structs.replace(config, **changed)


def _terms(config: Config) -> Terms:
    return Terms(
        pace=Pace(
            first_after_ms=ms(config.poll.first_after),
            interval_ms=ms(config.poll.interval),
            limit_ms=ms(config.poll.max_interval),
        ),
        retry_first_ms=ms(config.download.retry_first),
        retry_limit_ms=ms(config.download.retry_max),
        has_key=config.provider.api_key is not None,
    )


def _policy(config: Config) -> AddressPolicy:
    public = config.callback.public_url
    host = urlsplit(public).hostname if public else None
    ours = frozenset({host.lower()} if host else ())
    addresses = frozenset(filter(is_address, ours))
    return AddressPolicy(
        allow_http=config.download.allow_http,
        allow_private=config.download.allow_private,
        allowed_hosts=config.download.allowed_hosts,
        own_addresses=addresses,
        own_names=ours - addresses,
    )
