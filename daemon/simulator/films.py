"""Films of any size for the simulated provider: a real clip, padded inside a `free` box.

Rule: a film's bytes are a function of its seed, size and clip, and nothing holds a whole film in
memory. The padding differs from film to film and from place to place, so a mix-up shows.

Source: ISO/IEC 14496-12 sections 4.2 (boxes), 8.1.2 (`free`) and 8.8.9 (`mfra`).
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal

Clip = Literal["faststart", "moov_last", "fragmented"]

BLOCK_BYTES: Final = 256 * 1024
"""The most that is read at a time."""
# A prime, so that a segment written to a wrong place shows: no shift by a power of two, nor by any
# multiple below a terabyte, maps the padding onto itself.
_NOISE_PERIOD = 1_048_573
_BOX_LIMIT = 1 << 32
_FREE_HEADER = struct.Struct(">I4s")
_LARGE_FREE_HEADER = struct.Struct(">I4sQ")


@cache
def _noise() -> memoryview:
    # Twice, so that a block from any phase is one slice without a copy.
    return memoryview(hashlib.shake_128(b"padding").digest(_NOISE_PERIOD) * 2)


@cache
def _split_clip(clip: Clip) -> tuple[bytes, bytes]:
    """Return the clip before and from the place where padding does no harm.

    That is its end, or its `mfra` box, which has to stay last (ISO/IEC 14496-12, 8.8.9); the four
    bytes at the end of a file that has one are its size.
    """
    content = (resources.files("daemon") / "clips" / f"{clip}.mp4").read_bytes()
    place = len(content) - int.from_bytes(content[-4:])
    if place < 0 or content[place + 4 : place + 8] != b"mfra":
        place = len(content)
    return content[:place], content[place:]


@dataclass(frozen=True, slots=True)
class Film:
    """A real clip, padded to `size_bytes` by a `free` box whose content depends on `seed`.

    Raises:
        ValueError: no film of that size can be made from the clip.
    """

    seed: str
    size_bytes: int
    clip: Clip = "faststart"

    def __post_init__(self) -> None:
        room = self.size_bytes - sum(map(len, _split_clip(self.clip)))
        if room != 0 and room < _FREE_HEADER.size:
            raise ValueError(f"no {self.clip} film has {self.size_bytes} bytes")

    @property
    def etag(self) -> str:
        """A strong ETag, quotes included."""
        identity = f"{self.seed} {self.size_bytes} {self.clip}".encode()
        return f'"{hashlib.sha256(identity).hexdigest()[:32]}"'

    def sha256(self) -> str:
        """Return the digest of the true bytes; it takes a second for every gigabyte or so."""
        digest = hashlib.sha256()
        for block in self.read(0, self.size_bytes):
            digest.update(block)
        return digest.hexdigest()

    def read(self, start: int, stop: int, block_bytes: int = BLOCK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes from `start` up to `stop` in blocks of at most `block_bytes`."""
        head, tail = _split_clip(self.clip)
        head += _free_header(self.size_bytes - len(head) - len(tail))
        tail_at = self.size_bytes - len(tail)
        shift = int.from_bytes(hashlib.sha256(self.seed.encode()).digest()[:8])
        stop = min(stop, self.size_bytes)
        while start < stop:
            if start < len(head):
                part = memoryview(head)[start:stop]
            elif start < tail_at:
                phase = (shift + start - len(head)) % _NOISE_PERIOD
                part = _noise()[phase : phase + min(stop, tail_at) - start]
            else:
                part = memoryview(tail)[start - tail_at : stop - tail_at]
            part = part[:block_bytes]
            yield part
            start += len(part)


def _free_header(box_bytes: int) -> bytes:
    if box_bytes == 0:
        return b""
    if box_bytes < _BOX_LIMIT:
        return _FREE_HEADER.pack(box_bytes, b"free")
    return _LARGE_FREE_HEADER.pack(1, b"free", box_bytes)
