"""sparsify folders, against its equations."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray.autoencoders import interop
from bae_ray.errors import CheckpointError
from tests.autoencoders.exchange import close, edit


@pytest.fixture
def sparsify_folder(tmp_path: Path) -> Path:
    """A folder as sparsify 1.3.3 saves it."""
    folder = tmp_path / "layers.3"
    folder.mkdir()
    config = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 20, "k": 4,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 6,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (20, 6), "encoder.bias": (20,), "W_dec": (20, 6), "b_dec": (6,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "sae.safetensors")
    return folder


def test_sparsify_against_its_equations(sparsify_folder: Path, activations: Tensor):
    autoencoder = interop.import_autoencoder(sparsify_folder, format="sparsify")
    weights = load_file(sparsify_folder / "sae.safetensors")
    for x in activations:
        pre = [
            max(0.0, float((x - weights["b_dec"]) @ row + bias))
            for row, bias in zip(weights["encoder.weight"], weights["encoder.bias"], strict=True)
        ]
        kept = sorted(range(20), key=lambda i: -pre[i])[:4]
        x_hat = weights["b_dec"] + sum(pre[i] * weights["W_dec"][i] for i in kept)
        found = autoencoder(x[None])
        close(found.latents[0], torch.tensor([pre[i] if i in kept else 0.0 for i in range(20)]))
        close(found.x_hat[0], x_hat)


def test_sparsify_by_expansion_factor(sparsify_folder: Path):
    edit(sparsify_folder, num_latents=0, expansion_factor=4)
    with pytest.raises(CheckpointError, match=r"encoder.weight in .* has shape \[20, 6\], expected \[24, 6\]"):
        interop.import_sparsify(sparsify_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax' in .*cfg.json; expected 'topk'"),
        ({"skip_connection": True}, "skip_connection is True in .*; expected False"),
        ({"transcode": True}, "transcode is True in .*; expected False"),
        ({"signed": True}, "signed is True in .*; expected False"),
        ({"d_in": ...}, "d_in is None in .*; expected a whole number"),
        ({"k": "4"}, "k is '4' in .*; expected a whole number"),
        ({"d_in": 7}, r"encoder.weight in .* has shape \[20, 6\], expected \[20, 7\]"),
    ],
)
def test_what_sparsify_has_and_we_do_not(sparsify_folder: Path, changes: dict, message: str):
    edit(sparsify_folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        interop.import_sparsify(sparsify_folder)
