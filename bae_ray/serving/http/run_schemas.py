"""Answers about runs: the table of all runs, one run, and its features."""

from typing import Any

from bae_ray.serving.http.schemas import Schema

Value = float | int | bool | str | None


class SweepMeasure(Schema):
    """A measure of the table."""

    name: str
    """Its column in the table."""
    label: str
    """What it is, with its unit."""
    decimals: int
    """Number of decimals to show."""


class SweepCaveat(Schema):
    """A warning about the numbers of some runs."""

    mark: str
    said: str
    """The warning."""


class SweepAnswer(Schema):
    """The registry's runs that the key may use, column by column."""

    runs: int
    caveats: list[SweepCaveat]
    """Warnings whose marks are in the column `marks`."""
    measures: list[SweepMeasure]
    """Measures that at least one run has."""
    settings: list[str]
    """Columns of settings in which runs differ, apart from the seed."""
    columns: dict[str, list[Value]]
    """A value per run in each column; null if a run has none."""


class MatchedAnswer(Schema):
    """Bits at one FVU on held-out texts: entropies are only comparable at the same FVU."""

    fvu: float
    columns: dict[str, list[Value]]
    """A row per cell and combination of settings: the bits at which its runs with several entropy weights cross this
    FVU, or the `reason` why they do not."""


class RunAnswer(Schema):
    """How an encoder was trained. All fields are empty if it was not trained in a run."""

    encoder: str
    settings: dict[str, Any]
    """What determines the run, as in its run.json."""
    result: dict[str, Any]
    """All its measures, as in its result.json."""
    fidelity: dict[str, Any]
    """Its fidelity (what the language model still predicts on its reconstruction), if measured."""
    curves: dict[str, list[float]]
    """`epoch`, and the terms of the loss at these epochs."""


class FeatureRow(Schema):
    """A feature of the list."""

    index: int
    firing_rate: float | None = None
    """Share of the reference set on which it fires."""
    bits: float | None = None
    """Entropy of a bit with this firing rate."""
    status: str | None = None
    """ComSem's status: scored, unexplained, unreadable or failed; null if ComSem did not look at the feature."""
    explanation: str | None = None
    score: float | None = None
    chance: float | None = None
    """Score of the same explanation on another feature's tokens."""


class FeatureList(Schema):
    """Some of an encoder's features, in the requested order."""

    encoder: str
    n_features: int
    found: int
    """Number of features that match the search; without a search, all."""
    features: list[FeatureRow]
    rate_edges: list[float]
    """Edges of the bins of `rate_counts`, equally wide on a logarithmic axis. The first bin also has all smaller
    rates."""
    rate_counts: list[int]
    """Number of features per bin of the firing rate; empty if rates are not known."""
    judge: dict[str, Any] | None = None
    """The judge that scored them: its accuracy, its bias, warnings."""
    summary: dict[str, Any] | None = None
    """Mean of all scores, beside chance and random tokens."""
