"""Checkpoints of the paper's released code."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bae_ray.autoencoders import interop
from bae_ray.errors import BaeRayError, CheckpointError, InvalidInputError
from tests.autoencoders.exchange import architecture, check_released, released_state

RELEASED = {"bae": {}, "relu": {}, "topk": {"k": 4}, "jumprelu": {"threshold": 0.5}}
OURS = {"bae": "bae", "relu": "relu", "topk": "topk", "jumprelu": "gated"}


@pytest.mark.parametrize("kind", RELEASED)
def test_released_weights_give_the_released_numbers(golden: dict, kind: Any):
    autoencoder = interop.load_release(released_state(golden, kind), kind=kind, **RELEASED[kind])
    assert architecture(autoencoder) == OURS[kind]
    assert not autoencoder.training
    check_released(golden, kind, autoencoder)


def test_released_step_is_0_at_0(golden: dict):
    state = released_state(golden) | {"encoder.weight": torch.zeros(32, 8), "encoder.bias": torch.zeros(32)}
    assert not interop.load_release(state).encode(torch.tensor(golden["x"])).any()


def test_release_without_decoder_bias(golden: dict):
    state = released_state(golden)
    del state["decoder.bias"]
    assert not interop.load_release(state).b_dec.any()


def test_widths_of_the_release():
    def state(d_in: int, d_latent: int) -> dict[str, Tensor]:
        encoder, decoder = torch.nn.Linear(d_in, d_latent), torch.nn.Linear(d_latent, d_in)
        modules = {"encoder": encoder, "decoder": decoder}
        return {f"{key}.{name}": value.data for key, of in modules.items() for name, value in of.named_parameters()}

    multiple, other = interop.load_release(state(4, 12)).config, interop.load_release(state(4, 6)).config
    assert (multiple.expansion, multiple.d_latent) == (3, None)
    assert other.widths() == (4, 6)


def test_defaults_of_the_release(golden: dict):
    topk = interop.load_release(released_state(golden, "topk"), kind="topk")
    jumprelu = interop.load_release(released_state(golden, "jumprelu"), kind="jumprelu")
    assert (topk.k, jumprelu.threshold) == (10, 0.5)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"kind": "sigmoid"}, "kind 'sigmoid' is not known: give one of bae, relu, topk, jumprelu"),
        ({}, {"k": 3}, "k is 3, but only the kind topk has it: leave it out for 'bae'"),
        ({}, {"kind": "relu", "threshold": 0.1}, "threshold is 0.1, but only the kind jumprelu has it"),
        ({}, {"kind": "topk", "k": 33}, "k is 33 but there are only 32 latents"),
        ({}, {"kind": "topk", "k": 0}, "k of the state dict is 0: Input should be greater than or equal to 1"),
        ({}, {"kind": "jumprelu", "threshold": -1.0}, "threshold of the state dict is -1.0: Input should be greater"),
        ({"encoder.bias": None}, {}, "missing: encoder.bias; unknown: none"),
        ({"W_skip": torch.zeros(8), 3: torch.zeros(8)}, {}, "missing: none; unknown: 3, W_skip"),
        ({"encoder.weight": torch.zeros(32, 0)}, {}, r"encoder.weight in .* has shape \[32, 0\], expected \[F, D\]"),
        (
            {"encoder.weight": torch.zeros(8)},
            {},
            r"encoder.weight in the state dict has shape \[8\], expected \[F, D\]",
        ),
        ({"encoder.bias": torch.zeros(31)}, {}, r"encoder.bias in .* has shape \[31\], expected \[32\]"),
        ({"decoder.weight": torch.zeros(32, 8)}, {}, r"decoder.weight in .* has shape \[32, 8\], expected \[8, 32\]"),
        ({"decoder.bias": torch.full((8,), torch.nan)}, {}, "decoder.bias in the state dict has values that are not"),
        ({"decoder.bias": torch.zeros(8, dtype=torch.int64)}, {}, "decoder.bias in the state dict is of torch.int64"),
        ({"decoder.bias": [0.0] * 8}, {}, "decoder.bias in the state dict is of list, expected a floating-point"),
    ],
)
def test_what_cannot_be_a_release(golden: dict, changes: dict, arguments: dict, message: str):
    state = {name: value for name, value in {**released_state(golden), **changes}.items() if value is not None}
    with pytest.raises(BaeRayError, match=message) as raised:
        interop.load_release(state, **arguments)
    assert isinstance(raised.value, CheckpointError if changes else InvalidInputError)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_release_from_a_file(golden: dict, tmp_path: Path, suffix: str):
    file = tmp_path / f"model{suffix}"
    state = released_state(golden)
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    check_released(golden, "bae", interop.read_release(file))
    check_released(golden, "bae", interop.import_autoencoder(file, format="release", kind="bae"))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("bae", "inner_expand_rate: 4\nbinarization_type: sign_s\ncycle_for_squarewave: 2\noutput_activation: none\n"),
        ("relu", {"inner_activation": "relu", "topk": 4, "theta": 0.5, "output_activation": None, "lr": 1e-3}),
        ("topk", "inner_activation: topk\ntopk: 4\noutput_activation: none\nfeature_path: a:b\n"),
        ("topk", {"kind": "topk", "k": 4, "d_in": 8}),
        ("jumprelu", {"inner_activation": "jumprelu", "theta": "0.5"}),
    ],
)
def test_parameter_file_beside_the_release(golden: dict, tmp_path: Path, kind: str, parameters: str | dict):
    save_file(released_state(golden, kind), tmp_path / "model.safetensors")
    if isinstance(parameters, str):
        (tmp_path / "experiment_params.txt").write_text(parameters)
    else:
        (tmp_path / "experiment_params.json").write_text(json.dumps(parameters))
    autoencoder = interop.read_release(tmp_path / "model.safetensors")
    assert architecture(autoencoder) == OURS[kind]
    check_released(golden, kind, autoencoder)


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ("inner_activation: topk", {"kind": "relu"}, "kind is 'relu', but .*params.txt records 'topk'"),
        ("inner_activation: topk\ntopk: 4", {"k": 5}, "k is 5, but .*params.txt records 4: leave it out"),
        ("inner_activation: jumprelu\ntheta: 0.5", {"threshold": 1.0}, "threshold is 1.0, but .* records 0.5"),
        ("inner_activation: sigmoid", {}, "tells the kind 'sigmoid', expected one of bae, relu"),
        ("binarization_type: squarewave", {}, "binarization_type is 'squarewave' in .*, expected 'sign' or 'sign_s'"),
        ("binarization_type: sign\noutput_activation: tanh", {}, "output_activation is 'tanh' in .*, expected 'none'"),
        ("inner_activation: topk\ntopk: many", {}, "topk is 'many' in the parameters of .*, expected a number"),
        ("inner_expand_rate: 8", {}, "inner_expand_rate is 8 in the parameter file, but the weights in .* have 4"),
    ],
)
def test_parameter_file_that_contradicts(golden: dict, tmp_path: Path, parameters: str, arguments: dict, message: str):
    save_file(released_state(golden), tmp_path / "model.safetensors")
    (tmp_path / "experiment_params.txt").write_text(parameters)
    with pytest.raises(BaeRayError, match=message):
        interop.read_release(tmp_path / "model.safetensors", **arguments)


class Malicious:
    """Unpickled by a loader that runs code, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_runs_code_is_refused(golden: dict, tmp_path: Path, save: Callable):
    trap = tmp_path / "executed"
    save({**released_state(golden), "extra": Malicious(trap)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt is not a file of plain tensors and is not read"):
        interop.read_release(tmp_path / "model.pt")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", b"", "model.pt is not a file of plain tensors"),
        ("model.pt", b"not a pickle", "model.pt is not a file of plain tensors"),
        ("model.pt", None, "model.pt cannot be read: .*No such file"),
        ("model.safetensors", b"not safetensors", "model.safetensors cannot be read as safetensors"),
        ("model.safetensors", None, "model.safetensors is missing"),
    ],
)
def test_damaged_files_of_the_release(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        interop.read_release(tmp_path / name)


def test_a_pickle_of_something_else(tmp_path: Path):
    torch.save([torch.zeros(2)], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt holds a list, expected a state dict"):
        interop.read_release(tmp_path / "model.pt")
