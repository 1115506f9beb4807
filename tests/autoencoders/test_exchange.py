"""The formats by name, and the commands `export` and `import`."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bae_ray import cli
from bae_ray.autoencoders import interop, load_autoencoder
from bae_ray.errors import InvalidInputError
from tests.autoencoders.exchange import check_released, close, released_state


def test_unknown_format(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="format 'onnx' is not known: give one of saelens, sparsify, release"):
        interop.import_autoencoder(tmp_path, format="onnx")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [{"kind": "bae"}, {"k": 3}, {"threshold": 0.5}])
def test_options_of_the_release_alone(tmp_path: Path, value: dict):
    with pytest.raises(InvalidInputError, match="but only the format release takes it"):
        interop.import_autoencoder(tmp_path, format="saelens", **value)


def test_export_and_import_commands(bae_ray, autoencoders: dict, activations: Tensor, tmp_path: Path):
    ours, theirs, back = tmp_path / "ours", tmp_path / "theirs", tmp_path / "back"
    autoencoders["topk"].save_pretrained(ours)
    code, out, err = bae_ray("export", "--source", ours, "--out", theirs, "--layer", 3, "--model-name", "gpt2")
    assert (code, out.strip()) == (0, str(theirs))
    assert err.startswith("warning: SAELens sets negative")
    metadata = json.loads((theirs / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("gpt2", "blocks.3.hook_resid_pre")

    code, out, err = bae_ray("import", "--source", theirs, "--format", "saelens", "--out", back)
    assert code == 0
    assert str(back) in out
    assert not err
    close(load_autoencoder(back)(activations).x_hat, autoencoders["topk"](activations).x_hat)

    code, _, err = bae_ray("import", "--source", theirs, "--format", "saelens", "--out", back)
    assert code == cli.EXIT_INVALID
    assert f"--out {back} already holds a config.json" in err
    code, _, err = bae_ray("export", "--source", ours, "--out", theirs)
    assert code == cli.EXIT_INVALID
    assert f"--out {theirs} already holds a cfg.json" in err


def test_import_command_of_a_release(bae_ray, golden: dict, tmp_path: Path):
    torch.save(released_state(golden, "topk"), tmp_path / "model.pt")
    source = ["--source", tmp_path / "model.pt", "--format", "release", "--out", tmp_path / "out"]
    code, out, _ = bae_ray("import", *source, "--kind", "topk", "--k", 4)
    assert code == 0
    assert '"k":4' in out
    check_released(golden, "topk", load_autoencoder(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--source", "{tmp}", "--out", "{tmp}/o", "--layer", 1, "--hook-name", "h"], "are both given: give"),
        (["export", "--source", "{tmp}", "--out", "{tmp}/o"], "is not a saved autoencoder: config.json is missing"),
        (["import", "--source", "{tmp}", "--format", "sparsify", "--out", "{tmp}/o"], "cfg.json is missing"),
        (["import", "--source", "{tmp}", "--format", "saelens", "--k", "3", "--out", "{tmp}/o"], "only the format"),
    ],
)
def test_bad_input_of_the_commands(bae_ray, tmp_path: Path, arguments: list, message: str):
    code, _, err = bae_ray(*(str(argument).format(tmp=tmp_path) for argument in arguments))
    assert code == cli.EXIT_INVALID
    assert message in err
    assert not (tmp_path / "o").exists()
