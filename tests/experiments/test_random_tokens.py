"""The job of random sequences as a user runs it, on a tiny model."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/lm_random_tokens.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_entropy_by_bits(tiny_model: Path, tmp_path: Path):
    done = job(
        "--out", str(tmp_path), "--bits", "1", "3", "--extract.model", str(tiny_model), "--extract.layers", "2",
        "--extract.max-texts", "256", "--extract.input.tokens", "5", "9", "--sweep.training.epochs", "60",
        "--sweep.training.batch-size", "64", "--sweep.axes", "autoencoder.expansion=1,2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "random_tokens.csv")
    assert table[["bits", "d_latent"]].apply(tuple, axis=1).tolist() == [(1, 16), (1, 32), (3, 16), (3, 32)]
    assert set(table["n_train"] + table["n_val"]) == {256}
    assert set(table["position"]) == {"last"}
    assert (table["entropy_low"] <= table["entropy_bits"] + 1e-9).all()
    assert "Paper: it is not larger than r. Here: larger by more than 2 % in" in done.stdout
    assert (tmp_path / "random_tokens.png").stat().st_size > 10_000


def test_other_inputs_are_refused():
    done = job("--extract.input.kind", "texts")
    assert done.returncode == 2
    assert "extract.input.kind is texts: this job takes random_tokens" in done.stderr
