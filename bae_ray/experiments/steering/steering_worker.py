"""A worker: makes the vector of a unit, and measures what it does to the language model.

Shapes: N prompts, D hidden size, F d_latent.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.config import Precision
from bae_ray.activations.model import ModelSource
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.steering.steering_units import (
    CENTROIDS,
    COMPONENT,
    DIRECTION,
    FEATURES,
    NONE,
    Setting,
    SteeredRow,
    SteeringUnit,
    Trained,
)
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.seeds import stream
from bae_ray.steering import vectors
from bae_ray.steering.edits import AddedVector
from bae_ray.steering.label_scoring import AskedPrompts, divergence, measure_answers
from bae_ray.steering.random_vectors import random_direction, random_features
from bae_ray.steering.steered_model import SteeredModel
from bae_ray.storage import folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.receipts import traceback_of


class Asked(NamedTuple):
    """What a seed steers."""

    prompts: list[list[int]]
    answers: list[int]
    good: Path
    """Store of the prompts with demonstrations."""
    bad: Path
    """Store of those without."""


class Order(NamedTuple):
    """What all units have in common. Goes to other machines."""

    source: ModelSource
    dtype: Precision
    site: str
    labels: tuple[tuple[int, ...], ...]
    neutral: list[list[int]]
    asked: dict[int, Asked]
    """By seed."""
    runs: Path
    """Folder of the trained autoencoders."""
    folder: Path
    """Where attempts are counted."""
    prompts_at_once: int
    attempts: int


class UnitAnswer(NamedTuple):
    """What came of a unit."""

    rows: list[SteeredRow]
    problem: str = ""
    traceback: str = ""
    """Where an unexpected error arose."""


class SteeringWorker:
    """A copy of the model, with the prompts of the latest seed read once."""

    def __init__(self, device: str, order: Order) -> None:
        self._order, self._device = order, device
        self._model = SteeredModel(EditableModel(order.source, order.dtype, device))
        self._neutral = AskedPrompts(self._model, order.neutral, order.prompts_at_once)
        self._plain = self._neutral.next_tokens()
        self._seed: int | None = None
        self._prompts: AskedPrompts | None = None

    def __call__(self, numbered: tuple[str, SteeringUnit]) -> UnitAnswer:
        """Do a unit, which is named; no unit stops the others."""
        name, unit = numbered
        try:
            attempts = Attempts(folder_at(self._order.folder), self._order.attempts)
            with attempts.under_way(name):
                if problem := attempts.begin(name):
                    return UnitAnswer([], problem)
                return UnitAnswer(self._measured(unit))
        except Exception as error:
            trace = traceback_of(error)
            return UnitAnswer([], f"{type(error).__name__}: {error}" if trace else str(error), trace)

    def _measured(self, unit: SteeringUnit) -> list[SteeredRow]:
        asked, labels = self._order.asked[unit.seed], self._order.labels
        prompts = self._read(unit.seed)
        answers = torch.tensor(asked.answers)
        tap = Tap(unit.setting.layer, self._order.site)
        vector, distance = self._vector(unit)
        rows: list[SteeredRow] = []
        for strength in unit.strengths:
            edits = [AddedVector(tap, vector, strength)] if strength else []
            found = measure_answers(prompts.scores(labels, edits), labels, answers)
            rows.append(
                SteeredRow(
                    strength,
                    float(found.whole_vocabulary.double().mean()),
                    float(found.among_labels.double().mean()),
                    float(found.log_odds.mean()),
                    float(divergence(self._plain, self._neutral.next_tokens(edits)).mean()) if edits else 0.0,
                    float(vector.norm()),
                    distance,
                )
            )
        return rows

    def _read(self, seed: int) -> AskedPrompts:
        if self._prompts is None or self._seed != seed:
            self._prompts = None  # before there are two
            self._prompts = AskedPrompts(self._model, self._order.asked[seed].prompts, self._order.prompts_at_once)
            self._seed = seed
        return self._prompts

    def _vector(self, unit: SteeringUnit) -> tuple[Tensor, float]:
        """The vector [D], and the distance of the centroids."""
        asked, setting = self._order.asked[unit.seed], unit.setting
        good, bad = (self._activations(store, setting.layer) for store in (asked.good, asked.bad))
        centroids = vectors.centroid_difference(good, bad)
        distance = float(centroids.norm())
        if setting.method == NONE:
            return torch.zeros_like(centroids), distance
        made = self._made(unit, good, bad, centroids)
        return (vectors.rescaled(made, distance) if setting.rescaled else made), distance

    def _made(self, unit: SteeringUnit, good: Tensor, bad: Tensor, centroids: Tensor) -> Tensor:
        method = unit.setting.method
        if method == CENTROIDS:
            return centroids
        if method == COMPONENT:
            return vectors.principal_component(torch.cat([good, bad]), centroids)
        features = None if unit.autoencoder is None else self._of_features(unit.autoencoder, unit.setting, good, bad)
        if method == DIRECTION:
            norm = float(centroids.norm() if features is None else features.norm())
            return random_direction(len(centroids), norm, stream(unit.seed, "steering", method, unit.setting.layer))
        if features is None:
            raise InvalidInputError(
                f"{method} takes an autoencoder, and none is trained at layer {unit.setting.layer}."
            )
        return features

    def _of_features(self, run: Trained, setting: Setting, good: Tensor, bad: Tensor) -> Tensor:
        """The vector [D] of a run's features; of a control of random ones, those, with the norm of the real ones."""
        autoencoder = load_autoencoder(self._order.runs / run.run)
        change = vectors.largest(vectors.latent_difference(autoencoder, good, bad), setting.kept)
        if setting.weights == "signs":
            change = vectors.signs(change)
        real = vectors.decoded(autoencoder, change)
        if setting.method != FEATURES:
            return real
        others = random_features(change, stream(run.seed, "steering", FEATURES, setting.layer))
        return vectors.rescaled(vectors.decoded(autoencoder, others), float(real.norm()))

    def _activations(self, store: Path, layer: int) -> Tensor:
        return ActivationStore.open(store).matrix(layer, "last", self._order.site).float()
