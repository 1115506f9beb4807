"""The binary autoencoder (paper, Eq. 1-2 and 7): its code, burstiness as its magnitude, and its decoding in training.

Shapes: M members, N samples, F latents, V of them that vary in the batch, D width.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder, affine
from bae_ray.autoencoders.binarize import Gradient, binarize, fires
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.autoencoders.covariance import has_kernels
from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.errors import InvalidInputError, NoPriorError

EPSILON = 1e-6
"""Added to the distance |code - prior|, as in the released code, so that its logarithm is finite."""
DENSE_SHARE = 0.5
"""Above this share of varying latents, selecting them costs more than it saves."""
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
    def latent_directions(self, latents: Tensor | None = None) -> Tensor:
        if self.bits_per_feature == 1:
            return super().latent_directions(latents)
        latents = torch.arange(self.d_latent, device=self.W_dec.device) if latents is None else latents
        rows = super().latent_directions(latents // self.bits_per_feature)
        return rows * self._places(rows)[latents % self.bits_per_feature].unsqueeze(-1)

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
        """Burstiness against the prior (section 5.2), [N, F]. With more-bit decoding, the features [N, F / C].

        Raises what `encode` does, and `NoPriorError` if a bit fires but all firing rates are 0.
        """
        code = self.encode(x)
        if self.bits_per_feature > 1:
            return self.features(code)
        if not self.has_prior and bool(code.any()):
            raise NoPriorError(NO_PRIOR)
        zero, one = (burstiness(torch.full_like(self.prior, bit), self.prior) for bit in (0.0, 1.0))
        return torch.where(code > 0, one, zero)  # no logarithm per sample


def burstiness(code: Tensor, prior: Tensor, eps: float = EPSILON) -> Tensor:
    """log2(|code - prior| + eps) of a code [N, F] and firing rates [F]. The larger, the more surprising the bit."""
    return ((code - prior).abs() + eps).log2()


@torch.compiler.disable()  # its shapes depend on the data
def decode_varying(latents: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Latents W + b, [N, D], of latents [N, F], W [F, D] and b [D]; or members', [M, ...].

    A latent that is constant in the batch adds the same multiple of its row to every sample, and its row's gradient is
    that multiple of the output's summed gradient. So two of the three products, latents W and the gradient of W, are
    computed over the varying latents only. Value and gradients equal those of the plain product up to rounding. On a
    GPU the plain product is used: finding the varying latents would take longer.
    """
    if must_not_wait(latents.device):
        return affine(latents, weight, bias)
    if weight.ndim == 3:
        return _Decode.apply(latents, weight, bias)  # pyright: ignore[reportReturnType]
    return decode_varying(latents[None], weight[None], bias[None])[0]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = latents.dtype  # bfloat16 under autocast
        ctx.save_for_backward(latents, weight)
        ctx.selections = [_varying(member) for member in latents]
        x_hat = latents.new_empty(*latents.shape[:2], weight.shape[2])
        with torch.autocast(latents.device.type, enabled=False):
            for m, varying in enumerate(ctx.selections):
                if varying is None:
                    torch.addmm(bias[m].to(dtype), latents[m], weight[m].to(dtype), out=x_hat[m])
                else:
                    offset = torch.addmv(bias[m], weight[m].T, _constants(latents[m], varying).to(weight.dtype))
                    selected = weight[m].index_select(0, varying).to(dtype)
                    torch.addmm(offset.to(dtype), latents[m].index_select(1, varying), selected, out=x_hat[m])
        return x_hat

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents, weight = ctx.saved_tensors
        gradient = grad_outputs[0]
        total = gradient.sum(1, dtype=weight.dtype)
        to_weight = torch.empty_like(weight)
        for m, varying in enumerate(ctx.selections):
            if varying is None:
                to_weight[m] = latents[m].T @ gradient[m]
            else:
                torch.outer(_constants(latents[m], varying).to(weight.dtype), total[m], out=to_weight[m])
                rows = latents[m].index_select(1, varying).T @ gradient[m]
                to_weight[m].index_copy_(0, varying, rows.to(weight.dtype))
        return torch.bmm(gradient, weight.to(gradient.dtype).mT), to_weight, total


def _varying(latents: Tensor) -> Tensor | None:
    """Indices [V] of the latents [N, F] that vary; None where they are so many that they are not worth selecting."""
    varying = (latents != latents[0]).any(0).nonzero().squeeze(1)
    return varying if len(varying) < DENSE_SHARE * latents.shape[1] else None


def _constants(latents: Tensor, varying: Tensor) -> Tensor:
    """Value [F] of the constant latents, 0 in place of the varying ones."""
    return latents[0].index_fill(0, varying, 0)
