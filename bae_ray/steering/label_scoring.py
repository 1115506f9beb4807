"""How likely each label is after a prompt for a steered model, and how steering changes other texts.

Shapes: N prompts, B of a batch, L labels, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError
from bae_ray.steering.edits import SteeringEdit
from bae_ray.steering.steered_model import Prompts, Reading, SteeredModel

Labels = Sequence[Sequence[int]]
"""Token ids of each label, as they follow a prompt."""


class LabelScores(NamedTuple):
    """What a model answers to each prompt."""

    log_probabilities: Tensor
    """[N, L] float64, in nats: of each label's tokens, one after the other."""
    likeliest: Tensor
    """[N]: the likeliest next token of the whole vocabulary."""


class AnswerMeasures(NamedTuple):
    """How good answers are."""

    among_labels: Tensor
    """[N] booleans: the right label is likelier than every other label."""
    whole_vocabulary: Tensor
    """[N] booleans: the likeliest token of all is the first token of the right label."""
    log_odds: Tensor
    """[N], in nats: of the right label against the likeliest wrong one."""


class AskedPrompts:
    """Prompts that a model reads once; their next tokens are then predicted under one edit after another.

    Tokens before the last are read without edits, since edits of the last token do not change them. For edits of all
    tokens, the prompts are read again each time.
    """

    def __init__(self, model: SteeredModel, prompts: Prompts, batch_size: int = 16) -> None:
        """Raises `InvalidInputError` for no prompt, an empty one, and one that is too long."""
        model.check(prompts, [], 0)
        self._model, self._prompts = model, prompts
        self._batches = list(model.batches(prompts, batch_size))
        self._readings: list[Reading] = []

    def next_tokens(self, edits: Sequence[SteeringEdit] = ()) -> Tensor:
        """Logarithms [N, V] of the next token's probabilities, float32."""
        self._model.check(self._prompts, edits, 0)
        found = torch.cat([self._logits(number, None, edits)[:, -1] for number in range(len(self._batches))])
        return self._in_order(found.float().log_softmax(1).cpu())

    def scores(self, labels: Labels, edits: Sequence[SteeringEdit] = ()) -> LabelScores:
        """The scores of labels, each of one token or more.

        Raises `InvalidInputError` for no label, an empty one, labels that begin with the same token, and prompts that
        are too long with a label.
        """
        check_labels(labels)
        self._model.check(self._prompts, edits, max(map(len, labels)) - 1)
        beginnings = {tuple(label[:-1]) for label in labels}
        wanted = [
            one for one in beginnings if not any(one != other and other[: len(one)] == one for other in beginnings)
        ]
        parts: list[Tensor] = []
        likeliest: list[Tensor] = []
        for number in range(len(self._batches)):
            after = {one: self._logits(number, one, edits).double().log_softmax(2) for one in wanted}
            columns: list[Tensor] = []
            for label in labels:
                begun = next(one for one in wanted if one[: len(label) - 1] == tuple(label[:-1]))
                columns.append(after[begun][:, range(len(label)), list(label)].sum(1))
            parts.append(torch.stack(columns, 1))
            likeliest.append(after[wanted[0]][:, 0].argmax(1))
        return LabelScores(self._in_order(torch.cat(parts).cpu()), self._in_order(torch.cat(likeliest).cpu()))

    def _logits(self, number: int, label: Sequence[int] | None, edits: Sequence[SteeringEdit]) -> Tensor:
        """Logits [B, n, V] of a batch after its last token and after each of a label's tokens."""
        batch = self._batches[number]
        acting = [edit.of(batch.texts, len(self._prompts)) for edit in edits]
        reading = self._read(number, acting)
        added = reading.last.new_tensor(list(label or ()))[None].expand(len(batch.texts), -1)
        return self._model.go_on(reading, torch.cat([reading.last, added], 1), acting)[0]

    def _read(self, number: int, edits: Sequence[SteeringEdit]) -> Reading:
        if any(edit.tokens == "all" for edit in edits):
            return self._model.read(self._batches[number].prompts, edits)
        if not self._readings:
            self._readings = [self._model.read(batch.prompts) for batch in self._batches]
        return self._readings[number].again()

    def _in_order(self, found: Tensor) -> Tensor:
        """Rows in the order of the prompts."""
        order = [text for batch in self._batches for text in batch.texts]
        return torch.empty_like(found).index_copy(0, torch.tensor(order), found)


def check_labels(labels: Labels) -> None:
    """Raise `InvalidInputError` for fewer than two labels, an empty one, or two that begin with the same token."""
    if len(labels) < 2 or not all(labels):
        raise InvalidInputError(
            f"the labels' tokens are {list(map(list, labels))}: expected two labels at least, none empty."
        )
    first: dict[int, int] = {}
    for number, label in enumerate(labels):
        if (other := first.setdefault(label[0], number)) != number:
            raise InvalidInputError(
                f"labels {other} and {number} begin with the same token, {label[0]}, so the model's answers cannot be "
                "told apart. Give other label words."
            )


def measure_answers(scores: LabelScores, labels: Labels, answers: Tensor) -> AnswerMeasures:
    """Compare scores with the right labels [N], given as numbers."""
    right = scores.log_probabilities.gather(1, answers[:, None]).squeeze(1)
    wrong = scores.log_probabilities.scatter(1, answers[:, None], -torch.inf).amax(1)
    first = torch.tensor([label[0] for label in labels])
    return AnswerMeasures(right > wrong, scores.likeliest == first[answers], right - wrong)


def divergence(clean: Tensor, steered: Tensor) -> Tensor:
    """KL(clean || steered) in nats, [N], of next-token distributions given as logarithms [N, V]."""
    clean, steered = clean.double(), steered.double()
    return (clean.exp() * (clean - steered)).sum(1).clamp(min=0)
