"""The notebooks of examples/: as they are stored, and executed from their first cell to their last."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bae_ray.activations.bundled import BUNDLED_PACKAGES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LONGEST_S = 240
NAMES = {"first_bits", "compare_bae_and_saes", "read_and_steer_a_model", "sweep_on_a_cluster"}


def test_they_are_listed():
    assert {file.stem for file in NOTEBOOKS} == NAMES
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert all(f"../examples/{name}.ipynb" in page for name in NAMES)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_stored_without_outputs_and_says_between_cells_what_is_seen(file: Path):
    book = nbformat.read(file, as_version=4)
    nbformat.validate(book)
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in codes)
    assert sum(cell.cell_type == "markdown" for cell in book.cells) >= len(codes) - 1
    assert "find_spec" in codes[0].source
    assert f"--no-deps {' '.join(BUNDLED_PACKAGES)}" in codes[0].source


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(file, as_version=4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    NotebookClient(book, timeout=LONGEST_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    said = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "stream" and output.name == "stdout" for output in said)
    assert os.listdir(tmp_path) == ["runs"]
