"""Configs from files and flags."""

import json
from pathlib import Path

import pytest

from bae_ray.autoencoders import TopKConfig
from bae_ray.cli.parsing import parse
from bae_ray.cli.verb_stores import ExportStoreCommand
from bae_ray.cli.verb_training import SweepCommand
from bae_ray.errors import InvalidInputError
from bae_ray.locations import local_path

GRID = """
layers: [0, 10]
autoencoder: {architecture: topk, k: 7}
training: {epochs: 60, lr: 3e-3}
axes:
  - {training.entropy_weight: [2e-4, 1e-3]}
  - {training.covariance_weight: [1e-6, 1e-5], training.lr: [1e-3, 3e-3]}
exclude:
  - {layer: 0, training.entropy_weight: 1e-3}
seeds: [0, 1]
"""


def command(tmp_path: Path, text: str, *more: str) -> SweepCommand:
    (tmp_path / "grid.yaml").write_text(text)
    return parse(SweepCommand, "bae-ray sweep", ["--config", str(tmp_path / "grid.yaml"), *more])


def test_a_grid_in_yaml_takes_what_is_missing_as_flags(tmp_path: Path):
    found = command(tmp_path, GRID, "--store", "s", "--out", "o", "--layers", "5")
    grid = found.sweep
    assert grid.layers == (5,)
    assert grid.autoencoder == TopKConfig(k=7)
    assert (grid.training.epochs, grid.training.lr) == (60, 3e-3)
    assert grid.axes == (
        "training.entropy_weight=[0.0002, 0.001]",
        "training.covariance_weight=[1e-06, 1e-05] training.lr=[0.001, 0.003]",
    )
    assert grid.exclude == ("layer=[0] training.entropy_weight=[0.001]",)
    assert (grid.seeds, found.store, found.out) == ((0, 1), "s", Path("o"))
    assert parse(SweepCommand, "bae-ray sweep", ["--config", str(replayed(found, tmp_path))]) == found


def replayed(command: SweepCommand, folder: Path) -> Path:
    (folder / "sweep.json").write_text(command.record())
    return folder / "sweep.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers: [0, 10", "cannot be read: while parsing a flow sequence"),
        ("layer: [0]", r"layer is \[0\]: Extra inputs are not permitted"),
        ("training: {lr: fast}", r"training\.lr is 'fast': Input should be a valid number"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(InvalidInputError, match=rf"--config .*grid\.yaml.*{said}"):
        command(tmp_path, text, "--store", "s", "--out", "o")


def test_a_uri_is_a_folder_and_written_down_as_it_was_given(tmp_path: Path):
    uri = "s3://bucket/runs?region=eu"
    given = command(tmp_path, GRID, "--store", "s3://bucket/store", "--out", uri)
    assert given.out == local_path(uri)
    assert json.loads(given.record())["out"] == uri
    assert command(tmp_path, given.record()) == given
    with pytest.raises(InvalidInputError, match=r"s3://bucket/runs is given with a user or a password") as error:
        command(tmp_path, GRID, "--store", "s3://bucket/store", "--out", "s3://me:secret@bucket/runs")
    assert "secret" not in str(error.value)
    assert command(tmp_path, GRID, "--store", "s3://bucket/store", "--out", "a:b/c").out == Path("a:b/c")


def test_a_uri_where_a_folder_is_needed_is_refused():
    with pytest.raises(InvalidInputError, match=r"--out is s3://bucket/arrays, a URI; expected a path") as error:
        parse(ExportStoreCommand, "bae-ray store export", ["--store", "s", "--out", "s3://me:secret@bucket/arrays"])
    assert "secret" not in str(error.value)


def test_what_is_still_missing_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command(tmp_path, GRID, "--store", "s")
    assert "--out" in capsys.readouterr().err
