"""Row `acks`: how many callbacks a second are acknowledged, durably by us, by peers not at all.

Rule: all get the same requests from the same callers in the same order of turns. Beside the rate
stands the processor time of the server per thousand acknowledgements, children included, which
other work on the machine disturbs less.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.caller import Heard, call, failures
from tests.benchmarks.ours import our_daemon
from tests.benchmarks.programs import Missing, find, free_port, running
from tests.benchmarks.table import Goal, Row, compare, judge, skip, write
from tests.benchmarks.usage import cpu_seconds
from tests.stories.harness import TOKEN

CONNECTIONS: Final = 32
ROUNDS: Final = 3
SECONDS: Final = 2.0
WARM_UP_SECONDS: Final = 0.5
MOST_A_SECOND: Final = 100_000
"""Requests to make ready for a server of which nothing is known yet: none here is as fast."""
PEERS: Final = Path(__file__).parent / "peers"
EXPRESS: Final = "Express"
TRIVIAL: Final = "nginx `return 200`"
_HOOKS: Final = """
[{"id": "%s", "execute-command": "/bin/true", "trigger-rule":
  {"match": {"type": "value", "value": "nobody", "parameter": {"source": "payload", "name": "no"}}}
}]
"""
"""It parses the body, its rule is looked at and does not hold, so no command is ever started."""
_NGINX: Final = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events { worker_connections 256; }
http {
    access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi; keepalive_requests 100000000;
    server { listen 127.0.0.1:%d; return 200 '{"status":"received"}'; }
}
"""
_numbers = count()


@dataclass(slots=True)
class Server:
    """A server under load: its address, its process, and what its rounds brought."""

    url: str
    pid: int
    rounds: list[Heard] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Milliseconds of processor time per thousand acknowledgements."""
    fastest: float = MOST_A_SECOND

    def measure(self, seconds: float, connections: int = CONNECTIONS) -> None:
        """Load it for one round."""
        ready = int(seconds * self.fastest * 1.5)
        requests = failures(self.url, f"bench-{next(_numbers)}", ready)
        before = cpu_seconds(self.pid)
        heard = call(self.url, requests, connections, seconds)
        used = cpu_seconds(self.pid) - before
        self.fastest = heard.per_second
        self.rounds.append(heard)
        self.cpu_ms.append(used * 1e6 / len(heard.waits))

    @property
    def rates(self) -> list[float]:
        """Acknowledgements a second, by round."""
        return [heard.per_second for heard in self.rounds]

    @property
    def p99s(self) -> list[float]:
        """99th percentiles in milliseconds, by round."""
        return [heard.p99_ms for heard in self.rounds]


def run(folder: Path) -> Iterator[Row]:
    """Measure everybody in turn."""
    with our_daemon(folder / "ours") as daemon, ExitStack() as stack:
        servers = {"ours": Server(daemon.url, daemon.process.pid)}
        for name, start in STARTS.items():
            try:
                servers[name] = stack.enter_context(start(folder))
            except Missing as missing:
                yield skip(f"acknowledgements against {name}", str(missing))
        for server in servers.values():
            server.measure(WARM_UP_SECONDS)
            server.rounds.clear()
            server.cpu_ms.clear()
        for _ in range(ROUNDS):
            for server in servers.values():
                server.measure(SECONDS)
    yield from tell(servers)


def tell(servers: Mapping[str, Server]) -> Iterator[Row]:
    """Return the rows of what was measured."""
    ours, mode = servers["ours"], f'{CONNECTIONS} connections, trust = "callback"'
    peers = {name: server for name, server in servers.items() if name not in {"ours", TRIVIAL}}
    for name, server in peers.items():
        goal = Goal(">=", 2.0) if name == EXPRESS else None
        yield compare(
            f"durable acknowledgements, {mode}", ours.rates, server.rates, "/s", name, goal
        )
    for name, server in peers.items():
        goal = Goal("<=", 1.0)
        yield compare("their 99th percentile", ours.p99s, server.p99s, "ms", name, goal)
    for name, server in peers.items():
        yield compare("processor time per 1,000 of them", ours.cpu_ms, server.cpu_ms, "ms", name)
    if TRIVIAL in servers:
        limit = median(servers[TRIVIAL].rates)
        best = max(
            median(server.rates)
            for server in servers.values()
            if server.url != servers[TRIVIAL].url
        )
        told = f"the load generator itself, against {TRIVIAL}: {write(limit, '/s')}"
        yield judge(f"{told}, over the fastest server", [limit / best], "x", Goal(">=", 2.0, "x"))


@contextmanager
def _express(folder: Path) -> Iterator[Server]:
    command, port = [find("node"), str(PEERS / "forgetful.js")], free_port()
    modules = str(Path(find("express")).parent)
    environ = {"NODE_PATH": modules, "NODE_ENV": "production"}
    with running([*command, str(port)], folder, port, **environ) as pid:
        yield Server(_url(port), pid)


@contextmanager
def _webhook(folder: Path) -> Iterator[Server]:
    hooks, port = folder / "hooks.json", free_port()
    hooks.write_text(_HOOKS % TOKEN)
    command = [find("webhook"), "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)]
    with running([*command, "-urlprefix", "video-callback"], folder, port) as pid:
        yield Server(_url(port), pid)


@contextmanager
def _gunicorn(folder: Path) -> Iterator[Server]:
    find("flask")
    port = free_port()
    options = ["--workers", "2", "--threads", "8", "--keep-alive", "600", "--no-sendfile"]
    command = [find("gunicorn"), *options, "--bind", f"127.0.0.1:{port}", "--chdir", str(PEERS)]
    with running([*command, "forgetful_flask:app"], folder, port) as pid:
        yield Server(_url(port), pid)


@contextmanager
def _aiohttp(folder: Path) -> Iterator[Server]:
    port = free_port()
    with running([sys.executable, str(PEERS / "forgetful.py"), str(port)], folder, port) as pid:
        yield Server(_url(port), pid)


@contextmanager
def trivial(folder: Path) -> Iterator[Server]:
    """Run a server that does next to nothing, to learn how fast the callers can be."""
    home, port = folder / "trivial", free_port()
    home.mkdir()
    (home / "nginx.conf").write_text(_NGINX % port)
    command = [find("nginx"), "-e", "stderr", "-p", str(home), "-c", str(home / "nginx.conf")]
    with running(command, home, port) as pid:
        yield Server(_url(port), pid)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/video-callback/{TOKEN}"


STARTS: Final = {
    EXPRESS: _express,
    "webhook (no command)": _webhook,
    "gunicorn 2x8, Flask": _gunicorn,
    "bare aiohttp": _aiohttp,
    TRIVIAL: trivial,
}
