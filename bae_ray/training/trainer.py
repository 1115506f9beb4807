"""Training autoencoders on one matrix of activations.

Shapes: N samples, D d_in.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import FeatureMetrics, column_mean, feature_statistics
from bae_ray.analysis.sampling import EntropyEstimate, estimate_entropy
from bae_ray.autoencoders import ArchitectureConfig, Autoencoder
from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.config import content_hash
from bae_ray.errors import DivergedError, InvalidInputError, OutOfMemoryError, TrainingError
from bae_ray.progress import is_watched, track
from bae_ray.seeds import stream
from bae_ray.training.batches import Batches, Placement, free_memory
from bae_ray.training.config import TrainingConfig
from bae_ray.training.loop import Loop, Resume, TrainingMetrics
from bae_ray.training.objective import Forms
from bae_ray.training.stack import Stack
from bae_ray.values import largest

SHARED = ("epochs", "batch_size", "val_fraction", "normalize", "precision", "compile", "seed")
"""Fields that make the batch stream, or are of the process: equal in all members that are trained together."""

ROWS_AT_ONCE = 8192
LARGEST = torch.finfo(torch.float32).max / 4
"""Of activations to train on: the difference of two of them is finite."""


class Trained(NamedTuple):
    """A trained autoencoder and its measures, on the activations as given (not normalised)."""

    autoencoder: Autoencoder
    train: FeatureMetrics
    val: FeatureMetrics
    all: FeatureMetrics
    """Over training and held-out samples together: the paper's entropy is measured on all of them."""
    entropy: EntropyEstimate
    """The entropy over all of them, and how sure it is."""
    seconds: float
    """Its share of the training, and the measuring."""


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
) -> list[Trained | TrainingError]:
    """Train several autoencoders on the same batches; each gets, to rounding, the numbers that it gets alone.

    Members of one architecture are computed as one. A member that diverges is reported in its place, and the others go
    on. `on_epoch` is given the member's number and its metrics; `on_trained` each member's outcome, while the state at
    `checkpoint` is still there: killed before it has put all of them away, the next call only measures again.
    `progress`: whether the epochs are shown as they pass; left out, on a terminal and in a notebook. See `train` for
    the rest.

    Raises `InvalidInputError` where members differ in a field of `SHARED`, and `OutOfMemoryError`.
    """
    started = time.monotonic()
    device = _device(device)
    shared = _shared(members)
    x = _as_rows(x)
    target = None if target is None else _as_rows(target)
    for architecture, _ in members:
        _check(x, target, architecture)
    train_rows, val_rows = _split(len(x), shared.val_fraction, stream(shared.seed, "split"))
    statistics = _normalization(x.select(train_rows)) if shared.normalize == "rms" else None
    target_statistics = (
        _normalization(target.select(train_rows)) if target is not None and shared.normalize == "rms" else None
    )
    groups = _groups(members)
    _check_memory(members, x.shape[1], device)
    with _precision(shared.precision):
        n_steps = shared.epochs * (len(train_rows) // min(shared.batch_size, len(train_rows)))
        stacks = []
        for numbers in groups:
            config = members[numbers[0]][0].model_copy(update={"d_in": x.shape[1]})
            stack = Stack(config, [members[number][1] for number in numbers], device, n_steps)
            for member in stack.members:
                _set_normalization(member.autoencoder, statistics, target_statistics)
            stacks.append(stack)
        first = stacks[0].members[0].autoencoder
        data, held_out = (
            Batches(
                x.select(rows),
                target.select(rows) if target is not None else None,
                first.normalize,
                first.normalize_target,
                device,
                placement,
            )
            for rows in (train_rows, val_rows)
        )
        configs = [[architecture.model_dump(), training.model_dump()] for architecture, training in members]
        identity = content_hash([configs, *(_digest(rows) for rows in (x, target) if rows is not None)])
        with _shown(shared.epochs, is_watched() if progress is None else progress) as reach:

            def ended(i: int, j: int, lines: list[TrainingMetrics]) -> None:
                on_epoch(groups[i][j], lines)
                reach(lines[-1].epoch)

            resume = Resume(checkpoint, identity, checkpoint_every_s) if checkpoint else None
            loop = Loop(stacks, data, held_out, shared, ended, resume)
            loop.run()
    centre = column_mean(x if target is None else target)
    share = (time.monotonic() - started) / len(members)
    outcomes: dict[int, Trained | TrainingError] = {}
    for i, numbers in enumerate(groups):
        stacks[i].release()
        for j, number in enumerate(numbers):
            failure = loop.failures.get((i, j))
            autoencoder = stacks[i].members[j].autoencoder
            outcomes[number] = failure or _measured(
                autoencoder, x, target, (train_rows, val_rows), centre, shared.seed, share
            )
            on_trained(number, outcomes[number])
    if checkpoint and len(loop.failures) < len(members):
        checkpoint.unlink(missing_ok=True)
    return [outcomes[number] for number in range(len(members))]


def _shared(members: Sequence[tuple[ArchitectureConfig, TrainingConfig]]) -> TrainingConfig:
    """The config that says what all members share."""
    if not members:
        raise InvalidInputError("there is nothing to train: give at least one architecture with its training.")
    first = members[0][1]
    for field in SHARED:
        for number, (_, training) in enumerate(members):
            if getattr(training, field) != getattr(first, field):
                raise InvalidInputError(
                    f"training.{field} is {getattr(training, field)} for member {number} and {getattr(first, field)} "
                    "for member 0. Members trained together share it: train those that differ apart."
                )
    return first


def _groups(members: Sequence[tuple[ArchitectureConfig, TrainingConfig]]) -> list[list[int]]:
    """Numbers of the members that can be computed as one."""
    groups: dict[tuple[ArchitectureConfig, Forms], list[int]] = {}
    for number, (architecture, training) in enumerate(members):
        groups.setdefault((architecture, Forms.of(training)), []).append(number)
    return list(groups.values())


def _measured(
    autoencoder: Autoencoder,
    x: Rows,
    target: Rows | None,
    split: tuple[Tensor, Tensor],
    centre: Tensor,
    seed: int,
    seconds: float,
) -> Trained | TrainingError:
    """The measures of a trained autoencoder; and its reference set, which is all of `x`. `seconds` it took to train."""
    started = time.monotonic()
    on_train, on_val = (
        feature_statistics(
            autoencoder,
            x.select(rows),
            target=target.select(rows) if target is not None else None,
            centre=centre,
        )
        for rows in split
    )
    train_metrics, val_metrics = on_train.metrics(), on_val.metrics()
    for name, metrics in (("training", train_metrics), ("held-out", val_metrics)):
        if math.isnan(metrics.fvu):
            return TrainingError(
                f"all {metrics.n} {name} activations are identical, so their FVU is undefined. Leave this cell out."
            )
        if not math.isfinite(metrics.mse):
            return DivergedError(f"the reconstruction of the {name} activations is {metrics.mse}. Lower lr.")
    on_train.merge(on_val)
    on_train.set_reference(autoencoder)
    entropy = estimate_entropy(autoencoder, x, seed)
    seconds += time.monotonic() - started
    return Trained(autoencoder, train_metrics, val_metrics, on_train.metrics(), entropy, seconds)


@contextmanager
def _shown(epochs: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Shows the epochs of a training, if asked to; tell it the last one that ended."""
    if not progress:
        yield lambda _: None
        return
    with track("Training", epochs) as tracker:
        yield tracker.reach


def _device(name: str | torch.device) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"device is {name} but torch finds no GPU here. Use cpu, or install torch for CUDA.")
    return device


def _as_rows(x: object) -> Rows:
    """Activations as they may be given; those on a GPU come back to it in batches."""
    if isinstance(x, Rows):
        return x
    if not isinstance(x, Tensor):
        raise TrainingError(f"activations are a {type(x).__name__}; expected a torch.Tensor [n, d] or Rows.")
    try:
        return Rows([x.detach().cpu()])
    except InvalidInputError as error:
        raise TrainingError(str(error)) from error


def _check_memory(
    members: Sequence[tuple[ArchitectureConfig, TrainingConfig]], width: int, device: torch.device
) -> None:
    """Weights, gradients, Adam's two moments and some four batches of latents must fit: else `OutOfMemoryError`."""
    widths = [architecture.model_copy(update={"d_in": width}).widths() for architecture, _ in members]
    needed = sum(
        4 * (4 * 2 * d_in * d_latent + 4 * training.batch_size * d_latent)
        for (d_in, d_latent), (_, training) in zip(widths, members, strict=True)
    )
    if needed > (free := free_memory(device)):
        largest = max(d_latent for _, d_latent in widths)
        raise OutOfMemoryError(
            f"{len(members)} autoencoders of up to {largest:,} latents on {width} dimensions need {needed / 1e9:,.1f} "
            f"GB; {device} has {free / 1e9:,.1f} GB free. Lower expansion, d_latent or batch_size."
        )


def _digest(rows: Rows) -> str:
    """Tells activations from others: shape, and the content of the first rows."""
    some = rows.take(torch.arange(min(len(rows), ROWS_AT_ONCE)))
    return f"{rows.shape} {hashlib.sha256(some.contiguous().numpy().tobytes()).hexdigest()}"


def _check(x: Rows, target: Rows | None, architecture: ArchitectureConfig) -> None:
    if len(x.shape) != 2 or len(x) < 4:
        raise TrainingError(f"activations have shape {x.shape}; expected [n, d] with n of 4 or more.")
    if architecture.d_in not in (None, x.shape[1]):
        raise TrainingError(
            f"d_in is {architecture.d_in} but the activations are {x.shape[1]} wide. Leave d_in out: it is taken from "
            "them."
        )
    if (architecture_of(architecture).reconstructs == "target") != (target is not None):
        wanted = "needs target activations" if target is None else "takes no target activations"
        raise TrainingError(f"architecture {type(architecture).__name__} {wanted}; only a transcoder has a target.")
    if target is not None and target.shape != x.shape:
        raise TrainingError(
            f"the target has shape {target.shape} but the activations {x.shape}. Both must come from the same texts "
            "and positions of one model."
        )
    for rows in (x, target):
        if rows is not None:
            _check_values(rows)


def _check_values(rows: Rows) -> None:
    first, start, identical = rows.take(torch.tensor([0])), 0, True
    for batch in rows.split(ROWS_AT_ONCE):
        if not (size := largest(batch)) <= LARGEST:
            if math.isfinite(size):
                raise TrainingError(
                    f"activations hold numbers as large as {size:.3g}; expected at most {LARGEST:.3g}, so that "
                    "differences between them are within float32's range. Divide all of them by one number."
                )
            row = start + int((~torch.isfinite(batch)).any(1).nonzero()[0])
            raise TrainingError(
                f"activations hold NaN or infinite numbers (in float32), first in row {row}. Extract them anew."
            )
        identical = identical and bool((batch == first).all())
        start += len(batch)
    if identical:
        raise TrainingError(
            f"all {len(rows)} activations are identical, so their entropy is 0 bits and FVU is undefined. Leave this "
            "cell out; a position that always holds the same token, as the start token at 0, is the usual reason."
        )


def _split(n: int, val_fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the training and of the held-out split, at least two each."""
    order = torch.randperm(n, generator=generator)
    n_val = min(max(round(n * val_fraction), 2), n - 2)
    return order[n_val:].sort().values, order[:n_val].sort().values


def _normalization(x: Rows) -> tuple[Tensor, Tensor]:
    """Mean [D] and scale [] with which (x - mean) / scale is centred and of unit RMS."""
    mean = column_mean(x)
    squares = sum(float((batch.double() - mean).square().sum()) for batch in x.split(ROWS_AT_ONCE))
    scale = math.sqrt(squares / (x.shape[0] * x.shape[1]))
    tiny = torch.finfo(torch.float32).tiny
    if 0 < scale < tiny:
        raise TrainingError(
            f"activations differ by {scale:.3g} (root mean square) from their mean, which is below float32's normal "
            "range; expected at least 1.2e-38. Multiply all of them by one number."
        )
    return mean, torch.tensor(max(scale, tiny))


def _set_normalization(
    autoencoder: Autoencoder, statistics: tuple[Tensor, Tensor] | None, target: tuple[Tensor, Tensor] | None
) -> None:
    if statistics is not None:
        autoencoder.mean.copy_(statistics[0])
        autoencoder.scale.copy_(statistics[1])
    if target is not None:
        for buffer, value in zip(autoencoder.target_normalization, target, strict=True):
            buffer.copy_(value)


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    """TF32 matrix products on GPUs while the context is open, if asked for."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
