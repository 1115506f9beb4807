"""Texts that go through the model together: their clean pass, and passes with each subject's activations.

Shapes: B texts, T tokens, D hidden size, M tokens whose next one is predicted, n activations replaced.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bae_ray.activations.model import ModelSource
from bae_ray.activations.taps import Tap
from bae_ray.errors import NotFiniteError
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.held_out_texts import Texts
from bae_ray.fidelity.next_token import MEASURES, compare, log_probabilities
from bae_ray.fidelity.subjects import Subject
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.interventions.spliced_loss import padded
from bae_ray.storage import Folder

NO_ANSWER = -1
OCTAVES = 64
"""More than any text has."""


class Given(NamedTuple):
    """What all units share; it goes to every worker."""

    config: FidelityConfig
    source: ModelSource
    store: Folder
    texts: Texts
    """Texts to measure on, of the store or of another one."""
    kept: dict[str, bool]
    """Position `all`: whether `first` and `special` tokens are replaced."""


class SplicedBatch:
    """Texts that go through the model together: their clean pass, and each subject in its place."""

    def __init__(self, given: Given, texts: Sequence[int], subjects: Sequence[Subject], model: EditableModel) -> None:
        self._given, self._texts, self._model = given, texts, model
        ids = [given.texts.token_ids[text][: given.config.max_tokens] for text in texts]
        self._lengths = torch.tensor([len(text) for text in ids])
        self._ids = padded(ids)
        row, place = torch.meshgrid(torch.arange(len(ids)), torch.arange(self._ids.shape[1]), indexing="ij")
        self._real = place < self._lengths[:, None]
        begin = torch.stack([self._begin(subject) for subject in subjects]).amin(0)
        measured = self._real & (place >= begin[:, None])
        self._row, self._place = row[measured], place[measured]
        self._targets = self._next_tokens()
        taps = {tap for s in subjects for tap in (s.read, s.tap, Tap(s.tap.layer, "residual"))}
        self._clean = model.clean(
            self._ids.to(model.device), measured.flatten().nonzero()[:, 0].to(model.device), sorted(taps)
        )
        self._log_probabilities = log_probabilities(self._clean.logits)

    def at(self, subject: Subject, tap: Tap) -> Tensor:
        """The clean activations [n, D] at a tap, of the tokens that a subject replaces."""
        return self._clean.activations[tap][self._replaced(subject).to(self._model.device)]

    def measure(self, subject: Subject, value: Tensor) -> pd.DataFrame:
        """The rows of a subject: `value` [n, D] in place of the activations that it replaces."""
        spliced = self._clean.activations[subject.tap].clone()
        spliced[self._replaced(subject).to(spliced.device)] = value.to(spliced.dtype)
        distance = self._place - self._begin(subject)[self._row]
        told = (distance >= 0) & ((self._targets >= 0) | (subject.position == "last"))
        asked = told.nonzero()[:, 0].to(spliced.device)
        logits = self._model.spliced(self._clean, subject.tap, spliced, self._clean.asked[asked])
        targets = self._targets[told].to(spliced.device)
        found = compare(self._log_probabilities[asked], logits, targets).cpu()
        if not torch.isfinite(found[MEASURES.index("kl")]).all():
            raise NotFiniteError(
                f"with {subject.of.name} in place the model's logits hold NaN or infinite numbers "
                f"({subject.of.target}, {self._given.config.dtype}). Give --dtype float32, or leave this run out."
            )
        return self._rows(subject, self._row[told], distance[told], found)

    def _rows(self, subject: Subject, row: Tensor, distance: Tensor, found: Tensor) -> pd.DataFrame:
        """Sums over the tokens of each text at distances 0, 1 to 2, 3 to 6, ..."""
        octave = np.log2(distance.numpy() + 1).astype(np.int64)
        keys, place = np.unique(row.numpy() * OCTAVES + octave, return_inverse=True)
        text, octave = np.divmod(keys, OCTAVES)
        first = (1 << octave) - 1
        sums = {name: np.bincount(place, values) for name, values in zip(MEASURES, found.numpy(), strict=True)}
        told = {"text": np.asarray(self._texts)[text], "first": first, "last": 2 * first, "tokens": np.bincount(place)}
        return pd.DataFrame({"subject": subject.name, **told, **sums})

    def _begin(self, subject: Subject) -> Tensor:
        """[B]: the first token that sees what the subject replaces."""
        if subject.position == "last":
            return self._lengths - 1
        if subject.position == "all":  # a first token that stays as it is cannot tell
            return torch.full_like(self._lengths, 0 if self._given.kept["first"] else 1)
        return torch.full_like(self._lengths, subject.position)

    def _replaced(self, subject: Subject) -> Tensor:
        """[B, T]: the tokens whose activations a subject replaces."""
        if subject.position != "all":
            one_hot = torch.zeros_like(self._real)
            return one_hot.scatter_(1, self._begin(subject)[:, None], True)
        wanted = self._real.clone()
        if not self._given.kept["first"]:
            wanted[:, 0] = False
        if not self._given.kept["special"]:
            special = torch.tensor(sorted(self._given.texts.special), dtype=self._ids.dtype)
            wanted &= ~torch.isin(self._ids, special)
        return wanted

    def _next_tokens(self) -> Tensor:
        """[M]: the token that follows each; below 0 where none does. A prompt's label follows its last token."""
        after = torch.nn.functional.pad(self._ids[:, 1:], (0, 1))
        last = torch.full_like(self._lengths, NO_ANSWER)
        if (answers := self._given.texts.answers) is not None:
            whole = [len(self._given.texts.token_ids[text]) <= self._given.config.max_tokens for text in self._texts]
            last = torch.tensor(
                [answers[text] if is_whole else NO_ANSWER for text, is_whole in zip(self._texts, whole, strict=True)]
            )
        after[torch.arange(len(last)), self._lengths - 1] = last
        return after[self._row, self._place]
