"""Tells systemd how we are.

Source: sd_notify(3) and sd_watchdog_enabled(3). It is a datagram with a few words; a library for
that would be larger than the protocol.
"""

import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd named, or nowhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace (unix(7)).
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(usec) / 1_000_000 if usec.isdecimal() else None

    def tell(self, *states: str) -> None:
        """Send states such as `READY=1`; a missing listener is none of our business."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.connect(self._address)
                sender.sendall("\n".join(states).encode())
            except OSError:
                return
