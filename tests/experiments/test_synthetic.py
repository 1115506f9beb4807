"""The synthetic benchmark at tiny size."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from bae_ray.experiments.synthetic.experiment import EXPERIMENT

TINY = [
    "--data.d", "8", "--data.ranks", "1", "2", "--data.n", "400", "--training.epochs", "4",
    "--training.batch-size", "64", "--expansions", "1", "4", "--seeds", "0", "1", "--dynamics", "2",
    "--gpus-per-trial", "0",
]  # fmt: skip


def test_every_run_of_the_figures_once(run: Callable[..., str], tmp_path: Path):
    printed = run(EXPERIMENT, *TINY, "--out", tmp_path)
    table = pd.read_csv(tmp_path / "synthetic.csv")
    # Per rank: 2 seeds, 2 further gradients, 1 further expansion; 2 expansions without the entropy loss.
    assert len(table) == 2 * (2 + 2 + 1 + 2)
    assert table["run"].is_unique
    assert set(table["gradient"]) == {"sigmoid", "straight_through", "release"}
    assert not table.loc[~table["entropy_loss"], "gradient"].ne("sigmoid").any()
    assert re.search(r"Paper: with the entropy loss the entropy is close to r\. Here: \d of 4 trainings", printed)
    assert re.search(r"without it .*: \d of 2 trainings .* for r = \d at FVU \S+ on .*; n = 400, seeds 0\.", printed)
    for name in ("synthetic.png", "dynamics.png"):
        assert str(tmp_path / name) in printed
        assert imread(tmp_path / name).std() > 0.01
    stepwise = [
        int(row["rank"])
        for _, row in table.iterrows()
        if len((tmp_path / "sweep" / str(row["run"]) / "metrics.jsonl").read_text().splitlines()) > 4
    ]
    assert stepwise == [2, 2]
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["data"]["d"] == 8

    results = {file: file.stat().st_mtime_ns for file in tmp_path.glob("sweep/*/result.json")}
    assert run(EXPERIMENT, *TINY, "--out", tmp_path) == printed
    assert {file: file.stat().st_mtime_ns for file in results} == results, "finished runs were trained again"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "synthetic.csv"), table)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight trainings of 7,500 steps
def test_known_entropies_are_measured(run: Callable[..., str], tmp_path: Path):
    """Section 4.1 at the job's own size, for two ranks and one seed: r bits within 2 % or a quarter of a bit."""
    options = ("--data.ranks", 1, 8, "--seeds", 0, "--expansions", 4, "--dynamics", 8, "--gpus-per-trial", 0)
    run(EXPERIMENT, *options, "--out", tmp_path)
    table = pd.read_csv(tmp_path / "synthetic.csv")
    measured = table[(table["gradient"] == "sigmoid") & table["entropy_loss"]]
    assert len(measured) == 2
    for _, row in measured.iterrows():
        assert abs(row["entropy_bits"] - row["rank"]) <= max(0.25, 0.02 * row["rank"])
        assert max(row["fvu_train"], row["fvu_val"]) <= 0.01
    free = table[~table["entropy_loss"]].set_index("rank")["entropy_bits"]
    assert (free > measured.set_index("rank")["entropy_bits"]).all()
