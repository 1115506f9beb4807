"""Firing rates of autoencoders that other packages saved: kept where there is room, asked for, and never made up."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bae_ray import load_autoencoder
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder, interop
from bae_ray.cli.exit_codes import EXIT_INVALID
from bae_ray.compression import compress_activations, decompress_activations
from bae_ray.errors import CheckpointError, NoPriorError
from tests.autoencoders.exchange import edit

Make = Callable[..., Autoencoder]
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("architecture", ["bae", "relu", "gated", "jumprelu", "gated_sae"])
def test_rates_survive_an_export_to_saelens(random_autoencoder: Make, tmp_path: Path, architecture: str):
    autoencoder = random_autoencoder(architecture)
    autoencoder.prior.copy_(torch.rand(24, generator=torch.Generator().manual_seed(1)))
    interop.export_saelens(autoencoder, tmp_path)
    back = interop.import_saelens(tmp_path)
    assert torch.equal(back.prior, autoencoder.prior)
    if architecture == "bae":
        assert torch.allclose(back.magnitudes(X), autoencoder.eval().magnitudes(X))


@pytest.mark.parametrize("text", ["!", 5, "AAAA", base64.b64encode(np.full(24, 2.0, "<f4").tobytes()).decode()])
def test_rates_that_are_none_are_refused(random_autoencoder: Make, tmp_path: Path, text: object):
    interop.export_saelens(random_autoencoder("bae"), tmp_path)
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    edit(tmp_path, metadata={**metadata, "bae_ray_prior": text})
    with pytest.raises(CheckpointError, match=r"bae_ray_prior is .*expected 24 rates in \[0, 1\]"):
        interop.import_saelens(tmp_path)


def released(folder: Path, d: int = 6, f: int = 24) -> Path:
    """A file of the paper's released code, which has no rates."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (f, d), "encoder.bias": (f,), "decoder.weight": (d, f), "decoder.bias": (d,)}
    save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, folder / "bae.safetensors")
    return folder / "bae.safetensors"


def test_without_rates_burstiness_is_refused_and_all_else_works(tmp_path: Path):
    imported = interop.read_release(released(tmp_path), "bae")
    imported.save_pretrained(tmp_path / "saved")
    for autoencoder in (imported, load_autoencoder(tmp_path / "saved")):
        with pytest.raises(NoPriorError, match=r"no prior.*--prior-from STORE; in Python, feature_statistics"):
            autoencoder.magnitudes(X)
        with pytest.raises(NoPriorError):
            compress_activations(autoencoder, X, "indices", threshold=-0.5)
        x_hat = autoencoder.decode(autoencoder.encode(X))
        assert torch.equal(decompress_activations(autoencoder, compress_activations(autoencoder, X)), x_hat)
    feature_statistics(imported, X).set_reference(imported)
    rates = imported.encode(X).mean(0)
    expected = ((imported.encode(X) - rates).abs() + 1e-6).log2()
    assert torch.allclose(imported.magnitudes(X), expected, atol=1e-5)


def test_magnitudes_of_several_bits_need_no_rates():
    autoencoder = build_autoencoder(BAEConfig(d_in=6, d_latent=24, bits_per_feature=2)).eval()
    assert autoencoder.magnitudes(X).shape == (40, 12)


def test_import_takes_rates_from_a_store(tiny_store: Path, tmp_path: Path, bae_ray):
    store = ActivationStore.open(tiny_store)
    f = 2 * store.manifest.d
    command = ("import", "--source", released(tmp_path, store.manifest.d, f), "--format", "release")
    code, _, complaint = bae_ray(*command, "--out", tmp_path / "without")
    assert code == 0
    assert "warning: the file holds no firing rates" in complaint
    cell = store.cells[-1]
    given = ("--prior-from", tiny_store, "--layer", cell.layer, "--site", cell.site, "--position", cell.position)
    code, _, complaint = bae_ray(*command, "--out", tmp_path / "with", *given)
    assert (code, "warning" in complaint) == (0, False), complaint
    found, rows = load_autoencoder(tmp_path / "with"), Rows(store.shards(cell.layer, cell.position, cell.site))
    assert torch.allclose(found.prior, found.encode(next(rows.split(10**6))).mean(0), atol=1e-6)
    assert found.magnitudes(next(rows.split(5))).shape == (5, f)
    for wrong, message in (
        (("--prior-from", tiny_store, "--layer", 99), "has 0 cells that fit"),
        (("--layer", 1), "--layer selects a cell of --prior-from"),
        (("--prior-from", tmp_path), "holds no finished activation store"),
    ):
        code, _, complaint = bae_ray(*command, "--out", tmp_path / "no", *wrong)
        assert code == EXIT_INVALID
        assert message in complaint.replace("\n", " ")
        assert not (tmp_path / "no").exists()


class TestActivationFunctions:
    """What SAELens folders say of their non-linearity is taken as a whole, or refused."""

    def folder(self, path: Path, **config: object) -> Path:
        generator = torch.Generator().manual_seed(0)
        shapes = {"W_enc": (6, 24), "W_dec": (24, 6), "b_enc": (24,), "b_dec": (6,)}
        save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, path / "sae_weights.safetensors")
        base = {"d_in": 6, "d_sae": 24, "apply_b_dec_to_input": False}
        (path / "cfg.json").write_text(json.dumps({**base, **config}))
        return path

    @pytest.mark.parametrize(
        "config",
        [
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}},
            {"activation_fn": "topk", "architecture": "standard", "k": 5},
            {"activation_fn": "topk", "k": 5, "activation_fn_kwargs": {"k": 5}},
            {"architecture": "topk", "activation_fn_kwargs": {"k": 5}},
            {"architecture": "topk", "k": 5, "activation_fn": "relu"},
        ],
    )
    def test_k_is_found_wherever_it_stands(self, tmp_path: Path, config: dict):
        found = interop.import_saelens(self.folder(tmp_path, **config))
        p = X @ found.W_enc + found.get_parameter("b_enc")
        kept = p.topk(5).indices
        expected = torch.zeros_like(p).scatter(1, kept, p.gather(1, kept).relu())
        assert torch.allclose(found.encode(X), expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "k is None .*expected the number of latents"),
            ({"activation_fn": "topk", "activation_fn_kwargs": None}, "k is None"),
            ({"activation_fn": "topk", "k": 5, "activation_fn_kwargs": {"k": 6}}, "the config's own k, 5"),
            ({"architecture": "standard", "activation_fn_kwargs": {"k": 5}}, "the config's own k, None"),
            ({"architecture": "standard", "k": 5}, "k is 5 .*expected none for architecture standard"),
            ({"architecture": "transcoder", "d_out": 6, "activation_fn": "topk", "k": 5}, "activation_fn is 'topk'"),
            ({"architecture": None}, "architecture is 'None'"),
            ({"activation_fn": None}, "activation_fn is None"),
            ({"use_error_term": True}, "use_error_term is True"),
            ({"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": "no"}, "expected true or false"),
        ],
    )
    def test_what_is_not_whole_is_refused(self, tmp_path: Path, config: dict, message: str):
        with pytest.raises(CheckpointError, match=message):
            interop.import_saelens(self.folder(tmp_path, **config))
