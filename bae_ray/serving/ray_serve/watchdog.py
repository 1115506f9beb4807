"""The end of a service within a time limit, whatever hangs."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARGIN_S = 10.0
"""Seconds that stopping may take beyond the drain time."""
KILLING_S = 2.0
"""The part of it that is left for killing."""
_FOLDERS: set[Path] = set()


@contextmanager
def temporary_folder(prefix: str, within: str) -> Iterator[Path]:
    """A folder for this user only. It is deleted at the end, and also if `end_now` ends this process."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within, ignore_cleanup_errors=True) as made:
        _FOLDERS.add(Path(made))
        try:
            yield Path(made)
        finally:
            _FOLDERS.discard(Path(made))


def end_now(reason: str) -> None:
    """End this process and everything it has started, at once.

    A Ray that was there before is left alone: what was deployed to it may run on for a while.
    """
    print(f"bae-ray: {reason}", file=sys.stderr, flush=True)
    started = psutil.Process().children(recursive=True)
    for process in started:  # the raylet comes before its workers, so that it starts no others
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(started, timeout=1)
    for folder in [*_FOLDERS]:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
