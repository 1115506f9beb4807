"""Decoding in training, where most latents of a binary code are the same in the whole batch.

Shapes: M members, N samples, F latents, V of them that vary in the batch, D width.
"""

from typing import Any

import torch
from torch import Tensor

from bae_ray.autoencoders.base import affine
from bae_ray.autoencoders.waiting import must_not_wait

DENSE_SHARE = 0.5
"""From this share of varying latents on, selecting them costs more than it saves."""


@torch.compiler.disable()  # its shapes depend on the data
def decode_varying(latents: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Latents W + b, [N, D], of latents [N, F], W [F, D] and b [D]; or members', [M, ...].

    A latent that is constant in the batch adds the same multiple of its row to every sample, and its row's gradient is
    that multiple of the output's summed gradient. So two of the three products, latents W and the gradient of W, are
    taken over the varying latents only. To rounding, value and gradients are those of the plain product, which it is
    on a GPU: to learn there which latents vary would take longer.
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
