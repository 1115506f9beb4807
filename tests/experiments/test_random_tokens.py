"""Random sequences on a tiny model."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.cli.job import run_job
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.random_tokens.experiment import EXPERIMENT


def test_entropy_by_bits(run: Callable[..., str], tiny_model: Path, tmp_path: Path):
    printed = run(
        EXPERIMENT,
        "--out", tmp_path, "--bits", 1, 3, "--extract.model", tiny_model, "--extract.layers", 2,
        "--extract.max-texts", 256, "--extract.input.tokens", 5, 9, "--extract.gpus-per-worker", 0,
        "--sweep.training.epochs", 60, "--sweep.training.batch-size", 64, "--sweep.axes", "autoencoder.expansion=1,2",
        "--sweep.gpus-per-trial", 0, "--sweep.packed", 2,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "random_tokens.csv")
    assert table[["bits", "d_latent"]].apply(tuple, axis=1).tolist() == [(1, 16), (1, 32), (3, 16), (3, 32)]
    assert set(table["n_train"] + table["n_val"]) == {256}
    assert set(table["position"]) == {"last"}
    assert (table["entropy_low"] <= table["entropy_bits"] + 1e-9).all()
    assert (table["joint_bits"].dropna() <= table["bits"] + 0.1).all()
    for said in ("marginal entropy", "entropy under a tree", "joint entropy"):
        assert f"Paper: it is not larger than r. Here: the {said} is larger by more than 2 % in" in printed
    assert (tmp_path / "random_tokens.png").stat().st_size > 10_000
    assert str(tmp_path / "random_tokens.html") in printed


def test_other_inputs_are_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"extract\.input\.kind is texts: this job takes random_tokens"):
        run_job(EXPERIMENT, ["--extract.input.kind", "texts", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
