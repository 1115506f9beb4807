"""A binary code and its penalties in few passes over memory, without waiting for the device.

Shapes: M members, N samples, F d_latent.
"""

from collections.abc import Collection
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from bae_ray.autoencoders import kernels
from bae_ray.autoencoders.binarize import Gradient
from bae_ray.autoencoders.covariance_triton import ordered, tiles, value_and_gradient

ROWS, COLUMNS = 32, 256
"""Of what a program computes."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class BinaryTerms(NamedTuple):
    """Code [M, N, F], and its marginal entropy and covariance penalty, [M] each."""

    code: Tensor
    entropy: Tensor
    covariance: Tensor


@torch.compiler.disable()
def binary_terms(pre_activations: Tensor, gradient: Gradient, printed: bool, active: Collection[str]) -> BinaryTerms:
    """The code of pre-activations [M, N, F], of one of `DTYPES`, and its penalties, to rounding as one by one.

    `gradient`: see `binarize`. `printed`: whether the entropy is `printed_entropy`. Penalties that are not `active`
    have no gradient.
    """
    wanted = tuple(name in active and torch.is_grad_enabled() for name in ("entropy", "covariance"))
    return BinaryTerms(*cast(tuple[Tensor, ...], _BinaryTerms.apply(pre_activations, gradient, printed, wanted)))


class _BinaryTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, gradient: Gradient, printed: bool, wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        pre = pre.contiguous()
        m, n, f = pre.shape
        with torch.cuda.device_of(pre):
            code = torch.empty_like(pre)
            fired = pre.new_zeros(m, f, dtype=torch.int32)
            kernels.binarize[_grid(pre)](
                pre, code, fired, n, f, STRICT=gradient == "release", ROWS=ROWS, COLUMNS=COLUMNS, num_warps=8
            )
            latents = ordered(fired, n, printed)
            covariance, of_covariance = value_and_gradient(code, latents, wanted[1])
        ctx.save_for_backward(pre, fired, latents.slope, of_covariance)
        ctx.rule, ctx.wanted = gradient, wanted
        terms = (latents.entropy, covariance)
        ctx.mark_non_differentiable(*(term for term, is_wanted in zip(terms, wanted, strict=True) if not is_wanted))
        return code, *terms

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        pre, fired, slope, of_covariance = ctx.saved_tensors
        to_code, to_entropy, to_covariance = (gradient.contiguous() for gradient in grad_outputs)
        out = torch.empty_like(pre)
        with torch.cuda.device_of(pre):
            kernels.backward[_grid(pre)](
                pre, to_code, pre if of_covariance is None else of_covariance, fired, slope, to_entropy, to_covariance,
                out, *pre.shape[1:], RULE=ctx.rule, ENTROPY=ctx.wanted[0], COVARIANCE=ctx.wanted[1],
                ROWS=ROWS, COLUMNS=COLUMNS, num_warps=8,
            )  # fmt: skip
        return out, None, None, None


def _grid(pre: Tensor) -> tuple[int, int, int]:
    m, n, f = pre.shape
    return tiles(n, ROWS), tiles(f, COLUMNS), m
