"""Folders elsewhere, worked in and read by means of copies on this machine.

Large files are not copied with the others: those who read one ask for it (`bae_ray.files.at_hand`).
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bae_ray.files import at_hand, download, elsewhere, is_same
from bae_ray.folder_claims import CLAIMS, claimed
from bae_ray.locations import local_path, location_of
from bae_ray.storage import Found, folder_at

LARGE = (".safetensors", ".codes")
"""Suffixes of files that are not copied with a folder."""
LARGE_FOLDERS = ("attempts", "cells", "receipts", "rows", CLAIMS)
"""Folders of stores, or others that nobody reads as files."""
OWN = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".lock", ".tmp")
"""Suffixes of files that stay as they are here."""
GROWING = ".jsonl"
DOWNLOADS = 16
"""Files that are copied at a time."""


@contextmanager
def working(out: str | Path, what: str, claim_local: bool = False) -> Iterator[Path]:
    """The path of a folder to work in, where nobody else is meanwhile; `what` is told them.

    A folder elsewhere is copied as it is there: what this machine has of an earlier command beyond that is gone.
    `claim_local`: whether a folder of this machine is for one process at a time, too. Raises `ClaimedError`.
    """
    path = local_path(out).absolute()
    remote = location_of(path) is not None
    with claimed(folder_at(path), what) if remote or claim_local else nullcontext(True) as held:
        if remote and not held:
            refresh(path, exactly=True)
        yield path


def no_file(_name: str) -> bool:
    """None of the large files."""
    return False


def reading(location: str | Path, large: Callable[[str], bool] = no_file) -> Path:
    """The path of a folder or file to read, copied as it is now where it is elsewhere; `large`: see `refresh`."""
    path = local_path(location)
    if location_of(path) is not None and not at_hand(path).is_file():
        refresh(path, large=large)
    return path


def refresh(folder: Path, exactly: bool = False, large: Callable[[str], bool] = no_file) -> None:
    """Bring what has changed in the folder that a path stands for; nothing for a path of this machine's.

    `exactly`: also in place of lines that were appended here and are not there. `large`: which of the large files, too,
    by their names.
    """
    if (there := elsewhere(folder)) is None:
        return
    remote, name = there
    began = time.time()
    found = {one: what for one, what in remote.found(name).items() if not _is_left_out(one.removeprefix(f"{name}/"))}
    copies = {folder / one.removeprefix(name).lstrip("/"): (one, what) for one, what in found.items()}
    changed = [
        copy for copy, (_, what) in copies.items()
        if (not copy.name.endswith(LARGE) or large(copy.name)) and _is_older(copy, what, exactly)
    ]  # fmt: skip
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for _ in pool.map(lambda copy: download(remote, copies[copy][0], copy, copies[copy][1]), changed):
            pass
    for place, _, names in os.walk(folder):
        for copy in (Path(place, one) for one in names):
            if copy not in copies and not copy.name.endswith(OWN) and copy.stat().st_ctime < began - 1.0:
                copy.unlink(missing_ok=True)


def _is_left_out(name: str) -> bool:
    folders = name.split("/")[:-1]
    return name.endswith(OWN) or any(part in LARGE_FOLDERS or part.startswith(".tune-") for part in folders)


def _is_older(copy: Path, found: Found, exactly: bool) -> bool:
    """Whether a copy is to be made anew. Lines that a process appends here are there later."""
    if is_same(copy, found):
        return False
    grown = not exactly and copy.name.endswith(GROWING) and copy.exists() and copy.stat().st_size > found.size
    return not grown
