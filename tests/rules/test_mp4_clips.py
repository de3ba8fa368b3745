"""Real clips: whole ones are understood, and no cut or flipped byte gets past or crashes."""

import io
import struct
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.failure import Reason, Spoiled
from daemon.rules.mp4 import Film, inspect

CLIPS = {
    name: (resources.files("daemon") / "clips" / f"{name}.mp4").read_bytes()
    for name in ("faststart", "moov_last", "fragmented")
}


def box(kind: bytes, body: bytes) -> bytes:
    """Put a header in front of a body."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_mehd(clip: bytes) -> bytes:
    """Let a `mehd` box prove the end of the fragmented clip in place of its `mfra` box."""
    mehd = box(b"mehd", struct.pack(">II", 0, 2080))
    moov, mvex, mfra = (clip.index(kind) - 4 for kind in (b"moov", b"mvex", b"mfra"))
    grown = bytearray(clip[: mvex + 8] + mehd + clip[mvex + 8 : mfra])
    for start in (moov, mvex):
        (size,) = struct.unpack_from(">I", clip, start)
        struct.pack_into(">I", grown, start, size + len(mehd))
    return bytes(grown)


CLIPS["mehd"] = with_mehd(CLIPS["fragmented"])


def judge(data: bytes) -> Film:
    """Inspect bytes that are in memory."""
    return inspect(io.BytesIO(data), len(data))


def verdict(data: bytes) -> Reason | None:
    """Give the reason why the bytes are refused; anything but a refusal or a film is raised."""
    try:
        judge(data)
    except Spoiled as spoiled:
        return spoiled.reason
    return None


@pytest.mark.parametrize(
    ("name", "layout", "seconds"),
    [
        ("faststart", "faststart", 2.0),
        ("moov_last", "moov_last", 2.0),
        ("fragmented", "fragmented", 2.08),
        ("mehd", "fragmented", 2.08),
    ],
)
def test_a_whole_clip_tells_what_it_is(name: str, layout: str, seconds: float) -> None:
    """Duration, picture, codecs and sound are those that ffprobe finds."""
    film = judge(CLIPS[name])
    assert film.duration_seconds == pytest.approx(seconds, abs=0.001)
    assert (film.width, film.height) == (412, 732)
    assert (film.video_codec, film.audio_codec) == ("avc1", "mp4a")
    assert film.audio_sample_rate == 48_000
    assert film.layout == layout


@pytest.mark.parametrize("name", CLIPS)
def test_every_cut_is_refused(name: str) -> None:
    """Wherever a download stops short, the file is refused, and as soon as it can be: as cut."""
    clip = CLIPS[name]
    reasons = [verdict(clip[:size_bytes]) for size_bytes in range(len(clip))]
    assert reasons == [Reason.NOT_A_VIDEO] * 8 + [Reason.TRUNCATED] * (len(clip) - 8)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("kind", [b"free", b"skip"])
def test_padding_at_the_end_changes_nothing(name: str, kind: bytes) -> None:
    """A film may be padded after its last box, and is still the same film."""
    assert judge(CLIPS[name] + box(kind, bytes(5000))) == judge(CLIPS[name])


@pytest.mark.parametrize("kind", [b"udta", b"wxyz", b"uuid"])
def test_unknown_boxes_at_the_end_change_nothing(kind: bytes) -> None:
    """A well-formed box that nobody knows is no damage."""
    for name in ("faststart", "moov_last"):
        assert judge(CLIPS[name] + box(kind, bytes(40))) == judge(CLIPS[name])


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("junk", [b"\n", b"\r\n--end", bytes(8), b"\0\0\0\x08\x01\x02\x03\x04"])
def test_junk_after_the_last_box_is_damage(name: str, junk: bytes) -> None:
    """Bytes that are no box do not belong to a film, even when the film before them is whole."""
    with pytest.raises(Spoiled) as caught:
        judge(CLIPS[name] + junk)
    assert caught.value.reason is Reason.DAMAGED


def test_two_films_in_one_file_are_damage() -> None:
    """A file written twice is not the film, though its boxes tile it."""
    with pytest.raises(Spoiled, match="two moov boxes") as caught:
        judge(CLIPS["faststart"] * 2)
    assert caught.value.reason is Reason.DAMAGED


def test_a_real_file_is_read_where_it_lies(tmp_path: Path) -> None:
    """An open file on disk gives the same verdict, wherever it was read before."""
    path = tmp_path / "film.mp4"
    path.write_bytes(CLIPS["fragmented"])
    with path.open("rb") as file:
        file.read()
        assert inspect(file, path.stat().st_size) == judge(CLIPS["fragmented"])


def test_a_file_shorter_than_recorded_is_cut() -> None:
    """When the disk holds fewer bytes than were counted, that is a verdict and no crash."""
    clip = CLIPS["moov_last"]
    with pytest.raises(Spoiled, match="shorter than") as caught:
        inspect(io.BytesIO(clip[:-100]), len(clip))
    assert caught.value.reason is Reason.TRUNCATED


def walked(clip: bytes) -> list[int]:
    """List the bytes that the walk may read: all but the bodies of the `mdat` boxes."""
    found: list[int] = []
    at = 0
    while at < len(clip):
        size, kind = struct.unpack_from(">I4s", clip, at)
        found += range(at, at + (8 if kind == b"mdat" else size))
        at += size
    return found


WALKED = {name: walked(clip) for name, clip in CLIPS.items()}


VERDICTS = {None, Reason.NOT_A_VIDEO, Reason.TRUNCATED, Reason.DAMAGED}


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_get_a_verdict(data: bytes, begins_well: bool) -> None:  # noqa: FBT001
    """Nothing a host sends raises anything else."""
    assert verdict(CLIPS["faststart"][:32] + data if begins_well else data) in VERDICTS


@given(
    st.sampled_from(sorted(CLIPS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9))),
)
def test_overwritten_bytes_get_a_verdict(name: str, writes: list[tuple[float, bytes]]) -> None:
    """Bytes overwritten among the tables are found or harmless, and never raise anything else."""
    clip = bytearray(CLIPS[name])
    for fraction, data in writes:
        at = WALKED[name][int(fraction * len(WALKED[name]))]
        clip[at : at + len(data)] = data
    assert verdict(bytes(clip)) in VERDICTS


@pytest.mark.parametrize("name", CLIPS)
def test_every_flipped_byte_gets_a_verdict(name: str) -> None:
    """Each byte outside the samples may be flipped, one at a time, without a crash."""
    clip = bytearray(CLIPS[name])
    for at in WALKED[name]:
        for flip in (0x01, 0xFF):
            clip[at] ^= flip
            assert verdict(bytes(clip)) in VERDICTS
            clip[at] ^= flip
