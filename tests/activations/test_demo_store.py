"""The demo's store is, file for file, that of the version before shards were computed while texts are tokenised.

`demo_store.json` has its checksums. Rows and embeddings are the same on every machine; deeper layers where CPU and
libraries are, since their last digits hang on these. Two workers of one thread made it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Manifest
from bae_ray.experiments.layer_position.config import PRESETS
from tests.recorded.compare import made_with

RECORDED = json.loads(Path(__file__).with_name("demo_store.json").read_text())
DEMO = PRESETS["laptop"].extract.model_copy(update={"gpus_per_worker": 0})

pytestmark = pytest.mark.usefixtures("ray_cluster")


def files(manifest: Manifest) -> Iterator[tuple[str, list[object]]]:
    for shard in manifest.shards:
        for name, record in shard.files.items():
            yield name, list(record)


def extracted(config: ExtractConfig, out: Path, executor: Literal["ray", "inline"]) -> dict[str, list[object]]:
    found = dict(files(extract(config, out, executor).manifest))
    assert found.keys() <= RECORDED["files"].keys()
    return found


def test_rows_and_embeddings_are_the_same_everywhere(tmp_path: Path):
    found = extracted(DEMO.model_copy(update={"layers": (0,)}), tmp_path / "store", "inline")
    of_old = RECORDED["made_with"]["pyarrow"] != made_with()["pyarrow"]  # other versions write other bytes of a table
    compared = {name for name in found if not (of_old and name.startswith("rows/"))}
    assert {name: found[name] for name in compared} == {name: RECORDED["files"][name] for name in compared}
    assert len(found) == 4 * (1 + 6)


@pytest.mark.slow
def test_every_cell_is_the_same_on_the_same_machine(tmp_path: Path):
    if RECORDED["made_with"] != made_with():
        pytest.skip("another CPU, or other libraries")
    assert extracted(DEMO.model_copy(update={"workers": 2}), tmp_path / "store", "ray") == RECORDED["files"]
