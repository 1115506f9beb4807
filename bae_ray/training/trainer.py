"""Training autoencoders on one matrix of activations.

Shapes: N samples, D d_in.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.autoencoders import ArchitectureConfig
from bae_ray.config import content_hash
from bae_ray.errors import TrainingError
from bae_ray.files import remove
from bae_ray.progress import is_watched, track
from bae_ray.training.config import TrainingConfig
from bae_ray.training.initial_weights import sample_of, start_from_components
from bae_ray.training.loop import Loop, Resume, TrainingMetrics
from bae_ray.training.measuring import Trained, measure, rivals_of
from bae_ray.training.objective import Forms
from bae_ray.training.recipe import resolved
from bae_ray.training.samples import ROWS_AT_ONCE, Batches, Normalization, Placement, Split, set_normalization
from bae_ray.training.stack import Stack
from bae_ray.training.validation import Members, checked


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
    started = time.monotonic()
    rows, target_rows, device, shared = checked(x, target, members, device)
    members = [(architecture, resolved(training, architecture, rows.shape[1])) for architecture, training in members]
    split = Split.draw(rows, target_rows, shared.val_fraction, shared.seed)
    groups = _groups(members)
    with _precision(shared.precision):
        stacks = _stacks(members, groups, split, shared, device, later)
        first = stacks[0].members[0].autoencoder
        data, held_out = (
            Batches(*part, first.normalize, first.normalize_target, device, placement) for part in split.parts()
        )
        resume = Resume(checkpoint, _identity(members, split), checkpoint_every_s) if checkpoint else None
        shown = is_watched() if progress is None else progress
        with track("Training", max(shared.epochs, *later, 0)) if shown else nullcontext() as tracker:

            def ended(i: int, j: int, lines: list[TrainingMetrics]) -> None:
                on_epoch(groups[i][j], lines)
                if tracker is not None:
                    tracker.reach(lines[-1].epoch)

            loop = Loop(stacks, data, held_out, shared, ended, resume, max(later, default=None))
            loop.run()
    centre = column_mean(rows if target_rows is None else target_rows)
    rivals = rivals_of(split, shared.seed, device) if len(loop.failures) < len(members) else None
    share = (time.monotonic() - started) / len(members)
    outcomes: dict[int, Trained | TrainingError] = {}
    for i, numbers in enumerate(groups):
        stacks[i].release()
        for j, number in enumerate(numbers):
            autoencoder = stacks[i].members[j].autoencoder
            outcomes[number] = loop.failures.get((i, j)) or measure(
                autoencoder, split, centre, shared.seed, share, texts, rivals
            )
            on_trained(number, outcomes[number])
    if checkpoint and len(loop.failures) < len(members):
        remove(checkpoint)
    for i, numbers in enumerate(groups):
        for j, number in enumerate(numbers):
            going = (i, j) not in loop.failures and members[number][1].patience is None
            if going and (path := keep(number)) is not None:
                loop.keep(path, _identity([members[number]], split), i, j)
    return [outcomes[number] for number in range(len(members))]


def _groups(members: Members) -> list[list[int]]:
    """Numbers of the members that are computed as one: those of one architecture and one form of the objective."""
    groups: dict[tuple[ArchitectureConfig, Forms], list[int]] = {}
    for number, (architecture, training) in enumerate(members):
        groups.setdefault((architecture, Forms.of(training)), []).append(number)
    return list(groups.values())


def _stacks(
    members: Members,
    groups: list[list[int]],
    split: Split,
    shared: TrainingConfig,
    device: torch.device,
    later: Sequence[int],
) -> list[Stack]:
    """A stack for each group, with the normalisation of the training samples."""
    x, target = next(split.parts())
    own, targets = (
        Normalization.of(some) if some is not None and shared.normalize == "rms" else None for some in (x, target)
    )
    per_epoch = len(x) // min(shared.batch_size, len(x))
    n_steps, further = shared.epochs * per_epoch, [epoch * per_epoch for epoch in later]
    stacks: list[Stack] = []
    sample: Tensor | None = None
    for numbers in groups:
        config = members[numbers[0]][0].model_copy(update={"d_in": x.shape[1]})
        stack = Stack(config, [members[number][1] for number in numbers], device, n_steps, further)
        for member in stack.members:
            set_normalization(member.autoencoder, own, targets)
            if member.training.initial == "components":
                sample = sample_of(x, member.autoencoder) if sample is None else sample
                start_from_components(member.autoencoder, sample, member.training.entropy_weight, shared.seed)
        stacks.append(stack)
    return stacks


def _identity(members: Members, split: Split) -> str:
    """A hash that tells this training from others: by its configs and the first rows of its activations."""
    configs = [[architecture.model_dump(), training.model_dump()] for architecture, training in members]
    return content_hash([configs, *(_digest(rows) for rows in (split.x, split.target) if rows is not None)])


def _digest(rows: Rows) -> str:
    """The shape, and a hash of the first rows."""
    some = rows.take(torch.arange(min(len(rows), ROWS_AT_ONCE)))
    return f"{rows.shape} {hashlib.sha256(some.contiguous().numpy().tobytes()).hexdigest()}"


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    """TF32 matrix products on GPUs while the context is open, if asked for."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
