"""Runs of a sweep as methods of a table: their names, their order, and rescaled ones that are trained weights still."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from bae_ray.autoencoders import (
    ArchitectureConfig,
    BAEConfig,
    ReLUConfig,
    TopKConfig,
    TranscoderConfig,
    build_autoencoder,
    load_autoencoder,
)
from bae_ray.comsem.config import ComSemConfig
from bae_ray.experiments.comsem_table.experiment import contents
from bae_ray.experiments.comsem_table.methods import table_methods
from bae_ray.serving.registry.registry import Registry
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig


def train(
    folder: Path, autoencoder: ArchitectureConfig, layer: int, target: int | None = None, recipe: Any = "paper"
) -> str:
    """What a training leaves, untrained; its id."""
    filled: Any = autoencoder.model_copy(update={"d_in": 4})
    run = RunConfig(
        cell=CellConfig(layer=layer, position="all"),
        target=None if target is None else CellConfig(layer=target, position="all"),
        data="x",
        autoencoder=filled,
        training=TrainingConfig(recipe=recipe),
    )
    build_autoencoder(filled).save_pretrained(folder / run.id)
    (folder / run.id / "run.json").write_text(run.model_dump_json())
    return run.id


def test_methods_are_named_and_in_the_tables_order(tmp_path: Path):
    configs = [BAEConfig(), BAEConfig(bits_per_feature=2), TopKConfig(k=2), ReLUConfig()]
    runs = [train(tmp_path / "sweep", config, 9) for config in configs]
    runs.append(train(tmp_path / "sweep", BAEConfig(), 9, recipe="scaled"))
    runs.append(train(tmp_path / "sweep", ReLUConfig(), 5))
    runs.append(train(tmp_path / "sweep", TranscoderConfig(), 4, target=5))
    methods = table_methods(tmp_path / "sweep", runs, ["relu"], tmp_path / "out")
    assert [(method.label, method.layer) for method in methods] == [
        ("ReLU SAE", 5), ("ReLU SAE Resc.", 5), ("Transcoder", 5),
        ("ReLU SAE", 9), ("ReLU SAE Resc.", 9), ("Top-k SAE", 9), ("BAE", 9), ("BAE scaled", 9), ("BAE C=2", 9),
    ]  # fmt: skip
    assert [method.name for method in methods[4:]] == [
        "relu-rescaled-layer-9", "topk-layer-9", "bae-layer-9", "bae-scaled-layer-9", "bae-2bits-layer-9",
    ]  # fmt: skip
    assert {method.run for method in methods} == set(runs)
    transcoder = json.loads((Path(methods[2].source) / "run.json").read_text())
    assert transcoder["cell"]["layer"] == 4, "its own layer is what is read"


def test_a_rescaled_method_is_the_same_autoencoder_standardised(tmp_path: Path):
    run = train(tmp_path / "sweep", ReLUConfig(), 3)
    plain, rescaled = table_methods(tmp_path / "sweep", [run], ["relu"], tmp_path / "out")
    trained, same, standard = (load_autoencoder(s) for s in (tmp_path / "sweep" / run, plain.source, rescaled.source))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    for other in (same, standard):
        torch.testing.assert_close(other(x), trained(x), rtol=0, atol=0)
    assert torch.equal(same.magnitudes(x), trained.encode(x))
    latents = trained.encode(x)
    standard.latent_mean.copy_(latents.mean(0))
    standard.latent_std.copy_(latents.std(0, correction=0))
    varies = latents.std(0) > 0
    found = standard.magnitudes(x)[:, varies]
    torch.testing.assert_close(found.mean(0), torch.zeros(int(varies.sum())), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(int(varies.sum())))


def test_two_of_a_kind_are_told_apart(tmp_path: Path):
    runs = [train(tmp_path / "sweep", TopKConfig(k=k), 3) for k in (2, 3)]
    methods = table_methods(tmp_path / "sweep", runs, [], tmp_path / "out")
    assert {method.name for method in methods} == {f"topk-layer-3-{run[:6]}" for run in runs}
    assert {method.label for method in methods} == {f"Top-k SAE {run[:6]}" for run in runs}


@pytest.mark.parametrize("left", ["run.json", "model.safetensors", None])
def test_copies_are_made_once_and_mended(left: str | None, tmp_path: Path):
    """A copy that a killed process left unfinished has no copy.json yet; a finished one is not written again."""
    run = train(tmp_path / "sweep", TopKConfig(k=2), 3)
    (method,) = table_methods(tmp_path / "sweep", [run], [], tmp_path / "out")
    copied = {file.name: file.stat().st_mtime_ns for file in Path(method.source).iterdir()}
    if left is not None:
        (Path(method.source) / "copy.json").unlink()
        (Path(method.source) / left).write_text("half")
    assert table_methods(tmp_path / "sweep", [run], [], tmp_path / "out") == [method]
    load_autoencoder(method.source)
    again = {file.name: file.stat().st_mtime_ns for file in Path(method.source).iterdir()}
    assert (again == copied) == (left is None)


def test_an_autoencoder_that_was_trained_again_is_copied_again(tmp_path: Path):
    """The id says how it was trained, and not with which numbers: those of another machine differ."""
    run = train(tmp_path / "sweep", ReLUConfig(), 3)
    before = table_methods(tmp_path / "sweep", [run], ["relu"], tmp_path / "out")
    train(tmp_path / "sweep", ReLUConfig(), 3)
    after = table_methods(tmp_path / "sweep", [run], ["relu"], tmp_path / "out")
    trained = load_autoencoder(tmp_path / "sweep" / run)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(load_autoencoder(new.source).W_enc, trained.W_enc)
        assert (old.source, old.run) == (new.source, new.run)
        assert old.weights != new.weights
    asked, store = ComSemConfig(judge_url="", autoencoders=("x",)), cast(Any, SimpleNamespace(cells=[]))
    assert contents(asked, before, store) == contents(asked, [*before], store)
    assert contents(asked, before, store) != contents(asked, after, store), "scores are those of the weights"


def test_the_folders_are_a_registry(tmp_path: Path):
    """As `bae-ray serve --registry` reads it."""
    runs = [train(tmp_path / "sweep", config, 3) for config in (BAEConfig(), ReLUConfig())]
    for run in runs:
        told = {"model": "tiny", "layer": 3, "site": "residual", "position": "all", "fvu_val": 0.25}
        (tmp_path / "sweep" / run / "result.json").write_text(json.dumps(told))
    methods = table_methods(tmp_path / "sweep", runs, ["relu"], tmp_path / "out")
    found = Registry(tmp_path / "out").look()
    assert set(found) == {method.name for method in methods}
    assert all(entry.config is not None and entry.measures["fvu_val"] == 0.25 for entry in found.values())
