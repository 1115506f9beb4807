"""What the page of a sweep is given to draw."""

import json
from pathlib import Path

import pandas as pd

from bae_ray.experiments.layer_position.interactive import sweep_data


def test_the_map_can_show_every_measure_that_a_run_has(tmp_path: Path):
    rows = [
        {"model": "m", "layer": layer, "site": "residual", "position": position, "seed": 0,
         "run": f"{layer}-{position}",
         "entropy_bits": 10.0 * layer, "entropy_low": 9.0 * layer, "entropy_high": 11.0 * layer, "fvu_val": 0.25,
         "subset_n": (1, 2), "subset_bits": (0.5, 1.0), "gaussian_bits": None if layer == 0 else 7.0 + position,
         "intrinsic_dimension": 3.25, "product_bits": None, "sign_fvu": 0.5}
        for layer in (0, 5) for position in (1, 4)
    ]  # fmt: skip
    data = sweep_data(pd.DataFrame(rows), tmp_path)
    assert [name for name, _ in data["measures"]] == [
        "entropy_bits", "gaussian_bits", "intrinsic_dimension", "fvu_val", "sign_fvu"
    ]  # fmt: skip
    (maps,) = data["maps"]
    assert maps["gaussian_bits"]["z"] == [[None, None], [8.0, 11.0]]
    assert maps["gaussian_bits"]["text"] == [["", ""], ["8", "11"]]
    assert maps["intrinsic_dimension"]["text"][0] == ["3.2", "3.2"]
    unknown = next(run for run in data["runs"] if run["run"] == "0-1")
    assert (unknown["gaussian_bits"], unknown["shown"]["gaussian_bits"]) == (None, "-")
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
