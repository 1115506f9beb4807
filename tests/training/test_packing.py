from pathlib import Path

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.packing import Pack, jobs, pack, unfinished_packs
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE
from bae_ray.training.sweep_config import SweepConfig


@pytest.fixture
def runs(tiny_store: Path) -> list[RunConfig]:
    """2 cells x 3 weights x 2 architectures x 2 seeds."""
    config = SweepConfig(
        layers=(0, 1),
        positions=(2,),
        autoencoder=BAEConfig(),
        training=TrainingConfig(epochs=2),
        axes=("training.entropy_weight=0,1e-3,1e-2", "autoencoder.architecture=bae,relu"),
        seeds=(0, 1),
    )
    return expand(config, ActivationStore.open(tiny_store))


def finish(out: Path, *runs: RunConfig) -> None:
    for run in runs:
        (out / run.id).mkdir(parents=True)
        (out / run.id / RESULT_FILE).write_text("{}")


def test_packs_share_cell_and_batches(runs: list[RunConfig]):
    packs = pack(runs, most=4)
    assert sorted(len(some.runs) for some in packs) == [2, 2, 2, 2, 4, 4, 4, 4]
    for some in packs:
        assert len({(run.cell.layer, run.training.seed) for run in some.runs}) == 1
    assert sorted(run.id for some in packs for run in some.runs) == sorted(run.id for run in runs)
    assert [len(some.runs) for some in pack(runs, most=1)] == [1] * 24
    apart = [run.model_copy(update={"training": run.training.model_copy(update={"epochs": i})})
             for i, run in enumerate(runs, 1)]  # fmt: skip
    assert [len(some.runs) for some in pack(apart, most=8)] == [1] * 24


def test_jobs_are_of_one_cell_and_enough_for_the_workers(runs: list[RunConfig]):
    packs = pack(runs, most=1)
    for workers in (1, 2, 100):
        made = jobs(packs, workers)
        assert [some for job in made for some in job] == packs
        assert all(len({some.runs[0].data for some in job}) == 1 for job in made)
        assert len(made) >= min(4 * workers, len(packs))
    assert jobs([], 2) == []


def test_a_pack_that_is_under_way_stays_as_it_is(runs: list[RunConfig], tmp_path: Path):
    begun = unfinished_packs(runs, tmp_path, most=4)
    assert unfinished_packs(runs, tmp_path, most=2) == begun

    whole, interrupted, over, *untouched = [some for some in begun if len(some.runs) == 4]
    finish(tmp_path, *whole.runs, *interrupted.runs[:2], over.runs[0])
    interrupted.state(tmp_path).parent.mkdir()
    interrupted.state(tmp_path).write_bytes(b"a state: its results were being written")
    left = unfinished_packs(runs, tmp_path, most=3)
    assert whole not in left
    assert interrupted in left
    assert over not in left, "without a state it is over: those of its runs that failed are tried by themselves"
    assert [run for some in left for run in some.runs if run in over.runs] == list(over.runs[1:])
    assert all(some in left for some in untouched)


def test_a_run_that_left_the_grid_goes_on_with_a_pack_that_has_a_state(runs: list[RunConfig], tmp_path: Path):
    first, second, *_ = (some for some in unfinished_packs(runs, tmp_path, most=4) if len(some.runs) == 4)
    first.state(tmp_path).parent.mkdir()
    first.state(tmp_path).write_bytes(b"a state")
    for run in (*first.runs, *second.runs):
        (tmp_path / run.id).mkdir()
        (tmp_path / run.id / RUN_FILE).write_text(run.model_dump_json())
    left = unfinished_packs([run for run in runs if run not in (first.runs[1], second.runs[1])], tmp_path, most=4)
    assert first in left
    assert second not in left, "nothing of it would be lost"
    assert second.runs[1] not in [run for some in left for run in some.runs]


def test_an_extended_grid_packs_what_is_new_apart(runs: list[RunConfig], tmp_path: Path):
    old, new = runs[:12], runs[12:]
    first = unfinished_packs(old, tmp_path, most=8)
    both = unfinished_packs(runs, tmp_path, most=8)
    assert both[: len(first)] == first
    assert {run.id for some in both[len(first) :] for run in some.runs} == {run.id for run in new}
    finish(tmp_path, *old)
    assert {run.id for some in unfinished_packs(runs, tmp_path, most=8) for run in some.runs} == {r.id for r in new}


def test_a_state_per_pack(runs: list[RunConfig], tmp_path: Path):
    states = {some.state(tmp_path) for some in pack(runs, most=4)}
    assert len(states) == 8
    assert Pack((runs[0],)).state(tmp_path).parent.name == runs[0].id
