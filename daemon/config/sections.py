"""The configuration: every section, every key, every default.

Rule: a key is one field, with its type, its spelling and its default, and the field is called as in
TOML. A field without a default depends on the machine or on other keys; `config.load` settles it,
so that all others see final values only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec

from daemon.config.endpoints import (
    Endpoint,
    Network,
    TcpEndpoint,
    UnixEndpoint,
    parse_base_url,
    parse_endpoint,
    parse_host,
    parse_host_pattern,
    parse_network,
    parse_public_url,
    parse_tcp_endpoint,
    parse_url_path,
)
from daemon.config.secret import Secret
from daemon.config.spelling import (
    EVENT_NAMES,
    FILE_NAME,
    HEADER_TEXT,
    HOOK_URL,
    INTERVAL,
    PATH,
    SIGNING_KEY,
    SWITCH,
    TARGET_URL,
    TOKEN,
    WEBHOOK_SECRET,
    Spelling,
    each,
    listener,
    mode,
    one_of,
    rate,
    size,
    text,
    whole,
)
from daemon.config.units import GIB, KIB, MIB
from daemon.rules.dialect import DIALECTS
from daemon.rules.notification import EVENTS

__all__ = [
    "ITEM_KEYS",
    "KEYS",
    "LISTS",
    "SECTIONS",
    "Admin",
    "Callback",
    "Config",
    "Disk",
    "Download",
    "Endpoint",
    "Format",
    "Heartbeat",
    "Key",
    "Level",
    "Log",
    "Network",
    "Notify",
    "Poll",
    "Provider",
    "Secret",
    "TcpEndpoint",
    "Trust",
    "UnixEndpoint",
]

Trust: TypeAlias = Literal["confirm", "callback"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["auto", "json", "console"]
Interval: TypeAlias = Annotated[timedelta, INTERVAL]

LOOPBACK: Final = tuple(map(parse_network, ("127.0.0.1", "::1")))


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """How the provider reaches us, and how far a callback is believed."""

    listen: Annotated[Endpoint | None, listener(parse_endpoint)] = TcpEndpoint("127.0.0.1", 8080)
    path: Annotated[str, text(parse_url_path)] = "/video-callback"
    public_url: Annotated[str | None, text(parse_public_url)] = None
    # Empty means: generated at the first start and kept in the state folder.
    tokens: Annotated[tuple[Secret, ...], each(TOKEN)] = ()
    hmac_keys: Annotated[tuple[Secret, ...], each(SIGNING_KEY)] = ()
    trust: Annotated[Trust, one_of(get_args(Trust))]
    # Long enough for a person to mend an API key, short against the days a provider keeps a file.
    trust_link_after: Interval = timedelta(hours=6)
    trusted_proxies: Annotated[tuple[Network, ...], each(text(parse_network))] = LOOPBACK
    tls_certificate: Annotated[Path | None, PATH] = None
    tls_private_key: Annotated[Path | None, PATH] = None


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Whom we ask, with which key and how often."""

    kind: Annotated[str, one_of(tuple(DIALECTS))] = "sunoapi"
    base_url: Annotated[str, text(parse_base_url)]
    api_key: Annotated[Secret | None, HEADER_TEXT] = None
    # What the providers promise; some files live longer, none should be counted on to.
    retention: Interval = timedelta(days=14)
    credits_low: Annotated[int, whole(0)] = 20
    requests_per_second: Annotated[float, rate(1_000)] = 1.0


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """When a silent task is asked about."""

    # A video takes one to two minutes: three minutes of silence are news.
    first_after: Interval = timedelta(minutes=3)
    interval: Interval = timedelta(seconds=30)
    max_interval: Interval = timedelta(hours=6)


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """Where the videos go, under which names, how fast and from whom."""

    directory: Annotated[Path, PATH]
    file_name: Annotated[str, FILE_NAME] = "video_{task_id}.mp4"
    # A web server or an editor in the daemon's group can read; nobody else can.
    file_mode: Annotated[int, mode(owner=0o600, most=0o666)] = 0o640
    directory_mode: Annotated[int, mode(owner=0o700, most=0o3777)] = 0o750
    concurrency: Annotated[int, whole(1, 256)] = 4
    # Only a host that limits each connection is fetched faster by several.
    connections: Annotated[int, whole(1, 16)] = 4
    min_segment: Annotated[int, size(least=KIB)] = 4 * MIB
    rate_limit: Annotated[int, size()] = 0
    max_size: Annotated[int, size(least=1)] = 4 * GIB
    connect_timeout: Interval = timedelta(seconds=15)
    stall_timeout: Interval = timedelta(seconds=30)
    min_speed: Annotated[int, size()] = 8 * KIB
    min_speed_time: Interval = timedelta(seconds=60)
    retry_first: Interval = timedelta(seconds=2)
    retry_max: Interval = timedelta(minutes=15)
    allowed_hosts: Annotated[tuple[str, ...], each(text(parse_host_pattern))] = ()
    allow_http: Annotated[bool, SWITCH] = False
    allow_private: Annotated[tuple[Network, ...], each(text(parse_network))] = ()


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """How much room is left alone."""

    min_free: Annotated[int, size()] = GIB


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """One place where events are told: a program, or people."""

    # With the token of a service in it, mostly.
    url: Annotated[Secret, TARGET_URL]
    secret: Annotated[Secret | None, WEBHOOK_SECRET] = None
    events: Annotated[tuple[str, ...], EVENT_NAMES] = EVENTS


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told that all goes well, and misses it when nobody says so."""

    url: Annotated[Secret | None, HOOK_URL] = None
    interval: Interval = timedelta(minutes=5)


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """How the owner reaches us."""

    socket: Annotated[Path, PATH]
    listen: Annotated[TcpEndpoint | None, listener(parse_tcp_endpoint)] = None
    token: Annotated[Secret | None, HEADER_TEXT] = None
    hosts: Annotated[tuple[str, ...], each(text(parse_host))] = ()


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """How much is said, and in which form."""

    level: Annotated[Level, one_of(get_args(Level))] = "info"
    format: Annotated[Format, one_of(get_args(Format))] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured, settled."""

    state_dir: Annotated[Path, PATH]
    callback: Callback
    provider: Provider
    poll: Poll
    download: Download
    disk: Disk
    notify: tuple[Notify, ...] = ()
    heartbeat: Heartbeat
    admin: Admin
    log: Log


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about one key; `default` is `msgspec.NODEFAULT` where `config.load` settles it.

    A secret can also be given by `<key>_file`; `listed` ones are one a line there.
    """

    spelling: Spelling
    default: Any
    secret: bool
    listed: bool


SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = MappingProxyType(
    {
        field.name: field.type
        for field in msgspec.structs.fields(Config)
        if get_origin(field.type) is None
    }
)
LISTS: Final[Mapping[str, type[msgspec.Struct]]] = MappingProxyType(
    {
        field.name: get_args(field.type)[0]
        for field in msgspec.structs.fields(Config)
        if get_origin(field.type) is tuple
    }
)
"""Sections of which there may be any number, each written as [[name]]."""


def _key(field: msgspec.structs.FieldInfo) -> Key:
    hint, spelling = get_args(field.type)
    secret = hint is Secret or Secret in get_args(hint)
    return Key(spelling, field.default, secret, get_origin(hint) is tuple)


def _keys() -> Mapping[str, Key]:
    keys = {}
    for top in msgspec.structs.fields(Config):
        if top.name in SECTIONS:
            for field in msgspec.structs.fields(SECTIONS[top.name]):
                keys[f"{top.name}.{field.name}"] = _key(field)
        elif top.name not in LISTS:
            keys[top.name] = _key(top)
    return MappingProxyType(keys)


KEYS: Final = _keys()
"""Every key by its path (`download.concurrency`), in the order of the sections."""
ITEM_KEYS: Final[Mapping[str, Mapping[str, Key]]] = MappingProxyType(
    {
        name: {field.name: _key(field) for field in msgspec.structs.fields(item)}
        for name, item in LISTS.items()
    }
)
"""The keys of one item of each list, such as `url` of `notify`."""
