"""Autoencoders read from SAELens folders (github.com/decoderesearch/SAELens, sae_lens/saes/ and loading/)."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders.architectures import config_read_from
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.autoencoders.interop.weights import assemble, check_tensors, read_json, read_safetensors
from bae_ray.errors import CheckpointError

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
R_MAG_OF_CODES = -1000.0
"""exp(R) is 0 in every float type. A binary autoencoder is written as a Gated SAE with this r_mag."""
GATED_CODES = "gated, with magnitudes of 1"
"""A Gated SAE that is a binary autoencoder."""
GRADIENT_FIELD = "bae_ray_gradient"
"""Metadata field with the gradient of a binary autoencoder's step."""
PRIOR_FIELD = "bae_ray_prior"
"""Metadata field with the firing rates over the reference set: `prior_text`."""
NOT_NORMALIZED = (
    "'none'; where SAELens can, fold it into the weights (fold_activation_norm_scaling_factor or "
    "fold_activation_whitening) and save again"
)

_COMMON = {"W_enc": "D F", "W_dec": "F O", "b_dec": "O"}
_LAYOUTS = {
    "standard": {**_COMMON, "b_enc": "F"},
    "topk": {**_COMMON, "b_enc": "F"},
    "jumprelu": {**_COMMON, "b_enc": "F", "threshold": "F"},
    "gated": {**_COMMON, "b_gate": "F", "b_mag": "F", "r_mag": "F"},
    "transcoder": {**_COMMON, "b_enc": "F"},
}
_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


def import_saelens(folder: str | Path) -> Autoencoder:
    """The autoencoder in a folder of SAELens, with `cfg.json` and `sae_weights.safetensors`, in evaluation mode.

    standard becomes `relu`, topk `topk`, jumprelu `jumprelu`, transcoder `transcoder`, gated `gated_sae`, or `bae`
    where its magnitudes are 1 whatever the input, as `export_saelens` writes it. Their b_dec that is subtracted from
    the input, and their scaling by the decoder's norms, are folded into the weights, in float64. Configs of SAELens
    before 6.0 are read too.

    Raises `CheckpointError` for damaged files, and for an
    architecture or an option that cannot be represented here.
    """
    folder = Path(folder)
    file = folder / CONFIG_FILE
    config = _modern(read_json(file))
    _check_options(config, file)
    tensors = read_safetensors(folder / WEIGHTS_FILE)
    # Old folders carry a factor for fine-tuning, nearly always 1. Only then is it of no effect.
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise CheckpointError(
            f"scaling_factor in {folder / WEIGHTS_FILE} is not 1: fine-tuned scaling cannot be represented. Multiply "
            "W_dec by it, and remove it."
        )
    architecture = config["architecture"]
    sizes = {"D": _positive(config, "d_in", file), "F": _positive(config, "d_sae", file)}
    sizes["O"] = _positive(config, "d_out", file) if architecture == "transcoder" else sizes["D"]
    if sizes["O"] != sizes["D"]:
        _refuse(file, "d_out", sizes["O"], f"d_in ({sizes['D']}): bae_ray's transcoders have one width")
    check_tensors(tensors, _LAYOUTS[architecture], folder / WEIGHTS_FILE, sizes)
    kind, fields, weights = _convert(config, {name: tensor.double() for name, tensor in tensors.items()}, file)
    if (prior := _prior(config, sizes["F"], file)) is not None:
        weights["prior"] = prior
    return assemble(kind, sizes, fields, weights, file)


def prior_text(prior: Tensor) -> str:
    """Firing rates [F] as base64 of little-endian float32."""
    return base64.b64encode(prior.detach().cpu().float().numpy().astype("<f4").tobytes()).decode()


def _prior(config: Mapping[str, Any], d_latent: int, file: Path) -> Tensor | None:
    """The firing rates [F] that a config of `export_saelens` holds; None where it holds none."""
    metadata = config.get("metadata")
    text = metadata.get(PRIOR_FIELD) if isinstance(metadata, dict) else None
    if text is None:
        return None
    try:
        rates = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (TypeError, ValueError):
        rates = np.empty(0, np.float32)
    if len(rates) != d_latent or not ((rates >= 0) & (rates <= 1)).all():
        _refuse(file, PRIOR_FIELD, f"{str(text)[:40]}...", f"{d_latent} rates in [0, 1], as base64 of float32")
    return torch.from_numpy(rates)


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """A config as SAELens 6.0 and later write it, from one of any version."""
    config = {_RENAMED.get(name, name): value for name, value in config.items()}
    config["architecture"] = str(config.get("architecture", "standard"))
    config.setdefault("apply_b_dec_to_input", config["architecture"] != "transcoder")
    if config.get("activation_fn") == "topk" and config["architecture"] == "standard":
        config["architecture"] = "topk"
    settings = config.get("activation_fn_kwargs")
    if isinstance(settings, dict) and config["architecture"] == "topk":
        config.setdefault("k", settings.get("k"))
    if not config.get("normalize_activations"):  # None or False in old ones
        config["normalize_activations"] = "none"
    if "reshape_activations" not in config:
        config["reshape_activations"] = "hook_z" if "hook_z" in str(config.get("hook_name")) else "none"
    return config


def _check_options(config: Mapping[str, Any], file: Path) -> None:
    """Raise `CheckpointError` for an option under which SAELens computes what no autoencoder of ours does."""
    architecture = config["architecture"]
    if architecture not in _LAYOUTS:
        hint = "; save it with save_inference_model, which makes it a jumprelu" if "batchtopk" in architecture else ""
        _refuse(file, "architecture", architecture, f"one of {', '.join(_LAYOUTS)}{hint}")
    shifted, rescaled = config["apply_b_dec_to_input"], config.get("rescale_acts_by_decoder_norm") or False
    for name, fits, expected in (
        ("normalize_activations", config["normalize_activations"] == "none", NOT_NORMALIZED),
        ("reshape_activations", config["reshape_activations"] == "none", "'none': activations are vectors here"),
        ("apply_b_dec_to_input", isinstance(shifted, bool), "true or false"),
        ("apply_b_dec_to_input", architecture != "transcoder" or not shifted, "false for a transcoder"),
        ("use_error_term", not config.get("use_error_term"), "false: its output is the input"),
        ("rescale_acts_by_decoder_norm", isinstance(rescaled, bool), "true or false"),
    ):
        if not fits:
            _refuse(file, name, config[name], expected)
    _check_activation(config, file)


def _check_activation(config: Mapping[str, Any], file: Path) -> None:
    """Raise `CheckpointError` where the non-linearity is none of ours, or is not said as a whole."""
    architecture, k = config["architecture"], config.get("k")
    expected = ["relu", "topk"] if architecture in ("standard", "topk") else ["relu"]
    if config.get("activation_fn", "relu") not in expected:
        _refuse(file, "activation_fn", config["activation_fn"], " or ".join(map(repr, expected)))
    settings = config.get("activation_fn_kwargs") or {}
    if not isinstance(settings, dict) or any(value for name, value in settings.items() if name != "k"):
        _refuse(file, "activation_fn_kwargs", settings, "nothing but k")
    # Old configs of ReLU autoencoders may carry a k that nothing used.
    if settings.get("k", k) != k and (architecture == "topk" or "activation_fn" not in config):
        _refuse(file, "activation_fn_kwargs", settings, f"the config's own k, {k}, for architecture {architecture}")
    if architecture == "topk" and k is None:
        _refuse(file, "k", k, "the number of latents kept")
    if architecture != "topk" and k is not None:
        _refuse(file, "k", k, f"none for architecture {architecture}, or activation_fn 'topk'")


def _convert(
    config: Mapping[str, Any], tensors: dict[str, Tensor], file: Path
) -> tuple[type[ArchitectureConfig], dict[str, Any], dict[str, Tensor]]:
    """Our config class, its fields besides the widths, and the weights, in float64."""
    weights = {name: tensors[name] for name in ("W_enc", "W_dec", "b_dec")}
    shift = torch.zeros_like(tensors["W_enc"][0])
    if config["apply_b_dec_to_input"]:
        shift = -(tensors["b_dec"] @ tensors["W_enc"])
    if config["architecture"] == "gated":
        return _convert_gated(config, tensors, weights, shift)
    weights["b_enc"] = tensors["b_enc"] + shift
    fields: dict[str, Any] = {}
    if config["architecture"] == "topk":
        if config.get("rescale_acts_by_decoder_norm"):
            norms = weights["W_dec"].norm(dim=-1)
            if not bool(norms.all()):
                _refuse(file, "rescale_acts_by_decoder_norm", True, "false, as W_dec has rows of norm 0")
            weights["W_enc"] = weights["W_enc"] * norms
            weights["b_enc"] = weights["b_enc"] * norms
            weights["W_dec"] = weights["W_dec"] / norms.unsqueeze(-1)
        fields = {"k": config["k"], "nonnegative": True}
    elif config["architecture"] == "jumprelu":
        # Their latents are also cut at 0, so that a threshold below it is as good as 0.
        weights["log_threshold"] = tensors["threshold"].clamp_min(0).log()
    return config_read_from("saelens", config["architecture"]), fields, weights


def _convert_gated(
    config: Mapping[str, Any], tensors: dict[str, Tensor], weights: dict[str, Tensor], shift: Tensor
) -> tuple[type[ArchitectureConfig], dict[str, Any], dict[str, Tensor]]:
    """A Gated SAE; a binary autoencoder where every magnitude is 1."""
    b_gate, b_mag, r_mag = tensors["b_gate"] + shift, tensors["b_mag"], tensors["r_mag"]
    if bool((r_mag == R_MAG_OF_CODES).all() and (b_mag == 1).all()):
        metadata = config.get("metadata")
        # Their gate is open above 0, as the step of the release: that of an autoencoder that is not known as ours.
        gradient = metadata.get(GRADIENT_FIELD, "release") if isinstance(metadata, dict) else "release"
        return config_read_from("saelens", GATED_CODES), {"gradient": gradient}, weights | {"b_enc": b_gate}
    b_mag = b_mag + shift * r_mag.exp()
    return config_read_from("saelens", "gated"), {}, weights | {"b_gate": b_gate, "b_mag": b_mag, "r_mag": r_mag}


def _positive(config: Mapping[str, Any], name: str, file: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(file, name, value, "a positive whole number")
    return value


def _refuse(file: Path, name: str, value: object, expected: str) -> NoReturn:
    raise CheckpointError(f"{name} is {value!r} in {file}; expected {expected}. This cannot be imported as it is.")
