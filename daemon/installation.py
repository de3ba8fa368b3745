"""The whole installation as a service of systemd: which file goes where, for whom, with what in it.

Rule: this only plans. A configuration that is there stays as it is; everything else is ours, and is
what this version says it is. What is generated can be made again from the same configuration.
"""

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from daemon.config.endpoints import TcpEndpoint, is_loopback
from daemon.config.loader import CREDENTIALS
from daemon.config.sections import KEYS, Config
from daemon.config.spelling import quote
from daemon.config.writing import read_template

Network: TypeAlias = IPv4Network | IPv6Network

NAME: Final = "suno-videod"
CONFIGURATION: Final = Path("/etc/suno-videod/config.toml")
CREDENTIAL_FOLDER: Final = CONFIGURATION.with_name(CREDENTIALS)
UNITS: Final = Path("/etc/systemd/system")
USERS: Final = Path("/etc/sysusers.d/suno-videod.conf")
COMMAND: Final = Path("/usr/local/bin/suno-videod")
STATE_DIR: Final = Path("/var/lib/suno-videod")
STANDARD_VENV: Final = Path("/opt/suno-videod")
_SYSUSERS: Final = f'u {NAME} - "Suno music videos" {STATE_DIR}\n'
_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_PRIVATE: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", *_LOOPBACK))
)
"""Where those are who may reach a listener that is not on loopback: callers, proxies, its owner."""
_DENY: Final = re.compile(r"^IPAddressDeny=(.*)$", re.MULTILINE)
_FENCE: Final = "suno-videod.service.d/10-addresses.conf"
_FENCE_HEAD: Final = """\
# Written by `suno-videod config init --system` from config.toml and the resolver: run it again when
# one of them changes. The kernel refuses every packet to or from the denied networks, whatever the
# daemon was talked into. systemd-run --pipe -p IPAddressDeny=localhost curl http://127.0.0.1:9
# shows whether this machine can do that ("Operation not permitted").
"""
_CREDENTIALS_HEAD: Final = """\
# Written by `suno-videod config init --system`: a line for each secret in the folder, which root
# alone can read.
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """A file, a folder (content None) or a link (content a path) of the installation.

    `group` is root's or the service's; `keep` leaves alone what is there already.
    """

    path: Path
    content: bytes | Path | None
    mode: int
    group: str = "root"
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine and the user say."""

    venv: Path
    config: Config | None
    """The configuration that is there already."""
    public_url: str | None
    api_key: str | None
    resolvers: Sequence[str]
    credentials: Sequence[str]
    """Names of the files in the credential folder."""


def plan(facts: Facts, resolve: Callable[[str], list[str]]) -> list[Planned]:
    """Return everything that belongs to the installation, folders before what is in them."""
    names = sorted({*facts.credentials, *(["provider.api_key"] if facts.api_key else [])})
    socket_unit = read_unit("suno-videod.socket")
    drop_ins = UNITS / "suno-videod.service.d"
    service = _point_at(read_unit("suno-videod.service"), facts.venv)
    planned = [
        Planned(USERS, _SYSUSERS.encode(), 0o644),
        Planned(CONFIGURATION.parent, None, 0o750, NAME),
        Planned(CONFIGURATION, _configure(facts.public_url), 0o640, NAME, keep=True),
        Planned(CREDENTIAL_FOLDER, None, 0o700),
        Planned(UNITS / "suno-videod.service", service.encode(), 0o644),
        Planned(UNITS / "suno-videod.socket", socket_unit.encode(), 0o644),
        Planned(drop_ins, None, 0o755),
        Planned(drop_ins / "10-addresses.conf", draw_fence(facts, resolve).encode(), 0o644),
    ]
    if facts.api_key:
        secret = f"{facts.api_key}\n".encode()
        planned.insert(4, Planned(CREDENTIAL_FOLDER / "provider.api_key", secret, 0o600))
    if names:
        lines = [f"LoadCredential={name}:{CREDENTIAL_FOLDER / name}\n" for name in names]
        text = "".join([_CREDENTIALS_HEAD, "[Service]\n", *lines])
        planned.append(Planned(drop_ins / "20-credentials.conf", text.encode(), 0o644))
    planned.append(Planned(COMMAND, facts.venv / "bin" / NAME, 0o777))
    return planned


def read_unit(name: str) -> str:
    """Return a unit as it is shipped."""
    return (resources.files("daemon") / "units" / name).read_text(encoding="utf-8")


def is_credential(name: str) -> bool:
    """Tell whether a file of this name in the credential folder is a secret that we know."""
    return name in KEYS and KEYS[name].secret


def is_hidden(venv: Path) -> bool:
    """Tell whether the service could not see an installation: its unit hides homes and /tmp."""
    hidden = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - the names that are hidden
    return any(venv.is_relative_to(place) for place in hidden)


def _point_at(unit: str, venv: Path) -> str:
    return unit.replace(f"{STANDARD_VENV}/bin/python", f"{venv}/bin/python")


def _configure(public_url: str | None) -> bytes:
    text = read_template("example")
    text = re.sub(
        r'^# state_dir = ".*"$', f'state_dir = "{STATE_DIR}"', text, count=1, flags=re.MULTILINE
    )
    if public_url:
        line = f"public_url = {quote(public_url)}"
        text = re.sub(r"^# public_url = .*$", lambda _: line, text, count=1, flags=re.MULTILINE)
    return text.encode()


def draw_fence(facts: Facts, resolve: Callable[[str], list[str]]) -> str:
    """Return the drop-in that keeps the service away from private addresses.

    Where callbacks come over a TCP port of this machine, or something that is configured is there,
    loopback stays open, and the daemon may bind; what is private and configured stays open too.
    """
    denied = [network for line in _DENY.findall(read_unit(_FENCE)) for network in line.split()]
    reasons: dict[Network, str] = {}
    for network, why in _find_reasons(facts, resolve):
        reasons.setdefault(network, why)
    lines = [f"IPAddressDeny={network}\n" for network in denied]
    for network, why in reasons.items():
        if any(_meets(network, ip_network(one)) for one in denied):
            lines.append(f"# {why}\nIPAddressAllow={network}\n")
    if not any(network in _LOOPBACK for network in reasons):
        lines.append("# Sockets that systemd passes are bound already.\nSocketBindDeny=any\n")
    return "".join([_FENCE_HEAD, "\n[Service]\n", *lines])


def _meets(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _find_reasons(
    facts: Facts, resolve: Callable[[str], list[str]]
) -> Iterator[tuple[Network, str]]:
    """Yield what has to be reached, and why."""
    for address in facts.resolvers:
        yield ip_network(address), "A resolver, of /etc/resolv.conf."
    # Traffic of a socket that systemd keeps is filtered by the socket's own unit, says
    # systemd.resource-control(5); that has not been seen here, and callbacks are at stake.
    listening = re.search(r"^ListenStream=(?!/)", read_unit("suno-videod.socket"), re.MULTILINE)
    if listening:
        for network in _LOOPBACK:
            yield network, "Callbacks come from a proxy on this machine, over TCP."
    config = facts.config
    if config is None:
        return
    endpoints = (("callback.listen", config.callback.listen), ("admin.listen", config.admin.listen))
    for name, endpoint in endpoints:
        if isinstance(endpoint, TcpEndpoint):
            own = _LOOPBACK if is_loopback(endpoint.host) else _PRIVATE
            for network in own:
                yield network, f"{name} is there."
    for network in config.download.allow_private:
        yield network, "Of download.allow_private."
    for name, url in _urls(config):
        host = urlsplit(url).hostname or ""
        for address in resolve(host):
            yield ip_network(address), f"{name} leads to {host}."


def _urls(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what the daemon calls because somebody configured it."""
    yield "provider.base_url", config.provider.base_url
    for number, target in enumerate(config.notify, 1):
        yield f"notify[{number}].url", target.url.reveal()
    if config.heartbeat.url:
        yield "heartbeat.url", config.heartbeat.url.reveal()


def resolve(host: str) -> list[str]:
    """Return the addresses of a host, none where it cannot be found."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(one[4][0]) for one in found})


def read_resolvers(text: str) -> list[str]:
    """Return the name servers of a resolv.conf."""
    # Without the interface that a link-local address may name: fe80::1%eth0.
    found = re.findall(r"^\s*nameserver\s+([^\s%]+)", text, re.MULTILINE)
    return [address for address in found if _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
