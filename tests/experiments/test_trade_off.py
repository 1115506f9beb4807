import numpy as np
import pandas as pd
import pytest

from bae_ray.experiments.more_bit.trade_off import SPLITS, compare, printed_table, trade_off_figure
from bae_ray.report.terminal import print_tables

FIRST = "cannot be told (so here, and in one of 5 random orders)"

SCALED_ACTIVE = 777


def table(losses: list[float], active: list[int], sae_active: int = 100) -> pd.DataFrame:
    common = {
        "model": "m", "recipe": "paper", "n_features": 400, "n_train": 80, "n_val": 20, "n_tokens": 300, "seed": 0,
        "fires_per_token": 9.0, "never_fires": 1, "never_selected": 2, "selected_densely": 3,
    }  # fmt: skip
    rows = [
        {**common, "layer": 4, "method": f"BAE, C = {c}", "bits_per_feature": c, "mse_val": loss, "fvu_train": loss / 9,
         "fvu_val": loss / 8, "fvu_evaluation": loss / 7, "activated": count, "entropy_bits": 50.0 * c,
         "fires_densely": 5}
        for c, (loss, count) in enumerate(zip(losses, active, strict=True), start=1)
    ]  # fmt: skip
    scaled = {**rows[0], "recipe": "scaled", "method": "BAE, C = 1, scaled 0.001", "activated": SCALED_ACTIVE}
    sae = {**rows[0], "method": "ReLU SAE", "bits_per_feature": None, "activated": sae_active, "fires_densely": 77}
    return pd.DataFrame([*rows, scaled, sae]).astype({"bits_per_feature": "Int64"})


@pytest.mark.parametrize(
    ("losses", "active", "verdicts"),
    [
        ([4.0, 3.0, 2.0, 1.0], [400, 300, 200, 101], ["agrees", "agrees", FIRST]),
        ([1.0, 2.0, 3.0, 4.0], [100, 300, 350, 400], ["contradicts", "contradicts", "not so"]),
    ],
)
def test_the_papers_claims_are_held_against_what_was_found(losses: list[float], active: list[int], verdicts: list[str]):
    lines = compare(table(losses, active), 4)
    assert [line.split("Here: ")[1].split(";")[0] for line in lines[:3]] == verdicts
    for line, name in zip(lines[3:], ("BAE, C = 1", "BAE, C = 1, scaled 0.001"), strict=True):
        assert f"layer 4, {name}: 5 fire densely against 77, 1 never against 1" in line


def test_what_failed_to_train_is_left_out():
    whole = table([4.0, 3.0, 2.0, 1.0], [4, 3, 2, 1])
    assert len(compare(whole[whole["method"] != "ReLU SAE"], 4)) == 2
    without_bae = whole[whole["method"] == "ReLU SAE"]
    assert "cannot be told" in compare(without_bae, 4)[0]
    trade_off_figure(without_bae, 4)


def test_the_picture_is_that_of_the_table(capsys: pytest.CaptureFixture[str]):
    rows = table([4.0, 3.0, 2.0, 1.0], [400, 300, 200, 101])
    loss, active, rate = trade_off_figure(rows, 4).axes
    bae = rows.iloc[:4]
    for line, column in zip(loss.lines[::2], SPLITS, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
        np.testing.assert_array_equal(line.get_ydata(), bae[column])
    np.testing.assert_array_equal(active.lines[0].get_xdata(), bae["activated"])
    by_label = {str(drawn.get_label()): drawn for drawn in active.collections}
    np.testing.assert_array_equal(by_label["BAE, recipe scaled"].get_offsets(), [[SCALED_ACTIVE, 4.0]])
    np.testing.assert_array_equal(rate.lines[0].get_xdata(), bae["entropy_bits"])
    print_tables(printed_table(rows))
    printed = capsys.readouterr().out
    assert "BAE, C = 4" in printed
    assert "Score" not in printed
