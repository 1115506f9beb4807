"""What answers about runs look like: the table of all, one of them, and its features."""

from typing import Any

from bae_ray.serving.http.schemas import Schema

Value = float | int | bool | str | None


class SweepMeasure(Schema):
    """A measure of the table."""

    name: str
    """Its column."""
    label: str
    """What it is, with its unit."""
    decimals: int
    """After the point, where it is shown."""


class SweepCaveat(Schema):
    """A warning of some runs' numbers."""

    mark: str
    said: str
    """What is said of runs with this mark."""


class SweepAnswer(Schema):
    """The runs in the registry that the key is for, column by column."""

    runs: int
    caveats: list[SweepCaveat]
    """Whose marks the column `marks` has."""
    measures: list[SweepMeasure]
    """Those that some run has."""
    settings: list[str]
    """Columns of settings in which runs differ, apart from the seed."""
    columns: dict[str, list[Value]]
    """Each of as many values as there are runs; null where a run has none."""


class MatchedAnswer(Schema):
    """Bits at one FVU on held-out texts: entropies are only comparable at the same FVU."""

    fvu: float
    columns: dict[str, list[Value]]
    """A row per cell and combination of settings: its bits where its runs of several entropy weights cross this FVU, or
    the `reason` why they do not."""


class RunAnswer(Schema):
    """How an encoder was trained; all empty of one that was not trained in a run."""

    encoder: str
    settings: dict[str, Any]
    """What determines the run, as in its run.json."""
    result: dict[str, Any]
    """All that was measured of it, as in its result.json."""
    fidelity: dict[str, Any]
    """What the language model still predicts on its reconstruction, where that was measured."""
    curves: dict[str, list[float]]
    """`epoch`, and the terms of the loss at these."""


class FeatureRow(Schema):
    """A feature of the list."""

    index: int
    firing_rate: float | None = None
    """Share of the reference set on which it fires."""
    bits: float | None = None
    """Its entropy by that rate."""
    status: str | None = None
    """Of ComSem: scored, unexplained, unreadable, failed; null of a feature that it did not look at."""
    explanation: str | None = None
    score: float | None = None
    chance: float | None = None
    """Score of the same explanation on another feature's tokens."""


class FeatureList(Schema):
    """Some of the features of an encoder, in the order that was asked for."""

    encoder: str
    n_features: int
    found: int
    """How many match the search; all without one."""
    features: list[FeatureRow]
    rate_edges: list[float]
    """Edges of the bins of `rate_counts`, of equal widths on a logarithmic axis; the first bin has all smaller ones."""
    rate_counts: list[int]
    """Features by their firing rate; empty where rates are not known."""
    judge: dict[str, Any] | None = None
    """The judge that has scored them: its own accuracy, its bias, and warnings."""
    summary: dict[str, Any] | None = None
    """Of all scores: their mean beside chance and random tokens."""
