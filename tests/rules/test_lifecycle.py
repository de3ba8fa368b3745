"""The one table of moves is complete, and its ends are ends."""

from itertools import permutations, product
from pathlib import Path

import pytest

from daemon.rules.lifecycle import (
    ASKING,
    TRANSITIONS,
    Cause,
    IllegalTransition,
    State,
    draw_table,
    move,
)

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"
MESSAGES = (Cause.ADOPTED, Cause.HINTED, Cause.LINKED, Cause.DECLINED)
IN_PLACE = {State.VERIFIED, State.STORED, State.DONE, State.PRUNED}
EVERYWHERE = (None, *State)

# Nothing removes a finished file yet, so nothing leads there.
NOT_REACHED_YET = {State.PRUNED}


def follow(state: State | None, causes: tuple[Cause, ...]) -> State | None:
    """Return the state after several causes."""
    for cause in causes:
        state = move(state, cause)
    return state


@pytest.mark.parametrize(("cause", "state"), [*product(Cause, EVERYWHERE)])
def test_every_pair_is_a_row_or_a_bug(cause: Cause, state: State | None) -> None:
    """A move is exactly what the table says, and what it does not say is refused."""
    if state in TRANSITIONS[cause]:
        assert move(state, cause) is TRANSITIONS[cause][state]
    else:
        with pytest.raises(IllegalTransition, match=f"{cause} in {state or 'no state'}"):
            move(state, cause)


def test_every_cause_has_its_rows() -> None:
    """No cause is without a move."""
    assert set(TRANSITIONS) == set(Cause)
    assert all(TRANSITIONS.values())


def test_the_table_cannot_be_changed() -> None:
    """No caller adds a move."""
    with pytest.raises(TypeError):
        TRANSITIONS[Cause.FETCHED] = {}  # type: ignore[index]


def test_every_state_is_reached() -> None:
    """From a task that is not known, some way leads to every state."""
    reached: set[State | None] = {None}
    while True:
        further = {rows[state] for rows in TRANSITIONS.values() for state in reached & rows.keys()}
        if further <= reached:
            break
        reached |= further
    assert reached == {*EVERYWHERE} - NOT_REACHED_YET


@pytest.mark.parametrize(("cause", "state"), [*product(MESSAGES, EVERYWHERE)])
def test_what_comes_from_outside_is_never_a_bug(cause: Cause, state: State | None) -> None:
    """Every message may come in every state, and twice is as good as once."""
    after = move(state, cause)
    assert move(after, cause) is after


@pytest.mark.parametrize("state", EVERYWHERE)
def test_the_order_of_messages_makes_no_difference(state: State | None) -> None:
    """All orders of all messages lead from a state to one and the same state."""
    for count in range(1, len(MESSAGES) + 1):
        for chosen in product(MESSAGES, repeat=count):
            assert len({follow(state, order) for order in permutations(chosen)}) == 1, chosen


def leaving(state: State) -> dict[Cause, State]:
    """Return the moves that lead out of a state."""
    return {
        cause: rows[state]
        for cause, rows in TRANSITIONS.items()
        if rows.get(state, state) is not state
    }


def entering(state: State) -> set[Cause]:
    """Return the causes that lead into a state from another one."""
    return {
        cause
        for cause, rows in TRANSITIONS.items()
        for before, after in rows.items()
        if after is state and before is not state
    }


def test_the_ends() -> None:
    """What is done stays so while its file does; the other ends are soft; evidence ends a task."""
    assert leaving(State.DONE) == {Cause.MISSING: State.EXPECTED}
    assert leaving(State.PRUNED) == {Cause.REOPENED: State.EXPECTED}
    assert leaving(State.FAILED) == {
        Cause.LINKED: State.WANTED,
        Cause.KNOWN: State.EXPECTED,
        Cause.REOPENED: State.EXPECTED,
    }
    assert leaving(State.LOST) == {Cause.LINKED: State.WANTED, Cause.REOPENED: State.EXPECTED}
    assert entering(State.FAILED) == {Cause.DECLINED, Cause.UNKNOWN}
    assert entering(State.LOST) == {Cause.EXPIRED}
    assert entering(State.DONE) == {Cause.FINISHED}


def test_a_file_on_the_disk_is_never_given_up() -> None:
    """No cause but the loss of the bytes leads from a whole file back to a missing one."""
    for state in IN_PLACE:
        back = {cause for cause, after in leaving(state).items() if after not in IN_PLACE}
        lost = {
            State.VERIFIED: {Cause.VANISHED},
            State.STORED: {Cause.MISSING},
            State.DONE: {Cause.MISSING},
            State.PRUNED: {Cause.REOPENED},
        }
        assert back == lost.get(state, set())


def test_a_file_gets_its_name_only_after_it_was_verified() -> None:
    """There is one way to a finished file, and verification lies on it."""
    assert entering(State.VERIFIED) == {Cause.FETCHED}
    assert entering(State.STORED) == {Cause.PUBLISHED}
    assert TRANSITIONS[Cause.FETCHED] == {State.WANTED: State.VERIFIED}
    assert TRANSITIONS[Cause.PUBLISHED] == {State.VERIFIED: State.STORED}
    assert TRANSITIONS[Cause.FINISHED] == {State.STORED: State.DONE}


def test_asking_states_have_no_file() -> None:
    """A task is asked about while it lacks a link, and never because of its file."""
    assert set(ASKING) == {State.EXPECTED, State.FAILED, State.LOST}


def test_the_page_shows_the_table() -> None:
    """The table in `docs/lifecycle.md` is the one that the program follows."""
    page = PAGE.read_text().splitlines(keepends=True)
    start = next(number for number, line in enumerate(page) if "| (new) |" in line)
    end = next(number for number in range(start, len(page)) if not page[number].startswith("|"))
    assert "".join(page[start:end]) == draw_table()


@pytest.mark.parametrize("name", [*Cause, *State])
def test_the_page_explains_every_word(name: str) -> None:
    """Every state and every cause has a line of its own on the page."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == (2 if name in set(Cause) else 1)
