"""What does the provider say about a music task, and does a track belong to it?

Rule: only a definite no stops a submit. An answer that cannot be read, or a task that is still in
the making, says nothing.

Source: https://docs.sunoapi.org/suno-api/get-music-generation-details; the checks are the ones that
the provider's own troubleshooting list begins with.
"""

from dataclasses import dataclass

from daemon.rules.dialect import Outcome
from daemon.rules.notice import Answer, first_link, open_envelope


@dataclass(frozen=True, slots=True)
class Music:
    """A music task; `tracks` are audio id and link of its audio. `known` false: there is none."""

    known: bool
    failed: bool = False
    finished: bool = False
    tracks: tuple[tuple[str, str | None], ...] = ()

    def link_of(self, audio_id: str) -> str | None:
        """Return the link of a track's audio."""
        return dict(self.tracks).get(audio_id)


def read_music(kind: str, status: int, body: bytes) -> Music | Answer:
    """Read the record of a music task; an `Answer` says why there is none."""
    envelope = open_envelope(kind, status, body)
    if isinstance(envelope, Answer):
        return envelope
    code, _, data = envelope
    if data is None:
        # Without a code it may be anybody's JSON.
        return Music(known=code is None)
    if not isinstance(data, dict):
        return Music(known=True)
    word = str(data.get("status", "")).upper()
    response = data.get("response")
    listed = response.get("sunoData") if isinstance(response, dict) else None
    return Music(
        known=True,
        failed=word.endswith(("_FAILED", "_ERROR")),
        finished=word == "SUCCESS",
        tracks=tuple(
            (track["id"], first_link(track.get("audioUrl"), track.get("sourceAudioUrl")))
            for track in (listed if isinstance(listed, list) else ())
            if isinstance(track, dict) and isinstance(track.get("id"), str)
        ),
    )


def find_objection(music: Music, audio_id: str) -> str | None:
    """Return why a video of this track cannot be made, or None."""
    if not music.known:
        return "the provider knows no such music task"
    if music.failed:
        return "the provider says that the music task failed"
    ids = [known for known, _ in music.tracks]
    if audio_id in ids or not (music.finished and ids):
        return None
    return f"the music task has no such track; it has {', '.join(ids[:4])}"


def read_fresh_link(kind: str, status: int, body: bytes) -> str | Answer:
    """Read a short-lived link; an `Answer` says why there is none."""
    envelope = open_envelope(kind, status, body)
    if isinstance(envelope, Answer):
        return envelope
    code, message, data = envelope
    return first_link(data) or Answer(Outcome.ODD, message or "the answer holds no link", code)
