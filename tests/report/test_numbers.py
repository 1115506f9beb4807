import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection

from bae_ray.experiments.layer_position.matched import Matched, matched_figure
from bae_ray.experiments.layer_position.report import report_entropies
from bae_ray.report.figures import entropy_figure, position_axis
from bae_ray.report.numbers import number, robust_limits
from bae_ray.training.results import results
from tests.browser import opened


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1103.4, "1103"), (12345.6, "12346"), (76.291, "76.29"), (0.003, "0.003"), (1e-7, "1e-07"), (0.0, "0"),
     (math.nan, "-"), (0.5000001, "0.5")],
)  # fmt: skip
def test_a_number_is_written_as_people_do(value: float, shown: str):
    assert number(value) == shown


@given(st.floats(1e-4, 1e12))
def test_no_measure_has_an_exponent_and_each_keeps_three_digits(value: float):
    assert "e" not in number(value)
    assert float(number(value)) == pytest.approx(value, rel=5e-3)


@given(st.lists(st.floats(0, 1), min_size=8, max_size=60, unique=True), st.floats(1e3, 1e9))
def test_one_outlier_does_not_flatten_a_scale(values: list[float], outlier: float):
    alone, beside = robust_limits(np.array(values)), robust_limits(np.array([*values, outlier, math.nan]))
    assert beside.high <= 1
    assert beside.beyond >= 1
    assert beside.mark(outlier) == " ▲"
    assert beside.low >= min(values)
    assert alone.beyond == sum(value < alone.low or value > alone.high for value in values)


def test_labels_of_positions_stand_apart():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    position_axis(axes, [*range(65), 512, 1023])
    axes.set_xlim(0, 1100)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(boxes) >= 8
    assert all(left.x1 < right.x0 + 1 for left, right in itertools.pairwise(boxes))


def test_intervals_of_two_seeds_end_at_the_axis_in_an_arrow():
    row = {"model": "m", "site": "residual", "seed": 0, "fvu_val": 0.2, "training.entropy_weight": 1e-3}
    runs = pd.DataFrame([{**row, "layer": layer, "position": 1, "entropy_bits": 100.0} for layer in (0, 5)])
    cells = pd.DataFrame(
        [{"layer": layer, "site": "residual", "position": 1, "fvu": 0.2, "fixed_weight": 1e-3, "n": 9, "bits": 100.0,
          "low": max(100.0 - half, 0.0), "high": 100.0 + half, "fixed_bits": 90.0, "heldout_bits": math.nan}
         for layer, half in ((0, 900.0), (5, 3.0))]
    )  # fmt: skip
    figure = matched_figure([Matched("", runs, cells)])
    axes = figure.subfigs[0].axes[1]
    bottom, top = axes.get_ylim()
    bars = [
        segment for lines in axes.collections if isinstance(lines, LineCollection) for segment in lines.get_segments()
    ]
    ends = [np.asarray(segment)[:, 1] for segment in bars]
    assert len(ends) == 2
    assert all(bottom <= end.min() and end.max() <= top for end in ends)
    assert sorted(float(end.min()) for end in ends) == pytest.approx([0, 97])
    assert sorted(float(end.max()) for end in ends) == pytest.approx([103, top])
    for arrow, expected in (("v", 0), ("^", 1)):  # no entropy is below 0: such an interval ends there
        assert sum(len(np.asarray(line.get_xdata())) for line in axes.lines if line.get_marker() == arrow) == expected
    assert len({float(np.asarray(segment)[0, 0]) for segment in bars}) == 2


@pytest.fixture(scope="module")
def many(tiny_store: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 96 runs: one that was trained, under 96 configs, with one cell ten times the others' bits."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.config import TrainingConfig
    from bae_ray.training.sweep import sweep
    from bae_ray.training.sweep_config import SweepConfig

    out = tmp_path_factory.mktemp("many")
    config = SweepConfig(layers=(1,), positions=(2,), training=TrainingConfig(epochs=2), gpus_per_trial=0)
    (run,) = sweep(config, ActivationStore.open(tiny_store), out / "one").runs
    one = out / "one" / run.id
    places = [(layer, position) for layer in (0, 10) for position in (1, 2, 4, 8)]
    settings = [(weight, expansion, seed) for weight in (2e-4, 1e-3, 4e-3) for expansion in (2, 4) for seed in (0, 1)]
    for count, ((layer, position), (weight, expansion, seed)) in enumerate(
        (place, setting) for place in places for setting in settings
    ):
        folder = out / "sweep" / f"{count:016x}"
        shutil.copytree(one, folder)
        config = json.loads((one / "run.json").read_text())
        config["cell"] |= {"layer": layer, "position": position}
        config["training"] |= {"entropy_weight": weight, "seed": seed}
        config["autoencoder"]["expansion"] = expansion
        (folder / "run.json").write_text(json.dumps(config))
        bits = (1103.4 + layer + position - 1e5 * weight) * (10 if (layer, position) == (10, 1) else 1)
        measured = {"layer": layer, "position": position, "entropy_bits": bits, "fvu_val": 0.1 + 50 * weight,
                    "seed": seed, "run": folder.name}  # fmt: skip
        result = json.loads((one / "result.json").read_text()) | measured
        (folder / "result.json").write_text(json.dumps(result))
    report_entropies(out / "sweep", out)
    return out


@pytest.mark.slow
def test_a_page_of_96_runs_is_some_screens_tall_and_foreign_to_nobody(many: Path):
    assert len(results(many / "sweep")) == 96
    with opened(many / "report.html") as page:
        assert page.evaluate("document.documentElement.scrollHeight") < 6000
        drawn = page.evaluate("(d => ({text: d.text, high: d.zmax}))(document.getElementById('map').data[0])")
        assert drawn["text"][1][0] == "10944 ▲"
        assert drawn["text"][0][0] == "1084"
        assert drawn["high"] < 1200
        assert page.asked == [(many / "report.html").as_uri()]
        assert page.said == []


@pytest.mark.slow
def test_the_picture_marks_what_is_beyond_its_scale(many: Path):
    panels = entropy_figure(results(many / "sweep")).subfigs[0].axes
    (bits,) = (panel for panel in panels if panel.get_title() == "Entropy / bits")
    assert bits.images[0].get_clim()[1] < 1200
    assert "10944 ▲" in [text.get_text() for text in bits.texts]
