"""Against the real sae-lens, which lives in an environment of its own, made on first use."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray.autoencoders import Autoencoder, interop
from bae_ray.errors import CheckpointError
from benchmarks.peers import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first use installs
    pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning"),
]

OURS = [
    "bae", "bae_release", "bae_3_bits", "bae_no_bias", "relu", "relu_no_bias", "topk", "gated", "transcoder",
    "batchtopk", "batchtopk_untrained", "jumprelu", "gated_sae",
]  # fmt: skip
THEIRS = {
    "standard": "relu",
    "standard apply_b_dec": "relu",
    "topk": "topk",
    "topk apply_b_dec": "topk",
    "topk rescale": "topk",
    "topk apply_b_dec rescale": "topk",
    "jumprelu": "jumprelu",
    "jumprelu apply_b_dec": "jumprelu",
    "gated": "gated_sae",
    "gated apply_b_dec": "gated_sae",
    "transcoder": "transcoder",
    "batchtopk": "jumprelu",
    "batchtopk apply_b_dec": "jumprelu",
    "batchtopk rescale": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}


@pytest.fixture(scope="session")
def exchange(
    autoencoders: dict[str, Autoencoder], activations: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with ours/NAME, our exports, and theirs/NAME, made by sae-lens; results.safetensors of it in each."""
    root = tmp_path_factory.mktemp("saelens")
    save_file({"x": activations}, root / "x.safetensors")
    for name, autoencoder in autoencoders.items():
        interop.export_saelens(autoencoder, root / "ours" / name, "gpt2", "blocks.1.hook_resid_pre")
    python = environment("sae-lens", ["sae-lens==6.54.12"])
    script = Path(__file__).with_name("saelens_peer.py")
    done = subprocess.run([python, script, root], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


def results(folder: Path) -> tuple[Tensor, Tensor]:
    read = load_file(folder / "results.safetensors")
    return read["latents"], read["x_hat"]


def check(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_sae_lens_computes_what_we_do(exchange: Path, autoencoders, activations: Tensor, name: str):
    check(autoencoders[name](activations), results(exchange / "ours" / name))
    check(interop.import_saelens(exchange / "ours" / name)(activations), results(exchange / "ours" / name))


@pytest.mark.parametrize("name", THEIRS)
def test_we_compute_what_sae_lens_does(exchange: Path, activations: Tensor, name: str):
    autoencoder = interop.import_saelens(exchange / "theirs" / name)
    assert getattr(autoencoder.config, "architecture", None) == THEIRS[name]
    check(autoencoder(activations), results(exchange / "theirs" / name))


@pytest.mark.parametrize("name", ["skip_transcoder", "jumprelu_transcoder", "abstopk", "layer_norm"])
def test_what_we_cannot_represent_is_refused(exchange: Path, name: str):
    with pytest.raises(CheckpointError, match="This cannot be imported as it is"):
        interop.import_saelens(exchange / "theirs" / name)
