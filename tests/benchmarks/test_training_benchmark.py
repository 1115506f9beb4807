"""The training benchmark runs from end to end; what it measures is not asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_compares_equal_computations(tmp_path: Path):
    out = tmp_path / "training.json"
    command = [sys.executable, "benchmarks/training.py", "--quick", "--no-peers", "--markdown", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "plain / ours" in done.stdout
    assert "apart / together" in done.stdout
    measured = {answer["side"]: answer for answer in json.loads(out.read_text())["measurements"]}
    # The script itself refuses to compare where the two sides' terms differ.
    assert {"plain", "ours", "floor", "adam", "many", "flips"} <= measured.keys()
    assert "flipped bits" in done.stdout
    assert 0 < measured["flips"]["flipped"] < 0.05, "bf16 keeps 8 bits"
    assert measured["many"]["largest_difference"] < 1e-4
