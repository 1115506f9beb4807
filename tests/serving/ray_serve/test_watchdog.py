"""A service that is killed, since it did not stop in time, leaves no files behind."""

import subprocess
import sys
from pathlib import Path

KILLED = """
import os
from pathlib import Path

from bae_ray.serving.ray_serve.haproxy import private_haproxy
from bae_ray.serving.ray_serve.watchdog import end_now

with private_haproxy("127.0.0.1", 1) as variables:
    print(Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent, flush=True)
    end_now("it is killed.")
"""


def test_the_folder_of_haproxy_goes_with_a_process_that_is_killed():
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1, ended.stderr
    folder = Path(ended.stdout.strip())
    assert folder.name.startswith("bae-ray-")
    assert not folder.exists()
