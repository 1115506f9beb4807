"""Ten minutes on two CPUs: under load, hurt in every way, nothing hangs, no answer is wrong, and it comes back."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.serving.command import serving
from tests.serving.soak import Soak, run, told

SECONDS = float(os.environ.get("BAE_RAY_SOAK_S", "600"))
RECOVERY_S = 30
STOP_S = 20


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
def test_soak(tmp_path: Path, tiny_model: Path):
    (tmp_path / "registry").mkdir()
    soak = Soak(tmp_path / "registry", tiny_model)
    with serving(tmp_path / "registry", "--texts.models", "tiny", tiny_model) as service:
        seen = run(soak, service, SECONDS, pause=3)
        hanging = [service.half_sent() for _ in range(8)]
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(90)
        stop_s = time.monotonic() - started
        for connection in hanging:
            connection.close()
    print(told(soak, seen, stop_s))
    assert soak.wrong == []
    assert max(max(times) for times in seen.values()) < RECOVERY_S, seen
    assert stop_s < STOP_S
