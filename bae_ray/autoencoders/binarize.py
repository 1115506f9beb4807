"""The step function of Eq. 2 and the estimates of its gradient."""

from typing import Any, Literal

import torch
from torch import Tensor

Gradient = Literal["sigmoid", "straight_through", "release"]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_activation: Tensor, gradient: Gradient) -> Tensor:
        ctx.gradient = gradient
        if gradient == "sigmoid":  # the others need no memory for it
            ctx.save_for_backward(pre_activation)
        return fires(pre_activation, gradient).to(pre_activation.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (g,) = grad_outputs
        if ctx.gradient == "sigmoid":
            (pre_activation,) = ctx.saved_tensors
            # The kernel of torch's own sigmoid: g s (1 - s) in one pass over memory.
            return torch.ops.aten.sigmoid_backward(g, pre_activation.sigmoid()), None
        return g if ctx.gradient == "straight_through" else g * (1 - g), None


def fires(pre_activation: Tensor, gradient: Gradient = "sigmoid") -> Tensor:
    """Booleans of the same shape: whether `binarize` gives 1."""
    return pre_activation > 0 if gradient == "release" else pre_activation >= 0


def binarize(pre_activation: Tensor, gradient: Gradient = "sigmoid") -> Tensor:
    """1 where `pre_activation` >= 0, else 0 (Eq. 2), of the same shape and dtype.

    Backward, the incoming gradient g becomes, by `gradient`:
    sigmoid: g sigmoid(x) (1 - sigmoid(x)), the paper's Eq. 6;
    straight_through: g;
    release: g (1 - g), the released code's rule, and the step is 1 only where x > 0, as there.
    """
    return _Step.apply(pre_activation, gradient)  # pyright: ignore[reportReturnType]
