"""`bae-ray job`: the experiments of jobs/ by their names; and the version."""

import runpy
import tomllib
from pathlib import Path

import pytest

import bae_ray as package
from bae_ray.activations import bundled
from bae_ray.cli.remote_job import remote_job, split
from bae_ray.cli.verb_job import JobCommand, config_of
from bae_ray.errors import InvalidInputError, UnreadableFileError
from bae_ray.experiments.catalogue import EXPERIMENTS, find_experiment
from tests.recorded.places import JOBS


def test_every_script_is_a_job_of_its_name():
    assert {file.stem for file in JOBS.glob("*.py")} == {*EXPERIMENTS}
    for job in EXPERIMENTS:
        assert job in (JobCommand.__doc__ or "")
        found = find_experiment(job)
        assert found.job == job
        assert type(found) is type(runpy.run_path(str(JOBS / f"{job}.py"))["EXPERIMENT"])


def test_preset_and_options_are_those_of_the_script():
    presets = find_experiment("steering").presets
    assert config_of(["steering"]) == presets["laptop"]
    changed = config_of(["steering", "paper", "--out", "elsewhere"])
    assert changed == presets["paper"].changed(out="elsewhere")


def test_what_is_no_job(bae_ray):
    code, _, err = bae_ray("job", "sterring")
    assert code == 2
    assert "'sterring' is no job of bae_ray; expected one of layer_position_entropy, " in err
    assert "steering" in err
    code, _, err = bae_ray("job")
    assert code == 2
    assert "no job is given: expected one of" in err
    code, _, err = bae_ray("job", "steering", "huge")
    assert code == 2
    assert "preset 'huge' is not known" in err
    code, _, err = bae_ray("job", "lm_random_tokens", "laptop", "--dry-run")
    assert code == 2
    assert err == "error: bae-ray job lm_random_tokens has no --dry-run: it trains on more than one store.\n"
    code, out, _ = bae_ray("job", "steering", "--help")
    assert code == 0
    assert "usage: bae-ray job steering laptop" in out


def test_it_is_submitted_without_a_folder_of_scripts(tmp_path: Path):
    own, job = split(["--address", "A", "job", "steering", "paper", "--out", "/shared/x"])
    assert own == ["--address", "A"]
    made = remote_job(job, tmp_path)
    assert made.entrypoint == ["python", "-m", "bae_ray", "job", "steering", "paper", "--out", "/shared/x"]
    with pytest.raises(InvalidInputError, match="--out x would lie in the cluster's copy"):
        remote_job(["job", "steering", "paper", "--out", "x"], tmp_path)


def test_the_version_is_said_in_one_place(bae_ray):
    project = tomllib.loads((JOBS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert package.__version__ == project["version"]
    assert bae_ray("--version") == (0, f"bae_ray {project['version']}\n", "")


def test_what_converting_the_bundled_model_takes_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "CONVERTERS", ("gguf", "a_package_that_there_is_not"))
    with pytest.raises(UnreadableFileError, match=r"a_package_that_there_is_not, which .*'pip install a_package_that"):
        bundled._convert_model(tmp_path)
