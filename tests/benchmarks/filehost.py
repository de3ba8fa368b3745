"""The file host of all download rows: nginx on loopback, over HTTP and TLS, also ill-disposed ones.

Rule: everybody fetches the same file from the same server. A film is made once a run and is a real
one, so that the daemon checks what it would check of any other.

    /        as fast as it goes
    /slow/   no connection gets more than SLOW_BYTES a second
    /lone/   likewise, and a second connection at the same time is answered with 503
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from daemon.simulator.films import Film
from tests.benchmarks.programs import find, free_port, running

MIB: Final = 1 << 20
SLOW_BYTES: Final = 8 * MIB
_CONFIGURATION: Final = """
daemon off;
master_process off;
{user}
pid nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    types {{ video/mp4 mp4; }}
    limit_conn_zone $server_port zone=lone:1m;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate chain.pem;
        ssl_certificate_key key.pem;
        root {films};
        location ~ ^/many/[^/]+/(.*) {{ alias {films}/$1; }}
        location /slow/ {{ alias {films}/; limit_rate {slow}; }}
        location /lone/ {{ alias {films}/; limit_rate {slow}; limit_conn lone 1; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class FileHost:
    """Where the films are, and how to trust the host."""

    http: str
    https: str
    films: Path
    authority: Path
    """The certificate of the authority that signed the host's, in PEM."""

    def film(self, size_bytes: int) -> str:
        """Make a film of that size, unless there is one, and return its name."""
        name = f"{size_bytes}.mp4"
        if not (self.films / name).exists():
            film = Film(name, size_bytes)
            with (self.films / name).open("wb") as file:
                for block in film.read(0, size_bytes, MIB):
                    file.write(block)
                os.fsync(file.fileno())
        return name


@contextmanager
def file_host(folder: Path) -> Iterator[FileHost]:
    """Run the file host until the end of the row."""
    home, films = folder / "host", folder / "host" / "films"
    films.mkdir(parents=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    for chain in issued.cert_chain_pems:
        chain.write_to_path(home / "chain.pem", append=True)
    issued.private_key_pem.write_to_path(home / "key.pem")
    authority.cert_pem.write_to_path(home / "authority.pem")
    port, tls_port = free_port(), free_port()
    configuration = _CONFIGURATION.format(
        # As root it would otherwise become a user who may not read the folder.
        user="user root;" if os.getuid() == 0 else "",
        port=port,
        tls_port=tls_port,
        films=films,
        slow=SLOW_BYTES,
    )
    (home / "nginx.conf").write_text(configuration)
    command = [find("nginx"), "-e", "stderr", "-p", str(home), "-c", str(home / "nginx.conf")]
    with running(command, home, port):
        yield FileHost(
            f"http://127.0.0.1:{port}",
            f"https://127.0.0.1:{tls_port}",
            films,
            home / "authority.pem",
        )
