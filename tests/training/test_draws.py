"""What a search has drawn, as its folder tells it."""

import json
from pathlib import Path

import pytest

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.training.config import TrainingConfig
from bae_ray.training.draws import Draws
from bae_ray.training.sweep_config import SearchConfig, SweepConfig

CELL = Cell(1, "residual", 2)
BITS = "autoencoder.bits_per_feature"


def config_of(*ranges: str, epochs: int = 3) -> SweepConfig:
    search = SearchConfig(samples=4, metric="fvu_val", ranges=ranges)
    return SweepConfig(search=search, training=TrainingConfig(epochs=epochs))


@pytest.fixture
def store(tiny_store: Path) -> ActivationStore:
    return ActivationStore.open(tiny_store)


def test_two_trials_never_train_the_same_settings(store: ActivationStore, tmp_path: Path):
    draws = Draws(config_of(f"{BITS}=1..3"), store, CELL, tmp_path)
    first = draws.add({BITS: 2})
    assert first is not None
    assert json.loads((tmp_path / first.id / "search.json").read_text()) == {BITS: 2}
    assert draws.add({BITS: 2}) is None


def test_every_draw_counts_and_is_there_for_the_next_call(store: ActivationStore, tmp_path: Path):
    config = config_of(f"{BITS}=1..3")
    draws = Draws(config, store, CELL, tmp_path)
    made = [draws.add({BITS: bits}) for bits in (2, 3, 2, 1)]
    assert [run is None for run in made] == [False, True, True, False]
    assert draws.left == 0
    again = Draws(config, store, CELL, tmp_path)
    assert (len(again), again.left, again.runs, again.illegal) == (4, 0, draws.runs, draws.illegal)
    assert [run.settings[0] for run in again.illegal] == [(BITS, 3)]
    other_cell = Draws(config, store, Cell(2, "residual", 2), tmp_path)
    assert (len(other_cell), other_cell.left) == (0, 4)


def test_draws_of_other_searches_are_left_alone(store: ActivationStore, tmp_path: Path):
    """Those that cannot be here, are out of range, of other fields, or of other configs."""
    Draws(config_of(f"{BITS}=1..3", epochs=2), store, CELL, tmp_path).add({BITS: 2})
    Draws(config_of(f"{BITS}=1..4"), store, CELL, tmp_path).add({BITS: 4})
    Draws(config_of("training.lr=1e-3..1e-2"), store, CELL, tmp_path).add({"training.lr": 2e-3})
    (tmp_path / "illegal").mkdir()
    (tmp_path / "illegal" / "search.json").write_text(json.dumps({BITS: 3}))
    draws = Draws(config_of(f"{BITS}=1..3"), store, CELL, tmp_path)
    assert (len(draws), draws.runs, draws.illegal) == (0, {}, [])


def test_runs_of_folders_without_a_list_of_draws_count(store: ActivationStore, tmp_path: Path):
    config = config_of(f"{BITS}=1..3")
    run = Draws(config, store, CELL, tmp_path).add({BITS: 2})
    assert run is not None
    for file in (tmp_path / "draws").iterdir():
        file.unlink()
    draws = Draws(config, store, CELL, tmp_path)
    assert (draws.runs, draws.left) == ({run.id: run}, 3)
    assert draws.add({BITS: 2}) is None
