"""SAELens folders, against its equations; the real package is in test_saelens.py."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray.autoencoders import BAEConfig, build_autoencoder, interop
from bae_ray.errors import BaeRayError, CheckpointError
from tests.autoencoders.exchange import architecture, close, edit

VARIANTS = [
    "bae", "bae_release", "bae_3_bits", "bae_no_bias", "relu", "relu_no_bias", "topk", "gated", "transcoder",
    "batchtopk", "batchtopk_untrained", "jumprelu", "gated_sae",
]  # fmt: skip
IMPORTED_AS = {
    "bae_release": "bae", "bae_3_bits": "bae", "bae_no_bias": "bae", "relu_no_bias": "relu", "gated": "jumprelu",
    "batchtopk": "jumprelu", "batchtopk_untrained": "jumprelu",
}  # fmt: skip


def saelens_encode(folder: Path, x: Tensor) -> Tensor:
    """Latents by SAELens' equations, sample by sample and in float64, from nothing but the two files."""
    config = json.loads((folder / "cfg.json").read_text())
    weights = {name: tensor.double() for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    latents = []
    for sample in x.double():
        p = (sample - weights["b_dec"] * config["apply_b_dec_to_input"]) @ weights["W_enc"]
        match config["architecture"]:
            case "gated":
                magnitude = (p * weights["r_mag"].exp() + weights["b_mag"]).clamp(min=0)
                latents.append(magnitude * (p + weights["b_gate"] > 0))
            case "jumprelu":
                p = p + weights["b_enc"]
                latents.append(p.clamp(min=0) * (p > weights["threshold"]))
            case "topk":
                p = p + weights["b_enc"]
                p = p * weights["W_dec"].norm(dim=-1) if config.get("rescale_acts_by_decoder_norm") else p
                latents.append(p.clamp(min=0) * (p >= p.sort(descending=True).values[config["k"] - 1]))
            case "standard" | "transcoder":
                latents.append((p + weights["b_enc"]).clamp(min=0))
    return torch.stack(latents).float()


def saelens_decode(folder: Path, latents: Tensor) -> Tensor:
    weights = load_file(folder / "sae_weights.safetensors")
    return latents @ weights["W_dec"] + weights["b_dec"]


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_saelens_there_and_back(autoencoders: dict, activations: Tensor, tmp_path: Path, name: str):
    autoencoder = autoencoders[name]
    expected = autoencoder(activations)
    interop.export_saelens(autoencoder, tmp_path)
    latents = saelens_encode(tmp_path, activations)
    close(latents, expected.latents)
    close(saelens_decode(tmp_path, latents), expected.x_hat)

    back = interop.import_autoencoder(tmp_path, format="saelens")
    assert architecture(back) == IMPORTED_AS.get(name, name)
    assert not back.training
    found = back(activations)
    close(found.latents, expected.latents)
    close(found.x_hat, expected.x_hat)


def test_variants_are_all_of_them(autoencoders: dict):
    assert sorted(VARIANTS) == sorted(autoencoders)


@pytest.mark.parametrize("gradient", ["sigmoid", "straight_through", "release"])
def test_gradient_and_latents_without_weights_survive(tmp_path: Path, gradient: str):
    autoencoder = build_autoencoder(BAEConfig(d_in=3, expansion=1, gradient=gradient))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        autoencoder.W_enc.zero_()
        assert autoencoder.b_enc is not None
        autoencoder.b_enc.zero_()
    x = torch.randn(5, 3)
    interop.export_saelens(autoencoder, tmp_path)
    back = interop.import_saelens(tmp_path)
    assert getattr(back.config, "gradient", None) == gradient
    assert torch.equal(saelens_encode(tmp_path, x), autoencoder.encode(x))
    assert torch.equal(back.encode(x), autoencoder.encode(x))


def test_bae_of_unknown_origin_has_their_step(autoencoders: dict, tmp_path: Path):
    interop.export_saelens(autoencoders["bae"], tmp_path)
    edit(tmp_path, metadata={"sae_lens_version": "6.54.12"})
    assert getattr(interop.import_saelens(tmp_path).config, "gradient", None) == "release"


def test_metadata_of_an_export(autoencoders: dict, tmp_path: Path):
    interop.export_saelens(autoencoders["relu"], tmp_path, model_name="gpt2", hook_name="blocks.2.hook_resid_pre")
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["metadata"] == {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": "gpt2",
        "hook_name": "blocks.2.hook_resid_pre",
    }


def test_topk_that_keeps_negative_latents_is_said(autoencoders: dict, tmp_path: Path):
    with pytest.warns(interop.InexactConversionWarning, match="least k pre-activations of a sample are positive"):
        interop.export_saelens(autoencoders["topk"], tmp_path)


def test_topk_without_negative_latents_is_exact(random_autoencoder, activations: Tensor, tmp_path: Path):
    """With k so large that negative latents are among those kept."""
    autoencoder = random_autoencoder("topk", k=11, nonnegative=True)
    interop.export_saelens(autoencoder, tmp_path)
    latents = autoencoder.encode(activations)
    assert ((latents > 0).sum(-1) < 11).any()
    close(saelens_encode(tmp_path, activations), latents)
    back = interop.import_saelens(tmp_path)
    assert back.config == autoencoder.config
    close(back.encode(activations), latents)


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
def test_topk_agrees_where_the_latents_kept_are_positive(random_autoencoder, activations: Tensor, tmp_path: Path):
    autoencoder = random_autoencoder("topk", k=11)
    latents = autoencoder.encode(activations)
    interop.export_saelens(autoencoder, tmp_path)
    negative = (latents < 0).any(-1)
    assert 0 < negative.sum() < len(negative)
    close(saelens_encode(tmp_path, activations), latents.relu())


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated_sae", "bae"])
def test_b_dec_and_decoder_norms_are_folded(autoencoders, activations, tmp_path: Path, name: str, rescale: bool):
    interop.export_saelens(autoencoders[name], tmp_path)
    edit(tmp_path, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=rescale)
    latents = saelens_encode(tmp_path, activations)
    found = interop.import_saelens(tmp_path)(activations)
    close(found.latents, latents)
    scaled = rescale and name == "topk"  # the only architecture that has it
    norms = load_file(tmp_path / "sae_weights.safetensors")["W_dec"].norm(dim=-1) if scaled else 1
    close(found.x_hat, saelens_decode(tmp_path, latents / norms))


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
def test_configs_before_6(autoencoders: dict, activations: Tensor, tmp_path: Path):
    interop.export_saelens(autoencoders["topk"], tmp_path)
    legacy = {
        "d_in": 6, "d_sae": 24, "dtype": "float32", "hook_point": "blocks.0.hook_resid_pre",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
        "normalize_activations": None, "finetuning_scaling_factor": False,
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(legacy))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": torch.ones(24)}, tmp_path / "sae_weights.safetensors")
    found = interop.import_saelens(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 3, "apply_b_dec_to_input": True}))
    close(found.encode(activations), saelens_encode(tmp_path, activations))
    legacy.update(activation_fn_str="relu", architecture="standard")
    (tmp_path / "cfg.json").write_text(json.dumps(legacy))
    assert architecture(interop.import_saelens(tmp_path)) == "relu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "architecture is 'temporal' in .*cfg.json; expected one of standard, topk"),
        ({"architecture": ["standard"]}, "architecture is "),
        ({"architecture": "batchtopk"}, "save it with save_inference_model"),
        ({"architecture": "topk"}, "k is None in .*; expected the number of latents kept"),
        ({"architecture": "topk", "k": 99}, "k is 99 but there are only 24 latents"),
        ({"architecture": "topk", "k": "few"}, "k of .*cfg.json is 'few': Input should be a valid integer"),
        ({"architecture": "jumprelu"}, "missing: threshold; unknown: none"),
        ({"architecture": "transcoder", "d_out": 7}, r"d_out is 7 .*; expected d_in \(6\)"),
        ({"architecture": "transcoder", "d_out": 6, "apply_b_dec_to_input": True}, "expected false for a transcoder"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm' in .*; expected 'none'"),
        ({"normalize_activations": True}, "normalize_activations is True"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z' in .*; expected 'none'"),
        ({"reshape_activations": ..., "hook_name": "blocks.0.attn.hook_z"}, "reshape_activations is 'hook_z'"),
        ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu' in .*; expected 'relu' or 'topk'"),
        ({"activation_fn_kwargs": {"signed": True}}, "activation_fn_kwargs is {'signed': True}"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes' in .*; expected true or false"),
        ({"d_in": ...}, "d_in is None in .*; expected a positive whole number"),
        ({"d_sae": 23}, r"W_enc in .* has shape \[6, 24\], expected \[6, 23\]"),
    ],
)
def test_what_saelens_has_and_we_do_not(autoencoders: dict, tmp_path: Path, changes: dict, message: str):
    interop.export_saelens(autoencoders["relu"], tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(BaeRayError, match=message):
        interop.import_saelens(tmp_path)


def test_damaged_saelens_folders(autoencoders: dict, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"cfg\.json is missing"):
        interop.import_saelens(tmp_path)
    interop.export_saelens(autoencoders["relu"], tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": torch.full((24,), 2.0)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match=r"scaling_factor in .* is not 1"):
        interop.import_saelens(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"sae_weights\.safetensors is missing"):
        interop.import_saelens(tmp_path)
    for content, message in (("{", "cannot be read as JSON"), ("[]", "holds a list, expected a JSON object")):
        (tmp_path / "cfg.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            interop.import_saelens(tmp_path)


def test_decoder_rows_of_norm_0_cannot_be_rescaled(autoencoders: dict, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interop.export_saelens(autoencoders["topk"], tmp_path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["W_dec"][2] = 0
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match="W_dec has rows of norm 0"):
        interop.import_saelens(tmp_path)
