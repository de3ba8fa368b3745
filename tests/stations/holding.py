"""Bodies that nobody can read, put into quarantine one by one for the tests."""

from daemon.rules.task import Held, Unread
from daemon.store import Store


async def hold(
    store: Store,
    body: bytes,
    *,
    now: int,
    why: str = "not JSON",
    remote: str = "::1",
    content_type: str = "",
) -> Held:
    """Keep one body and return its row."""
    unread = Unread(body=body, why=why, remote=remote, content_type=content_type, now=now)
    (held,) = await store.quarantine.keep([unread])
    return held
