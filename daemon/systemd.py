"""Speaks with systemd: takes the sockets that it holds for us, and tells it how we are.

Source: sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): descriptors from 3 on, and a
datagram with a few words; a library for that would be larger than the protocols.

Rule: what is addressed to us reaches none of our children.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

FIRST_DESCRIPTOR: Final = 3
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
_ADDRESSED: Final = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")


class PassedWrongly(Exception):
    """What systemd passed cannot be listened on; the text names the descriptor and says why."""


def take_sockets(
    environ: Mapping[str, str], first: int = FIRST_DESCRIPTOR
) -> tuple[socket.socket, ...]:
    """Return the listening sockets that were passed to this very process; they are ours to close.

    Raises:
        PassedWrongly: the variables contradict the protocol, or a descriptor is something else.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        raise PassedWrongly(f"LISTEN_FDS is {count!r}, expected a number")
    names = dict(enumerate(environ.get("LISTEN_FDNAMES", "").split(":"), first))
    with ExitStack() as unless_all_are_good:
        taken = tuple(
            unless_all_are_good.enter_context(_take(descriptor, names.get(descriptor, "")))
            for descriptor in range(first, first + int(count))
        )
        unless_all_are_good.pop_all()
    return taken


def _take(descriptor: int, name: str) -> socket.socket:
    shown = f"passed descriptor {descriptor}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise PassedWrongly(f"{shown}: {error.strerror}") from error
    if (
        sock.family not in _FAMILIES
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.close()
        raise PassedWrongly(f"{shown}: expected a listening socket (ListenStream=, Accept=no)")
    sock.set_inheritable(False)
    sock.settimeout(0)
    return sock


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what systemd says to this process alone."""
    return {name: value for name, value in environ.items() if not name.startswith(_ADDRESSED)}


class Notifier:
    """Sends states to the socket that systemd named, or nowhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace (unix(7)).
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(usec) / 1_000_000 if usec.isdecimal() else None

    @property
    def is_heard(self) -> bool:
        """Whether somebody asked to be told."""
        return bool(self._address)

    def tell(self, *states: str) -> None:
        """Send states such as `READY=1`; a missing listener is none of our business."""
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sender:
            try:
                sender.connect(self._address)
                sender.sendall("\n".join(states).encode())
            except OSError:
                return
