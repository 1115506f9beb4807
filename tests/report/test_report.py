import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from bae_ray.experiments.layer_position.matched import curves, matched_figure, matched_parts, matched_table
from bae_ray.experiments.layer_position.report import compare
from bae_ray.report.entropy_tables import cell_grid, entropy_tables
from bae_ray.report.figures import entropy_figure, save_png
from bae_ray.report.held_out_figure import held_out_figure
from bae_ray.report.results_writer import Results, write_results
from bae_ray.report.terminal import print_tables
from bae_ray.training.caveats import caveat_lines, marks
from bae_ray.training.results import ENTROPY_COLUMNS


@pytest.fixture
def table() -> pd.DataFrame:
    """Two layers x three positions x two seeds, one cell missing."""
    rows = [
        {
            "model": "m<script>", "layer": layer, "site": "residual", "position": position, "n_train": 80, "n_val": 20,
            "d_in": 16, "d_latent": 64, "entropy_bits": 10.0 * layer + position + seed, "fvu_train": 0.1,
            "fvu_val": 0.01 * position, "l0": 5.0, "dead": 0.0, "dense": 0.5, "seed": seed, "run": f"{layer}{position}",
        }
        for layer in (0, 5) for position in (1, 4, 16) for seed in (0, 1) if (layer, position) != (5, 4)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=ENTROPY_COLUMNS)


def test_grid_averages_over_seeds(table: pd.DataFrame):
    layers, positions, values = cell_grid(table, "entropy_bits")
    assert (layers, positions) == ([0, 5], [1, 4, 16])
    np.testing.assert_array_equal(values, [[1.5, 4.5, 16.5], [51.5, np.nan, 66.5]])
    np.testing.assert_array_equal(cell_grid(table, "entropy_bits", "max").values[0], [2, 5, 17])


def test_figure_draws_the_numbers(table: pd.DataFrame, tmp_path: Path):
    figure = entropy_figure(table)
    lines, bits, fvu = figure.subfigs[0].axes[:3]
    assert [line.get_label() for line in lines.get_lines()] == ["0", "5"]
    np.testing.assert_array_equal(np.asarray(lines.get_lines()[0].get_ydata()), [1.5, 4.5, 16.5])
    assert [text.get_text() for text in bits.texts] == ["2", "4", "16", "52", "66"]
    np.testing.assert_allclose(np.asarray(fvu.images[0].get_array())[0], [0.01, 0.04, 0.16])
    save_png(figure, tmp_path / "f.png")
    assert imread(tmp_path / "f.png").std() > 0.01


def test_bits_under_a_tree_are_shown_where_they_are_known(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]):
    assert len(entropy_tables(table)) == 1
    known = table["position"] != 16
    measured = table.assign(
        tree_bits=(table["entropy_bits"] / 10).where(known), heldout_bits=(table["layer"] + 2.0).where(known)
    )
    measured = measured.assign(
        heldout_low=measured["heldout_bits"] - 1, heldout_high=measured["heldout_bits"] + 2,
    )  # fmt: skip
    print_tables(*entropy_tables(measured))
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines()]
    shown = [[cell.strip() for cell in line[1:-1]] for line in lines if "/ 2.0" in str(line) or "/ 7.0" in str(line)]
    assert shown == [
        ["0", "0.2 / 2.0 [1, 4]", "0.5 / 2.0 [1, 4]", "-"],
        ["5", "5.2 / 7.0 [6, 9]", "-", "-"],
    ]


def test_what_readers_are_warned_of_is_marked_and_said(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]):
    assert caveat_lines(table) == []
    warned = table.assign(
        converged=pd.Series([False, True, None, *[True] * 7], dtype=object),
        fvu_val=[0.1, 0.1, 0.9, 1.3, *[0.5] * 6],
        varying=[81.0, 80.0, np.nan, *[5.0] * 7],
        d_latent=[70] * 8 + [80, 84],
        entropy_bits_val=[9.0] * 9 + [2.4],
        entropy_low_val=2.0,
        entropy_high_val=12.0,
    )  # entropies of the last two are 66 and 67 bits
    assert marks(warned).tolist() == ["*~", "", "!", "!", "", "", "", "", "#", "?"]
    assert marks(warned.assign(varying=np.nan)).str.contains("#").sum() == 0, "a code that is not binary"
    lines = caveat_lines(warned)
    assert [line[:17] for line in lines] == [
        "*  1 of 10 runs: ",
        "!  2 of 10 runs: ",
        "#  1 of 10 runs: ",
        "~  1 of 10 runs: ",
        "?  1 of 10 runs: ",
    ]
    assert "did not converge: over the last tenth of the epochs loss, bits or FVU changed by more than 1%" in lines[0]
    print_tables(*entropy_tables(warned))
    printed = capsys.readouterr().out
    assert re.search(r"│\s+0 │\s+2  0.10/0.10\*~ │\s+4  0.10/1.10! │\s+16  0.10/0.50 │", printed)
    assert re.search(r"66  0.10/0.50#\? │", printed)


def test_bits_of_held_out_texts_stand_with_their_intervals(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]):
    assert held_out_figure(table) is None
    bits = table["entropy_bits"] + 3
    measured = table.assign(entropy_bits_val=bits, entropy_low_val=bits - 2, entropy_high_val=bits + 4)
    print_tables(*entropy_tables(measured))
    assert re.search(r"│\s+5 │\s+54 \[52, 58\] │\s+- │\s+70 \[68, 74\] │", capsys.readouterr().out)
    figure = held_out_figure(measured)
    assert figure is not None
    (axes,) = figure.subfigs[0].axes
    shown = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines() if line.get_linestyle() == "-"]
    np.testing.assert_allclose(shown, [[4.5, 7.5, 19.5], [54.5, np.nan, 69.5]])
    bars = axes.collections[0]
    assert isinstance(bars, LineCollection)
    assert np.asarray(bars.get_segments()[0])[:, 1].tolist() == [2.5, 8.5]
    both = measured.assign(heldout_bits=bits * 2, heldout_low=bits, heldout_high=bits * 3)
    figure = held_out_figure(both)
    assert figure is not None
    assert len(figure.subfigs[0].axes) == 2


def test_unlike_runs_are_never_averaged(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]):
    wide = table.assign(entropy_bits=table["entropy_bits"] + 100, **{"autoencoder.expansion": 4})
    both = pd.concat([table.assign(**{"autoencoder.expansion": 2}), wide], ignore_index=True)
    parts = entropy_figure(both).subfigs
    assert len(parts) == 2
    shown = [part.axes[0].get_lines()[0].get_ydata() for part in parts]
    np.testing.assert_array_equal(np.asarray(shown), [[1.5, 4.5, 16.5], [101.5, 104.5, 116.5]])
    print_tables(*entropy_tables(both))
    assert "held-out texts: autoencoder.expansion=4" in " ".join(capsys.readouterr().out.split())


def test_curves_of_unlike_runs_are_read_apart(capsys: pytest.CaptureFixture[str]):
    row = {"model": "m", "layer": 0, "site": "residual", "position": 1, "n_train": 80, "n_val": 20, "fvu_train": 0.1}
    rows = [
        {**row, "seed": seed, "fvu_val": fvu, "entropy_bits": expansion * bits, "training.entropy_weight": weight,
         "training.seed": seed, "d_latent": 1152 * expansion, "autoencoder.expansion": expansion}
        for expansion in (1, 2) for seed in (0, 1) for weight, fvu, bits in ((1e-3, 0.1, 200.0), (1e-2, 0.4, 100.0))
    ]  # fmt: skip
    parts = matched_parts(curves(pd.DataFrame(rows)), fvu=0.2)
    assert [part.cells["bits"].tolist() for part in parts] == [pytest.approx([150]), pytest.approx([300])]
    assert [part.cells["fixed_bits"].tolist() for part in parts] == [[200], [400]]
    assert [part.label for part in parts] == ["autoencoder.expansion=1", "autoencoder.expansion=2"]
    assert len(matched_figure(parts).subfigs) == 2
    for row in rows:
        row["heldout_bits"] = row["entropy_bits"] / 2
    held_out = matched_parts(curves(pd.DataFrame(rows)), fvu=0.2)
    plane, at_fvu, _ = matched_figure(held_out).subfigs[0].axes
    assert np.asarray(plane.get_lines()[0].get_ydata()).tolist() == [100, 50]
    assert np.asarray(at_fvu.get_lines()[0].get_ydata()).tolist() == pytest.approx([75])
    assert (plane.get_ylabel(), held_out[0].cells["bits"].tolist()) == ("Bits of a held-out text", pytest.approx([150]))
    print_tables(matched_table(held_out[0]))
    assert re.search(r"75\.0 │\s+75\.0 to 75\.0 │\s+150\.0 │\s+150\.0 to 150\.0", capsys.readouterr().out)
    print_tables(*map(matched_table, parts))
    assert "at entropy weight 0.001; autoencoder.expansion=2" in " ".join(capsys.readouterr().out.split())


def test_page_is_self_contained_and_escapes(table: pd.DataFrame, tmp_path: Path):
    config = '{"corpus": "</pre><script>alert(1)</script>"}'
    results = Results(
        page="r.html",
        title="Entropies",
        tables={"r.csv": table},
        figures={"r.png": entropy_figure(table)},
        notes=["a note <script>"],
    )
    write_results(results, tmp_path, config)
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert page.count("<tr>") == len(table) + 1
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "<svg" in page


def test_terminal_table_shows_bits_with_both_fvus(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]):
    print_tables(*entropy_tables(table))
    printed = capsys.readouterr().out
    assert "52  0.10/0.01" in printed
    assert re.search(r"│\s+5 │\s+52  0.10/0.01 │\s+- │", printed)


def test_every_claim_begins_with_its_verdict(table: pd.DataFrame):
    deep = pd.concat([table, table[table["layer"] == 0].assign(layer=9)]).assign(fvu_val=0.1, converged=False)
    claims = compare(deep)
    assert [line.split(". Here: ")[0] for line in claims] == [
        "Paper: entropy rises with depth", "Paper: it rises with position", "Paper: and saturates",
    ]  # fmt: skip
    assert all("Here: cannot be told (" in line and "trainings did not converge); " in line for line in claims[1:])
    first = deep[[pair in ((0, 1), (5, 16), (9, 4)) for pair in zip(deep["layer"], deep["position"], strict=True)]]
    lines = compare(first)
    assert len(lines) == 3
    assert "nan" not in "".join(lines)
    assert "Here: cannot be told (no position has runs at three layers); n = 100, seeds 0, 1." in lines[0]
    assert all("Here: cannot be told (no layer has runs at three positions); n = 100" in line for line in lines[1:])
