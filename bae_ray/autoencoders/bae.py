"""The binary autoencoder (paper, Eq. 1-2 and 7), and burstiness, the magnitude of its latents."""

from collections.abc import Collection

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.binarize import Gradient, binarize, fires
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.autoencoders.covariance import has_kernels
from bae_ray.autoencoders.decoding import decode_varying
from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.errors import InvalidInputError, NoPriorError

EPSILON = 1e-6
"""Added to the distance, as in the released code, so that a bit that is as certain as the prior has a finite value."""
NO_PRIOR = (
    "this binary autoencoder has no prior: the firing rates of all its latents are 0, so that every bit that fires "
    "would be as surprising as any other. It was imported without one, or no latent ever fired in training. Import it "
    "with --prior-from STORE; in Python, feature_statistics(autoencoder, x).set_reference(autoencoder) takes the rates "
    "from activations x."
)


class BinaryAutoencoder(Autoencoder):
    """x_hat = features(step(x W_enc [+ b_enc])) W_dec + b_dec (Eq. 1); the latents are a code of 0 and 1.

    The features are the code itself, or with C `bits_per_feature` one real number from every C of its bits (Eq. 7):
    entropy is of the code, the dictionary is of the features.
    """

    def __init__(self, config: BAEConfig) -> None:
        _, d_latent = config.widths()
        if d_latent % config.bits_per_feature:
            raise InvalidInputError(
                f"d_latent is {d_latent}, which {config.bits_per_feature} bits per feature do not divide. Choose an "
                "expansion or a d_latent that is a multiple of bits_per_feature."
            )
        super().__init__(config)
        self.bits_per_feature = config.bits_per_feature
        self.gradient: Gradient = config.gradient
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        return binarize(pre_activations, self.gradient)

    @override
    def with_penalties(self, pre: Tensor, printed_entropy: bool, active: Collection[str]) -> tuple[Tensor, ...] | None:
        members = pre.ndim == 3 and pre.dtype != torch.float64
        if torch.compiler.is_compiling() or not (members and must_not_wait(pre.device) and has_kernels()):
            return None
        from bae_ray.autoencoders.binary_triton import binary_terms  # Triton is where torch is built for a GPU

        return binary_terms(pre, self.gradient, printed_entropy, active)

    @override
    def fires(self, x: Tensor) -> Tensor:
        return fires(self._before(x), self.gradient)  # faster: no code of floats is made

    @override
    def features_fire(self, x: Tensor) -> Tensor:
        return self.features(self.encode(x)) > 0  # where any of a feature's bits does

    def features(self, code: Tensor) -> Tensor:
        """h_R of Eq. 7: sum over j of 2^j code_{iC+j} / (2^C - 1), [N, F / C], from a code [N, F]; in [0, 1]."""
        if self.bits_per_feature == 1:
            return code
        return code.unflatten(-1, (-1, self.bits_per_feature)) @ self._places(code)

    @override
    def latent_directions(self) -> Tensor:
        rows = super().latent_directions()
        if self.bits_per_feature == 1:
            return rows
        return (rows.unsqueeze(1) * self._places(rows).unsqueeze(-1)).flatten(0, 1)

    def _places(self, like: Tensor) -> Tensor:
        """Place values of a feature's bits, of sum 1: 2^j / (2^C - 1), [C]."""
        places = 2.0 ** torch.arange(self.bits_per_feature, device=like.device, dtype=like.dtype)
        return places / places.sum()

    @override
    def decode_normalized(self, latents: Tensor) -> Tensor:
        features = self.features(latents)
        if self.training:
            return decode_varying(features, self.W_dec, self.b_dec)
        return super().decode_normalized(features)  # evaluation: a sample must not depend on the others

    @override
    def magnitudes(self, x: Tensor) -> Tensor:
        """Burstiness against the prior (section 5.2), [N, F]; with more-bit decoding the real features, [N, F / C].

        Raises what `encode` does, and `NoPriorError` for burstiness where a bit fires and all firing rates are 0.
        """
        code = self.encode(x)
        if self.bits_per_feature > 1:
            return self.features(code)
        if not self.has_prior and bool(code.any()):
            raise NoPriorError(NO_PRIOR)
        zero, one = (burstiness(torch.full_like(self.prior, bit), self.prior) for bit in (0.0, 1.0))
        return torch.where(code > 0, one, zero)  # no logarithm per sample


def burstiness(code: Tensor, prior: Tensor, eps: float = EPSILON) -> Tensor:
    """log2(|code - prior| + eps) of a code [N, F] against firing rates [F]; the larger, the more surprising the bit."""
    return ((code - prior).abs() + eps).log2()
