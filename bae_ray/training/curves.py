"""Training curves out of a run's log."""

import json
from collections.abc import Sequence
from pathlib import Path


def read_curves(file: Path, names: Sequence[str], most: int) -> dict[str, list[float]]:
    """`epoch` and those of the metrics `names` that the log has, at up to `most` points spread evenly; 5 digits.

    Empty where there is no log. A last line that was cut off is left out. Raises `ValueError` for a damaged log.
    """
    if not file.exists():
        return {}
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    picked = sorted({round(i * (len(lines) - 1) / (most - 1)) for i in range(most)}) if lines else []
    read = [json.loads(lines[i]) for i in picked]
    found = {name: [float(f"{line[name]:.5g}") for line in read] for name in names if read and name in read[0]}
    return {"epoch": [line["epoch"] for line in read], **found}
