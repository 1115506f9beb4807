"""Continuing finished runs that did not converge, for more epochs.

A continued run is the same run: its config and id do not change; `continued.json` in its folder says how many epochs it
is trained in total. Its result is removed, so it counts as unfinished and a sweep trains it as any other: from
`state.safetensors`, which runs that did not converge keep, or, if that is gone, from the beginning, with the same
numbers. In the added epochs, loss weights stay at their last values and no latents are merged or revived. The learning
rate starts at its value before the decay, and decays again over the same share of the added epochs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bae_ray.config import Record
from bae_ray.files import move, read_text, remove, write_text
from bae_ray.training.config import RunConfig
from bae_ray.training.convergence import Convergence, convergence
from bae_ray.training.run_fidelity import FIDELITY_FILE
from bae_ray.training.run_folder import METRICS_FILE, RESULT_FILE, STATE_FILE, is_finished, read_result

CONTINUED_FILE = "continued.json"
GOING_ON_FILE = "continuing.json"
"""In the folder of a sweep that goes on, until it ends: how many epochs each of these runs is to have, by id."""


class Continued(Record):
    """The record of a continued run, beside its config."""

    ends: tuple[int, ...]
    """Total epochs after each continuation."""


def epochs_of(runs: Path, run: RunConfig) -> int:
    """How many epochs a run is trained in all."""
    return max((run.training.epochs, *later_ends(runs, run)))


def later_ends(runs: Path, run: RunConfig) -> tuple[int, ...]:
    """A run's ends beyond the epochs of its config, in order."""
    file = runs / run.id / CONTINUED_FILE
    ends = Continued.model_validate_json(read_text(file)).ends if file.exists() else ()
    return tuple(end for end in ends if end > run.training.epochs)


def is_continued(runs: Path, run_id: str) -> bool:
    """Whether a run was trained, or is to be, for more epochs than its config says."""
    return (runs / run_id / CONTINUED_FILE).exists()


def kept_state(runs: Path, run: RunConfig) -> Path | None:
    """File of the last state of a finished run that did not converge."""
    kept = is_finished(runs, run) and read_result(runs, run).converged is False
    return runs / run.id / STATE_FILE if kept else None


def unconverged(runs: Path, of: Sequence[RunConfig]) -> list[RunConfig]:
    """Those of the finished runs that did not converge; results of earlier versions do not say so, their metrics do."""
    found: list[RunConfig] = []
    for run in of:
        if is_finished(runs, run):
            result = read_result(runs, run)
            told = result.converged
            if told is None and (ended := _convergence(runs, run)) is not None:
                told = ended.converged
            if told is False:
                found.append(run)
    return found


def reopen_unconverged(runs: Path, of: Sequence[RunConfig], more: int) -> None:
    """Continue the finished runs that did not converge for this many more epochs.

    If called again after an interruption, before `ended_continuing`, it does not add the epochs twice.
    """
    file = runs / GOING_ON_FILE
    goals: dict[str, int] = json.loads(read_text(file)) if file.exists() else {}
    if not any(run.id in goals for run in of):
        goals = {run.id: _epochs_done(runs, run) + more for run in unconverged(runs, of)}
        write_text(file, json.dumps(goals) + "\n")
    for run in of:
        if run.id in goals and is_finished(runs, run) and (done := _epochs_done(runs, run)) < goals[run.id]:
            reopen(runs, run, goals[run.id] - done)


def ended_continuing(runs: Path) -> None:
    """Record that all runs of `reopen_unconverged` were tried."""
    remove(runs / GOING_ON_FILE)


def reopen(runs: Path, run: RunConfig, more: int) -> None:
    """Continue a finished run for this many more epochs. Its earlier result is kept as result-EPOCHS.json."""
    done, folder = _epochs_done(runs, run), runs / run.id
    write_text(folder / CONTINUED_FILE, Continued(ends=(*later_ends(runs, run), done + more)).to_json())
    move(folder / RESULT_FILE, folder / f"result-{done}.json")
    remove(folder / FIDELITY_FILE)  # of the weights before


def _epochs_done(runs: Path, run: RunConfig) -> int:
    ended = _convergence(runs, run)
    return ended.epochs if ended else run.training.epochs


def _convergence(runs: Path, run: RunConfig) -> Convergence | None:
    result = read_result(runs, run)
    return convergence(runs / run.id / METRICS_FILE, result.entropy_bits, result.fvu_train)
