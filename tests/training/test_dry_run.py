"""What a sweep would do and cost, told before; by a store, or by the shapes of one that is still to be made."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bae_ray.activations.config import ExtractConfig, TokensConfig
from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.cli.job import run_job
from bae_ray.cli.verb_stores import read_extraction
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.icl.experiment import EXPERIMENT as ICL
from bae_ray.experiments.layer_position.config import PRESETS
from bae_ray.experiments.layer_position.experiment import EXPERIMENT as LAYER_POSITION
from bae_ray.report.sweep_terminal import plan_rows
from bae_ray.training.config import TrainingConfig
from bae_ray.training.dry_run import dry_run
from bae_ray.training.planned_store import BLOCK, planned_store
from bae_ray.training.resource_estimate import DryRun, Estimate, Measured
from bae_ray.training.sweep_config import SweepConfig

LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 16, "vocab_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 131_072,
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder that holds its config alone: the paper's layers and context, but for the width."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def plan(device: str, hours: float, gpus_per_trial: float, gpus: int, packs: int = 40) -> DryRun:
    return DryRun(
        packs, 0, [], "at most 1 runs in each: as the option packed says",
        Measured(0.001, 10**9, 80 * 10**9, 1, device),
        Estimate(packs, packs, hours, 10**9, 1000 * packs), 4, gpus_per_trial, gpus,
    )  # fmt: skip


def test_trainings_that_share_a_gpu_take_turns_on_it():
    rows = plan_rows(plan("cuda", 40.0, 0.25, 8), price_per_gpu_hour=2.5)
    assert rows["trainings"] == "40.00 GPU-hours"
    assert rows["cost"] == "100.00 at 2.5 per GPU-hour"
    assert rows["wall time"] == "about 5.00 h on 8 GPUs, 0.25 GPU for each training"
    assert rows["steps"] == "40,000 of all runs, 1,000 of each"


def test_whole_gpus_of_a_training_are_paid_for():
    assert plan("cuda", 40.0, 2, 8).gpu_hours == 80
    assert plan("cuda", 40.0, 1, 8, packs=4).wall_hours == 10, "four packs keep four of eight busy"


def test_hours_of_a_cpu_are_no_gpu_hours():
    """Also where Ray was told of GPUs that torch does not find."""
    rows = plan_rows(plan("cpu", 40.0, 0.25, 8), price_per_gpu_hour=2.5)
    assert rows["trainings"] == "40.00 worker-hours on CPUs"
    assert rows["cost"].startswith("not known: no GPU was found")
    assert rows["wall time"] == "about 10.00 h on 4 workers"
    assert "cost" not in plan_rows(plan("cpu", 40.0, 0, 0))


def printed(bae_ray: Callable, *arguments: object) -> str:
    code, out, err = bae_ray("sweep", "--dry-run", *arguments)
    assert code == 0, err
    return " ".join(out.split())


def test_the_papers_preset_by_shapes_alone(
    bae_ray: Callable, shapes: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """17 layers x 11 positions; 209,715 training texts in batches of 512, 2,000 times; two GPUs, as Ray was told."""
    monkeypatch.setenv("COLUMNS", "200")
    preset = PRESETS["paper"].changed(extract={"model": str(shapes)}, out=tmp_path / "out")
    preset.record()
    config = tmp_path / "out" / "config.json"
    out = printed(
        bae_ray, "--store", config, "--out", tmp_path / "runs", "--gpus-per-trial", 0.25, "--price-per-gpu-hour", 2
    )
    found = re.search(r"runs │ 187 \(0 finished, 187 to train in (\d+) packs\)", out)
    size = re.search(r"packs │ at most (\d+) runs( of several cells)? in each: .*ms a step for each run", out)
    assert found, out
    assert size, out
    assert int(found[1]) == -(-187 // int(size[1]))
    assert bool(size[2]) == (int(size[1]) > 1)
    assert "steps │ 152,966,000 of all runs, 818,000 of each" in out
    assert re.search(r"trainings │ [\d.]+ (worker-hours on CPUs|GPU-hours)", out)
    assert re.search(r"cost │ (not known|[\d.]+ at 2 per GPU-hour)", out)
    assert not (tmp_path / "runs").exists()


def test_a_job_plans_its_preset(
    shapes: Path, ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    code = run_job(LAYER_POSITION, ["gpu", "--dry-run", "--extract.model", str(shapes), "--out", str(tmp_path / "x")])
    assert code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "runs │ 99 (0 finished" in out
    assert "5,100 of each" in out
    assert not (tmp_path / "x").exists()
    with pytest.raises(InvalidInputError, match="more than one store"):
        run_job(ICL, ["gpu", "--dry-run"])


def test_a_gpu_that_no_machine_has_is_measured_on_a_cpu(tiny_store: Path, tmp_path: Path):
    config = SweepConfig(
        layers=(1,), positions=(2,), gpus_per_trial=99, training=TrainingConfig(epochs=2, batch_size=32)
    )
    found = dry_run(config, ActivationStore.open(tiny_store), tmp_path, executor="inline")
    assert (found.gpus_per_trial, found.gpu_hours, found.runs) == (0, None, 1)
    assert found.packing == "at most 8 runs in each: the default on a CPU, which the option packed changes"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dry-run", "--price-per-gpu-hour", "-1"], "Input should be greater than 0"),
        (["--dry-run", "--price-per-gpu-hour", "nan"], "Input should be"),
        (["--price-per-gpu-hour", "2"], "--price-per-gpu-hour is for the plan that --dry-run prints"),
        (["--packed", "0"], "packed"),
    ],
)
def test_what_cannot_be_is_refused(bae_ray: Callable, tmp_path: Path, arguments: list[str], says: str):
    code, _, err = bae_ray("sweep", "--store", tmp_path, "--out", tmp_path, *arguments)
    assert code == 2
    assert says in " ".join(err.split())


def test_a_file_is_no_store(bae_ray: Callable, tmp_path: Path):
    file = tmp_path / "extraction.json"
    file.write_text("{}")
    code, _, err = bae_ray("sweep", "--store", file, "--out", tmp_path / "out")
    assert code == 2
    assert "expected the folder of a store" in err
    assert "--dry-run" in err


def test_an_extraction_of_options_or_in_a_config(tmp_path: Path):
    extraction = PRESETS["paper"].extract
    options, config = tmp_path / "options.json", tmp_path / "config.json"
    options.write_text(json.dumps(extraction.model_dump(mode="json") | {"out": "s3://bucket/store", "check": False}))
    config.write_text(PRESETS["paper"].resolved())
    assert read_extraction(options) == read_extraction(config) == extraction


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "holds no options of an extraction"),
        ("{a: [", "cannot be read"),
        ("layerss: [1]", "layerss is .*Did you mean layers"),
        ("extract: {batch_size: 0}", "batch_size is 0: Input should be greater"),
    ],
)
def test_a_file_that_is_no_extraction(text: str, says: str, tmp_path: Path):
    file = tmp_path / "file.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=says):
        read_extraction(file)


def test_planned_cells(shapes: Path):
    store = planned_store(ExtractConfig(model=str(shapes), positions=(1, 4), max_texts=2 * BLOCK + 5))
    assert len(store.cells) == 17 * 2
    assert len({store.fingerprint(cell) for cell in store.cells}) == 34
    pieces = store.shards(16, 4)
    rows = Rows(pieces)
    assert rows.shape == (2 * BLOCK + 5, 16)
    assert len({piece.untyped_storage().data_ptr() for piece in pieces}) == 1, "no more memory than a block"
    assert rows.take(torch.arange(100)).std() == pytest.approx(1, abs=0.1)
    with pytest.raises(InvalidInputError, match="holds no cell"):
        store.fingerprint(Cell(17, "residual", 1))
    with pytest.raises(InvalidInputError, match="layer 40"):
        planned_store(ExtractConfig(model=str(shapes), layers=(40,)))


def test_vectors_that_only_the_texts_tell(shapes: Path):
    tokens = ExtractConfig(model=str(shapes), positions=("all",), max_texts=None)
    with pytest.raises(InvalidInputError, match=r"give max_texts, or .* tokens\.max_vectors"):
        planned_store(tokens)
    limited = tokens.model_copy(update={"tokens": TokensConfig(max_vectors=1000)})
    assert planned_store(limited).manifest.n == 1000
