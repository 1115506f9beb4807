"""The configs of the autoencoders' architectures."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from bae_ray.config import Config
from bae_ray.errors import InvalidInputError

Reduction = Literal["mean", "sum"]
"""How an error of several dimensions becomes one number."""
EntropyForm = Literal["bernoulli", "printed"]
"""-p log2 p - (1-p) log2(1-p), or -p log2 p alone, as Eq. 4 prints it."""


class ArchitectureConfig(Config):
    """What all architectures have in common."""

    d_in: int | None = Field(default=None, ge=1)
    """Width of the activations; left out, it is taken from the data."""
    expansion: int = Field(default=4, ge=1)
    """d_latent / d_in."""
    d_latent: int | None = Field(default=None, ge=1)
    """Number of latents, in place of expansion x d_in."""
    encoder_bias: bool = True
    """Add a bias before the non-linearity, as the released code does. Eq. 1 prints none, but without one a centred
    activation and its opposite have opposite codes, so that latents fire half of the time whatever they mean."""

    def widths(self) -> tuple[int, int]:
        """(d_in, d_latent). Raises `InvalidInputError` where d_in is not known yet."""
        if self.d_in is None:
            raise InvalidInputError("d_in is not set: give the width of the activations in the architecture's config.")
        return self.d_in, self.d_latent or self.d_in * self.expansion


class BAEConfig(ArchitectureConfig):
    """Binary autoencoder (paper, Eq. 1-2)."""

    architecture: Literal["bae"] = "bae"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    gradient: Literal["sigmoid", "straight_through", "release"] = "sigmoid"
    """Derivative of the step function. sigmoid: Eq. 6. straight_through: 1. release: the released code's rule, which
    applies g (1 - g) to the incoming gradient g itself."""
    bits_per_feature: int = Field(default=1, ge=1, le=8)
    """C of Eq. 7: so many bits are decoded as one real feature. Must divide d_latent."""


class _SAEConfig(ArchitectureConfig):
    standardize: bool = False
    """Rescale each latent to mean 0 and standard deviation 1 over the reference set where features are selected by
    magnitude (the paper's "ReLU SAE Resc."). Reconstruction stays as it is."""


class ReLUConfig(_SAEConfig):
    """ReLU sparse autoencoder (paper, Eq. 8-9)."""

    architecture: Literal["relu"] = "relu"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""


class TopKConfig(_SAEConfig):
    """Top-k sparse autoencoder (paper, Eq. 10-11): the k largest pre-activations are kept as they are."""

    architecture: Literal["topk"] = "topk"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    k: int = Field(default=15, ge=1)
    """Latents kept per sample."""
    nonnegative: bool = False
    """Set those of the k that are negative to 0, as SAELens and sparsify do and the paper does not."""


class GatedConfig(_SAEConfig):
    """The paper's Gated ReLU (Eq. 12-14): x where x > threshold, else 0; the threshold is fixed."""

    architecture: Literal["gated"] = "gated"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    threshold: float = Field(default=0.5, ge=0)
    """Gamma of Eq. 13."""


class TranscoderConfig(_SAEConfig):
    """Transcoder (paper, Eq. 15-16): a ReLU autoencoder that reconstructs another cell's activations."""

    architecture: Literal["transcoder"] = "transcoder"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    target_site: str = "mlp_out"
    """Site of the activations to reconstruct: mlp_out for the MLP's own output, residual for a hidden state."""
    target_layer_offset: int = 0
    """How many layers on from the input they are."""


class BatchTopKConfig(_SAEConfig):
    """Batch top-k sparse autoencoder (arXiv 2412.06410): k N latents are kept in a batch of N, wherever they are.

    Outside of training, all above a threshold learned as the mean of the smallest ones kept.
    """

    architecture: Literal["batchtopk"] = "batchtopk"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    k: int = Field(default=15, ge=1)
    """Latents kept per sample, on average."""


class JumpReLUConfig(_SAEConfig):
    """JumpReLU sparse autoencoder (arXiv 2407.14435): a learned threshold per latent, trained with an L0 penalty."""

    architecture: Literal["jumprelu"] = "jumprelu"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""
    initial_threshold: float = Field(default=0.01, gt=0)
    """Threshold that training starts from."""
    bandwidth: float = Field(default=0.05, gt=0)
    """Width of the kernel that estimates the thresholds' gradients."""


class GatedSAEConfig(_SAEConfig):
    """Gated sparse autoencoder of the literature (arXiv 2404.16014): one path decides what fires, another how much."""

    architecture: Literal["gated_sae"] = "gated_sae"
    """One of bae, relu, topk, gated, transcoder, batchtopk, jumprelu, gated_sae; the options beside are this one's."""

    @field_validator("encoder_bias")
    @classmethod
    def _check_bias(cls, value: bool) -> bool:
        if not value:
            raise ValueError("the gate and the magnitude of a gated_sae always have a bias")
        return value


AutoencoderConfig = Annotated[
    BAEConfig
    | ReLUConfig
    | TopKConfig
    | GatedConfig
    | TranscoderConfig
    | BatchTopKConfig
    | JumpReLUConfig
    | GatedSAEConfig,
    Field(discriminator="architecture"),
]
"""The config of any architecture; the field `architecture` says which."""

ARCHITECTURES: dict[str, type[ArchitectureConfig]] = {
    "bae": BAEConfig,
    "relu": ReLUConfig,
    "topk": TopKConfig,
    "gated": GatedConfig,
    "transcoder": TranscoderConfig,
    "batchtopk": BatchTopKConfig,
    "jumprelu": JumpReLUConfig,
    "gated_sae": GatedSAEConfig,
}
"""Config class of each architecture."""
