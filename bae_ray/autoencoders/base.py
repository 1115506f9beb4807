"""What all autoencoders have in common: weights, interface, and each cell's normalisation.

Shapes: N samples, D d_in, F d_latent, G features (rows of the dictionary; G = F but for more-bit decoding). Parameters
may carry one more, leading dimension of members: autoencoders of one architecture that are trained as one tensor
(training/stack.py). So the methods that training calls work on the last two dimensions only.
"""

from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.autoencoders.checkpoint import load_autoencoder, save_autoencoder
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.autoencoders.hub import OnHub
from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.errors import InvalidInputError
from bae_ray.values import LARGE, check_finite, check_type, largest

MULTIPLIED = ("W_enc", "b_enc", "W_dec", "b_dec")
"""Parameters that only `affine` uses, so that in bf16 they may be copies in that precision."""


class AutoencoderOutput(NamedTuple):
    """Latents [N, F] and reconstruction [N, D]."""

    latents: Tensor
    x_hat: Tensor


class Autoencoder(nn.Module, OnHub):
    """Base of the autoencoders: x_hat = activate(x W_enc + b_enc) W_dec + b_dec.

    `encode`, `decode` and `forward` take and give activations in the language model's own units. Inside, the
    autoencoder works on (x - mean) / scale: the size of activations differs a thousandfold between layers, and the same
    loss weights should mean the same in each. `pre_activations`, `activate` and `decode_normalized` work on those
    normalised numbers.

    Activations must be real numbers that are finite in the autoencoder's dtype (`bae_ray.values`).

    Buffers: `mean` [D] and `scale` []. `prior` [F]: the firing rates over the reference set (by default all activations
    of the training); all 0 without a reference set. With `standardize` also `latent_mean` and `latent_std` [F] over the
    same set.
    """

    mean: Tensor
    scale: Tensor
    prior: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = architecture_of(config)
        self.penalties = self.architecture.penalties
        self.d_in, self.d_latent = config.widths()
        self.standardize = bool(getattr(config, "standardize", False))
        self.source: str | None = None
        """Where it was loaded from: a run's id, a folder's name, or an id on the hub."""
        self.stored_hashes: dict[str, str] = {}
        """From the `model_hash` after loading to the one of the file, if the numbers in the file are not float32."""
        self.tree: ChowLiuTree | None = None
        """Of a binary autoencoder, the tree over its latents on the reference set, if that is known."""
        self.register_buffer("mean", torch.zeros(self.d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("prior", torch.zeros(self.d_latent))
        if self.standardize:
            self.register_buffer("latent_mean", torch.zeros(self.d_latent))
            self.register_buffer("latent_std", torch.ones(self.d_latent))
        self.W_enc = nn.Parameter(torch.empty(self.d_in, self.d_latent))
        bias = nn.Parameter(torch.empty(self.d_latent)) if self.has_encoder_bias else None
        self.b_enc = cast(nn.Parameter | None, bias)
        self.W_dec = nn.Parameter(torch.empty(self.n_features, self.d_in))
        self.b_dec = nn.Parameter(torch.empty(self.d_in))

    @override
    def __repr__(self) -> str:
        """Its architecture, its widths, and where it was loaded from (of a run: the run's id)."""
        loaded = f", {self.source}" if self.source else ""
        return f"{type(self).__name__}({self.config.name}, d_in={self.d_in}, d_latent={self.d_latent}{loaded})"

    @property
    def has_encoder_bias(self) -> bool:
        """Whether there is a `b_enc`."""
        return self.config.encoder_bias

    @property
    def has_prior(self) -> bool:
        """Whether the firing rates over a reference set are known. Files of other packages rarely contain them."""
        return bool(self.prior.any())

    @property
    def n_features(self) -> int:
        """Rows of the dictionary W_dec."""
        return self.config.n_features

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the weights uniformly in +-1/sqrt(fan in), as `torch.nn.Linear` does, from `generator` if given."""
        for parameter, fan_in in (
            (self.W_enc, self.d_in),
            (self.b_enc, self.d_in),
            (self.W_dec, self.n_features),
            (self.b_dec, self.n_features),
        ):
            if parameter is not None:
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / scale of activations [N, D], in the autoencoder's dtype."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale

    @property
    def target_normalization(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and scale [] of what is reconstructed."""
        return self.mean, self.scale

    @property
    def reconstructs_input(self) -> bool:
        """Whether its target is its input, not another cell's activations with their own normalisation."""
        return self.target_normalization[0] is self.mean

    def normalize_target(self, y: Tensor) -> Tensor:
        """The normalised target activations y [N, D], with which training compares the reconstruction."""
        mean, scale = self.target_normalization
        return (y.to(mean.dtype) - mean) / scale

    def denormalize(self, x_hat: Tensor) -> Tensor:
        """Undo `normalize_target`."""
        mean, scale = self.target_normalization
        return x_hat * scale + mean

    def encode(self, x: Tensor) -> Tensor:
        """Latents [N, F] of activations [N, D].

        Raises `InvalidInputError` for another shape or type, and `NotFiniteError` for numbers that are NaN, infinite,
        or so large that normalisation or weights overflow.
        """
        return self.activate(self._before(x))

    def fires(self, x: Tensor) -> Tensor:
        """Which latents of activations [N, D] are not 0, as booleans [N, F]. Raises what `encode` does."""
        return self.encode(x) != 0

    def features_fire(self, x: Tensor) -> Tensor:
        """Which features are present in activations [N, D], as booleans [N, G]. Raises what `encode` does."""
        return self.fires(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Activations [N, D] reconstructed from latents [N, F]. Raises what `encode` does."""
        _check_shape("latents", latents, "d_latent", self.d_latent)
        check_type(latents, "latents", booleans=True)
        latents = latents.to(self.mean.dtype)
        check_finite(latents, "latents")
        return self.denormalize(self.decode_normalized(latents))

    def forward(self, x: Tensor) -> AutoencoderOutput:
        """Encode and decode activations [N, D]."""
        latents = self.encode(x)
        return AutoencoderOutput(latents, self.decode(latents))

    def magnitudes(self, x: Tensor) -> Tensor:
        """How strong each feature is in activations [N, D], as [N, G]. Features are selected by it.

        The latents (paper, section 5.1), standardised over the reference set if the config says so.
        """
        latents = self.encode(x)
        if not self.standardize:
            return latents
        varies = self.latent_std > 0
        return torch.where(varies, (latents - self.latent_mean) / self.latent_std.where(varies, 1.0), 0.0)

    def latent_directions(self, latents: Tensor | None = None) -> Tensor:
        """What each latent adds to the normalised reconstruction when it is 1, in float64: [F, D], or [K, D].

        `latents`: indices [K] of some latents.
        """
        return (self.W_dec if latents is None else self.W_dec[latents]).double()

    def pre_activations(self, x: Tensor) -> Tensor:
        """X W_enc [+ b_enc], [N, F], of normalised activations [N, D]."""
        return affine(x, self.W_enc, self.b_enc)

    @abstractmethod
    def activate(self, pre_activations: Tensor) -> Tensor:
        """Latents [N, F] from pre-activations [N, F]: the architecture's non-linearity."""

    def decode_normalized(self, latents: Tensor) -> Tensor:
        """Normalised activations [N, D] from latents [N, F]."""
        return affine(latents, self.W_dec, self.b_dec)

    def _before(self, x: Tensor) -> Tensor:
        """Pre-activations [N, F] of activations [N, D]."""
        _check_shape("x", x, "d_in", self.d_in)
        check_type(x, "x")
        normalized = self.normalize(x)
        pre_activations = self.pre_activations(normalized)
        if not largest(normalized) < LARGE:
            check_finite(x.to(self.mean.dtype), "x")
            check_finite(normalized, "(x - mean) / scale")
            check_finite(pre_activations, "the pre-activations of x")
        return pre_activations

    def penalized(self, pre_activations: Tensor, latents: Tensor) -> Tensor:  # noqa: ARG002
        """The numbers [N, F] that the penalties of training are computed on."""
        return latents

    def with_penalties(self, pre: Tensor, printed_entropy: bool, active: Collection[str]) -> tuple[Tensor, ...] | None:  # noqa: ARG002
        """Latents of pre-activations and the penalties of training, if kernels compute them together; else None.

        Penalties that are not `active` have no gradient.
        """
        return None

    def restart(self, dead: Tensor, living: Tensor) -> list[str]:  # noqa: ARG002
        """Set the biases of the latents `dead` (indices) to 0, their thresholds to the mean of those `living` (a mask).

        A step of reviving dead latents (training/revival.py). Returns the names of the parameters [F] that changed.
        """
        if self.b_enc is None:
            return []
        self.b_enc[dead] = 0.0
        return ["b_enc"]

    def least_firing(self, latents: Tensor) -> Tensor | float:  # noqa: ARG002
        """The learned thresholds of these latents (indices), above which they fire; 0 if none are learned."""
        return 0.0

    @override
    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json` and `model.safetensors` (weights, normalisation, reference set) into a folder."""
        save_autoencoder(self, Path(save_directory))

    @classmethod
    def from_pretrained(cls, source: str | Path, **hub: Any) -> "Autoencoder":
        """The autoencoder in a folder or on the hub, of any architecture; see `load_autoencoder`."""
        return load_autoencoder(source, **hub)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """X W + b of x [N, A], W [A, B], b [B]. All may have a leading dimension of members, W and b at least."""
    if x.ndim == 2 and weight.ndim == 2:
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    x = x.expand(weight.shape[0], *x.shape[-2:])
    if len(weight) == 1 and must_not_wait(weight.device):  # then the bias takes no pass over memory of its own
        return affine(x.squeeze(0), weight.squeeze(0), None if bias is None else bias.squeeze(0)).unsqueeze(0)
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(-2), x, weight)


def _check_shape(name: str, tensor: Tensor, width_name: str, width: int) -> None:
    if tensor.ndim != 2 or tensor.shape[1] != width:
        raise InvalidInputError(
            f"{name} has shape {tuple(tensor.shape)}; this autoencoder takes [n, {width}] ({width_name} = {width}). "
            "Reshape it, or load the autoencoder of these activations."
        )
