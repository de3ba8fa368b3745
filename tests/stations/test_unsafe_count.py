"""The number of what is not safe, which `status` says first, is that of `check`."""

from itertools import product

from daemon.cli.ledger import UNSAFE, _is_open
from daemon.rules.lifecycle import State
from daemon.store import Store

NOW = 1_790_000_000_000
PLANT = """
INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at, reason,
                  forgotten_at, link, fetch_at, size_bytes, sha256, path, stored_at)
VALUES (:task_id, :state, 'adopted', 'track', :at, :at, :deadline, :reason, :forgotten,
        'https://h/x', :at, 1, '00', :task_id, :at)
"""


async def test_it_counts_what_check_names(store: Store) -> None:
    """Every state, with and without a reason, seen by somebody or not, is counted alike."""
    assert await store.overview.standing() == (0, None, None)
    kinds = product(State, (None, "unknown_task", "generate_failed"), (None, NOW))
    for number, (state, reason, forgotten) in enumerate(kinds):
        values = {
            "task_id": f"t{number}",
            "state": state.value,
            "reason": reason,
            "forgotten": forgotten,
            "at": NOW + number,
            "deadline": NOW - number,
        }
        await store.commits.connection.execute_fetchall(PLANT, values)
    tasks = await store.tasks((), 1_000)
    named = [
        task
        for task in tasks
        if task.state in UNSAFE
        and task.forgotten_at is None
        and _is_open({"state": task.state, "reason": task.reason})
    ]
    waiting = [task for task in named if task.state in {"expected", "wanted", "verified"}]
    assert len(named) == 3 * 3 + 3 + 1
    assert await store.overview.standing() == (
        len(named),
        min(waiting, key=lambda task: task.created_at).task_id,
        min(waiting, key=lambda task: task.deadline_at).task_id,
    )
