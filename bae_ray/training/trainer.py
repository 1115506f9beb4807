"""Training autoencoders on one matrix of activations.

Shapes: N samples, D d_in.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig
from bae_ray.errors import TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.measuring import Trained
from bae_ray.training.samples import Placement
from bae_ray.training.together import TrainingData, train_together


def train(
    x: Tensor | Rows,
    architecture: ArchitectureConfig,
    training: TrainingConfig,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[list[TrainingMetrics]], None] = lambda _: None,
    target: Tensor | Rows | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    placement: Placement | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train an autoencoder on activations [N, D] with the objective of Eq. 5, or that of its architecture.

    The same `x`, configs and number of threads give the same numbers on a CPU. `target` [N, D] is what a transcoder
    reconstructs. The state is saved at `checkpoint` every `checkpoint_every_s` seconds and removed at the end; where
    there is one, the training goes on from it exactly. `placement` says where the batches come from, memory by default
    where they fit. The autoencoder that is returned is in evaluation mode and takes no gradients.

    Raises `TrainingError` for data that cannot be trained on, `OutOfMemoryError`, and `DivergedError` where the loss
    stops being finite; then the last good state is kept at `checkpoint`.
    """
    (outcome,) = train_many(
        x,
        [(architecture, training)],
        device,
        lambda _, lines: on_epoch(lines),
        target,
        checkpoint,
        checkpoint_every_s,
        placement,
        progress=progress,
    )
    if isinstance(outcome, TrainingError):
        raise outcome
    return outcome


def train_many(
    x: Tensor | Rows,
    members: Sequence[tuple[ArchitectureConfig, TrainingConfig]],
    device: str | torch.device = "cpu",
    on_epoch: Callable[[int, list[TrainingMetrics]], None] = lambda *_: None,
    target: Tensor | Rows | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    placement: Placement | None = None,
    on_trained: Callable[[int, Trained | TrainingError], None] = lambda *_: None,
    progress: bool | None = None,
    texts: Tensor | None = None,
    later: Sequence[int] = (),
    keep: Callable[[int], Path | None] = lambda _: None,
) -> list[Trained | TrainingError]:
    """Train several autoencoders on the same batches; each gets, to rounding, the numbers that it gets alone.

    Members of one architecture are computed as one. A member that diverges is reported in its place, and the others go
    on. `on_epoch` is given the member's number and its metrics; `on_trained` each member's outcome, while the state at
    `checkpoint` is still there: killed before it has put all of them away, the next call only measures again.
    `progress`: whether the epochs are shown as they pass; left out, on a terminal and in a notebook. `texts` [N]: the
    number of the text of each row, where a text has several, for intervals. `later`: the epochs beyond those of its
    config at which a training that goes on ended before, and last the one at which it ends. `keep` says, once all
    outcomes are put away, where a member's last state is kept, as that of a training of it alone (not of one with
    `patience`, which ends with earlier weights). See `train` for the rest.

    Raises `InvalidInputError` where members differ in a field of `SHARED`, and `OutOfMemoryError`.
    """
    return train_together(
        [TrainingData(x, target, texts)],
        [0] * len(members),
        members,
        device,
        on_epoch,
        checkpoint,
        checkpoint_every_s,
        placement,
        on_trained,
        progress,
        later,
        keep,
    )
