from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bae_ray.cli.job import run_job
from bae_ray.experiments.protocol import CONFIG_FILE, Experiment


@pytest.fixture
def run(ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an experiment with these options of its laptop preset, in this process; what it printed."""

    def call(experiment: Experiment[Any], *options: object) -> str:
        capsys.readouterr()
        code = run_job(experiment, [*map(str, options)])
        printed = capsys.readouterr()
        assert code == 0, printed.err[-3000:]
        assert (Path(str(options[options.index("--out") + 1])) / CONFIG_FILE).exists()  # that `--config` takes
        return printed.out

    return call
