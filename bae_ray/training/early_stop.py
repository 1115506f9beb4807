"""Early stopping: once the held-out objective no longer falls, its best weights are restored."""

import math
from typing import Any

import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.training.config import TrainingConfig
from bae_ray.training.objective import SCHEDULED, warmup_epochs


class EarlyStop:
    """Follows one member's held-out objective from the end of the warm-ups: before, the objective is another one."""

    def __init__(self, training: TrainingConfig, names: tuple[str, ...]) -> None:
        self._patience = training.patience or 0
        self._begin = max((warmup_epochs(name, training) for name in names if name in SCHEDULED), default=0)
        self._lowest, self._lowest_epoch = math.inf, 0
        self.best: dict[str, Tensor] = {}
        """The weights where the objective was lowest."""
        self.stopped = False

    def observe(self, epoch: int, loss: float, autoencoder: Autoencoder) -> None:
        """Note the held-out objective after an epoch."""
        if self.stopped or epoch <= self._begin:
            return
        if loss < self._lowest:
            self._lowest, self._lowest_epoch = loss, epoch
            self.best = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items()}
        elif epoch - self._lowest_epoch >= self._patience:
            self.stopped = True

    @torch.no_grad()
    def restore(self, autoencoder: Autoencoder) -> None:
        """Give the autoencoder its best weights."""
        for name, tensor in autoencoder.state_dict().items():
            if name in self.best:
                tensor.copy_(self.best[name])

    def facts(self) -> dict[str, Any]:
        """What `resume` needs besides the best weights."""
        return {"lowest": self._lowest, "epoch": self._lowest_epoch, "stopped": self.stopped}

    def resume(self, facts: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Go back to an earlier state."""
        self._lowest, self._lowest_epoch, self.stopped = facts["lowest"], facts["epoch"], facts["stopped"]
        self.best = best
