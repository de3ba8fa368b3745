"""The hosts that videos came from: each is new once."""

import asyncio

from daemon.store import Store


async def test_a_host_is_new_once(store: Store) -> None:
    """However often, and however many ask in the same moment."""
    found = await asyncio.gather(*(store.sightings.note("files.example", at) for at in range(5)))
    assert sorted(found) == [False] * 4 + [True]
    assert await store.sightings.note("others.example", 9)
    assert not await store.sightings.note("files.example", 9)
