"""What the provider says about a music task: only a definite no stops a submit."""

import json

import pytest

from daemon.rules.dialect import DIALECTS, Outcome
from daemon.rules.music import Music, find_objection, read_fresh_link, read_music
from daemon.rules.notice import Answer

LINK = "https://musicfile.api.box/a.mp3"
OTHER = "https://cdn1.suno.ai/a.mp3"


def read(data: object, **envelope: object) -> Music:
    """Read an answer with this `data`."""
    body = json.dumps({"code": 200, "msg": "success", "data": data, **envelope}).encode()
    found = read_music("sunoapi", 200, body)
    assert isinstance(found, Music)
    return found


def record(status: object, *tracks: object) -> dict[str, object]:
    """Return the record of a music task."""
    return {"taskId": "m", "status": status, "response": {"sunoData": list(tracks)}}


def track(audio_id: object, **links: object) -> dict[str, object]:
    """Return one track."""
    return {"id": audio_id, **links}


def test_the_tracks_of_a_finished_task_are_read() -> None:
    """With the link of each; the source's own where the provider has none."""
    music = read(
        record(
            "SUCCESS",
            track("a", audioUrl=LINK, sourceAudioUrl=OTHER),
            track("b", audioUrl="", sourceAudioUrl=OTHER),
            track("c", audioUrl=None),
        )
    )
    assert music == Music(
        known=True, finished=True, tracks=(("a", LINK), ("b", OTHER), ("c", None))
    )
    links = [music.link_of(audio_id) for audio_id in ("a", "b", "c", "d")]
    assert links == [LINK, OTHER, None, None]


@pytest.mark.parametrize(
    "response", [None, 5, "x", [], {}, {"sunoData": None}, {"sunoData": "x"}, {"sunoData": {}}]
)
def test_a_record_without_tracks_has_none(response: object) -> None:
    """Whatever stands where they should be."""
    assert read({"status": "success", "response": response}) == Music(known=True, finished=True)


def test_odd_tracks_are_left_out() -> None:
    """A track without an id that is a text can be asked for by nobody."""
    odd: list[object] = [None, 5, "a", [], {}, track(None), track(7)]
    assert read(record("SUCCESS", *odd, track("a"))).tracks == (("a", None),)


@pytest.mark.parametrize("data", [5, "x", [], True])
def test_odd_data_say_nothing(data: object) -> None:
    """The task may well exist."""
    assert read(data) == Music(known=True)


def test_only_null_with_a_code_denies_a_task() -> None:
    """JSON without a code may be anybody's, and a definite no stops a submit."""
    assert read(None) == Music(known=False)
    assert read_music("kie", 200, b'{"data": null}') == Music(known=True)


@pytest.mark.parametrize("kind", DIALECTS)
def test_an_answer_that_is_no_record_is_handed_on(kind: str) -> None:
    """With what it means for all our calls."""
    for status, body, outcome in (
        (200, b'{"code": 401, "msg": "no"}', Outcome.KEY),
        (200, b'{"code": 422, "msg": "Record does not exist", "data": null}', Outcome.ODD),
        (200, b'{"code": 200}', Outcome.ODD),
        (404, b'{"code": 200, "data": null}', Outcome.TROUBLE),
        (502, b"<html>", Outcome.TROUBLE),
    ):
        for found in (read_music(kind, status, body), read_fresh_link(kind, status, body)):
            assert isinstance(found, Answer)
            assert found.outcome is outcome


@pytest.mark.parametrize(
    ("status", "failed", "finished"),
    [
        ("SUCCESS", False, True),
        ("PENDING", False, False),
        ("TEXT_SUCCESS", False, False),
        ("FIRST_SUCCESS", False, False),
        ("CALLBACK_EXCEPTION", False, False),
        ("CREATE_TASK_FAILED", True, False),
        ("GENERATE_AUDIO_FAILED", True, False),
        ("SENSITIVE_WORD_ERROR", True, False),
        ("generate_audio_failed", True, False),
        ("FAILED_NOT", False, False),
        (None, False, False),
        (1, False, False),
    ],
)
def test_every_status_of_the_documents(status: object, *, failed: bool, finished: bool) -> None:
    """Another flag than these is a task still in the making."""
    found = read(record(status, track("a")))
    assert (found.failed, found.finished) == (failed, finished)


A, B = ("a", LINK), ("b", None)


@pytest.mark.parametrize(
    ("music", "objection"),
    [
        (Music(known=False), "the provider knows no such music task"),
        (Music(known=True, failed=True, tracks=(A,)), "says that the music task failed"),
        (Music(known=True, finished=True, tracks=(B,)), "has no such track; it has b"),
        (Music(known=True, finished=True, tracks=(A, B)), None),
        (Music(known=True, finished=True), None),
        (Music(known=True, tracks=(B,)), None),
        (Music(known=True), None),
    ],
)
def test_an_objection_is_a_definite_no(music: Music, objection: str | None) -> None:
    """A task in the making, or without readable tracks, is none."""
    found = find_objection(music, "a")
    assert found is None if objection is None else objection in (found or "")


def test_an_objection_names_four_tracks_at_most() -> None:
    """The right id is most likely among them."""
    music = Music(known=True, finished=True, tracks=tuple((name, None) for name in "bcdefg"))
    assert (find_objection(music, "a") or "").endswith("it has b, c, d, e")


def test_a_fresh_link_is_a_text_in_data() -> None:
    """Anything else is odd, with the provider's words where it has some."""
    assert read_fresh_link("kie", 200, json.dumps({"code": 200, "data": LINK}).encode()) == LINK
    for data, message, told in (
        (None, "", "the answer holds no link"),
        ({"url": LINK}, "success", "success"),
        ("ftp://a", "", "the answer holds no link"),
        ([LINK], "", "the answer holds no link"),
    ):
        body = json.dumps({"code": 200, "msg": message, "data": data}).encode()
        assert read_fresh_link("kie", 200, body) == Answer(Outcome.ODD, told, 200)
