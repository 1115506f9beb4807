"""The configs of the autoencoders' architectures."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from typing_extensions import override

from bae_ray.config import Config
from bae_ray.errors import InvalidInputError

Reduction = Literal["mean", "sum"]
"""How an error over several dimensions becomes one number."""
EntropyForm = Literal["bernoulli", "printed"]
"""-p log2 p - (1-p) log2(1-p), or -p log2 p alone, as Eq. 4 prints it."""

WHICH = Field(
    description="One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae. The options beside it "
    "depend on it: --help after it lists them."
)


class ArchitectureConfig(Config):
    """What the options of all architectures have in common.

    Each has besides these a field `architecture`, a literal of its name: architectures.py tells the rest.
    """

    d_in: int | None = Field(default=None, ge=1)
    """Width of the activations. None: taken from the data."""
    expansion: int = Field(default=4, ge=1)
    """d_latent / d_in."""
    d_latent: int | None = Field(default=None, ge=1)
    """Number of latents. None: expansion x d_in."""
    encoder_bias: bool = True
    """Add a bias before the non-linearity, as the released code does. The paper's Eq. 1 has none. But without one a
    centred activation and its opposite have opposite codes: each latent fires about half of the time, whatever it
    means."""

    @property
    def name(self) -> str:
        """The architecture's name."""
        return str(type(self).model_fields["architecture"].default)

    @property
    def n_features(self) -> int:
        """Rows of the dictionary, G."""
        return self.widths()[1]

    @property
    def has_burstiness(self) -> bool:
        """Whether magnitudes are burstiness, which takes a prior (paper, section 5.2)."""
        return False

    def target_cell(self, layer: int, site: str) -> tuple[int, str] | None:  # noqa: ARG002
        """Layer and site that are reconstructed from this layer and site. None: the same ones."""
        return None

    def widths(self) -> tuple[int, int]:
        """(d_in, d_latent). Raises `InvalidInputError` where d_in is not known yet."""
        if self.d_in is None:
            raise InvalidInputError("d_in is not set: give the width of the activations in the architecture's config.")
        return self.d_in, self.d_latent or self.d_in * self.expansion


class BAEConfig(ArchitectureConfig):
    """Binary autoencoder (paper, Eq. 1-2)."""

    architecture: Annotated[Literal["bae"], WHICH] = "bae"
    gradient: Literal["sigmoid", "straight_through", "release"] = "sigmoid"
    """Derivative of the step function in the backward pass. sigmoid: Eq. 6. straight_through: 1. release: as the
    paper's released code, which replaces the incoming gradient g by g (1 - g)."""
    bits_per_feature: int = Field(default=1, ge=1, le=8)
    """C of Eq. 7: this many bits are decoded as one real-valued feature. Must divide d_latent."""

    @property
    @override
    def n_features(self) -> int:
        return self.widths()[1] // self.bits_per_feature

    @property
    @override
    def has_burstiness(self) -> bool:
        return self.bits_per_feature == 1


class _SAEConfig(ArchitectureConfig):
    standardize: bool = False
    """Rescale each latent to mean 0 and standard deviation 1 over the reference set when features are selected by
    magnitude (the paper's "ReLU SAE Resc."). Reconstruction does not change."""


class ReLUConfig(_SAEConfig):
    """ReLU sparse autoencoder (paper, Eq. 8-9)."""

    architecture: Annotated[Literal["relu"], WHICH] = "relu"


class TopKConfig(_SAEConfig):
    """Top-k sparse autoencoder (paper, Eq. 10-11): the k largest pre-activations are kept as they are."""

    architecture: Annotated[Literal["topk"], WHICH] = "topk"
    k: int = Field(default=15, ge=1)
    """Latents kept per sample."""
    nonnegative: bool = False
    """Set negative latents among the k to 0. SAELens and sparsify do so, the paper does not."""


class GatedConfig(_SAEConfig):
    """The paper's Gated ReLU (Eq. 12-14): x where x > threshold, else 0; the threshold is fixed."""

    architecture: Annotated[Literal["gated"], WHICH] = "gated"
    threshold: float = Field(default=0.5, ge=0)
    """Gamma of Eq. 13."""


class TranscoderConfig(_SAEConfig):
    """Transcoder (paper, Eq. 15-16): a ReLU autoencoder that reconstructs another cell's activations."""

    architecture: Annotated[Literal["transcoder"], WHICH] = "transcoder"
    target_site: str = "mlp_out"
    """Site of the activations to reconstruct: mlp_out for the MLP's own output, residual for a hidden state."""
    target_layer_offset: int = 0
    """How many layers after the input they are."""

    @override
    def target_cell(self, layer: int, site: str) -> tuple[int, str]:
        return layer + self.target_layer_offset, self.target_site


class BatchTopKConfig(_SAEConfig):
    """Batch top-k sparse autoencoder (arXiv 2412.06410): the k N largest latents of a batch of N samples are kept.

    After training, all latents above a threshold are kept: a running mean of the smallest latent kept in training.
    """

    architecture: Annotated[Literal["batchtopk"], WHICH] = "batchtopk"
    k: int = Field(default=15, ge=1)
    """Latents kept per sample, on average."""


class JumpReLUConfig(_SAEConfig):
    """JumpReLU sparse autoencoder (arXiv 2407.14435): a learned threshold per latent, trained with an L0 penalty."""

    architecture: Annotated[Literal["jumprelu"], WHICH] = "jumprelu"
    initial_threshold: float = Field(default=0.01, gt=0)
    """Threshold at the start of training."""
    bandwidth: float = Field(default=0.05, gt=0)
    """Width of the kernel that estimates the thresholds' gradients."""


class GatedSAEConfig(_SAEConfig):
    """Gated sparse autoencoder (arXiv 2404.16014): one path decides which latents fire, another how strongly."""

    architecture: Annotated[Literal["gated_sae"], WHICH] = "gated_sae"

    @field_validator("encoder_bias")
    @classmethod
    def _check_bias(cls, value: bool) -> bool:
        if not value:
            raise ValueError("the gate and the magnitude of a gated_sae always have a bias")
        return value
