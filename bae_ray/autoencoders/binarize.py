"""The step function of Eq. 2 and the gradient estimate of Eq. 6."""

from typing import Any

import torch
from torch import Tensor


class _SigmoidStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_activation: Tensor) -> Tensor:
        ctx.save_for_backward(pre_activation)
        return (pre_activation >= 0).to(pre_activation.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (pre_activation,) = ctx.saved_tensors
        smooth = torch.sigmoid(pre_activation)
        return grad_outputs[0] * (smooth * (1 - smooth))


def binarize(pre_activation: Tensor) -> Tensor:
    """1 where `pre_activation` >= 0, else 0 (Eq. 2), of the same shape and dtype.

    Backward, the derivative is taken to be sigmoid(x) (1 - sigmoid(x)) (Eq. 6).
    """
    return _SigmoidStep.apply(pre_activation)  # pyright: ignore[reportReturnType]
