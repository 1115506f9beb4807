"""The page of a sweep in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.matched_entropy import matched_entropy
from bae_ray.experiments.layer_position.report import report_entropies
from bae_ray.training.config import TrainingConfig
from bae_ray.training.results import results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig
from tests.browser import opened

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def runs(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of a page, and the page: 8 cells x 2 weights x 2 seeds, and a run that failed."""
    out = tmp_path_factory.mktemp("page")
    config = SweepConfig(
        training=TrainingConfig(epochs=4, batch_size=32),
        axes=("training.entropy_weight=0,1e-2",),
        seeds=(0, 1),
        cpus_per_trial=2,
        gpus_per_trial=0,
        tensorboard=False,
    )
    store = ActivationStore.open(tiny_store)
    sweep(config, store, out / "sweep")
    failing = {"layers": (1,), "positions": (2,), "axes": (), "training": TrainingConfig(epochs=2, lr=1e38)}
    diverging = config.model_copy(update={**failing, "seeds": (0,)})
    assert len(sweep(diverging, store, out / "sweep").failures) == 1
    report_entropies(out / "sweep", out)
    return out


@pytest.fixture
def page(runs: Path) -> Iterator[Any]:
    """The report opened in headless Chromium; everything it asks for and says is kept."""
    with opened(runs / "report.html") as page:
        yield page


def heat_map(page: Any) -> list[list[float]]:
    return page.evaluate("Array.from(document.getElementById('map').data[0].z, row => Array.from(row))")


def test_map_is_drawn_and_a_cell_shows_its_curves(runs: Path, page: Any):
    table = results(runs / "sweep")
    light = table[table["training.entropy_weight"] == 0].groupby(["layer", "position"])["entropy_bits"].mean()
    expected = [[light[layer, position] for position in (2, 7)] for layer in range(4)]
    np.testing.assert_allclose(heat_map(page), expected)
    assert page.locator("#map .heatmaplayer image").count() == 1
    first = table[(table["layer"] == 0) & (table["position"] == 2)]
    assert page.evaluate("document.getElementById('curves').layout.title.text") == "Training at layer 0, position 2"
    assert page.locator("#curves .scatterlayer .trace").count() == 4 * len(first)

    box = page.locator("#map .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.625)  # column of 7, row of layer 1
    page.wait_for_function("document.getElementById('curves').layout.title.text.includes('layer 1')")
    cell = table[(table["layer"] == 1) & (table["position"] == 7)]
    title = page.evaluate("document.getElementById('curves').layout.title.text")
    assert title == "Training at layer 1, position 7"
    assert page.locator("#curves .scatterlayer .trace").count() == 4 * len(cell)
    drawn = page.evaluate("document.getElementById('curves').data[0].x.length")
    assert drawn == 4
    marked = page.evaluate("document.getElementById('plane').data.find(t => t.name === 'this cell').y")
    assert sorted(marked) == pytest.approx(sorted(cell["entropy_bits"]))
    assert page.said == []
    assert page.asked == [(runs / "report.html").as_uri()]


def test_measure_and_variant_are_chosen(runs: Path, page: Any):
    table = results(runs / "sweep")
    page.select_option("#measure", "fvu_val")
    page.select_option("#variant", label="training.entropy_weight=0.01")
    heavy = table[table["training.entropy_weight"] == 0.01].groupby(["layer", "position"])["fvu_val"].mean()
    page.wait_for_function("document.getElementById('map').layout.title.text.startsWith('FVU on held-out')")
    expected = [[heavy[layer, position] for position in (2, 7)] for layer in range(4)]
    np.testing.assert_allclose(heat_map(page), expected)
    page.select_option("#measure", "intrinsic_dimension")
    page.wait_for_function("document.getElementById('map').layout.title.text.startsWith('Intrinsic dimension')")
    heavy = table[table["training.entropy_weight"] == 0.01].groupby(["layer", "position"])["intrinsic_dimension"].mean()
    expected = [[heavy[layer, position] for position in (2, 7)] for layer in range(4)]
    np.testing.assert_allclose(heat_map(page), expected)
    assert page.said == []


def test_entropies_at_one_fvu_stand_beside_it(runs: Path):
    table = results(runs / "sweep")
    matched = pd.read_csv(runs / "matched.csv")
    assert matched[["layer", "position"]].apply(tuple, axis=1).tolist() == [(i, p) for i in range(4) for p in (2, 7)]
    expected = matched_entropy(table, matched["fvu"][0])
    np.testing.assert_allclose(matched["bits"], expected["bits"])
    weighed = table[table["training.entropy_weight"] == 0.01].groupby(["layer", "position"])["entropy_bits"].mean()
    np.testing.assert_allclose(matched["fixed_bits"], weighed.to_numpy())
    assert (runs / "matched.png").stat().st_size > 10_000


def hidden(page: Any) -> dict[str, bool]:
    return dict(page.evaluate("Array.from(document.querySelectorAll('tr[data-run]'), r => [r.dataset.run, r.hidden])"))


def test_one_cell_at_a_time_each_run_in_one_colour(runs: Path, page: Any):
    table = results(runs / "sweep")
    page.select_option("#cell", label="layer 2, position 7")
    page.wait_for_function("document.getElementById('curves').layout.title.text.includes('layer 2')")
    of_cell = set(table[(table["layer"] == 2) & (table["position"] == 7)]["run"])
    assert {run for run, away in hidden(page).items() if not away} == of_cell
    traces = page.evaluate(
        "document.getElementById('curves').data.map(t => [t.legendgroup, t.line.color, t.showlegend, t.name])"
    )
    colors = {run: {color for group, color, *_ in traces if group == run} for run in of_cell}
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == len(of_cell)
    assert len({name for *_, legend, name in traces if legend}) == len(of_cell)
    in_plane = page.evaluate("document.getElementById('plane').data.find(t => t.name === 'this cell').marker.color")
    assert set(in_plane) == set.union(*colors.values())
    page.check("#all-runs")
    assert not any(hidden(page).values())
    assert page.said == []


def test_numbers_are_those_of_the_picture(runs: Path, page: Any):
    table = results(runs / "sweep")
    light = table[table["training.entropy_weight"] == 0].groupby(["layer", "position"])["entropy_bits"].mean()
    texts = page.evaluate("document.getElementById('map').data[0].text")
    expected = [[f"{light[layer, position]:.0f}" for position in (2, 7)] for layer in range(4)]
    assert [[text.split(" ")[0] for text in row] for row in texts] == expected
    assert "e+" not in "".join(page.locator("tbody").all_inner_texts())


def test_failed_run_stands_in_the_table_with_its_reason(page: Any):
    rows = page.locator("tbody tr", has_text="DivergedError: the loss became")
    assert rows.count() == 1
