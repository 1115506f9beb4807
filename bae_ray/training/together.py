"""Training autoencoders as one, on one cell's activations or on those of several.

Shapes: N samples, D d_in.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.autoencoders import ArchitectureConfig, Autoencoder
from bae_ray.config import content_hash
from bae_ray.errors import DivergedError, TrainingError
from bae_ray.files import remove
from bae_ray.progress import is_watched, track
from bae_ray.training.config import TrainingConfig
from bae_ray.training.initial_weights import sample_of, start_from_components
from bae_ray.training.loop import Loop, Resume, TrainingMetrics
from bae_ray.training.measuring import Trained, measure, rivals_of
from bae_ray.training.objective import Forms
from bae_ray.training.recipe import resolved
from bae_ray.training.samples import ROWS_AT_ONCE, Normalization, Placement, Split, set_normalization
from bae_ray.training.side_by_side import Normalized, batches_of
from bae_ray.training.stack import Stack
from bae_ray.training.validation import Members, checked


class TrainingData(NamedTuple):
    """What autoencoders of one cell are trained on; see `train_many`."""

    x: Tensor | Rows
    target: Tensor | Rows | None = None
    texts: Tensor | None = None


class Cell(NamedTuple):
    """A cell's activations, checked, and which of them are held out."""

    split: Split
    texts: Tensor | None

    def parts(self, autoencoder: Autoencoder) -> list[Normalized]:
        """Its training rows and its held-out rows, normalised as the autoencoder does it."""
        return [Normalized(*rows, autoencoder.normalize, autoencoder.normalize_target) for rows in self.split.parts()]

    def normalization(self, training: TrainingConfig) -> tuple[Normalization | None, Normalization | None]:
        """That of the training samples, and of their target, where the config asks for one."""
        x, target = next(self.split.parts())
        own, targets = (
            Normalization.of(some) if some is not None and training.normalize == "rms" else None for some in (x, target)
        )
        return own, targets


def train_together(
    data: Sequence[TrainingData],
    of: Sequence[int],
    members: Members,
    device: str | torch.device,
    on_epoch: Callable[[int, list[TrainingMetrics]], None],
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    placement: Placement | None = None,
    on_trained: Callable[[int, Trained | TrainingError], None] = lambda *_: None,
    progress: bool | None = None,
    later: Sequence[int] = (),
    keep: Callable[[int], Path | None] = lambda _: None,
) -> list[Trained | TrainingError]:
    """Train autoencoders of several cells as one, member i on the cell `data[of[i]]`; see `train_many` for the rest.

    Cells have equally many samples of equal width, and every batch is the same rows of each. So a member has, to
    rounding, the numbers that it has alone. Raises `InvalidInputError` where the cells differ in shape.
    """
    started = time.monotonic()
    given = checked([(some.x, some.target) for some in data], of, members, device)
    device, shared, width = given.device, given.shared, given.cells[0][0].shape[1]
    members = [(architecture, resolved(training, architecture, width)) for architecture, training in members]
    cells = [
        Cell(Split.draw(*rows, shared.val_fraction, shared.seed), some.texts)
        for rows, some in zip(given.cells, data, strict=True)
    ]
    groups = _groups(members)
    places = {number: (i, j) for i, numbers in enumerate(groups) for j, number in enumerate(numbers)}
    with _precision(shared.precision):
        stacks = _stacks(members, groups, of, cells, shared, device, later)
        first = [_autoencoder(stacks, places[[*of].index(number)]) for number in range(len(cells))]
        train, held_out = (
            batches_of(parts, device, placement)
            for parts in zip(*(cell.parts(one) for cell, one in zip(cells, first, strict=True)), strict=True)
        )
        resume = Resume(checkpoint, _identity(members, of, cells), checkpoint_every_s) if checkpoint else None
        shown = is_watched() if progress is None else progress
        with track("Training", max(shared.epochs, *later, 0), "epochs") if shown else nullcontext() as tracker:

            def ended(i: int, j: int, lines: list[TrainingMetrics]) -> None:
                on_epoch(groups[i][j], lines)
                if tracker is not None:
                    tracker.reach(lines[-1].epoch)

            loop = Loop(stacks, train, held_out, shared, ended, resume, max(later, default=None))
            loop.run()
    for stack in stacks:
        stack.release()
    share = (time.monotonic() - started) / len(members)
    outcomes: dict[int, Trained | TrainingError] = {}
    for number, cell in enumerate(cells):
        ours = {member: place for member, place in places.items() if of[member] == number}
        for member, outcome in _measured(cell, ours, stacks, loop.failures, shared.seed, device, share):
            outcomes[member] = outcome
            on_trained(member, outcome)
    if checkpoint and len(loop.failures) < len(members):
        remove(checkpoint)
    for member, place in places.items():
        going = place not in loop.failures and members[member][1].patience is None
        if going and (path := keep(member)) is not None:
            loop.keep(path, _identity([members[member]], [0], [cells[of[member]]]), *place)
    return [outcomes[number] for number in range(len(members))]


def _measured(
    cell: Cell,
    places: dict[int, tuple[int, int]],
    stacks: Sequence[Stack],
    failures: dict[tuple[int, int], DivergedError],
    seed: int,
    device: torch.device,
    share: float,
) -> Iterator[tuple[int, Trained | TrainingError]]:
    """The outcome of each member of a cell; `share` is its seconds of the training."""
    started = time.monotonic()
    centre = column_mean(cell.split.x if cell.split.target is None else cell.split.target)
    rivals = rivals_of(cell.split, seed, device) if places.values() - failures.keys() else None
    share += (time.monotonic() - started) / len(places)
    for number, place in places.items():
        yield (
            number,
            failures.get(place)
            or measure(_autoencoder(stacks, place), cell.split, centre, seed, share, cell.texts, rivals),
        )


def _autoencoder(stacks: Sequence[Stack], place: tuple[int, int]) -> Autoencoder:
    i, j = place
    return stacks[i].members[j].autoencoder


def _groups(members: Members) -> list[list[int]]:
    """Numbers of the members that are computed as one: those of one architecture and one form of the objective."""
    groups: dict[tuple[ArchitectureConfig, Forms], list[int]] = {}
    for number, (architecture, training) in enumerate(members):
        groups.setdefault((architecture, Forms.of(training)), []).append(number)
    return list(groups.values())


def _stacks(
    members: Members,
    groups: list[list[int]],
    of: Sequence[int],
    cells: Sequence[Cell],
    shared: TrainingConfig,
    device: torch.device,
    later: Sequence[int],
) -> list[Stack]:
    """A stack for each group, with the normalisation of the training samples of each member's cell."""
    normalizations = [cell.normalization(shared) for cell in cells]
    width, n = cells[0].split.x.shape[1], len(cells[0].split.train)
    per_epoch = n // min(shared.batch_size, n)
    n_steps, further = shared.epochs * per_epoch, [epoch * per_epoch for epoch in later]
    stacks: list[Stack] = []
    samples: dict[int, Tensor] = {}
    for numbers in groups:
        config = members[numbers[0]][0].model_copy(update={"d_in": width})
        own = [of[number] for number in numbers]
        stack = Stack(config, [members[number][1] for number in numbers], device, n_steps, further, own)
        for cell, member in zip(own, stack.members, strict=True):
            set_normalization(member.autoencoder, *normalizations[cell])
            if member.training.initial == "components":
                if cell not in samples:
                    x, _ = next(cells[cell].split.parts())
                    samples[cell] = sample_of(x, member.autoencoder)
                weight = member.training.entropy_weight
                start_from_components(member.autoencoder, samples[cell], weight, shared.seed)
        stacks.append(stack)
    return stacks


def _identity(members: Members, of: Sequence[int], cells: Sequence[Cell]) -> str:
    """A hash that tells this training from others: by its configs and the first rows of its activations."""
    configs = [[architecture.model_dump(), training.model_dump()] for architecture, training in members]
    parts = [rows for cell in cells for rows in (cell.split.x, cell.split.target) if rows is not None]
    return content_hash([configs, *(_digest(rows) for rows in parts), *([[*of]] if len(cells) > 1 else [])])


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
