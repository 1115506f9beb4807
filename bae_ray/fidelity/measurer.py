"""One worker: runs a language model on texts, unchanged and with each subject's activations in place.

Shapes: n activations, D hidden size.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import column_mean, evaluating
from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.errors import BaeRayError, NotFiniteError, is_out_of_memory
from bae_ray.fidelity.held_out_texts import Trained
from bae_ray.fidelity.spliced_batch import Given, SplicedBatch
from bae_ray.fidelity.subjects import Subject
from bae_ray.fidelity.units import MeasureUnit
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.training.samples import split_rows
from bae_ray.work.receipts import traceback_of


class MeasuredUnit(NamedTuple):
    """The result of a unit."""

    rows: pd.DataFrame | None
    """None where no subject could be measured."""
    failures: dict[str, str]
    """Why subjects could not be measured."""
    tracebacks: str = ""
    """Where unexpected errors arose."""


class FidelityMeasurer:
    """Measures units. Loads the model and opens the store at first use."""

    def __init__(self, given: Given, device: str) -> None:
        self._given, self._device = given, device
        self._means: dict[tuple[Cell, Trained | None], Tensor] = {}
        self._loaded: dict[str, Autoencoder] = {}
        self._tracebacks = ""

    def measure(self, unit: MeasureUnit) -> MeasuredUnit:
        """Measure all subjects of a unit. A subject that fails is reported, and the others go on."""
        failures: dict[str, str] = {}
        self._tracebacks = ""
        self._loaded = dict(self._autoencoders(unit.subjects, failures))
        tables: dict[str, list[pd.DataFrame]] = {subject.name: [] for subject in unit.subjects}
        with torch.inference_mode():
            for texts in self._batches(unit.texts):
                batch = SplicedBatch(self._given, texts, unit.subjects, self._model)
                for subject in unit.subjects:
                    if subject.name in failures:
                        continue
                    try:
                        tables[subject.name].append(batch.measure(subject, self._value(subject, batch)))
                    except Exception as error:  # one subject's must not end the others
                        failures[subject.name] = self._described(error)
        good = [table for name, found in tables.items() if name not in failures for table in found]
        return MeasuredUnit(pd.concat(good) if good else None, failures, self._tracebacks)

    @cached_property
    def _store(self) -> ActivationStore:
        return ActivationStore.open(self._given.store)

    @cached_property
    def _model(self) -> EditableModel:
        return EditableModel(self._given.source, self._given.config.dtype, self._device)

    def _autoencoders(self, subjects: Iterable[Subject], failures: dict[str, str]) -> Iterator[tuple[str, Autoencoder]]:
        for subject in subjects:
            if subject.kind != "run":
                continue
            if (known := self._loaded.get(subject.name)) is not None:  # of the unit before, as most are
                yield subject.name, known
                continue
            try:
                yield subject.name, load_autoencoder(subject.of.folder).to(self._device)
            except Exception as error:  # one subject's must not end the others
                failures[subject.name] = self._described(error)

    def _batches(self, texts: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Texts, the longest first, in batches of at most `batch_tokens` tokens with padding."""
        config, start = self._given.config, 0
        while start < len(texts):
            longest = min(len(self._given.texts.token_ids[texts[start]]), config.max_tokens)
            stop = start + max(1, config.batch_tokens // longest)
            yield tuple(texts[start:stop])
            start = stop

    def _value(self, subject: Subject, batch: SplicedBatch) -> Tensor:
        """What takes the place of the activations [n, D] that the subject replaces in a batch."""
        x = batch.at(subject, subject.read)
        if subject.kind == "zero":
            return torch.zeros_like(x)
        if subject.kind == "mean":
            return self._mean(subject).to(x).expand_as(x)
        autoencoder = self._loaded[subject.name]
        with evaluating(autoencoder):
            x_hat = autoencoder(x.float()).x_hat
        if not torch.isfinite(x_hat).all():
            raise NotFiniteError(
                f"the reconstruction of {subject.of.name} holds NaN or infinite numbers at {subject.of.cell}. Leave "
                "this run out, or train it anew."
            )
        return x_hat

    def _mean(self, subject: Subject) -> Tensor:
        """Mean [D] of what is reconstructed, over the rows that were trained on."""
        key = (subject.of.target, subject.of.trained)
        if key not in self._means:
            cell, trained = key
            rows = Rows(self._store.shards(cell.layer, cell.position, cell.site))
            if trained is not None:
                rows = rows.select(split_rows(len(rows), trained.val_fraction, trained.seed)[0])
            self._means[key] = column_mean(rows)
        return self._means[key]

    def _described(self, error: Exception) -> str:
        """An error in a line; where it was not foreseen, its traceback is kept."""
        self._tracebacks += traceback_of(error)
        if isinstance(error, BaeRayError):
            return str(error)
        remedy = (
            " Give a smaller --batch-tokens or --max-tokens, or fewer --workers." if is_out_of_memory(error) else ""
        )
        return f"{type(error).__name__}: {error}{remedy}"
