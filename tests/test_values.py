"""One rule for the numbers that are taken, at every place where a tensor enters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray import load_autoencoder
from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import feature_statistics
from bae_ray.analysis.sampling import estimate_entropy
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder
from bae_ray.client.array_types import rows_of
from bae_ray.compression import compress, compress_activations
from bae_ray.compression.conversions import FileSource
from bae_ray.errors import BaeRayError, CheckpointError, NotFiniteError
from bae_ray.experiments.compression.compressibility import distortion
from bae_ray.serving.http.arrays import vectors
from bae_ray.serving.http.problems import Problem
from bae_ray.training.config import TrainingConfig
from bae_ray.training.trainer import train

D, F = 8, 16


def made() -> Autoencoder:
    autoencoder = build_autoencoder(BAEConfig(d_in=D, d_latent=F))
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    autoencoder.prior.fill_(0.25)
    return autoencoder.requires_grad_(False).eval()


X = torch.randn(6, D, generator=torch.Generator().manual_seed(0))


def in_a_file(x: Tensor) -> Any:
    """Through a .npy file, as `bae-ray compress` reads it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        if x.dtype in (torch.bfloat16, torch.float8_e5m2):
            save_file({"x": x}, f"{folder}/x.safetensors")
            source = FileSource(f"{folder}/x.safetensors")
        else:
            np.save(f"{folder}/x.npy", x.numpy())
            source = FileSource(f"{folder}/x.npy")
        return compress_activations(made(), Rows(source.pieces()))


ENTRIES: dict[str, Callable[[Tensor], Any]] = {
    "encode": lambda x: made().encode(x),
    "forward": made(),
    "fires": lambda x: made().fires(x),
    "magnitudes": lambda x: made().magnitudes(x),
    "decode": lambda x: made().decode(x.repeat(1, 2)),
    "compress": lambda x: compress_activations(made(), x),
    "compress with their own rates": lambda x: compress_activations(made(), x, prior="data"),
    "train": lambda x: train(x, BAEConfig(d_latent=F), TrainingConfig(epochs=1)),
    "statistics": lambda x: feature_statistics(made(), x),
    "entropy": lambda x: estimate_entropy(made(), x, 0),
    "rows": lambda x: compress_activations(made(), Rows([x])),
    "a file": in_a_file,
    "the service": lambda x: vectors(x, "x", D, "d_in", 100),
    "the client": lambda x: rows_of(x, "x"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(X.double().index_fill(0, torch.tensor([3]), 1e300), id="beyond float32"),
        pytest.param(X.index_fill(0, torch.tensor([3]), float("nan")), id="NaN"),
        pytest.param(X.half().index_fill(0, torch.tensor([3]), float("inf")), id="infinite"),
        pytest.param(X.to(torch.complex64), id="complex"),
    ],
)
def test_what_are_no_finite_real_numbers_is_refused_wherever_it_enters(entry: str, bad: Tensor):
    with pytest.raises((BaeRayError, Problem)):
        ENTRIES[entry](bad)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.int64])
def test_real_numbers_of_every_type_are_taken(entry: str, dtype: torch.dtype):
    ENTRIES[entry]((4 * X).to(dtype))


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry != "decode"])
def test_booleans_are_no_activations(entry: str):
    if entry in ("the service", "the client"):
        pytest.skip("has a test of its own types")
    with pytest.raises(BaeRayError, match="is of bool; expected real numbers"):
        ENTRIES[entry](X > 0)


def test_a_code_of_booleans_is_one():
    autoencoder = made()
    assert torch.equal(autoencoder.decode(autoencoder.fires(X)), autoencoder.decode(autoencoder.encode(X)))


@pytest.mark.parametrize("bad", [torch.zeros(2, F, dtype=torch.complex64), torch.full((2, F), torch.nan)])
def test_codes_and_priors_are_checked_too(bad: Tensor):
    with pytest.raises(BaeRayError):
        compress(bad, torch.full((F,), 0.5))
    with pytest.raises(BaeRayError):
        compress(torch.zeros(2, F), bad[0])


def test_distances_are_of_real_numbers():
    with pytest.raises(BaeRayError):
        distortion(torch.zeros(2, F, dtype=torch.complex64), torch.zeros(2, F))


@given(st.floats(1e-3, 1e3), st.floats(1e-30, 1e38))
def test_a_code_is_of_finite_pre_activations_or_refused(scale: float, size: float):
    """Against float64: what overflows inside is refused, all else has the bits that float64 has."""
    autoencoder = made()
    autoencoder.scale.fill_(scale)
    x = (X.sign() + 0.5) * min(size, 2e38)
    exact = (x.double() / float(autoencoder.scale)) @ autoencoder.W_enc.double() + autoencoder.get_parameter(
        "b_enc"
    ).double()
    if exact.abs().max() < 1e37:
        sure = exact.abs() > 1e-5 * exact.abs().max()
        assert torch.equal(autoencoder.encode(x)[sure].bool(), (exact >= 0)[sure])
    elif exact.abs().max() > 1e39:
        with pytest.raises(NotFiniteError):
            autoencoder.encode(x)


class TestWeights:
    """Of a saved autoencoder."""

    def changed(self, folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
        made().save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        save_file({k: change(v) if name in (k, "all") else v for k, v in tensors.items()}, folder / "model.safetensors")
        return folder

    @pytest.mark.parametrize("name", ["all", "W_enc", "prior"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
    def test_floating_point_becomes_float32(self, tmp_path: Path, name: str, dtype: torch.dtype):
        loaded = load_autoencoder(self.changed(tmp_path, name, lambda t: t.to(dtype)))
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
        assert torch.equal(loaded.W_enc, made().W_enc.to(dtype if name != "prior" else torch.float32).float())
        assert loaded.magnitudes(X).numpy().dtype == np.float32
        assert compress_activations(loaded, X)

    @pytest.mark.parametrize(
        "change", [lambda t: t.double() * 1e300, lambda t: t.to(torch.int32), lambda t: t.to(torch.complex64)]
    )
    def test_others_are_refused(self, tmp_path: Path, change: Callable[[Tensor], Tensor]):
        with pytest.raises(CheckpointError, match=r"W_enc in .*: expected finite floating-point numbers within"):
            load_autoencoder(self.changed(tmp_path, "W_enc", change))


@pytest.mark.parametrize("bad", [X.numpy() > 0, X.numpy().astype(complex), X.double().numpy() * 1e300, [["a"]]])
def test_the_client_sends_no_other_numbers(bad: Any):
    with pytest.raises(BaeRayError):
        rows_of(bad, "x")
