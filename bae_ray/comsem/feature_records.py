"""What was found of each feature on the evaluation set, kept beside the results so that it is looked for once.

examples.parquet     a row per feature: how often it was activated, its examples, its strongest tokens; a sample of its
                     activations, tokens at quantiles of it, similar features, words promoted and suppressed
evaluation.json      written last: what they are of, and the autoencoder's measures
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from bae_ray.activations.layout import Cell
from bae_ray.activations.model import ModelSource
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.comsem.config import RANDOM, ExamplesConfig
from bae_ray.comsem.evaluation import Method, Run, prepare, rows_of
from bae_ray.comsem.examples import NO_TOKEN, Collected, Kept, at_quantiles, collect, random_sets
from bae_ray.comsem.logit_attribution import Similar, Word, Words, similar, words
from bae_ray.comsem.sentences import Sentences
from bae_ray.comsem.strongest_tokens import Strongest, strongest
from bae_ray.comsem.tasks import active_features
from bae_ray.config import content_hash
from bae_ray.files import atomic_path, checksum, write_text

EXAMPLES_FILE = "examples.parquet"
EVALUATION_FILE = "evaluation.json"
FORMAT = 2
"""2: a sample of activations, similar features and words stand beside the examples."""


class Evaluation(BaseModel):
    """What an autoencoder is on the evaluation set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    """Hash of the autoencoder, the activations and what was asked of them."""
    architecture: str
    layer: int
    site: str
    d_in: int
    n_features: int
    n_tokens: int
    n_sentences: int
    mse: float | None
    """L_r: mean squared error in the activations' own units. None where there is no reconstruction."""
    fvu: float | None
    l0: float | None
    entropy_bits: float | None
    spectral_norm: float | None
    """||Cov|| of Table 1."""


class Spread(NamedTuple):
    """What a card shows beside a feature's strongest tokens."""

    sample: list[float]
    """Magnitudes of activations drawn at random, rising."""
    quantiles: list[Strongest]
    """Tokens at quantiles of the sample, the strongest first."""
    similar: list[Similar]
    words: Words


NO_SPREAD = Spread([], [], [], Words([], []))
SPREAD = ("sample", "quantiles", "similar", "promoted", "suppressed")
"""Columns of the table."""


class Found:
    """Examples, strongest tokens and firing rates of an autoencoder's features."""

    def __init__(self, evaluation: Evaluation, table: pa.Table) -> None:
        self.evaluation = evaluation
        self._table = table
        width = max((len(row) for row in table["tokens"].to_pylist()), default=0)
        tokens = np.full((len(table), width), NO_TOKEN, dtype=np.int64)
        magnitudes = np.zeros((len(table), width), dtype=np.float32)
        for i, (row, values) in enumerate(
            zip(table["tokens"].to_pylist(), table["magnitudes"].to_pylist(), strict=True)
        ):
            tokens[i, : len(row)] = row
            magnitudes[i, : len(values)] = values
        self.kept = Kept(tokens, magnitudes, table["count"].to_numpy())

    @property
    def features(self) -> pd.DataFrame:
        """A row per feature: feature, count, firing_rate, entropy_bits, max_magnitude."""
        return self._table.select(["feature", "count", "firing_rate", "entropy_bits", "max_magnitude"]).to_pandas()

    def strongest(self, feature: int) -> list[Strongest]:
        """The strongest tokens of a feature."""
        return [_strongest(one) for one in self._table["strongest"][feature].as_py()]

    def spread(self, feature: int) -> "Spread":
        """How a feature's magnitude is spread, and what its row of the dictionary says; empty in older folders."""
        values = {name: self._table[name][feature].as_py() for name in SPREAD if name in self._table.column_names}
        return Spread(
            values.get("sample", []),
            [_strongest(one) for one in values.get("quantiles", [])],
            [Similar(**one) for one in values.get("similar", [])],
            Words(*([Word(**one) for one in values.get(name, [])] for name in ("promoted", "suppressed"))),
        )


def _strongest(one: dict[str, Any]) -> Strongest:
    return Strongest(one["text"], one["pieces"], [math.nan if v is None else v for v in one["values"]], one["at"])


def read_found(folder: Path) -> Found:
    """What `find` has left in a folder."""
    written = Evaluation.model_validate_json((folder / EVALUATION_FILE).read_text(encoding="utf-8"))
    return Found(written, pq.read_table(folder / EXAMPLES_FILE))


def find(
    method: Method, store: ActivationStore, sentences: Sentences, n_tokens: int, config: ExamplesConfig, run: Run,
    random_features: int, folder: Path, source: ModelSource,
) -> Found:  # fmt: skip
    """What is in the folder, if it is of this autoencoder, evaluation set and config; else it is looked for now."""
    identity = _identity(method, store, n_tokens, config, random_features)
    try:
        left = read_found(folder)
    except (FileNotFoundError, ValidationError):
        left = None
    if left is not None and left.evaluation.identity == identity:
        return left
    (folder / EVALUATION_FILE).unlink(missing_ok=True)
    if method.source == RANDOM:
        evaluation, table = _random(method, sentences, n_tokens, config, random_features, identity)
    else:
        evaluation, table = _look(method, store, sentences, n_tokens, config, run, identity, source)
    with atomic_path(folder / EXAMPLES_FILE) as temporary:
        pq.write_table(table, temporary)
    write_text(folder / EVALUATION_FILE, evaluation.model_dump_json(indent=2) + "\n")
    return Found(evaluation, table)


def _identity(
    method: Method, store: ActivationStore, n_tokens: int, config: ExamplesConfig, random_features: int
) -> str:
    source = Path(method.source)
    files = (
        sorted(file for file in source.glob("*") if file.suffix in (".safetensors", ".json")) if source.is_dir() else []
    )
    weights = {file.name: checksum(file) for file in files if file.name in ("config.json", "model.safetensors")}
    data = random_features if method.source == RANDOM else store.fingerprint(method.cell)
    texts = [shard.files for shard in store.manifest.shards]
    rows = [{name: record.checksum for name, record in of.items() if name.startswith("rows/")} for of in texts]
    cells = sorted(str(cell) for cell in store.cells)  # of which one may be a transcoder's target, or none
    about = [FORMAT, method.source, weights, data, cells, rows, n_tokens, config.model_dump(mode="json")]
    return content_hash(about)


def _look(
    method: Method, store: ActivationStore, sentences: Sentences, n_tokens: int, config: ExamplesConfig, run: Run,
    identity: str, source: ModelSource,
) -> tuple[Evaluation, pa.Table]:  # fmt: skip
    prepared = prepare(method, store, run)
    first, *others = run(partial(_collect, cell=method.cell, config=config), prepared.autoencoder)
    for other in others:
        first.merge(other)
    kept, top = first.examples.kept(), first.strongest.kept()
    active = active_features(kept, config)
    sampled = first.sampled.kept()
    quantiles = at_quantiles(sampled)
    for shown in (top, quantiles):
        sentences.prepare(int(token) for token in shown.tokens[active].ravel() if token != NO_TOKEN)
    rows = rows_of(store, method.cell, 0, n_tokens)
    cards, spread = (
        strongest(prepared.autoencoder, rows, sentences, shown, active, config.top_context)
        for shown in (top, quantiles)
    )
    dictionary = prepared.autoencoder.W_dec.detach()
    residual = method.cell.site == "residual" and prepared.autoencoder.architecture.reconstructs == "input"
    speaks_for = words(dictionary, active, source, method.cell.layer) if residual else {}
    near = similar(dictionary, active)
    spreads = {
        feature: Spread(
            _known(sampled, feature), spread[feature], near[feature], speaks_for.get(feature, Words([], []))
        )
        for feature in active
    }
    rates, metrics = prepared.rates, prepared.metrics
    evaluation = Evaluation(
        identity=identity,
        architecture=prepared.autoencoder.config.name,
        layer=method.cell.layer,
        site=method.cell.site,
        d_in=prepared.autoencoder.d_in,
        n_features=prepared.autoencoder.n_features,
        n_tokens=n_tokens,
        n_sentences=sentences.texts_of(n_tokens),
        mse=metrics.mse if metrics else None,
        fvu=metrics.fvu if metrics else None,
        l0=metrics.l0 if metrics else None,
        entropy_bits=metrics.entropy_bits if metrics else None,
        spectral_norm=prepared.spectral_norm,
    )
    strengths = top.magnitudes[:, 0] if top.magnitudes.shape[1] else np.full(len(kept.counts), np.nan, np.float32)
    strengths = np.where(kept.counts > 0, strengths, np.nan)
    return evaluation, _table(kept, rates.numpy(), bernoulli_entropy(rates).numpy(), strengths, cards, spreads)


def _random(
    method: Method, sentences: Sentences, n_tokens: int, config: ExamplesConfig, n_sets: int, identity: str
) -> tuple[Evaluation, pa.Table]:
    sets = random_sets(n_tokens, n_sets, config)
    kept = Kept(sets, np.zeros(sets.shape, dtype=np.float32), np.full(n_sets, sets.shape[1]))
    rates = np.full(n_sets, sets.shape[1] / n_tokens)
    nothing = np.full(n_sets, math.nan)
    evaluation = Evaluation(
        identity=identity, architecture=RANDOM, layer=method.cell.layer, site=method.cell.site, d_in=0,
        n_features=n_sets, n_tokens=n_tokens, n_sentences=sentences.texts_of(n_tokens),
        mse=None, fvu=None, l0=None, entropy_bits=None, spectral_norm=None,
    )  # fmt: skip
    return evaluation, _table(kept, rates, nothing, nothing, {}, {})


def _collect(
    autoencoder: Autoencoder, store: ActivationStore, start: int, end: int, cell: Cell, config: ExamplesConfig
) -> Collected:
    return collect(autoencoder, [(start, rows_of(store, cell, start, end))], config)


def _table(
    kept: Kept, rates: np.ndarray, entropies: np.ndarray, strengths: np.ndarray, cards: dict[int, list[Strongest]],
    spreads: dict[int, Spread],
) -> pa.Table:  # fmt: skip
    there = kept.tokens != NO_TOKEN
    card = pa.struct(
        {"text": pa.int64(), "pieces": pa.list_(pa.string()), "values": pa.list_(pa.float32()), "at": pa.int32()}
    )
    near = pa.struct({"feature": pa.int64(), "cosine": pa.float32()})
    word = pa.struct({"word": pa.string(), "logit": pa.float32()})
    every = [spreads.get(feature, NO_SPREAD) for feature in range(len(rates))]
    return pa.table(
        {
            "feature": pa.array(range(len(rates)), pa.int64()),
            "count": pa.array(kept.counts, pa.int64()),
            "firing_rate": pa.array(rates, pa.float64()),
            "entropy_bits": pa.array(entropies, pa.float64()),
            "max_magnitude": pa.array(strengths, pa.float32()),
            "tokens": pa.array(
                [row[of].tolist() for row, of in zip(kept.tokens, there, strict=True)], pa.list_(pa.int64())
            ),
            "magnitudes": pa.array(
                [row[of].tolist() for row, of in zip(kept.magnitudes, there, strict=True)], pa.list_(pa.float32())
            ),
            "strongest": pa.array([_records(cards.get(i, [])) for i in range(len(rates))], pa.list_(card)),
            "sample": pa.array([one.sample for one in every], pa.list_(pa.float32())),
            "quantiles": pa.array([_records(one.quantiles) for one in every], pa.list_(card)),
            "similar": pa.array([[other._asdict() for other in one.similar] for one in every], pa.list_(near)),
            "promoted": pa.array([[w._asdict() for w in one.words.promoted] for one in every], pa.list_(word)),
            "suppressed": pa.array([[w._asdict() for w in one.words.suppressed] for one in every], pa.list_(word)),
        }
    )


def _records(shown: list[Strongest]) -> list[dict[str, Any]]:
    return [{**one._asdict(), "values": [None if math.isnan(v) else v for v in one.values]} for one in shown]


def _known(kept: Kept, feature: int) -> list[float]:
    """Magnitudes of what is kept of a feature, rising."""
    return np.sort(kept.magnitudes[feature][kept.tokens[feature] != NO_TOKEN]).tolist()
