"""Copies of the weights in bfloat16 for matrix products. The float32 weights are trained and saved.

Autocast casts the same weights to the same numbers, in every product anew. So terms and gradients are those of autocast
to the last bit.
"""

import copy

import torch
from torch import Tensor, nn

from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.base import MULTIPLIED


class HalfWeights:
    """An autoencoder, or members stacked, that computes with copies of another one's weights."""

    def __init__(self, module: Autoencoder) -> None:
        self.module = copy.deepcopy(module)
        """Its parameters are the copies, and those of the other one that no product takes; its buffers are the other
        one's."""
        names = [name for name, _ in module.named_parameters() if name in MULTIPLIED]
        self._weights: list[Tensor] = [module.get_parameter(name) for name in names]
        copies = [nn.Parameter(weight.detach().bfloat16()) for weight in self._weights]
        self._copies: list[Tensor] = [*copies]
        shared = [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in names]
        for name in shared:
            setattr(self.module, name, getattr(module, name))
        for name, weight in zip(names, copies, strict=True):
            setattr(self.module, name, weight)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now."""
        torch._foreach_copy_(self._copies, self._weights)  # pyright: ignore[reportPrivateImportUsage]
