"""The batch top-k sparse autoencoder (arXiv 2412.06410).

Shapes: N samples, F d_latent.
"""

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.baselines import check_k
from bae_ray.autoencoders.config import BatchTopKConfig

THRESHOLD_MOMENTUM = 0.99


class BatchTopKAutoencoder(Autoencoder):
    """The k N largest positive pre-activations of a batch of N are kept (arXiv 2412.06410).

    In evaluation mode a sample's latents must not depend on the others: all above `threshold` [] are kept, a running
    mean of the smallest value kept in training.
    """

    threshold: Tensor

    def __init__(self, config: BatchTopKConfig) -> None:
        super().__init__(config)
        check_k(config.k, self.d_latent)
        self.k = config.k
        self.register_buffer("threshold", torch.full((), -1.0))  # below 0: not trained yet
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        positive = pre_activations.relu()
        if not self.training:
            return positive * (positive > self.threshold[..., None, None])
        flat = positive.flatten(-2)
        kept = flat.topk(self.k * positive.shape[-2], dim=-1)
        self._follow(kept.values.detach())
        return torch.zeros_like(flat).scatter(-1, kept.indices, kept.values).view_as(positive)

    def _follow(self, kept: Tensor) -> None:
        """Move the threshold towards the smallest positive value of those kept, in descending order along the end."""
        smallest = torch.where(kept > 0, kept, torch.inf).amin(-1).to(self.threshold.dtype)
        smallest = torch.where(smallest.isfinite(), smallest, self.threshold.clamp_min(0))
        moved = torch.lerp(smallest, self.threshold, THRESHOLD_MOMENTUM)
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, moved))
