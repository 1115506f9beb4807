"""Table 3 as a user runs it, on a tiny model."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.config import TokensConfig
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.compression.experiment import EXPERIMENT


def test_held_out_activations_are_compressed(
    run: Callable[..., str], tiny_causal_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    shuffled = [" ".join(random.Random(i).sample(text.split(), len(text.split()))) for i, text in enumerate(tiny_texts)]
    other.write_text("".join(json.dumps({"text": text}) + "\n" for text in shuffled))
    arguments = (
        "--out", str(tmp_path / "run"), "--extract.model", str(tiny_causal_model), "--extract.corpus", str(tiny_corpus),
        "--extract.layers", "1", "3", "--extract.max-tokens", "16", "--extract.tokens.max-vectors", "1500",
        "--held-out.corpus", str(other), "--held-out-vectors", "600", "--sweep.training.epochs", "8",
        "--sweep.training.batch-size", "64", "--product-bytes", "2", "4", "--residual-bytes", "2",
        "--spliced-texts", "20", "--extract.gpus-per-worker", "0", "--sweep.gpus-per-trial", "0",
    )  # fmt: skip
    printed = run(EXPERIMENT, *arguments)
    file = tmp_path / "run" / "compression.csv"
    table = pd.read_csv(file)
    codes = table[table["method"] == "bae"]
    assert len(codes) == 2 * 2 * 2 * 2  # layers, weights, priors, schemes
    assert len(table) == len(codes) + 2 * 6
    assert set(table["n"]) == {600}
    assert set(table["bytes_before"]) == {600 * 16 * 4}
    size = next((tmp_path / "run" / "sweep").glob("*/model.safetensors")).stat().st_size
    assert set(codes["bytes_model"]) == {size}
    assert table["ce_change"].notna().sum() == len(codes) + 2
    entropy = codes[codes["scheme"] == "entropy"].set_index(["run", "prior"])
    indices = codes[codes["scheme"] == "indices"].set_index(["run", "prior"])
    pd.testing.assert_series_equal(entropy["ce_change"], indices["ce_change"])
    own = entropy.xs("compressed set", level="prior")
    bits = 8 * (own["bytes_codes"] - 1200) / 600  # header and tables aside
    assert (bits < 1.1 * own["entropy_bits"] + 4).all()
    means = table[table["method"] == "mean"]
    assert ((means["fvu"] > 0.9) & (means["fvu"] < 2)).all()
    assert (tmp_path / "run" / "compression.png").stat().st_size > 10_000
    assert "pays from n" in printed

    run(EXPERIMENT, *arguments)
    pd.testing.assert_frame_equal(pd.read_csv(file), table)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": (4,), "tokens": TokensConfig()}, r"extract.positions is \(4,\): this job takes all"),
        ({"sites": ("mlp_in",)}, r"extract.sites is \('mlp_in',\): this job takes residual"),
    ],
)
def test_what_the_job_does_not_take(changed: dict, message: str, tmp_path: Path) -> None:
    preset = EXPERIMENT.presets["laptop"]
    given = preset.model_copy(update={"out": tmp_path, "extract": preset.extract.model_copy(update=changed)})
    with pytest.raises(InvalidInputError, match=message):
        EXPERIMENT.run(given)
