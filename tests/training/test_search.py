import json
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.training.axes import Setting, parse_range
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_settings
from bae_ray.training.results import results
from bae_ray.training.run_folder import RESULT_FILE
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SearchConfig, SweepConfig
from bae_ray.training.sweep_folder import status

pytestmark = pytest.mark.usefixtures("ray_cluster")

ONE_CELL = SweepConfig(
    layers=(1,),
    positions=(2,),
    training=TrainingConfig(epochs=9, batch_size=32),
    cpus_per_trial=2,
    gpus_per_trial=0,
    tensorboard=False,
)


def finished(out: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob(f"*/{RESULT_FILE}")}


def test_asha_stops_what_does_worse_and_never_begins_it_again(tiny_store: Path, tmp_path: Path):
    search = SearchConfig(scheduler="asha", grace_epochs=1, reduction=3)
    one_at_a_time = {"search": search, "axes": ("training.lr=1e-2,1e-6,2e-6",), "cpus_per_trial": 4}
    config = ONE_CELL.model_copy(update=one_at_a_time)
    store = ActivationStore.open(tiny_store)
    outcome = sweep(config, store, tmp_path)
    assert outcome.failures == []
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert table.set_index("training.lr")["status"].to_dict() == {1e-2: "finished", 1e-6: "stopped", 2e-6: "stopped"}
    stopped = table[table["status"] == "stopped"]
    assert stopped["reason"].str.match(r"Stopped: stopped by ASHA after epoch \d of 9: reconstruction \d").all()
    before = finished(tmp_path)
    again = sweep(config, store, tmp_path)
    assert (again.trained, again.finished) == (0, outcome.finished)
    assert finished(tmp_path) == before
    metrics = [file.read_text().splitlines() for file in tmp_path.glob("*/metrics.jsonl")]
    assert sum(map(len, metrics)) < 3 * 9


def test_optuna_draws_so_many_settings_and_an_interrupted_search_goes_on(tiny_store: Path, tmp_path: Path):
    search = SearchConfig(
        samples=3, metric="fvu_val", ranges=("training.lr=log:1e-5..1e-1", "autoencoder.expansion=1..4")
    )
    config = ONE_CELL.model_copy(update={"search": search})
    store = ActivationStore.open(tiny_store)
    few = config.model_copy(update={"search": search.model_copy(update={"samples": 1})})
    assert len(sweep(few, store, tmp_path).finished) == 1
    before = finished(tmp_path)
    outcome = sweep(config, store, tmp_path)
    assert (len(outcome.finished), outcome.trained, outcome.failures) == (3, 2, [])
    assert {run: finished(tmp_path)[run] for run in before} == before
    table = results(tmp_path)
    assert table["training.lr"].between(1e-5, 1e-1).all()
    assert table["training.lr"].nunique() == 3
    assert set(table["autoencoder.expansion"]) <= {1, 2, 3, 4}
    for row in table.to_dict("records"):
        drawn = json.loads((tmp_path / row["run"] / "search.json").read_text())
        assert drawn == {key: row[key] for key in ("training.lr", "autoencoder.expansion")}


@pytest.mark.slow
def test_settings_that_cannot_be_and_those_drawn_twice_are_drawn_once_and_for_all(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of d_latent 64, 2 bits per feature divide it and 3 do not: six draws of these give no third run."""
    search = SearchConfig(samples=6, metric="fvu_val", ranges=("autoencoder.bits_per_feature=2..3",))
    short = TrainingConfig(epochs=2, batch_size=32)
    config = ONE_CELL.model_copy(update={"search": search, "training": short})
    store = ActivationStore.open(tiny_store)
    interrupted = plan_settings(config, store, Cell(1, "residual", 2), (Setting("autoencoder.bits_per_feature", 2),))
    (tmp_path / interrupted.id).mkdir()
    (tmp_path / interrupted.id / "run.json").write_text(interrupted.model_dump_json())
    (tmp_path / interrupted.id / "search.json").write_text('{"autoencoder.bits_per_feature": 2}')
    foreign = tmp_path / "foreign"  # of a search of another width
    foreign.mkdir()
    (foreign / "search.json").write_text('{"autoencoder.bits_per_feature": 3}')

    outcome = sweep(config, store, tmp_path)
    assert outcome.finished == [interrupted.id]
    (failure,) = outcome.failures
    assert "autoencoder.bits_per_feature=3 at (layer 1, residual, position 2): d_latent is 64, which 3 bits" in failure
    table = pd.read_parquet(tmp_path / "results.parquet").set_index("status")
    assert table["autoencoder.bits_per_feature"].to_dict() == {"finished": 2, "illegal": 3}
    assert "bits per feature do not divide" in table["reason"]["illegal"]
    (drawn,) = (json.loads(file.read_text()) for file in (tmp_path / "draws").iterdir())
    assert len(drawn) == 6
    seen = status(tmp_path)
    assert (seen.ended, seen.left) == (True, 0)

    monkeypatch.setattr("bae_ray.training.search.run_search", None)
    again = sweep(config, store, tmp_path)
    assert (again.finished, again.failures, again.trained) == (outcome.finished, outcome.failures, 0)


def test_ranges():
    assert parse_range("training.lr=log:1e-4..1e-2") == ("training.lr", 1e-4, 1e-2, True)
    assert parse_range("autoencoder.k=5..20") == ("autoencoder.k", 5, 20, False)


@pytest.mark.parametrize("text", ["training.lr=1", "training.lr=2..1", "training.lr=log:0..1", "training.lr=a..b"])
def test_bad_ranges_are_refused(text: str):
    with pytest.raises(InvalidInputError, match=r"is not FIELD=LOW\.\.HIGH"):
        parse_range(text)
    with pytest.raises(InvalidInputError, match=r"range 'lr': unknown field\. Did you mean training\.lr"):
        parse_range("lr=1..2")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (SearchConfig(samples=3), r"search\.samples is 3 but there are no ranges"),
        (SearchConfig(ranges=("training.lr=1..2",)), r"search\.ranges are given but not search\.samples"),
        (
            SearchConfig(scheduler="asha", metric="fvu_val"),
            r"search\.metric is fvu_val, which is only known at the end",
        ),
        (
            SearchConfig(samples=3, metric="fvu_val", ranges=("autoencoder.k=2..4",)),
            r"search\.ranges give nothing that can be trained: autoencoder\.k=2 at \(layer 1, .*: .*k is 2: Extra",
        ),
        (SearchConfig(samples=3, metric="beauty", ranges=("training.lr=1e-3..1e-2",)), r"search\.metric is beauty"),
    ],
)
def test_bad_searches_are_refused_before_anything_runs(
    tiny_store: Path, tmp_path: Path, search: SearchConfig, message: str
):
    with pytest.raises(InvalidInputError, match=message):
        sweep(ONE_CELL.model_copy(update={"search": search}), ActivationStore.open(tiny_store), tmp_path / "out")
    assert not (tmp_path / "out").exists()
