"""Members: autoencoders of one architecture, trained as one on the same batches, or on the same rows of several cells.

Their weights are slices of one tensor with a leading dimension of members, so that one batched matrix product serves
all of them; each has an optimizer and loss weights of its own, and gets the numbers that it gets alone.

Shapes: M members, N samples, D d_in, C cells.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bae_ray.autoencoders import Autoencoder, build_autoencoder
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.autoencoders.waiting import must_not_wait
from bae_ray.seeds import stream
from bae_ray.training.config import TrainingConfig
from bae_ray.training.half_weights import HalfWeights
from bae_ray.training.objective import Forms, learning_rate, term_names, terms, weights
from bae_ray.training.samples import Batch


class Member(NamedTuple):
    """One autoencoder of a stack; its weights are views of the stack's."""

    autoencoder: Autoencoder
    training: TrainingConfig
    optimizer: torch.optim.Adam
    """Its own; on a GPU that of all members with the same settings, in one launch."""


class Stack:
    """Autoencoders of one architecture and their optimizers."""

    def __init__(
        self,
        config: ArchitectureConfig,
        trainings: list[TrainingConfig],
        device: torch.device,
        n_steps: int,
        later: Sequence[int] = (),
        cells: Sequence[int] = (),
    ) -> None:
        self._n_steps, self._later = n_steps, later
        self.cells = [*cells] or [0] * len(trainings)
        """Number of the cell that each member is trained on."""
        self._cells = torch.tensor(self.cells, device=device)
        self._forms = Forms.of(trainings[0])
        self._bf16 = trainings[0].precision == "bf16"
        self.device = device
        built: list[Autoencoder] = []
        for training in trainings:
            autoencoder = build_autoencoder(config)
            autoencoder.reset_parameters(stream(training.seed, "weights"))
            built.append(autoencoder.to(device))
        self.module = _stacked(built)
        self.names = term_names(self.module)
        self._ahead = must_not_wait(device)
        self.members = _members(built, trainings, self._ahead)
        self._optimizers = {id(member.optimizer): member for member in self.members}.values()
        self.rates = torch.zeros(len(self._optimizers), device=device)
        """Learning rate of each optimizer, where it is kept on the device."""
        if self._ahead:
            for number, (_, _, optimizer) in enumerate(self._optimizers):
                optimizer.param_groups[0]["lr"] = self.rates[number]
        self._terms = torch.compile(terms) if trainings[0].compile else terms
        for member in self.members:
            _constrain(member)
        self._half: HalfWeights | None = HalfWeights(self.module) if self._bf16 and self._ahead else None

    def refresh(self) -> None:
        """To be called before a step where the weights were changed by anything but a step."""
        if self._half is not None:
            self._half.refresh()

    def weights(self, epoch: int) -> Tensor:
        """Weight of each term for each member in an epoch, [terms, M]."""
        return torch.tensor(self._weights(epoch), device=self.device).T

    def active(self, epoch: int) -> frozenset[str]:
        """Names of the terms that have a weight for some member in an epoch."""
        by_term = zip(*self._weights(epoch), strict=True)
        return frozenset(name for name, row in zip(self.names, by_term, strict=True) if any(row))

    def _weights(self, epoch: int) -> list[list[float]]:
        return [weights(self.names, member.training, epoch) for member in self.members]

    def step(self, batch: Batch, weights: Tensor, active: frozenset[str], step: int) -> Tensor:
        """One optimizer step of every member; objective and terms before it, [1 + terms, M].

        `active` names the terms that have a weight for some member; `step` is counted from 0 over the training.
        """
        for number, (member, rate) in enumerate(zip(self._optimizers, self.rates_at(step), strict=True)):
            if self._ahead:
                self.rates[number] = rate
            else:
                member.optimizer.param_groups[0]["lr"] = rate
        return self.advance(batch, weights, active)

    def rates_at(self, step: int) -> list[float]:
        """Learning rate of each optimizer in a step."""
        return [learning_rate(member.training, step, self._n_steps, self._later) for member in self._optimizers]

    def advance(self, batch: Batch, weights: Tensor, active: frozenset[str]) -> Tensor:
        """`step` with the learning rates as they are. On a GPU it reads no number and can be captured as a graph."""
        module = self.module if self._half is None else self._half.module
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            measured = torch.stack(self._terms(module, *self._own(batch), self._forms, active))
        objective = (measured * weights).sum(0)
        found = torch.autograd.grad(objective.sum(), list(module.parameters()), allow_unused=True)
        gradients = [None if gradient is None else gradient.float() for gradient in found]
        for number, member in enumerate(self.members):
            for parameter, gradient in zip(member.autoencoder.parameters(), gradients, strict=True):
                parameter.grad = None if gradient is None else gradient[number]
            _project(member)
            if member.training.grad_clip is not None:
                nn.utils.clip_grad_norm_(member.autoencoder.parameters(), member.training.grad_clip)
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        for _, _, optimizer in self._optimizers:
            optimizer.param_groups[0]["capturable"] = capturing
            optimizer.step()
            optimizer.zero_grad()
        for member in self.members:
            _constrain(member)
        self.refresh()
        return torch.cat([objective.detach().unsqueeze(0), measured.detach()])

    @torch.no_grad()
    def evaluate(self, batch: Batch, weights: Tensor) -> Tensor:
        """The objective on a batch that is not trained on, [M]."""
        self.module.eval()
        measured = torch.stack(terms(self.module, *self._own(batch), self._forms, frozenset()))
        self.module.train()
        return (measured * weights).sum(0)

    def _own(self, batch: Batch) -> Batch:
        """What each member is trained on [M, N, D], of a batch of several cells [C, N, D]; else the batch [N, D]."""
        if batch.x.ndim == 2 or self.cells == [*range(len(batch.x))]:
            return batch
        x = batch.x.index_select(0, self._cells)
        return Batch(x, x if batch.target is batch.x else batch.target.index_select(0, self._cells))

    def is_finite(self, number: int) -> bool:
        """Whether a member's weights and moments are; its loss may still be, from before its last step."""
        tensors = [tensor for name, tensor in self.state().items() if name.startswith(f"{number}.")]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    def release(self) -> None:
        """Give the members weights of their own, with no gradients, so that each can go its way."""
        self._half = None
        for member in self.members:
            for tensor in (*member.autoencoder.parameters(), *member.autoencoder.buffers()):
                tensor.grad = None
                tensor.data = tensor.data.clone()
            member.autoencoder.requires_grad_(False).eval()

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        tensors: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            for name, tensor in member.autoencoder.state_dict().items():
                tensors[f"{number}.weights.{name}"] = tensor
            for name, parameter in member.autoencoder.named_parameters():
                for key, tensor in member.optimizer.state.get(parameter, {}).items():
                    tensors[f"{number}.adam.{key}.{name}"] = tensor
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a `state`."""
        for number, member in enumerate(self.members):
            for name, tensor in member.autoencoder.state_dict().items():
                tensor.copy_(tensors[f"{number}.weights.{name}"])
            for name, parameter in member.autoencoder.named_parameters():
                saved = {key: tensors.get(f"{number}.adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                moments = {key: tensor.to(self.device) for key, tensor in saved.items() if tensor is not None}
                if moments:
                    member.optimizer.state[parameter] = moments


def _members(built: list[Autoencoder], trainings: list[TrainingConfig], together: bool) -> list[Member]:
    """The members; those that Adam treats alike at every step share one, if `together`."""
    settings = [
        (training.lr, training.lr_warmup, training.lr_decay, training.beta1, training.beta2) if together else number
        for number, training in enumerate(trainings)
    ]
    optimizers: dict[object, torch.optim.Adam] = {}
    members: list[Member] = []
    for autoencoder, training, setting in zip(built, trainings, settings, strict=True):
        parameters = list(autoencoder.parameters())
        if setting in optimizers:
            optimizers[setting].param_groups[0]["params"] += parameters
        else:
            betas = (training.beta1, training.beta2)
            optimizers[setting] = torch.optim.Adam(parameters, lr=training.lr, betas=betas, fused=True)
        members.append(Member(autoencoder, training, optimizers[setting]))
    return members


def _stacked(members: list[Autoencoder]) -> Autoencoder:
    """An autoencoder whose tensors are the members' stacked; the members' own become views of them."""
    module = copy.deepcopy(members[0]).train()
    for name, _ in list(module.named_parameters()):
        together = torch.stack([member.get_parameter(name).data for member in members])
        setattr(module, name, nn.Parameter(together))
        for number, member in enumerate(members):
            setattr(member, name, nn.Parameter(together[number]))
    for name, _ in list(module.named_buffers()):
        together = torch.stack([member.get_buffer(name) for member in members])
        setattr(module, name, together)
        for number, member in enumerate(members):
            setattr(member, name, together[number])
    return module


@torch.no_grad()
def _project(member: Member) -> None:
    """Take out of the dictionary's gradient what would only change the length of its rows."""
    W_dec = member.autoencoder.W_dec
    if member.training.decoder_norm == "unit" and W_dec.grad is not None:
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec


@torch.no_grad()
def _constrain(member: Member) -> None:
    if member.training.decoder_norm == "unit":
        nn.functional.normalize(member.autoencoder.W_dec, dim=1, out=member.autoencoder.W_dec.data)
