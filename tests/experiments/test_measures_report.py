"""The verb `bae-ray measure`, and what becomes of the paper's claims under other estimators."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bae_ray.analysis.claims import last_share, trend
from bae_ray.analysis.estimator_claims import claims_by_estimator
from bae_ray.experiments.layer_position.estimators import survival
from bae_ray.report.measure_maps import measure_maps
from bae_ray.report.measures import ESTIMATORS, MEASURES, known_measures
from tests.recorded import made


def cells() -> pd.DataFrame:
    """Five layers x six positions: two estimators that rise with both, one that falls, one that is not known."""
    rows = [
        {"model": "m", "layer": layer, "site": "residual", "position": position, "seed": 0, "run": "",
         "gaussian_bits": 100 * layer + 10 * number, "sign_bits": -float(layer) - 2.0**number,
         "product_bits": None, "effective_rank": 10.0 * layer + [0, 5, 7, 8, 8.5, 9][number]}
        for layer in (0, 5, 10, 15, 20) for number, position in enumerate((1, 4, 16, 64, 256, "last"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_each_estimator_has_its_verdicts():
    table = cells()
    assert known_measures(table) == ["gaussian_bits", "sign_bits", "effective_rank"]
    found = claims_by_estimator(table, ["gaussian_bits", "sign_bits", "effective_rank"]).set_index("estimator")
    assert found["depth"].tolist() == ["agrees", "contradicts", "agrees"]
    assert found["position"].tolist() == ["agrees", "contradicts", "agrees"]
    assert found["saturation"].tolist() == ["contradicts", "cannot be told", "agrees"]
    assert found["last_step"].tolist()[::2] == pytest.approx([1 / 4, 1 / 17])
    assert (found["even_step"] == 1 / 4).all()
    numbered = table[table["position"] != "last"]
    for row in found.reset_index().to_dict("records"):
        depth = trend(table, "layer", ["position", "site"], row["estimator"])
        assert (row["depth_correlation"], row["depth_groups"]) == (depth.correlation, 6)
        along = trend(numbered, "position", ["layer", "site"], row["estimator"])
        assert (row["position_correlation"], row["position_groups"]) == (along.correlation, 5)
        share = last_share(numbered, "position", ["layer", "site"], row["estimator"])
        assert row["last_step"] == pytest.approx(share, nan_ok=True)
    told = survival(table)
    assert told is not None
    assert told.lines[0] == (
        "Paper: rises with depth. By 3 estimators: agrees 2, contradicts 1, unclear 0, cannot be told 0."
    )
    assert survival(table[(table["layer"] == 0) & (table["position"] == 1)]) is None


def test_maps_show_the_numbers_of_each_variant():
    table = pd.concat([cells().assign(**{"training.lr": lr}) for lr in (1, 2)], ignore_index=True)
    table.loc[table["training.lr"] == 2, "sign_bits"] = None
    figure = measure_maps(table, known_measures(table))
    first, second = figure.subfigs
    assert len([axes for axes in first.axes if axes.get_title()]) == 3
    image = first.axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.asarray(image), 10 * np.arange(6) + 500 * np.arange(5)[:, None])
    assert any(axes.get_title() == "Signs of principal components / bits: none" for axes in second.axes)


def test_the_verb_writes_tables_a_picture_and_a_page(bae_ray, tmp_path: Path):
    store, out = made.store(tmp_path / "store", (0, 1, 2), (1, 2, 4)), tmp_path / "out"
    code, printed, err = bae_ray("measure", "--store", store, "--out", out, "--fvu", 0.5)
    assert code == 0, err
    for name in ("measures.csv", "measures.parquet", "measures.png", "measures.html", "claims.csv"):
        assert (out / name).stat().st_size > 100
        assert str(out / name) in printed
    table = pd.read_csv(out / "measures.csv")
    assert len(table) == 9
    assert not table.drop(columns="run").isna().any().any()
    assert set(known_measures(table)) <= set(MEASURES)
    claims = pd.read_csv(out / "claims.csv")
    assert claims["estimator"].tolist() == known_measures(table, ESTIMATORS)
    page = (out / "measures.html").read_text()
    for shown in ("Does the paper", "Gaussian source", "matrix_entropy_bits", "&#34;fvu&#34;: 0.5"):
        assert shown in page
    assert "Paper: rises with depth. By 7 estimators: " in printed

    code, _, err = bae_ray("measure", "--store", store, "--out", out, "--fvu", 0)
    assert code == 2
    assert "fvu" in err
    code, _, err = bae_ray("measure", "--store", store, "--out", out, "--layers", 5)
    assert (code, "layer 5 is not in the store" in err) == (2, True)
    file = "cells/residual/layer-00/position-00001/00000.safetensors"
    (store / file).write_bytes(b"damaged")
    code, _, err = bae_ray("measure", "--store", store, "--out", tmp_path / "other", "--layers", 0, "--positions", 1, 2)
    assert code == 1
    assert err.count("failed: ") == 1
    assert len(pd.read_csv(tmp_path / "other" / "measures.csv")) == 1
