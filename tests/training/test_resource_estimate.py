from pathlib import Path

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import DivergedError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.packing import pack
from bae_ray.training.resource_estimate import Measured, estimate, gpu_share, largest, measure_one
from bae_ray.training.sweep_config import SweepConfig

GB = 10**9


@pytest.mark.parametrize(
    ("peak", "share"), [(1 * GB, 1 / 16), (10 * GB, 1 / 6), (30 * GB, 1 / 2), (70 * GB, 1), (200 * GB, 1)]
)
def test_as_many_trainings_share_a_gpu_as_fit_with_a_margin(peak: int, share: float):
    found = gpu_share(Measured(0.01, peak, 80 * GB, 1))
    assert found == pytest.approx(share)
    assert found == 1 or round(1 / found) * peak * 1.3 <= 80 * GB


def test_estimate_is_in_proportion_to_the_products(tiny_store: Path):
    store = ActivationStore.open(tiny_store)
    config = SweepConfig(
        layers=(1,), positions=(2,), training=TrainingConfig(epochs=5, batch_size=32),
        axes=("autoencoder.expansion=2,4",), seeds=(0, 1),
    )  # fmt: skip
    packs = pack(expand(config, store), 1)
    (sample,) = largest(packs)
    assert sample.runs[0].autoencoder.expansion == 4
    measured = measure_one([sample], store, "cpu")
    assert measured.seconds_per_step > 0
    n = store.manifest.n
    steps = 5 * ((n - round(0.2 * n)) // 32)
    found = estimate(packs, measured, n)
    assert (found.runs, found.packs) == (4, 4)
    assert found.device_hours * 3600 == pytest.approx(steps * measured.seconds_per_step * (2 + 2 / 2))
    weights = 4 * sum(2 * 16 * width + 2 * (16 + width) for width in (32, 32, 64, 64))
    assert weights < found.disk_bytes < weights + 4 * 5 * 1000


def test_what_cannot_be_trained_is_not_what_is_measured(tiny_store: Path):
    store = ActivationStore.open(tiny_store)
    config = SweepConfig(
        layers=(1,), positions=(2, 7), training=TrainingConfig(batch_size=32), axes=("training.lr=1e38,1e-3",)
    )
    diverging, good = (
        [one for one in pack(expand(config, store), 1) if one.runs[0].training.lr == lr] for lr in (1e38, 1e-3)
    )
    assert measure_one([*diverging, good[0]], store, "cpu").seconds_per_step > 0
    with pytest.raises(DivergedError):
        measure_one(diverging, store, "cpu")
