"""Services that benchmarks start as a shell would, and stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_S = 600
UP = "Ctrl-C ends it."
"""What services print last when they answer."""


@contextmanager
def started(verb: list[str], log: Path, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of `bae-ray VERB...`, once it answers; what it prints goes to a log.

    Raises `RuntimeError` where it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", *verb, "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        service = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(variables or {})})  # noqa: S603
    try:
        end = time.monotonic() + START_S
        while UP not in log.read_text(encoding="utf-8"):
            if service.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service did not come up; see {log}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(120)
