"""metrics.jsonl of a run: a line per epoch, or per step."""

import json
from pathlib import Path

from bae_ray.files import write_text
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.objective import SCHEDULED


class MetricsLog:
    """Writes the file. A resumed training replaces the lines after its state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._continued = False

    def append(self, lines: list[TrainingMetrics]) -> None:
        """Add the lines of one epoch."""
        text = "".join(json.dumps(metrics_row(line)) + "\n" for line in lines)
        if not self._continued:
            self._continued = True
            before = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
            # A line that the interruption cut short belongs to an epoch that is trained again.
            kept = [line for line in before if line.endswith("}") and json.loads(line)["epoch"] < lines[0].epoch]
            write_text(self._path, "".join(line + "\n" for line in kept))
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)


def metrics_row(line: TrainingMetrics) -> dict[str, float]:
    """A line of metrics.jsonl."""
    weights = {f"{name}_weight": weight for name, weight in line.weights.items() if name in SCHEDULED}
    return {"epoch": line.epoch, "step": line.step, "loss": line.loss, **line.terms, **weights, "seconds": line.seconds}
