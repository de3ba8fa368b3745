"""What holds work back for many tasks: a wrong key, no credits, the rate, our own disk, a host.

Rule: a gate is shut by an answer to one of our own calls or by our own disk, never by a callback.
It is announced once when it shuts and once when it opens, it opens again by itself, and no task
fails because of it. A shut gate lets one probe through whenever its pause is over; the probe's
success opens it, its failure shuts it for longer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from daemon.bell import Bell, sleep_until
from daemon.rules.schedule import HOUR, SECOND, pause_gate


@dataclass(frozen=True, slots=True)
class Shut:
    """A gate that is shut; times in milliseconds since 1970."""

    name: str
    since: int
    reason: str
    closings: int
    probe_at: int
    limit_ms: int
    """No pause before a probe is longer."""
    probed: bool = False
    """Whether a probe was let through since it was last shut."""

    def pause_ms(self) -> int:
        """Return how long the next probe waits, where nobody said otherwise."""
        return min(self.limit_ms, pause_gate(self.name, self.closings))


class Gates:
    """All gates of one process. A restart forgets them and learns them anew from the first call."""

    def __init__(self, now: Callable[[], int], announce: Callable[[str, Shut], None]) -> None:
        self._now = now
        self._announce = announce
        self._shut: dict[str, Shut] = {}
        self._bell = Bell()

    def close(
        self, name: str, reason: str, wish_ms: int | None = None, limit_ms: int = HOUR
    ) -> None:
        """Shut a gate, or keep it shut for longer; `wish_ms` is the pause the other side asked for.

        Before a probe was let through this is no news: five calls that were on their way together
        do not shut it five times.
        """
        now, before = self._now(), self._shut.get(name)
        if before is not None and not before.probed:
            return
        closings = before.closings + 1 if before else 1
        shut = Shut(name, before.since if before else now, reason, closings, now, limit_ms)
        pause = shut.pause_ms()
        if wish_ms is not None:
            # A host that says 0 again and again is not taken at its word.
            pause = max(wish_ms, min(pause, SECOND << min(closings - 1, 16)))
        self._shut[name] = replace(shut, probe_at=now + pause)
        if before is None:
            self._announce("gate.closed", shut)
        self._bell.ring()

    def open(self, name: str) -> None:
        """Open a gate; nothing happens when it is open."""
        shut = self._shut.pop(name, None)
        if shut is not None:
            self._announce("gate.opened", shut)
            self._bell.ring()

    def probe_now(self) -> None:
        """Let one probe through every shut gate at once: a person says that it was mended."""
        for name, shut in self._shut.items():
            self._shut[name] = replace(shut, probe_at=self._now())
        self._bell.ring()

    def shut(self) -> list[Shut]:
        """Return the gates that are shut, by name."""
        return [self._shut[name] for name in sorted(self._shut)]

    def is_shut(self, name: str) -> bool:
        """Return whether a gate is shut, probes or not."""
        return name in self._shut

    def take_probe(self, name: str) -> Shut | None:
        """Return None where one may pass, and take the probe that is due; else the shut gate."""
        shut, now = self._shut.get(name), self._now()
        if shut is None:
            return None
        if shut.probe_at > now:
            return shut
        self._probe(shut, now)
        return None

    def give_back(self, name: str) -> None:
        """Return a probe that was taken and not used: the next one may have it at once."""
        shut = self._shut.get(name)
        if shut is not None and shut.probed:
            self._shut[name] = replace(shut, probe_at=self._now(), probed=False)
            self._bell.ring()

    def _probe(self, shut: Shut, now: int) -> None:
        self._shut[shut.name] = replace(shut, probe_at=now + shut.pause_ms(), probed=True)

    async def pass_through(self, *names: str) -> None:
        """Wait until all these gates are open, or until one may be probed; take that probe."""
        while True:
            now = self._now()
            blocking = [self._shut[name] for name in names if name in self._shut]
            if all(shut.probe_at <= now for shut in blocking):
                for shut in blocking:
                    self._probe(shut, now)
                return
            latest = max(shut.probe_at for shut in blocking)
            await sleep_until(self._bell.listen(), (latest - now) / 1000)
