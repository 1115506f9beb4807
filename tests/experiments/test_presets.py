"""What all experiments have in common: presets of the same names, and a job of a line."""

import importlib
import pkgutil
import runpy
from pathlib import Path
from typing import Any

import pytest

import bae_ray.experiments
from bae_ray.cli import job
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.protocol import Experiment, ExperimentConfig, Planned

ROOMS = [room.name for room in pkgutil.iter_modules(bae_ray.experiments.__path__) if room.ispkg]
EXPERIMENTS: list[Experiment[Any]] = [
    importlib.import_module(f"bae_ray.experiments.{room}.experiment").EXPERIMENT for room in ROOMS
]
JOBS = Path(__file__).parents[2] / "jobs"
every_experiment = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=ROOMS)


def test_every_job_is_an_experiment_and_every_experiment_has_a_job():
    assert sorted(experiment.job for experiment in EXPERIMENTS) == sorted(file.stem for file in JOBS.glob("*.py"))


@every_experiment
def test_the_job_starts_its_experiment(experiment: Experiment[Any], monkeypatch: pytest.MonkeyPatch):
    started: list[object] = []
    monkeypatch.setattr(job, "start", started.append)
    runpy.run_path(str(JOBS / f"{experiment.job}.py"), run_name="__main__")
    assert started == [experiment]


@every_experiment
def test_presets_are_called_the_same_everywhere(experiment: Experiment[Any]):
    assert {"laptop", "gpu", "paper"} <= set(experiment.presets)
    folders = [config.out for config in experiment.presets.values()]
    assert len(set(folders)) == len(folders), "two presets that share a folder would refuse each other's files"


def parsed(experiment: Experiment[Any], *arguments: str) -> ExperimentConfig:
    return job.parse_preset(experiment.presets, experiment.job, [*arguments])


@every_experiment
def test_laptop_is_the_default(experiment: Experiment[Any]):
    assert parsed(experiment) == experiment.presets["laptop"]
    changed = parsed(experiment, "--out", "elsewhere")
    assert changed == experiment.presets["laptop"].model_copy(update={"out": Path("elsewhere")})


@pytest.mark.parametrize("old", ["cpu", "demo"])
def test_an_old_name_works_with_a_notice(old: str, capsys: pytest.CaptureFixture[str]):
    for experiment in EXPERIMENTS:
        assert parsed(experiment, old) == experiment.presets["laptop"]
        assert f"the preset {old} is now called laptop" in capsys.readouterr().err
    assert parsed(EXPERIMENTS[0], "laptop") == EXPERIMENTS[0].presets["laptop"]
    assert capsys.readouterr().err == ""


def test_another_name_is_refused_with_those_that_there_are():
    experiment = next(one for one in EXPERIMENTS if one.job == "layer_position_entropy")
    with pytest.raises(InvalidInputError, match="'laptpo' is not known: begin with one of laptop, matched, gpu, paper"):
        parsed(experiment, "laptpo")


@every_experiment
def test_the_config_of_a_run_can_be_replayed(experiment: Experiment[Any], tmp_path: Path):
    for config in experiment.presets.values():
        there = config.model_copy(update={"out": tmp_path})
        there.record()
        assert parsed(experiment, "--config", str(tmp_path / "config.json")) == there


@every_experiment
def test_one_gpu_is_enough_for_the_preset_of_that_name(experiment: Experiment[Any]):
    config = experiment.presets["gpu"]
    if (extraction := getattr(config, "extract", None)) is not None:
        assert (extraction.workers, extraction.gpus_per_worker) == (1, 1)
    assert (getattr(config, "sweep", config).gpus_per_trial or 0) <= 1


@pytest.mark.parametrize("room", ROOMS)
def test_how_long_a_preset_takes_is_said_as_measured_or_estimated(room: str):
    """In the comment above it: a time that was measured names the machine, any other is called an estimate."""
    source = (Path(bae_ray.experiments.__path__[0]) / room / "config.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source) if text.strip().startswith('"gpu":'))
    first = next(number for number in range(line - 1, 0, -1) if not source[number].strip().startswith("#")) + 1
    comment = " ".join(text.strip(" #") for text in source[first:line])
    assert comment.startswith("One H100, at most an hour: an estimate, not measured.") or "on one H100" in comment


def test_plans_are_of_experiments_with_one_store():
    planned = [experiment for experiment in EXPERIMENTS if isinstance(experiment, Planned)]
    assert len(planned) == 4
    for experiment in planned:
        for config in experiment.presets.values():
            extraction, sweep = experiment.planned(config)
            assert extraction == config.extract
            assert sweep.training == config.sweep.training
