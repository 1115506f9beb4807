"""What runs in a notebook: no Ray installed, nothing started, this process's threads as they were."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bae_ray.errors import InvalidInputError
from bae_ray.work.devices import Share
from bae_ray.work.executor import Inline, WorkOrder

WITHOUT_RAY = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, NoRay())
from pathlib import Path
import pandas as pd
import torch
from bae_ray import ActivationStore
out = Path(sys.argv[1])
"""

SWEEP = """
from bae_ray.training.config import TrainingConfig
from bae_ray.training.dry_run import dry_run
from bae_ray.training.grid import expand
from bae_ray.training.sweep import sweep, train_runs
from bae_ray.training.sweep_config import SweepConfig
store = ActivationStore.open(sys.argv[2])
config = SweepConfig(
    layers=(1, 2), axes=("training.entropy_weight=0,1e-3", "training.lr=1e-3,1e38"), tensorboard=False,
    training=TrainingConfig(epochs=2, batch_size=32),
)
torch.set_num_threads(2)
assert dry_run(config, store, out, executor="inline").workers == 1
outcome = sweep(config, store, out, executor="inline")
assert torch.get_num_threads() == 2
assert (len(outcome.runs), outcome.trained, len(outcome.failures)) == (16, 8, 8), outcome
assert all("the loss became" in failure for failure in outcome.failures)
assert sorted(pd.read_parquet(out / "results.parquet")["status"]) == ["failed"] * 8 + ["finished"] * 8
more = expand(config.model_copy(update={"layers": (0,), "axes": ()}), store)
assert train_runs(more, store, out, config, executor="inline").trained == 2
assert train_runs(more, store, out, config, executor="inline").trained == 0
print("swept")
"""

CONVERT = """
import numpy as np
from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.compression import compress_activations
from bae_ray.compression.conversions import FileSource
from bae_ray.compression.config import CompressConfig
from bae_ray.compression.conversions import Compression
from bae_ray.compression.parallel import convert
autoencoder = build_autoencoder(BAEConfig(d_in=8, d_latent=16)).requires_grad_(False).eval()
autoencoder.reset_parameters(torch.Generator().manual_seed(1))
feature_statistics(autoencoder, torch.randn(100, 8)).set_reference(autoencoder)
autoencoder.save_pretrained(out / "bae")
x = torch.randn(100, 8)
np.save(out / "x.npy", x.numpy())
config = CompressConfig(part_rows=32, block_rows=32)
made = [Compression(FileSource(str(out / "x.npy"), None), str(out / "bae"), "x", config)]
(receipt,) = convert(made, out / "codes", config, "Compressing", executor="inline")
assert (out / "codes" / receipt.name).read_bytes() == compress_activations(autoencoder, x, block_rows=32)
print("converted")
"""


def in_a_notebook(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", WITHOUT_RAY + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sweep_needs_no_ray(tiny_store: Path, tmp_path: Path):
    assert in_a_notebook(SWEEP, tmp_path, tiny_store) == "swept\n"


def test_compression_needs_no_ray(tmp_path: Path):
    assert in_a_notebook(CONVERT, tmp_path) == "converted\n"


def test_units_are_done_in_order_by_one_worker():
    made: list[str] = []
    answers: list[tuple[int, int]] = []

    def worker(device: str) -> Callable[[int], int]:
        made.append(device)
        return lambda unit: unit * unit

    order = WorkOrder([[1, 2], [3]], worker, lambda unit, answer: answers.append((unit, answer)), Share(1, 0))
    assert Inline().run(order) == []
    assert (made, answers) == (["cpu"], [(1, 1), (2, 4), (3, 9)])


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InvalidInputError, match="a training needs 2 GPUs; this process has 1"):
        Inline().share("a training", 1, 2)
    assert Inline().share("a training", 1, None) == Share(1, 1)
