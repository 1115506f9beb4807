"""The covariance penalty of Eq. 4 without waiting for the device: all shapes are known before.

Shapes: M members, N samples, F d_latent, V latents that vary in the batch: a number for each member, which stays on the
device. B columns of covariances are held at a time.

The varying columns are gathered to the front. The kernels' grids cover all F, and what lies beyond V ends at once.

N (N-1) cov = N C'C - s s' is taken in integers: C'C of 0 and 1 is exact in float16 with float32 sums. So value, signs
and column sums are exact whatever the order of the sums, and the same in each run.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bae_ray.autoencoders import kernels

TILE, DEPTH = 128, 64
"""Rows and columns of what a program computes, and terms of its sums that it loads at once."""
WARPS, STAGES = 8, 3
LATENTS_AT_ONCE = 4096
INT32_EXACT_ROOT = 46_340
"""The largest N whose square is an int32."""
WORKING_SET = 512 << 20
"""Bytes of signs that are held at a time, but for a tile's width of them."""
OPERAND = torch.float16
"""Exact for -1, 0 and 1. Triton's interpreter computes wrongly with bfloat16."""


class Latents(NamedTuple):
    """What the firing rates of a batch tell."""

    varying: Tensor
    """Numbers of the varying latents, then anything, [M, F]."""
    fired: Tensor
    """How often each of these fires, [M, F]."""
    counts: Tensor
    """How many there are, [M]."""
    entropy: Tensor
    """Of the firing rates, in bits, [M]."""
    slope: Tensor
    """Its derivative by an entry of a latent's column, [M, F]."""


def covariance_penalty(code: Tensor, working_set: int | None = None) -> Tensor:
    """The penalty [M] of a code [M, N, F] of 0 and 1; see `bae_ray.autoencoders.covariance`.

    Besides `working_set` it takes 6 bytes for each of the M N F entries. Up to 16,384 latents of one member the signs
    of all fit into it; beyond, blocks of columns are worked through.
    """
    differentiate = code.requires_grad and torch.is_grad_enabled()
    return _CovariancePenalty.apply(code, differentiate, working_set or WORKING_SET)  # pyright: ignore[reportReturnType]


class _CovariancePenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, differentiate: bool, working_set: int) -> Tensor:
        fired, n = code.sum(1, dtype=torch.int32), code.shape[1]
        with torch.cuda.device_of(code):
            value, gradient = value_and_gradient(code.contiguous(), ordered(fired, n), differentiate, working_set)
        if gradient is not None:
            ctx.save_for_backward(gradient, (fired > 0) & (fired < n))
        ctx.dtype = code.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        gradient, varies = ctx.saved_tensors
        weighted = torch.where(varies[:, None], gradient * grad_outputs[0][:, None, None], 0.0)
        return weighted.to(ctx.dtype), None, None


def ordered(fired: Tensor, n: int, printed: bool = False) -> Latents:
    """What follows from how often each latent fires in a batch of `n`, int32 [M, F]."""
    m, f = fired.shape
    latents = Latents(
        torch.empty_like(fired),
        torch.empty_like(fired),
        fired.new_empty(m),
        fired.new_empty(m, dtype=torch.float32),
        torch.empty_like(fired, dtype=torch.float32),
    )
    kernels.order[(m,)](fired, *latents, n, f, PRINTED=printed, BLOCK=LATENTS_AT_ONCE, num_warps=8)
    return latents


def value_and_gradient(
    code: Tensor, latents: Latents, differentiate: bool, working_set: int = WORKING_SET
) -> tuple[Tensor, Tensor | None]:
    """The penalty [M] of a contiguous code [M, N, F], and if asked for its gradient, float32, by the varying latents.

    The gradient's other columns, where it is 0, are not written.
    """
    m, n, f = code.shape
    varying, fired, counts, _, _ = latents
    wide = n > INT32_EXACT_ROOT or n * f >= 1 << 31
    gathered = torch.empty_like(code, dtype=OPERAND)
    kernels.gather[(tiles(n), tiles(f), m)](code, varying, counts, gathered, n, f, TILE=TILE, num_warps=8)
    width = columns_at_once(m, f, working_set)
    signs = code.new_empty(m, f, width, dtype=OPERAND) if differentiate else gathered
    sums = code.new_zeros(m, f, dtype=torch.int64 if wide else torch.int32)
    total = code.new_zeros(m, dtype=torch.int64)
    gradient = torch.empty_like(code, dtype=torch.float32) if differentiate else None
    options = {"TILE": TILE, "DEPTH": DEPTH, "num_warps": WARPS, "num_stages": STAGES}
    for start in range(0, f, width):
        across = tiles(min(width, f - start))
        kernels.signs[(tiles(f), across, m)](
            gathered, fired, counts, signs, sums, total, n, f, start, width,
            SYMMETRIC=width == f, KEEP=differentiate, WIDE=wide, **options,
        )  # fmt: skip
        if gradient is not None:
            kernels.gradient[(tiles(n), across, m)](
                gathered, varying, counts, signs, sums, gradient, n, f, start, width, 2 / (n - 1), **options
            )
    return (total.double() / (n * (n - 1))).float(), gradient


def columns_at_once(members: int, latents: int, working_set: int = WORKING_SET) -> int:
    """B: as many columns of signs as the working set holds, in whole tiles, and one tile at least."""
    tiles_of = working_set // (members * latents * OPERAND.itemsize * TILE)
    return min(latents, max(tiles_of, 1) * TILE)


def tiles(size: int, of: int = TILE) -> int:
    """How many tiles cover so many rows or columns."""
    return -(-size // of)
