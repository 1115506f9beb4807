"""More-bit decoding on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bae_ray.activations.config import ExtractConfig, TokensConfig, WindowsInput
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig, BinaryAutoencoder, load_autoencoder
from bae_ray.errors import InvalidInputError, JudgeError
from bae_ray.experiments.more_bit.experiment import EXPERIMENT, grid
from bae_ray.serving.judge.session import JobJudgeConfig
from bae_ray.training.config import TrainingConfig
from tests.comsem.server import JudgeServer, always_yes

LAPTOP = EXPERIMENT.presets["laptop"]
K, N_INTERPRET = 10, 5


def naive_magnitudes(folder: Path, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of all tokens and features, and whether each fires, dense and from the definitions."""
    autoencoder = load_autoencoder(folder)
    with torch.no_grad():
        latents = autoencoder.encode(x).double().numpy()
    if not isinstance(autoencoder, BinaryAutoencoder):
        return latents, latents != 0
    bits = autoencoder.bits_per_feature
    if bits == 1:
        with np.errstate(divide="ignore"):
            return np.log2(np.abs(latents - latents.mean(0))), latents != 0
    values = sum(2**j * latents[:, j::bits] for j in range(bits)) / (2**bits - 1)
    return values, values > 0


def naive_selection(magnitudes: np.ndarray) -> np.ndarray:
    """Share of tokens on which each feature is among the K largest, the first of equals before the others."""
    chosen = np.zeros(magnitudes.shape[1])
    for row in magnitudes.astype(np.float32):
        for feature in sorted(range(len(row)), key=lambda i: -row[i])[:K]:
            chosen[feature] += 1
    return chosen / len(magnitudes)


def test_more_bits_beside_a_sparse_autoencoder(
    run: Callable[..., str], tiny_causal_model: Path, tiny_corpus: Path, tmp_path: Path
):
    out = tmp_path / "run"
    arguments = (
        "--out", str(out), "--extract.model", str(tiny_causal_model), "--extract.corpus", str(tiny_corpus),
        "--extract.layers", "1", "3", "--layer", "3", "--bits", "2", "3", "--extract.max-tokens", "16",
        "--extract.tokens.max-vectors", "1200", "--evaluation.corpus", str(tiny_corpus), "--evaluation.max-texts", "60",
        "--training.epochs", "6", "--training.batch-size", "64", "--autoencoder.expansion", "3",
        "--baseline.expansion", "3", "--scaled-entropy-weights", "0.02", "--map-samples", "50", "--map-columns", "20",
        "--extract.gpus-per-worker", "0", "--gpus-per-trial", "0",
    )  # fmt: skip
    printed = run(EXPERIMENT, *arguments)
    table = pd.read_csv(out / "more_bit.csv")
    cells = list(zip(table["layer"], table["method"], table["d_latent"], table["n_features"], strict=True))
    one, scaled, sae = "BAE, C = 1", "BAE, C = 1, scaled 0.02", "ReLU SAE"
    assert cells == [(1, one, 48, 48), (1, scaled, 48, 48), (1, sae, 48, 48), (3, one, 48, 48), (3, scaled, 48, 48),
                     (3, "BAE, C = 2", 96, 48), (3, "BAE, C = 3", 144, 48), (3, sae, 48, 48)]  # fmt: skip
    assert not table.drop(columns="bits_per_feature").isna().any().any()
    evaluation = ActivationStore.open(out / "evaluation")
    assert set(table["n_tokens"]) == {evaluation.manifest.n}
    for row in table.to_dict("records"):
        x = evaluation.matrix(row["layer"], "all").float()
        folder = out / "sweep" / row["run"]
        magnitudes, fires = naive_magnitudes(folder, x)
        rates, selected = fires.mean(0), naive_selection(magnitudes)
        with torch.no_grad():
            error = (load_autoencoder(folder)(x).x_hat - x).square().sum() / (x - x.mean(0)).square().sum()
        assert row["fvu_evaluation"] == pytest.approx(float(error), rel=1e-4)
        assert row["fires_per_token"] == pytest.approx(rates.sum())
        assert (row["never_fires"], row["fires_densely"]) == ((rates == 0).sum(), (rates > 0.1).sum())
        assert row["activated"] == (selected * len(x) > N_INTERPRET + 0.5).sum()
        assert (row["never_selected"], row["selected_densely"]) == ((selected == 0).sum(), (selected > 0.1).sum())
    for name in ("more_bit", "firing_rates", "magnitudes_layer1", "magnitudes_layer3"):
        assert (out / f"{name}.png").stat().st_size > 10_000
        assert str(out / f"{name}.png") in printed
    page = (out / "more_bit.html").read_text()
    assert page.count("<svg") == 4
    assert "Plan: " in printed
    assert f"Here, layer 3, {scaled}: " in printed
    assert "Paper: more bits, smaller L_r. Here: " in printed

    trained = {file: file.stat().st_mtime_ns for file in out.glob("sweep/*/result.json")}
    with JudgeServer(always_yes) as server:
        judged = ("--judged", "--judge.judge-url", server.url, "--scoring.random-features", "4")
        again = run(EXPERIMENT, *arguments, *judged, "--scoring.max-features", "6")
    assert {file: file.stat().st_mtime_ns for file in out.glob("sweep/*/result.json")} == trained
    scored = pd.read_csv(out / "more_bit.csv")
    pd.testing.assert_frame_equal(scored[table.columns], table)
    assert scored["score"].notna().tolist() == (scored["layer"] == 3).tolist()
    of_table = scored[scored["layer"] == 3]
    assert set(of_table["score"]) == set(of_table["chance"]) == {1.0}
    assert set(of_table["above_chance"]) == {0.0}
    assert of_table["judge_useless"].all()
    assert "Plan: " not in again
    assert "WARNING" in again


def extracting(**changes: Any) -> ExtractConfig:
    return LAPTOP.extract.model_copy(update=changes)


def training(**changes: Any) -> TrainingConfig:
    return LAPTOP.training.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extract": extracting(positions=(4,), tokens=TokensConfig())}, r"extract.positions is \(4,\)"),
        ({"extract": extracting(input=WindowsInput())}, r"extract.input.kind is windows"),
        ({"extract": extracting(sites=("mlp_in",))}, r"extract.sites is \('mlp_in',\)"),
        ({"extract": extracting(layers=None)}, r"layer is 10, which is not among extract.layers None"),
        ({"layer": 11}, r"layer is 11, which is not among extract.layers \(10, 20\)"),
        ({"autoencoder": BAEConfig(d_latent=9)}, "autoencoder.d_latent is 9: leave it out"),
        ({"training": training(recipe="scaled")}, "training.recipe is scaled, .*name scaled_entropy_weights"),
        (
            {"training": training(normalize="none"), "scaled_entropy_weights": (1e-3,)},
            r"training.normalize is none\. Set it to rms",
        ),
        ({"autoencoder": BAEConfig(bits_per_feature=2)}, "autoencoder.bits_per_feature is 2: leave it out"),
    ],
)
def test_what_the_job_does_not_take(changes: dict, message: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=message):
        EXPERIMENT.run(LAPTOP.model_copy(update={"out": tmp_path, **changes}))
    assert not list(tmp_path.iterdir())


def test_a_judge_that_does_not_answer_is_found_out_first(tmp_path: Path):
    judge = JobJudgeConfig(judge_url="http://127.0.0.1:9/v1", attempts=1, backoff_s=0.0)
    with pytest.raises(JudgeError):
        EXPERIMENT.run(LAPTOP.model_copy(update={"out": tmp_path, "judged": True, "judge": judge}))
    assert not (tmp_path / "train").exists()


def test_the_number_of_features_is_the_same_for_all_bits(tiny_store: Path):
    store = ActivationStore.open(tiny_store)
    runs = grid(LAPTOP.model_copy(update={"layer": 1, "bits": (4, 2)}), store)
    shapes = {
        (run.cell.layer, run.autoencoder.name, run.autoencoder.widths()[1],
         getattr(run.autoencoder, "bits_per_feature", None))
        for run in runs
    }  # fmt: skip
    binary = {(1, "bae", 32 * bits, bits) for bits in (1, 2, 4)} | {(layer, "bae", 32, 1) for layer in (0, 2, 3)}
    assert shapes == binary | {(layer, "relu", 32, None) for layer in range(4)}
    assert len({run.id for run in runs}) == len(runs) == 2 * len(shapes)  # at two positions


def test_a_scaled_autoencoder_takes_all_but_the_price_of_a_bit_from_its_recipe(tiny_store: Path):
    store = ActivationStore.open(tiny_store)
    changes = {"layer": 1, "bits": (1,)}
    before = grid(LAPTOP.model_copy(update=changes), store)
    runs = grid(LAPTOP.model_copy(update={**changes, "scaled_entropy_weights": (7e-4, 3e-3)}), store)
    assert [run.id for run in runs[: len(before)]] == [run.id for run in before]
    scaled = [run.training for run in runs[len(before) :]]
    width = runs[0].autoencoder.d_in or 0
    assert {(of.recipe, of.initial, of.lr, of.lr_decay, of.epochs) for of in scaled} == {
        ("scaled", "components", 2 / width, 0.5, LAPTOP.training.epochs)
    }
    assert {of.entropy_weight for of in scaled} == {7e-4, 3e-3}
    assert {of.covariance_weight for of in scaled} == {0.004 / width}
