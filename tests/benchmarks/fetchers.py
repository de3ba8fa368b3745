"""The commands of the peers that download: curl, aria2 and wget, each as fast as it goes.

Rule: a command has ended when its output is on the disk, as with us. aria2 does not lay out files
beforehand, which makes it faster here, and none of them checks or hashes anything.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.programs import find, took

SYNC: Final = "sync"
_ARIA2: Final = (
    *("--quiet=true", "--no-conf=true", "--file-allocation=none", "--allow-overwrite=true"),
    *("--summary-interval=0", "--disable-ipv6=true", "--async-dns=false"),
)


class Shelf:
    """A folder for what a peer fetches, emptied after each command, outside of the clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def took(self, *command: str) -> float:
        """Run a command that writes into the folder, and sync all it wrote; return the seconds."""
        self.folder.mkdir(parents=True)
        # Nobody pays for what the one before has left to be written.
        os.sync()
        try:
            seconds = took(*command)
            files = [str(path) for path in self.folder.iterdir() if path.is_file()]
            # Very many are synced with their file system, as few are one by one.
            few = len(files) <= 100
            return seconds + took(SYNC, *(files if few else ["--file-system", str(self.folder)]))
        finally:
            shutil.rmtree(self.folder)

    def curl(self, url: str, *options: str) -> float:
        """Fetch one file with curl."""
        place = str(self.folder / "film.mp4")
        return self.took(find("curl"), "--silent", "--fail", "--output", place, *options, url)

    def wget(self, url: str, *options: str) -> float:
        """Fetch one file with wget."""
        place = str(self.folder / "film.mp4")
        return self.took(find("wget"), "--quiet", "--output-document", place, *options, url)

    def aria2(self, url: str, *options: str) -> float:
        """Fetch one file with aria2."""
        place = ("--dir", str(self.folder), "--out", "film.mp4")
        return self.took(find("aria2c"), *_ARIA2, *place, *options, url)

    def curl_all(self, urls: Sequence[str], at_once: int) -> float:
        """Fetch many files with one curl."""
        words = [
            word
            for number, url in enumerate(urls)
            for word in (url, "--output", str(self.folder / f"{number}.mp4"))
        ]
        options = ("--silent", "--fail", "--parallel", "--parallel-immediate")
        return self.took(find("curl"), *options, "--parallel-max", str(at_once), *words)

    def aria2_all(self, urls: Sequence[str], at_once: int) -> float:
        """Fetch many files with one aria2, which reads a list of them."""
        listed = self.folder.with_suffix(".list")
        listed.write_text(
            "".join(f"{url}\n  out={number}.mp4\n" for number, url in enumerate(urls))
        )
        place = ("--dir", str(self.folder), "--input-file", str(listed), "-j", str(at_once))
        return self.took(find("aria2c"), *_ARIA2, *place)
