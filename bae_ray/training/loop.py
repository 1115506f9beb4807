"""The training loop: epochs of steps over one stream of batches, for one or many autoencoders.

Exactness: everything random is drawn from the seed and the epoch's number, so that a loop that was killed goes on from
its last saved state with the numbers of one that was not.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.errors import DivergedError
from bae_ray.seeds import stream
from bae_ray.training.config import TrainingConfig
from bae_ray.training.merging import merge_copies
from bae_ray.training.objective import SCHEDULED, EarlyStop
from bae_ray.training.resident import ResidentSteps, may_capture
from bae_ray.training.revival import revive
from bae_ray.training.samples import Batches
from bae_ray.training.side_by_side import SideBySide
from bae_ray.training.stack import Stack
from bae_ray.training.state import load_state, save_state
from bae_ray.work.preemption import asked, stop_if_asked

STEPS_BETWEEN_CHECKS = 100
"""Looking whether the loss is finite waits for the device, so it is not done in every step."""

SHARE_OF_TIME = 20
"""Between two savings of the state pass at least so many times the seconds that one takes."""


class TrainingMetrics(NamedTuple):
    """One line of metrics, on normalised activations: of a step, or the means over the steps of an epoch."""

    epoch: int
    """Counted from 1."""
    step: int
    """Steps done, over the whole training."""
    loss: float
    terms: dict[str, float]
    """The unweighted terms: reconstruction, entropy in bits, ..."""
    weights: dict[str, float]
    """Their weights in this epoch, 0 during a warm-up."""
    seconds: float
    """Since training began; a resumed training goes on from what it had."""

    def row(self) -> dict[str, float]:
        """The line of metrics.jsonl."""
        weights = {f"{name}_weight": weight for name, weight in self.weights.items() if name in SCHEDULED}
        counts = {"epoch": self.epoch, "step": self.step, "loss": self.loss}
        return {**counts, **self.terms, **weights, "seconds": self.seconds}


class Resume(NamedTuple):
    """Where the state of the unfinished training is kept."""

    path: Path
    identity: str
    """Of the training: the state of another one is not taken."""
    interval_s: float
    """Seconds between two savings, or more where saving takes long; the first epoch is saved anyway."""


class Loop:
    """Trains stacks of autoencoders on the same batches, or on the same rows of several cells."""

    def __init__(
        self,
        stacks: list[Stack],
        data: Batches | SideBySide,
        held_out: Batches | SideBySide,
        shared: TrainingConfig,
        on_epoch: Callable[[int, int, list[TrainingMetrics]], None],
        resume: Resume | None,
        epochs: int | None = None,
    ) -> None:
        self._stacks, self._data, self._held_out = stacks, data, held_out
        self._shared, self._on_epoch, self._resume = shared, on_epoch, resume
        self._epochs = max(shared.epochs, epochs or 0)
        self._batch_size = min(shared.batch_size, len(data))
        self.n_steps = len(data) // self._batch_size
        self._started = self._saved = time.monotonic()
        self._pause = resume.interval_s if resume else 0.0
        self._epoch, self._step = 1, 0
        # Objective and terms of every step of the epoch, [steps, 1 + terms, members]: kept on the device, read seldom.
        self._records = [
            torch.zeros(self.n_steps, 1 + len(stack.names), len(stack.members), device=stack.device) for stack in stacks
        ]
        self._resident: ResidentSteps | None = None
        if must_not_wait(stacks[0].device):
            capture = may_capture(stacks, shared)
            self._resident = ResidentSteps(stacks, data, self._batch_size, self._records, capture)
        self._checked = 0
        self._members = {(i, j): member for i, stack in enumerate(stacks) for j, member in enumerate(stack.members)}
        self._stops = {
            (i, j): EarlyStop(member.training, stacks[i].names)
            for (i, j), member in self._members.items()
            if member.training.patience is not None
        }
        self.failures: dict[tuple[int, int], DivergedError] = {}
        """By (stack, member): the members that diverged."""
        self._restore()

    def run(self) -> None:
        """Train to the end, or until every member has stopped or diverged.

        Raises `Preempted`, after the state is saved, where this process is asked to end.
        """
        for epoch in range(self._epoch, self._epochs + 1):
            if self._members.keys() <= self._ended():
                break
            self._epoch = epoch
            self._run_epoch()
        self._resident = None  # with it goes the memory of its graph
        if self._resume is not None and len(self._members) > 1:  # until all of them are put away
            self._save_if_due(at_once=True)
        for key, stop in self._stops.items():
            stop.restore(self._members[key].autoencoder)

    def _ended(self) -> set[tuple[int, int]]:
        """The members that have diverged or stopped early; they are computed on with the others, and ignored."""
        return self.failures.keys() | {key for key, stop in self._stops.items() if stop.stopped}

    def _run_epoch(self) -> None:
        epoch = self._epoch
        order = torch.randperm(len(self._data), generator=stream(self._shared.seed, "order", epoch))
        weights = [stack.weights(epoch) for stack in self._stacks]
        active = [stack.active(epoch) for stack in self._stacks]
        done = (epoch - 1) * self.n_steps
        if self._resident is not None:
            steps = self._resident.run(order, self._step, done, weights, active)
        else:
            steps = self._steps(order, done, weights, active)
        for _ in steps:
            self._step += 1
            if self._step % STEPS_BETWEEN_CHECKS == 0 and self._step < self.n_steps:
                self._check_finite()
                self._save_if_due()
            if asked() and self._step < self.n_steps:  # at the end of the epoch otherwise
                self._check_finite()
                self._save_if_due(at_once=True)
                stop_if_asked()
        self._check_finite()
        for i in range(len(self._stacks)):
            self._report(i, weights[i])
        self._after_epoch(weights)
        self._epoch, self._step, self._checked = epoch + 1, 0, 0
        self._save_if_due(at_once=epoch == 1 or bool(asked()))
        stop_if_asked()

    def _steps(self, order: Tensor, done: int, weights: list[Tensor], active: list[frozenset[str]]) -> Iterator[None]:
        """Take the steps of an epoch, from the next one on; `done` steps were before the epoch."""
        for batch in self._data.batches(order, self._batch_size, self._step):
            for i, stack in enumerate(self._stacks):
                measured = stack.step(batch, weights[i], active[i], done + self._step)
                self._records[i][self._step] = measured
            yield

    def _check_finite(self) -> None:
        for i, stack in enumerate(self._stacks):
            record = self._records[i][self._checked : self._step]
            bad = ~record[:, 0].isfinite()
            for j in bad.any(0).nonzero().flatten().tolist():
                if (i, j) not in self.failures:
                    row = int(bad[:, j].nonzero()[0])
                    self.failures[i, j] = self._diverged(stack, j, self._checked + row, record[row, :, j].tolist())
        self._checked = self._step

    def _diverged(self, stack: Stack, member: int, step: int, values: list[float]) -> DivergedError:
        training = stack.members[member].training
        measured = ", ".join(f"{name} {value}" for name, value in zip(stack.names, values[1:], strict=True))
        kept = self._resume is not None and self._resume.path.exists()
        return DivergedError(
            f"the loss became {values[0]} in epoch {self._epoch} of {self._epochs}, step {step + 1} of "
            f"{self.n_steps} ({measured}). Lower lr ({training.lr}) or the loss weights."
            + (f" The last state saved before is {self._resume.path}." if kept and self._resume else "")
        )

    def _report(self, i: int, weights: Tensor) -> None:
        stack, elapsed, ended = self._stacks[i], time.monotonic() - self._started, self._ended()
        record = self._records[i].double().cpu()
        last = self._epoch * self.n_steps
        for j, member in enumerate(stack.members):
            if (i, j) in ended:
                continue
            scales = dict(zip(stack.names, weights[:, j].tolist(), strict=True))
            by_step = member.training.log == "step"
            rows = record[:, :, j].tolist() if by_step else [record[:, :, j].mean(0).tolist()]
            lines: list[TrainingMetrics] = []
            for step, (loss, *measured) in enumerate(rows, start=last - len(rows) + 1):
                terms = dict(zip(stack.names, measured, strict=True))
                lines.append(TrainingMetrics(self._epoch, step, loss, terms, scales, elapsed))
            self._on_epoch(i, j, lines)

    def _after_epoch(self, weights: list[Tensor]) -> None:
        ended = self._ended()
        for key, member in self._members.items():
            # The last epoch is to leave a trained code, and so is each at which a training that goes on may end.
            if key in ended or self._epoch >= member.training.epochs:
                continue
            data = self._data.cells[self._stacks[key[0]].cells[key[1]]]
            if _is_due(member.training.merge_every, self._epoch):
                merge_copies(member, data, self._batch_size)
            if _is_due(member.training.revive_every, self._epoch):
                revive(member, data, self._batch_size, stream(member.training.seed, "revival", self._epoch))
        watched = self._stops.keys() - ended
        losses = {i: self._held_out_losses(self._stacks[i], weights[i]) for i in {i for i, _ in watched}}
        for i, j in watched:
            self._stops[i, j].observe(self._epoch, losses[i][j], self._members[i, j].autoencoder)

    def _held_out_losses(self, stack: Stack, weights: Tensor) -> list[float]:
        """Mean objective of each member over the held-out split, a batch counting by its samples."""
        total, n = torch.zeros(len(stack.members), device=stack.device), len(self._held_out)
        for batch in self._held_out.batches(torch.arange(n), self._batch_size, partial=True):
            # A covariance needs two samples.
            size = batch.x.shape[-2]
            total += stack.evaluate(batch, weights) * size if size > 1 else 0
        return (total / n).tolist()

    def _save_if_due(self, at_once: bool = False) -> None:
        if self._resume is None or (not at_once and time.monotonic() - self._saved < self._pause):
            return
        going = self._members.keys() - self.failures.keys()
        started = time.monotonic()
        if not going or not all(self._stacks[i].is_finite(j) for i, j in going):
            return  # the loss will tell; what is kept is the last good state
        tensors = {
            f"{i}.{name}": tensor for i, stack in enumerate(self._stacks) for name, tensor in stack.state().items()
        }
        tensors |= {f"{i}.records": record for i, record in enumerate(self._records)}
        for (i, j), stop in self._stops.items():
            tensors |= {f"{i}.{j}.best.{name}": tensor for name, tensor in stop.best.items()}
        facts = {
            "identity": self._resume.identity,
            "epoch": self._epoch,
            "step": self._step,
            "seconds": time.monotonic() - self._started,
            "stops": {f"{i}.{j}": stop.facts() for (i, j), stop in self._stops.items()},
            "failures": {f"{i}.{j}": str(failure) for (i, j), failure in self.failures.items()},
        }
        save_state(self._resume.path, tensors, facts)
        self._saved = time.monotonic()
        self._pause = max(self._resume.interval_s, SHARE_OF_TIME * (self._saved - started))

    def keep(self, path: Path, identity: str, i: int, j: int) -> None:
        """Write the state in which a member ended, as that of a training of it alone, which goes on from there."""
        own = _below(self._stacks[i].state(), f"{j}.")
        tensors = {f"0.0.{name}": tensor for name, tensor in own.items()}
        tensors["0.records"] = self._records[i][..., j : j + 1]
        seconds = time.monotonic() - self._started
        facts = {"identity": identity, "epoch": self._epoch, "step": 0, "seconds": seconds, "stops": {}, "failures": {}}
        save_state(path, tensors, facts)

    def _restore(self) -> None:
        saved = load_state(self._resume.path, self._resume.identity) if self._resume else None
        if saved is None:
            return
        tensors, facts = saved
        self._epoch = facts["epoch"]
        self._step = self._checked = facts["step"]
        self._started -= facts["seconds"]
        for i, stack in enumerate(self._stacks):
            stack.restore(_below(tensors, f"{i}."))
            self._records[i].copy_(tensors[f"{i}.records"])
        for i, j in self._members:
            if message := facts["failures"].get(f"{i}.{j}"):
                self.failures[i, j] = DivergedError(message)
        for (i, j), stop in self._stops.items():
            stop.resume(facts["stops"][f"{i}.{j}"], _below(tensors, f"{i}.{j}.best."))


def _is_due(every: int | None, epoch: int) -> bool:
    return every is not None and epoch % every == 0


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
