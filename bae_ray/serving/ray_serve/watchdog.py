"""The end of a service: within a bound, whatever hangs."""

import contextlib
import os
import sys
import threading

import psutil

MARGIN_S = 10.0
"""Seconds for the end beyond what requests under way are given: a stop takes no longer than both together."""
LAST_S = 2.0
"""What of it is left to kill what did not end by itself."""


class Watchdog:
    """Ends this process and all that it has started, its Ray too, where it has not ended in time by itself."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds - LAST_S, end_now, ["the service did not stop in time; it is killed."])
        self._timer.daemon = True

    def start(self) -> None:
        """Count from now on."""
        self._timer.start()


def end_now(reason: str) -> None:
    """End this process and all that it has started, at once.

    A Ray that was there before is left alone: what was deployed to it may be up for some time yet.
    """
    print(f"bae-ray: {reason}", file=sys.stderr, flush=True)
    started = psutil.Process().children(recursive=True)
    for process in started:  # the raylet comes before its workers, so that it starts no others
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(started, timeout=1)
    os._exit(1)
