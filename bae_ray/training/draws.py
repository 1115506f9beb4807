"""Checks of a search, and the settings that it draws for a cell, each recorded before it is trained.

draws/<search>.json lists all of them in order, including impossible and repeated ones. The run of a draw has its
settings in search.json.
"""

import json
from pathlib import Path
from typing import Any

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.files import read_text, write_text
from bae_ray.training.axes import Setting, parse_range
from bae_ray.training.config import RunConfig
from bae_ray.training.grid import IllegalRun, plan_settings, selected_cells, try_settings
from bae_ray.training.run_folder import RUN_FILE, SEARCH_FILE, RunResult
from bae_ray.training.sweep_config import SweepConfig

DRAWS_FOLDER = "draws"
METRICS = ("reconstruction", "loss", "entropy", "covariance", "l1", "l0")
"""Columns of metrics.jsonl that a search may go by."""

Drawn = dict[str, Any]
"""A value for the field of each range."""


class Draws:
    """What a search has drawn for a cell, now and before."""

    def __init__(self, config: SweepConfig, store: ActivationStore, cell: Cell, out: Path) -> None:
        self._config, self._store, self.cell, self._out = config, store, cell, out
        self._ranges = {of.field: of for of in map(parse_range, config.search.ranges)}
        fixed = {
            f"{section}.{name}": value
            for section in ("autoencoder", "training")
            for name, value in getattr(config, section).model_dump(mode="json").items()
            if f"{section}.{name}" not in self._ranges
        }
        about = [cell, store.fingerprint(cell), sorted(self._ranges.values()), fixed]
        self._file = out / DRAWS_FOLDER / f"{content_hash(about)}.json"
        self.runs: dict[str, RunConfig] = {}
        """By their ids."""
        self.settings: dict[str, Drawn] = {}
        """Of each run."""
        self.illegal: list[IllegalRun] = []
        """Settings that cannot go together."""
        self._all: list[Drawn] = []
        for drawn in json.loads(read_text(self._file)) if self._file.exists() else []:
            self._take(drawn)
        self._find_older()

    @property
    def left(self) -> int:
        """How many settings are still to be drawn."""
        return max(0, (self._config.search.samples or 0) - len(self._all))

    def __len__(self) -> int:
        """How many were drawn."""
        return len(self._all)

    def add(self, drawn: Drawn) -> RunConfig | None:
        """Record a draw; return its run, unless the settings are invalid or were drawn before."""
        run = self._take(drawn)
        write_text(self._file, json.dumps(self._all) + "\n")
        if run is not None:
            write_text(self._out / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
            write_text(self._out / run.id / SEARCH_FILE, json.dumps(drawn) + "\n")
        return run

    def _take(self, drawn: Drawn) -> RunConfig | None:
        self._all.append(drawn)
        run = self._planned(drawn)
        if isinstance(run, IllegalRun):
            self.illegal += [run] if run not in self.illegal else []
            return None
        if run.id in self.runs:
            return None
        self.runs[run.id], self.settings[run.id] = run, drawn
        return run

    def _planned(self, drawn: Drawn) -> RunConfig | IllegalRun:
        settings = tuple(Setting(*item) for item in drawn.items())
        return try_settings(self._config, self._store, self.cell, settings)

    def _find_older(self) -> None:
        """Take runs whose folders were made before draws were listed; those of other searches are left alone."""
        for file in sorted(self._out.glob(f"*/{SEARCH_FILE}")):
            drawn = json.loads(read_text(file))
            if file.parent.name not in self.runs and self._is_within(drawn):
                run = self._planned(drawn)
                if isinstance(run, RunConfig) and run.id == file.parent.name:
                    self._take(drawn)

    def _is_within(self, drawn: Drawn) -> bool:
        """Whether the ranges could give these settings."""
        return drawn.keys() == self._ranges.keys() and all(
            self._ranges[field].low <= value <= self._ranges[field].high for field, value in drawn.items()
        )


def widest_runs(config: SweepConfig, store: ActivationStore) -> list[RunConfig]:
    """For each cell the run with the upper end of every range, or where that cannot be, without them."""
    highest = tuple(Setting(field, high) for field, _, high, _ in map(parse_range, config.search.ranges))
    runs: list[RunConfig] = []
    for cell in selected_cells(config, store):
        run = try_settings(config, store, cell, highest)
        runs.append(plan_settings(config, store, cell, ()) if isinstance(run, IllegalRun) else run)
    return runs


def check_search(config: SweepConfig, store: ActivationStore) -> None:
    """Raise `InvalidInputError` for a search that cannot be done."""
    search, measures = config.search, [*METRICS, *RunResult.model_fields]
    for text in search.ranges:
        parse_range(text)
    if search.samples is not None and not search.ranges:
        raise InvalidInputError(
            f"search.samples is {search.samples} but there are no ranges to draw from: give search.ranges."
        )
    if search.ranges and search.samples is None:
        raise InvalidInputError("search.ranges are given but not search.samples: say how many settings to draw.")
    if search.samples is not None and (config.axes or config.seeds):
        raise InvalidInputError("search.samples draws settings in place of axes and seeds: give one or the other.")
    if search.metric not in measures:
        raise InvalidInputError(f"search.metric is {search.metric}; expected one of {', '.join(measures)}.")
    if search.scheduler == "asha" and search.metric not in METRICS:
        raise InvalidInputError(
            f"search.metric is {search.metric}, which is only known at the end of a training. ASHA needs one of "
            f"{', '.join(METRICS)}."
        )
    _check_ranges(config, store)


def _check_ranges(config: SweepConfig, store: ActivationStore) -> None:
    """Raise `InvalidInputError` where neither the lower nor the upper ends of the ranges can be trained."""
    ranges = [parse_range(text) for text in config.search.ranges]
    cell = selected_cells(config, store)[0]
    ends = [tuple(Setting(of.field, getattr(of, end)) for of in ranges) for end in ("low", "high")]
    problems = [run for some in ends if isinstance(run := try_settings(config, store, cell, some), IllegalRun)]
    if len(problems) == 2:
        raise InvalidInputError(f"search.ranges give nothing that can be trained: {problems[0]}. Change the ranges.")
