"""Autoencoders written as SAELens folders (github.com/decoderesearch/SAELens, sae_lens/saes/)."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from bae_ray.autoencoders.architectures import loaded
from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.baselines import GatedAutoencoder, TopKAutoencoder, Transcoder
from bae_ray.autoencoders.interop.saelens import (
    CONFIG_FILE,
    GRADIENT_FIELD,
    PRIOR_FIELD,
    R_MAG_OF_CODES,
    WEIGHTS_FILE,
    prior_text,
)
from bae_ray.autoencoders.literature import BatchTopKAutoencoder, GatedSAE, JumpReLUAutoencoder
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
    architecture = autoencoder.architecture
    if not architecture.saelens:
        raise InvalidInputError(f"SAELens has no architecture for {architecture.name}.")
    dtype = autoencoder.W_enc.dtype
    with torch.no_grad():
        encoder = autoencoder.W_enc.double() / autoencoder.scale.double()
        shift = -(autoencoder.mean.double() @ encoder)
        b_enc = shift if autoencoder.b_enc is None else shift + autoencoder.b_enc.double()
        form: SAELensForm = loaded(architecture.saelens)(autoencoder, Biases(b_enc, shift))
        mean, scale = (tensor.double() for tensor in autoencoder.target_normalization)
        tensors = {
            "W_enc": encoder,
            "W_dec": autoencoder.latent_directions() * scale,
            "b_dec": autoencoder.b_dec.double() * scale + mean,
            **form.tensors,
        }
    given = {"model_name": model_name, "hook_name": hook_name, **form.metadata}
    if autoencoder.has_prior:
        given[PRIOR_FIELD] = prior_text(autoencoder.prior)
    config = {
        "architecture": form.architecture,
        "d_in": autoencoder.d_in,
        "d_sae": autoencoder.d_latent,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **form.fields,
        # The version of the format; it was not trained there.
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, "sae_lens_training_version": None}
        | {name: value for name, value in given.items() if value is not None},
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()}, temporary)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


class SAELensForm(NamedTuple):
    """What SAELens has of an architecture, besides the weights that all have."""

    architecture: str
    """What SAELens calls it."""
    tensors: dict[str, Tensor]
    """Its biases and thresholds, in float64."""
    fields: dict[str, Any]
    """What its config has besides the widths."""
    metadata: dict[str, str]
    """What only this package reads, from the config's metadata."""


class Biases(NamedTuple):
    """What is added to x W_enc, with the normalisation folded in; in float64."""

    b_enc: Tensor
    """The encoder's bias, and the shift."""
    shift: Tensor
    """What centring the activations adds, [F]."""


def relu(_: Autoencoder, biases: Biases) -> SAELensForm:
    """A ReLU autoencoder."""
    return SAELensForm("standard", {"b_enc": biases.b_enc}, {}, {})


def topk(autoencoder: TopKAutoencoder, biases: Biases) -> SAELensForm:
    """A top-k autoencoder. Warns of one that keeps negative latents."""
    if not autoencoder.nonnegative:
        warnings.warn(TOPK_REMARK, InexactConversionWarning, stacklevel=3)
    fields = {"k": autoencoder.k, "rescale_acts_by_decoder_norm": False}
    return SAELensForm("topk", {"b_enc": biases.b_enc}, fields, {})


def transcoder(autoencoder: Transcoder, biases: Biases) -> SAELensForm:
    """A transcoder."""
    return SAELensForm("transcoder", {"b_enc": biases.b_enc}, {"d_out": autoencoder.d_in}, {})


def gated(autoencoder: GatedAutoencoder, biases: Biases) -> SAELensForm:
    """The paper's Gated ReLU: a JumpReLU whose thresholds are all the same."""
    return _jumprelu(biases, torch.full_like(biases.b_enc, autoencoder.threshold))


def jumprelu(autoencoder: JumpReLUAutoencoder, biases: Biases) -> SAELensForm:
    """A JumpReLU autoencoder."""
    return _jumprelu(biases, autoencoder.log_threshold.exp())


def batchtopk(autoencoder: BatchTopKAutoencoder, biases: Biases) -> SAELensForm:
    """A batch top-k autoencoder as a JumpReLU, as SAELens itself saves them.

    A threshold below 0 is not trained yet: then every positive latent is kept.
    """
    return _jumprelu(biases, autoencoder.threshold.clamp_min(0).expand_as(biases.b_enc))


def gated_sae(autoencoder: GatedSAE, biases: Biases) -> SAELensForm:
    """A Gated SAE."""
    tensors = {
        "b_gate": biases.shift + autoencoder.b_gate.double(),
        "b_mag": biases.shift * autoencoder.r_mag.double().exp() + autoencoder.b_mag.double(),
        "r_mag": autoencoder.r_mag,
    }
    return SAELensForm("gated", tensors, {}, {})


def binary(autoencoder: BinaryAutoencoder, biases: Biases) -> SAELensForm:
    """A Gated SAE whose magnitude is always 1: exp(r_mag) is 0, so that what is left of the magnitude is b_mag = 1."""
    gate = biases.b_enc
    if autoencoder.gradient != "release":
        # Their gate is open above 0, our step is 1 from 0 on. Without this, latents without any weights, whose
        # pre-activation is always 0, would differ. The smallest normal number changes no other sum.
        tiny = torch.finfo(autoencoder.W_enc.dtype).tiny
        gate = gate.where(gate.to(autoencoder.W_enc.dtype) != 0, tiny)
    tensors = {"b_gate": gate, "b_mag": torch.ones_like(gate), "r_mag": torch.full_like(gate, R_MAG_OF_CODES)}
    return SAELensForm("gated", tensors, {}, {GRADIENT_FIELD: autoencoder.gradient})


def _jumprelu(biases: Biases, threshold: Tensor) -> SAELensForm:
    return SAELensForm("jumprelu", {"b_enc": biases.b_enc, "threshold": threshold}, {}, {})
