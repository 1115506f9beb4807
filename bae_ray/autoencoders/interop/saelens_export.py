"""Autoencoders written as SAELens folders (github.com/decoderesearch/SAELens, sae_lens/saes/)."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.baselines import GatedAutoencoder, ReLUAutoencoder, TopKAutoencoder, Transcoder
from bae_ray.autoencoders.batchtopk import BatchTopKAutoencoder
from bae_ray.autoencoders.gated_sae import GatedSAE
from bae_ray.autoencoders.interop.saelens import (
    CONFIG_FILE,
    GRADIENT_FIELD,
    PRIOR_FIELD,
    R_MAG_OF_CODES,
    WEIGHTS_FILE,
    prior_text,
)
from bae_ray.autoencoders.jumprelu import JumpReLUAutoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path, write_text

SAE_LENS_VERSION = "6.54.12"


TOPK_REMARK = (
    "SAELens sets negative ones of the k latents that it keeps to 0, this autoencoder does not: the two agree where at "
    "least k pre-activations of a sample are positive. Train with nonnegative to have them agree everywhere."
)


class InexactConversionWarning(UserWarning):
    """The converted autoencoder differs from the original on some inputs; the message says on which."""


def export_saelens(
    autoencoder: Autoencoder, folder: str | Path, model_name: str | None = None, hook_name: str | None = None
) -> None:
    """Write `cfg.json` and `sae_weights.safetensors`, which sae_lens.SAE.load_from_disk loads (6.x).

    Its encode of the language model's activations gives our latents, its decode our reconstruction in the model's own
    units: the normalisation is folded into the weights, in float64. What becomes of each architecture, and where that
    is not exact to the bit, is in docs/formats.md. The prior goes into the metadata, which SAELens keeps; `latent_mean`
    and `latent_std` are left out. `model_name` and `hook_name`, in TransformerLens' terms, go into the metadata too.

    Warns `InexactConversionWarning` for top-k autoencoders that keep negative latents. Raises `InvalidInputError` for
    members trained as one tensor, which are exported one by one.
    """
    folder = Path(folder)
    if autoencoder.W_enc.ndim != 2:
        raise InvalidInputError(f"W_enc has shape {list(autoencoder.W_enc.shape)}, expected [d_in, d_latent].")
    if isinstance(autoencoder, TopKAutoencoder) and not autoencoder.nonnegative:
        warnings.warn(TOPK_REMARK, InexactConversionWarning, stacklevel=2)
    dtype = autoencoder.W_enc.dtype
    with torch.no_grad():
        architecture, fields, tensors = _convert(autoencoder)
    given = {"model_name": model_name, "hook_name": hook_name}
    if isinstance(autoencoder, BinaryAutoencoder):
        given[GRADIENT_FIELD] = autoencoder.gradient
    if autoencoder.has_prior:
        given[PRIOR_FIELD] = prior_text(autoencoder.prior)
    config = {
        "architecture": architecture,
        "d_in": autoencoder.d_in,
        "d_sae": autoencoder.d_latent,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **fields,
        # The version of the format; it was not trained there.
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, "sae_lens_training_version": None}
        | {name: value for name, value in given.items() if value is not None},
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()}, temporary)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def _convert(autoencoder: Autoencoder) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """SAELens' architecture, its further config fields, and the weights in float64."""
    encoder = autoencoder.W_enc.double() / autoencoder.scale.double()
    shift = -(autoencoder.mean.double() @ encoder)
    b_enc = shift if autoencoder.b_enc is None else shift + autoencoder.b_enc.double()
    out_mean, out_scale = autoencoder.mean.double(), autoencoder.scale.double()
    if isinstance(autoencoder, Transcoder):
        out_mean, out_scale = autoencoder.target_mean.double(), autoencoder.target_scale.double()
    tensors = {
        "W_enc": encoder,
        "W_dec": _dictionary(autoencoder) * out_scale,
        "b_dec": autoencoder.b_dec.double() * out_scale + out_mean,
    }
    with_bias = tensors | {"b_enc": b_enc}
    match autoencoder:
        case BinaryAutoencoder():
            return "gated", {}, tensors | _code_as_gate(autoencoder, b_enc)
        case Transcoder():
            return "transcoder", {"d_out": autoencoder.d_in}, with_bias
        case ReLUAutoencoder():
            return "standard", {}, with_bias
        case TopKAutoencoder():
            return "topk", {"k": autoencoder.k, "rescale_acts_by_decoder_norm": False}, with_bias
        case GatedAutoencoder():
            return "jumprelu", {}, with_bias | {"threshold": torch.full_like(b_enc, autoencoder.threshold)}
        case JumpReLUAutoencoder():
            return "jumprelu", {}, with_bias | {"threshold": autoencoder.log_threshold.exp()}
        case BatchTopKAutoencoder():
            # As SAELens itself saves them. Below 0 it is not trained yet, and every positive latent is kept.
            return "jumprelu", {}, with_bias | {"threshold": autoencoder.threshold.clamp_min(0).expand_as(b_enc)}
        case GatedSAE():
            magnitudes = {
                "b_gate": shift + autoencoder.b_gate.double(),
                "b_mag": shift * autoencoder.r_mag.double().exp() + autoencoder.b_mag.double(),
                "r_mag": autoencoder.r_mag,
            }
            return "gated", {}, tensors | magnitudes
    raise InvalidInputError(f"SAELens has no architecture for {type(autoencoder).__name__}.")


def _dictionary(autoencoder: Autoencoder) -> Tensor:
    """A row for each latent, [F, D]: the bits of one feature share its row, each times the bit's place value."""
    rows = autoencoder.W_dec.double()
    if not isinstance(autoencoder, BinaryAutoencoder) or autoencoder.bits_per_feature == 1:
        return rows
    bits = autoencoder.bits_per_feature
    places = 2.0 ** torch.arange(bits, dtype=rows.dtype, device=rows.device)
    return (rows.unsqueeze(1) * (places / places.sum()).unsqueeze(-1)).flatten(0, 1)


def _code_as_gate(autoencoder: BinaryAutoencoder, b_enc: Tensor) -> dict[str, Tensor]:
    """A gate whose magnitude is always 1: exp(r_mag) is 0, so that what is left of the magnitude is b_mag = 1."""
    if autoencoder.gradient != "release":
        # Their gate is open above 0, our step is 1 from 0 on. Without this, latents without any weights, whose
        # pre-activation is always 0, would differ. The smallest normal number changes no other sum.
        tiny = torch.finfo(autoencoder.W_enc.dtype).tiny
        b_enc = b_enc.where(b_enc.to(autoencoder.W_enc.dtype) != 0, tiny)
    return {
        "b_gate": b_enc,
        "b_mag": torch.ones_like(b_enc),
        "r_mag": torch.full_like(b_enc, R_MAG_OF_CODES),
    }
