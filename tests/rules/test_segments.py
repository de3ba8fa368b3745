"""Who fetches which bytes, and how many connections are worth it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.segments import Growth, Segment, Stage, find_overlap, give_back, next_segment
from daemon.rules.spans import Spans
from daemon.rules.transfer import OVERLAP_BYTES

MIB = 1 << 20


def test_what_nobody_fetches_comes_first() -> None:
    """A connection that broke off leaves a gap; it is closed before anybody's share is cut."""
    busy = Segment(0, 40, reached=10)
    assert next_segment(Spans.parse("0-10,40-50"), 100, [busy], 1) == Segment(50, 100, 100)
    assert busy.end == 40


def test_the_largest_rest_is_halved_once_all_is_owned() -> None:
    """The owner keeps the first half, which it is about to reach anyway."""
    small, large = Segment(0, 100, reached=90), Segment(100, 300, reached=140)
    given = next_segment(Spans.parse("0-90,100-140"), 300, [small, large], 10)
    assert given == Segment(220, 300, 300)
    assert (small.end, large.end) == (100, 220)


@pytest.mark.parametrize(("least", "worth_it"), [(79, True), (80, True), (81, False)])
def test_no_segment_is_smaller_than_allowed(least: int, *, worth_it: bool) -> None:
    """Neither the half that is taken nor the half that stays."""
    owner = Segment(0, 200, reached=40)
    assert (next_segment(Spans.parse("0-40"), 200, [owner], least) is not None) is worth_it
    assert owner.end == (120 if worth_it else 200)


def test_a_whole_file_has_nothing_left_to_give() -> None:
    """Also while the last bytes are on their way to the disk."""
    assert next_segment(Spans.parse("0-9"), 9, [], 1) is None
    assert next_segment(Spans.parse("0-5"), 9, [Segment(0, 9, reached=9)], 1) is None


@given(st.data(), st.integers(1, 500), st.integers(1, 60))
def test_together_they_fetch_every_byte_once(data: st.DataObject, size: int, least: int) -> None:
    """Whatever connections do, all bytes are owned, none twice, and no share is cut too small."""
    spans, busy = Spans(), list[Segment]()
    for _ in range(data.draw(st.integers(1, 40))):
        before = {id(segment): segment.end for segment in busy}
        segment = next_segment(spans, size, busy, least)
        if segment is not None:
            if any(other.end != before[id(other)] for other in busy):
                assert (segment.end or 0) - segment.start >= least
            busy.append(segment)
        owned = sorted((max(s.start, 0), s.end or size) for s in busy)
        assert all(one[1] <= two[0] for one, two in pairwise(owned))
        if not busy:
            break
        worker = data.draw(st.sampled_from(busy))
        end = worker.end or size
        count = data.draw(st.integers(0, end - worker.reached))
        spans = spans.add(worker.reached, worker.reached + count)
        worker.reached += count
        if worker.reached == end or data.draw(st.booleans()):
            busy.remove(worker)
    while (last := next_segment(spans, size, [], least)) is not None:
        spans = spans.add(last.start, last.end or size)
    assert spans.covers(size)


def test_more_is_asked_for_than_is_owned() -> None:
    """Where two segments meet, 64 KiB of the next one prove that both are of one film."""
    given = next_segment(Spans(), 4 * MIB, [Segment(0, 4 * MIB), Segment(3 * MIB, 4 * MIB)], 1)
    assert given == Segment(2 * MIB, 4 * MIB, 4 * MIB)
    gap = next_segment(Spans.parse(f"{MIB}-{4 * MIB}"), 4 * MIB, [], 1)
    assert gap == Segment(0, MIB, MIB + OVERLAP_BYTES)


@pytest.mark.parametrize(
    ("owner", "segment", "end"),
    [
        (Segment(0, 50), Segment(50, 100), 100),
        (Segment(0, 50, 100), Segment(50, 100), 100),
        (Segment(0, 50, 99), Segment(50, 100), 50),
        (Segment(0, 50), Segment(50, 100, reached=51), 50),
        (Segment(0, 40), Segment(50, 100), 40),
    ],
)
def test_what_a_host_refused_goes_back_to_whom_it_was_taken_from(
    owner: Segment, segment: Segment, end: int
) -> None:
    """When nothing of it came, and its bytes are on their way there anyway."""
    give_back(segment, [owner])
    assert owner.end == end


def test_the_overlap_is_what_stands_before_the_gap() -> None:
    """At most 64 KiB, never bytes that are missing themselves."""
    assert find_overlap(Spans.parse(f"0-{MIB}"), MIB) == MIB - OVERLAP_BYTES
    assert find_overlap(Spans.parse("0-10,50-60"), 60) == 50
    assert find_overlap(Spans.parse("0-10"), 30) == 30
    assert find_overlap(Spans(), 0) == 0


class Wire:
    """A download whose host gives each connection `each` bytes a second, all of them `most`."""

    def __init__(self, size: int, each: float, most: float, limit: int = 4) -> None:
        self.now, self.came, self.size, self.each, self.most = 0.0, 0.0, size, each, most
        self.growth = Growth(limit=limit, began=0.0)
        self.seen: list[tuple[float, int]] = []

    def run(self) -> float:
        """Fetch all; return the seconds it took."""
        while self.came < self.size:
            before = self.growth.allowed
            self.now += 0.05
            self.came += 0.05 * min(self.most, self.each * before)
            came = int(self.came)
            self.growth.look(self.now, came, came, self.size - came)
            if self.growth.allowed != before:
                self.seen.append((round(self.now, 2), self.growth.allowed))
                if self.growth.allowed > before:
                    self.growth.open(self.now, came, came, 0.01)
        return self.now


def test_a_host_that_limits_each_connection_gets_all_that_are_allowed() -> None:
    """Two at once, then four, within five hundredths of what four from the start would take."""
    wire = Wire(128 * MIB, each=8 * MIB, most=1e12)
    assert wire.run() < 1.05 * 128 / 32
    assert [allowed for _, allowed in wire.seen] == [2, 4]


def test_a_lasting_download_keeps_them_only_when_one_brings_less() -> None:
    """A trial of a second; what shares one wire goes back to one connection, and stays there."""
    shared = Wire(500 * MIB, each=8 * MIB, most=8 * MIB)
    shared.run()
    assert [allowed for _, allowed in shared.seen] == [2, 4, 1]
    assert shared.growth.stage is Stage.SETTLED
    throttled = Wire(2_000 * MIB, each=8 * MIB, most=1e12)
    assert throttled.run() < 1.05 * 2_000 / 32
    assert [allowed for _, allowed in throttled.seen] == [2, 4, 1, 4]


@pytest.mark.parametrize(("size", "each"), [(5 * MIB, 20 * MIB), (512 * MIB, 700 * MIB)])
def test_what_is_over_soon_has_one_connection(size: int, each: float) -> None:
    """The usual file, and a large one from a quick host."""
    wire = Wire(size, each=each, most=1e12)
    wire.run()
    assert wire.seen == []


def test_one_allowed_is_one() -> None:
    """`download.connections = 1`, a host without ranges, or one that does not like several."""
    wire = Wire(100 * MIB, each=MIB, most=1e12, limit=1)
    wire.run()
    assert wire.seen == []
    growth = Growth(limit=4, began=0.0, allowed=4)
    growth.shrink()
    growth.look(9.0, 1, 1, 10**12)
    assert growth.allowed == 1


def test_a_look_in_which_nothing_came_decides_nothing() -> None:
    """Thirty downloads that begin at once wait for each other; a host that is silent does not."""
    growth = Growth(limit=4, began=0.0)
    growth.look(1.0, 0, 0, 64 * MIB)
    assert growth.allowed == 1
    growth.look(5.0, 0, 0, 64 * MIB)
    assert growth.allowed == 2


def test_while_all_downloads_together_are_quick_none_takes_more() -> None:
    """Thirty files at once leave each one little; another connection would take from the others."""
    growth = Growth(limit=4, began=0.0)
    growth.look(0.1, 2 * MIB, 60 * MIB, 64 * MIB)
    assert growth.allowed == 1


def test_a_far_host_gets_time_to_come_up_to_speed() -> None:
    """A look lasts four of its answers, five seconds at most, and not before it is over."""
    growth = Growth(limit=4, began=0.0, allowed=2)
    growth.open(10.0, 0, 0, 0.5)
    growth.look(11.9, 10, 10, 10**9)
    assert growth.allowed == 2
    growth.look(12.1, 10, 10, 10**9)
    assert growth.allowed == 4
    growth.open(20.0, 0, 0, 60.0)
    assert growth.look_seconds == 5.0
