"""The report of methods compared: what is printed, drawn and written of numbers that are known."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.usage import Usage
from bae_ray.experiments.comsem_table.comparison import Comparison, compare
from bae_ray.experiments.comsem_table.methods import TableMethod, random_method
from bae_ray.experiments.comsem_table.report import best_line, claims, comsem_results, judge_verdict, scores_figure
from bae_ray.report.results_writer import write_results

SCORES = {"relu-layer-4": [1.0, 0.5, 0.0], "bae-layer-4": [0.75, 1.0, 0.25, 0.5], "random": [0.25, 0.0]}
CHANCES = {"relu-layer-4": [0.0, 0.5, 0.25], "bae-layer-4": [0.25, math.nan, 0.0, math.nan], "random": [0.0, 0.25]}
ACTIVE = {"relu-layer-4": 3, "bae-layer-4": 8, "random": 2}
NAN = math.nan


def checked(useless: bool) -> JudgeCheck:
    warnings = ("useless: the judge answers Yes to 97% of the questions",) if useless else ()
    return JudgeCheck(230, 0.5, 0.43, 0.57, 0.97, 0.47, 0.9, 3, 1, NAN, NAN, useless, warnings)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Half of the BAE's eight active features were scored, and half of their explanations judged on another one's."""
    folder = tmp_path / "comsem"
    methods = [
        TableMethod("relu-layer-4", "ReLU SAE", 4, "r1", "x"),
        TableMethod("bae-layer-4", "BAE", 4, "r2", "y"),
        random_method(),
    ]
    rows = []
    for method in methods:
        scores, chances = SCORES[method.name], CHANCES[method.name]
        n = ACTIVE[method.name]
        statuses = ["scored"] * len(scores) + ["unscored"] * (n - len(scores)) + ["inactive"]
        pad = [NAN] * (len(statuses) - len(scores))
        (folder / method.name).mkdir(parents=True)
        pd.DataFrame(
            {"feature": range(len(statuses)), "status": statuses, "score": scores + pad, "chance": chances + pad}
        ).to_parquet(folder / method.name / "features.parquet")
        intervals = {
            f"{name}{end}": 0.5
            for name in ("score", "chance", "above_chance", "random")
            for end in ("", "_low", "_high")
        }
        rows.append({
            "method": method.name, "activated": n, "scored": len(scores), "interpretable": sum(s > 0 for s in scores),
            **intervals, "judged": 20, "unreadable": 2, "refusals": 1, "unexplained": 0, "failed": 0,
            "n_features": n + 1, "n_tokens": 90, "n_sentences": 9, "l0": None, "entropy_bits": None, "fvu": None,
            "mse": None, "p_yes": None, "judge": "small", "judge_accuracy": 0.5, "judge_accuracy_low": 0.43,
            "judge_accuracy_high": 0.57, "judge_yes_bias": 0.47, "judge_self_agreement": 0.9, "judge_useless": True,
        })  # fmt: skip
    judge = {"url": "u", "model": "small", **checked(useless=True)._asdict(), "auc": None, "threshold": None}
    (folder / "summary.json").write_text(json.dumps({"judge": judge, "methods": rows}))
    (folder / "usage.json").write_text(json.dumps(Usage(1, 1, 0, 0, 10, 2, 0, 0.0)._asdict()))
    runs = pd.DataFrame({
        "run": ["r1", "r2"], "mse_val": [0.02, 0.03], "fvu_train": [0.1, 0.2], "fvu_val": [0.3, 0.4],
        "spectral_norm": [1.5, 2.5],
    })  # fmt: skip
    return compare(methods, runs, folder)


def test_table_1_joins_trainings_and_scores(comparison: Comparison):
    table = comparison.table.set_index("method")
    assert table["activated"].to_dict() == ACTIVE
    trained = table.to_dict("index")["bae-layer-4"]
    assert [trained[name] for name in ("mse_val", "fvu_train", "fvu_val", "spectral_norm")] == [0.03, 0.2, 0.4, 2.5]
    assert table["mse_val"].isna().tolist() == [False, False, True]
    assert table["layer"].isna().tolist() == [False, False, True]
    assert table["interpretable_of_all"].tolist() == [2, 8, 1]
    assert table["judge_useless"].all(), "whoever reads the table alone is told what its judge is worth"


def test_table_4_takes_as_many_of_each_as_each_has(comparison: Comparison):
    best = comparison.best.set_index(["m", "method"])["score"]
    assert best[3, "relu-layer-4"] == pytest.approx(0.5)
    assert best[3, "bae-layer-4"] == pytest.approx((2 * 1.0 + 1 * 0.75) / 3), "each scored stands for two"
    assert math.isnan(best[8, "relu-layer-4"])
    assert best[8, "bae-layer-4"] == pytest.approx(0.625)
    chance = comparison.best.set_index(["m", "method"])["chance"]
    assert chance[3, "bae-layer-4"] == pytest.approx(0.25), "each known stands for four"
    line = best_line(comparison.best[comparison.best["m"] == 8])
    assert line.startswith("Layer 4, best 8: BAE 0.625 [")
    assert "ReLU" not in line


def test_the_picture_shows_sorted_scores_and_running_means(comparison: Comparison):
    curves, *rows = scores_figure(comparison, 4).axes
    assert [axes.get_title(loc="left") for axes in rows] == [
        "ReLU SAE: 3 active, 3 scored", "BAE: 8 active, 4 scored", "Random tokens: 2 scored",
    ]  # fmt: skip
    solid = {line.get_label(): line for line in curves.get_lines() if line.get_linestyle() == "-"}
    assert np.asarray(solid["BAE"].get_xdata()).tolist() == pytest.approx([2, 4, 6, 8])
    assert np.asarray(solid["BAE"].get_ydata()).tolist() == pytest.approx([1.0, 0.875, 0.75, 0.625])
    assert np.asarray(solid["Random tokens"].get_xdata()).tolist() == pytest.approx([4, 8]), "as wide as the widest"
    dashed = [line for line in curves.get_lines() if line.get_linestyle() == "--"]
    assert np.asarray(dashed[1].get_xdata()).tolist() == pytest.approx([4, 8])
    assert np.asarray(dashed[1].get_ydata()).tolist() == pytest.approx([0.25, 0.125])


def test_what_the_paper_says_is_held_against_what_was_found(comparison: Comparison):
    """The BAE has 8 features to 3, of which 8 to 2 by estimate; its best 3 have a mean of .92 to .5, alone it has 8."""
    trusted = comparison._replace(check=checked(useless=False))
    active, interpretable, best = claims(trusted)
    first = "Here, layer 4: cannot be told (so here, and in one of 2 random orders)"
    assert active.endswith(f"{first}; BAE 8, ReLU SAE 3.")
    assert interpretable.endswith(f"{first}; BAE 8, ReLU SAE 2.")
    assert best.endswith("Here, layer 4: so at 1 of 1 numbers.")
    active, interpretable, best = claims(comparison)
    assert "so here" in active, "counting needs no judge"
    assert "Here, layer 4: cannot be told;" in interpretable
    assert best.endswith("Here, layer 4: cannot be told.")
    reversed_ = trusted._replace(table=comparison.table.replace({"label": {"BAE": "ReLU SAE", "ReLU SAE": "BAE"}}))
    assert "not so; ReLU SAE 8, BAE 3" in claims(reversed_)[0]


def test_a_useless_judge_is_called_so(comparison: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "comsem" / "bae-layer-4" / "features.html"
    written = write_results(comsem_results(comparison, [page]), tmp_path, "{}")
    printed = capsys.readouterr().out
    sentence = "It is useless: its scores say nothing"
    assert sentence in printed
    assert "WARNING: useless: the judge answers Yes to 97% of the questions." in printed
    assert "balanced accuracy 0.50 [0.43, 0.57] on 230 labelled pairs" in printed
    assert "3 of 20" in printed
    assert "4 of 4 (8)" in printed
    html = (tmp_path / "comsem.html").read_text()
    assert sentence in html
    assert "the judge answers Yes to 97%" in html
    assert html.index(sentence) < html.index("<svg"), "before any picture"
    assert '<a href="comsem/bae-layer-4/features.html">' in html
    assert {path.name for path in written} == {
        "comsem.csv", "best.csv", "scores-layer-4.png", "comsem.html", "features.html",
    }  # fmt: skip
    assert len(pd.read_csv(tmp_path / "comsem.csv")) == 3
    assert judge_verdict(comparison._replace(check=checked(useless=False))).endswith("Scores are as good as that.")
