"""The covariance penalty of Eq. 4, exact, on the latents that vary, in bounded memory.

Shapes: N samples, F d_latent, V latents that vary in the batch, B of them at a time.

N (N-1) cov = N C'C - s s', with s the column sums of the code C, has integer entries. So the products are computed in
the precision in which the machine multiplies 0, 1 and -1 fastest; all of these are exact. A covariance from centred
columns would have a random sign at zero, and the gradient is that sign.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.errors import InvalidInputError

Precision = Literal["float", "bfloat16", "int8"]

WORKING_SET = {"cpu": 16 << 20, "cuda": 512 << 20}
"""Bytes that a block of covariances takes at most, by device: what fits the cache of a CPU; what keeps a GPU busy."""

BYTES_PER_COVARIANCE = 16
"""Of a block: itself, the product subtracted from it, its absolute values and its signs, at most 4 bytes each."""

BFLOAT16_EXACT = 256
"""Integers up to this are exact in bfloat16."""

INT32_EXACT_ROOT = 46_340
"""The largest N whose square is an int32."""


@torch.compiler.disable()  # its shapes depend on the data
def covariance_penalty(code: Tensor, precision: Precision | None = None, working_set: int | None = None) -> Tensor:
    """Sum over i != j of |cov(code)_ij| for a binary code [N, F] (the covariance term of Eq. 4), N >= 2.

    With a leading dimension of members, [M, N, F], a value for each, [M].

    Only latents that vary in the batch are used. A constant latent has zero covariance with every other and a zero
    subgradient, so value and gradient are those of the dense definition, at a fraction of its cost.

    The code must hold only 0 and 1; for other numbers the result is not their covariance. `precision` and `working_set`
    (bytes; besides, some 10 for each of the N x V entries that vary) change the speed and not the result. None: chosen
    by the device. Raises `InvalidInputError` for int8 on a GPU, which cannot multiply every shape.
    """
    if precision is None and must_not_wait(code.device) and code.dtype != torch.float64 and has_kernels():
        from bae_ray.autoencoders import covariance_triton  # Triton is where torch is built for a GPU

        members = code if code.ndim == 3 else code[None]
        value = covariance_triton.covariance_penalty(members, working_set)
        return value if code.ndim == 3 else value[0]
    if code.ndim == 3:
        return torch.stack([covariance_penalty(member, precision, working_set) for member in code.unbind(0)])
    if precision == "int8" and code.is_cuda:
        raise InvalidInputError("precision is int8 on a GPU; expected bfloat16 or float. Leave it out for the fastest.")
    if code.dtype not in (torch.float32, torch.float64):
        code = code.float()
    with torch.autocast(code.device.type, enabled=False):  # which would round the products
        return _CovariancePenalty.apply(code, precision, working_set)  # pyright: ignore[reportReturnType]


class _CovariancePenalty(torch.autograd.Function):
    """Value and gradient in one pass over blocks of covariances: nothing of size V x V is kept."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, precision: Precision | None, working_set: int | None) -> Tensor:
        n = len(code)
        fired = code.sum(0)
        varying = torch.nonzero((fired > 0) & (fired < n)).squeeze(1)
        ctx.save_for_backward(varying)
        ctx.shape = code.shape
        ctx.gradient = None
        if len(varying) < 2:
            return code.new_zeros(())
        value, ctx.gradient = _value_and_gradient(
            code.index_select(1, varying),
            precision or _fastest(code.device.type, n),
            working_set or WORKING_SET.get(code.device.type, WORKING_SET["cpu"]),
            ctx.needs_input_grad[0],
        )
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (varying,) = ctx.saved_tensors
        gradient = grad_outputs[0].new_zeros(ctx.shape)
        if ctx.gradient is not None:
            gradient.index_copy_(1, varying, ctx.gradient * grad_outputs[0])
        return gradient, None, None


def _value_and_gradient(
    code: Tensor, precision: Precision, working_set: int, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    n, n_varying = code.shape
    operand, multiply = _arithmetic(code, precision)
    transposed = operand.T.contiguous()
    fired = code.sum(0).to(torch.int32 if precision == "int8" else code.dtype)
    total = torch.zeros((), dtype=torch.int64 if precision == "int8" else torch.float64, device=code.device)
    product = torch.empty_like(code) if differentiate else None
    block = max(1, working_set // (n_varying * BYTES_PER_COVARIANCE))
    for start in range(0, n_varying, block):
        rows = slice(start, start + block)
        covariance = multiply(transposed[rows], operand)  # then N (N-1) cov, [B, V]
        covariance *= n
        # Subtracted as a rounded product: where the two are equal integers they are so in every rounding.
        covariance -= torch.outer(fired[rows], fired)
        covariance.diagonal(start).zero_()
        total += covariance.abs().sum(dtype=total.dtype)
        if product is not None:
            product[:, rows] = multiply(operand, covariance.sign_().to(operand.dtype).T)
    value = (total.double() / (n * (n - 1))).to(code.dtype)
    if product is not None:
        product -= product.mean(0)
        product *= 2 / (n - 1)
    return value, product


def _arithmetic(code: Tensor, precision: Precision) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """The code in an exact arithmetic, and the matrix product in it, whose result is float or int32."""
    if precision == "int8":
        return code.to(torch.int8), torch.ops.aten._int_mm  # noqa: SLF001 - there is no public one
    if precision == "bfloat16":
        return code.to(torch.bfloat16), _bfloat16_product
    return code, torch.mm


def _bfloat16_product(a: Tensor, b: Tensor) -> Tensor:
    """A b in float32, of bfloat16 matrices of -1, 0 and 1."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    # A CPU returns bfloat16: short enough sums are exact in it.
    total = a.new_zeros(a.shape[0], b.shape[1], dtype=torch.float32)
    for left, right in zip(a.split(BFLOAT16_EXACT, 1), b.split(BFLOAT16_EXACT, 0), strict=True):
        total += left @ right
    return total


@cache
def has_kernels() -> bool:
    """Whether Triton is installed, without which the penalty waits for a GPU to count the varying latents."""
    return find_spec("triton") is not None


def _fastest(device: str, n: int) -> Precision:
    if device == "cuda":
        return "bfloat16"
    return "int8" if n <= INT32_EXACT_ROOT and _multiplies_integers() else "float"


@cache
def _multiplies_integers() -> bool:
    """Whether this CPU has instructions for products of int8."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))
