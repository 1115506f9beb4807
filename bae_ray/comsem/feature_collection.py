"""Collecting an autoencoder's examples and measures on the evaluation set, once for all runs of ComSem in a folder."""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bae_ray.activations.layout import Cell
from bae_ray.activations.model import ModelSource
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.autoencoders.hub import fetched
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.comsem.config import RANDOM, ExamplesConfig
from bae_ray.comsem.evaluation import Method, Run, prepare, rows_of
from bae_ray.comsem.examples import NO_TOKEN, Collected, Kept, at_quantiles, collect, random_sets
from bae_ray.comsem.feature_details import NO_WORDS, similar, strongest, words
from bae_ray.comsem.feature_records import (
    Details,
    Evaluation,
    FeatureRecords,
    read_evaluation,
    read_feature_records,
    records_table,
)
from bae_ray.comsem.sentences import Sentences
from bae_ray.comsem.tasks import active_features
from bae_ray.config import content_hash
from bae_ray.errors import UnreadableFileError
from bae_ray.files import at_hand, checksum
from bae_ray.locations import location_of

FORMAT = 2
"""Of the table of examples. 2: a sample of activations, similar features and words stand beside the examples."""
MEASURED = ("mse", "fvu", "l0", "entropy_bits")
"""Measures of the autoencoder, known where the store holds what it reconstructs."""


class EvaluationSet(NamedTuple):
    """The tokens that features are measured on."""

    store: ActivationStore
    sentences: Sentences
    n_tokens: int
    """The first this many tokens of the store."""
    run: Run
    """Processes all of them, here or on a cluster."""
    source: ModelSource
    """The language model."""


def collect_records(
    method: Method, evaluation: EvaluationSet, config: ExamplesConfig, random_features: int, folder: Path
) -> FeatureRecords:
    """The records of a method in a folder. They are collected now unless those of the same inputs are there.

    The inputs are the autoencoder's weights, the evaluation set and the config. `random_features` is the number of
    random token sets where these are the method.
    """
    identity = _identity(method, evaluation, config, random_features)
    try:
        if read_evaluation(folder).identity == identity:
            return read_feature_records(folder)
    except UnreadableFileError:  # none yet, or of an earlier version
        pass
    if method.source == RANDOM:
        records = _of_random_sets(method, evaluation, config, random_features, identity)
    else:
        records = _of_autoencoder(method, evaluation, config, identity)
    records.write(folder)
    return records


def _identity(method: Method, evaluation: EvaluationSet, config: ExamplesConfig, random_features: int) -> str:
    """A hash of all that the records depend on; of an autoencoder the weights count, wherever they come from."""
    store, weights = evaluation.store, {}
    if method.source != RANDOM:
        folder = fetched(method.source, (CONFIG_FILE, WEIGHTS_FILE))
        files = [file for name in (CONFIG_FILE, WEIGHTS_FILE) if (file := at_hand(folder / name)).exists()]
        weights = {file.name: checksum(file) for file in files}
    data = random_features if method.source == RANDOM else store.fingerprint(method.cell)
    texts = [shard.files for shard in store.manifest.shards]
    rows = [{name: record.checksum for name, record in of.items() if name.startswith("rows/")} for of in texts]
    cells = sorted(str(cell) for cell in store.cells)  # of which one may be a transcoder's target, or none
    settings = config.model_dump(mode="json")
    source = location_of(Path(method.source)) or method.source
    return content_hash([FORMAT, source, weights, data, cells, rows, evaluation.n_tokens, settings])


def _of_autoencoder(method: Method, evaluation: EvaluationSet, config: ExamplesConfig, identity: str) -> FeatureRecords:
    sentences, n_tokens = evaluation.sentences, evaluation.n_tokens
    prepared = prepare(method, evaluation.store, evaluation.run)
    autoencoder, metrics = prepared.autoencoder, prepared.metrics
    collected, *others = evaluation.run(partial(_collect, cell=method.cell, config=config), autoencoder)
    for other in others:
        collected.merge(other)
    kept, top, sampled = (some.kept() for some in collected)
    active = active_features(kept, config)
    quantiles = at_quantiles(sampled)
    for shown in (top, quantiles):
        sentences.prepare(int(token) for token in shown.tokens[active].ravel() if token != NO_TOKEN)
    rows = rows_of(evaluation.store, method.cell, 0, n_tokens)
    strongest_tokens, at_each_quantile = (
        strongest(autoencoder, rows, sentences, shown, active, config.top_context) for shown in (top, quantiles)
    )
    dictionary = autoencoder.W_dec.detach()
    writes_residual = method.cell.site == "residual" and autoencoder.architecture.reconstructs == "input"
    attributed = words(dictionary, active, evaluation.source, method.cell.layer) if writes_residual else {}
    near = similar(dictionary, active)
    details = {
        feature: Details(
            np.sort(sampled.magnitudes[feature][sampled.tokens[feature] != NO_TOKEN]).tolist(),
            at_each_quantile[feature],
            near[feature],
            attributed.get(feature, NO_WORDS),
        )
        for feature in active
    }
    strengths = top.magnitudes[:, 0] if top.magnitudes.shape[1] else np.full(len(kept.counts), np.nan, np.float32)
    strengths = np.where(kept.counts > 0, strengths, np.nan)
    entropies = bernoulli_entropy(prepared.rates).numpy()
    return FeatureRecords(
        Evaluation(
            identity=identity,
            architecture=autoencoder.config.name,
            layer=method.cell.layer,
            site=method.cell.site,
            d_in=autoencoder.d_in,
            n_features=autoencoder.n_features,
            n_tokens=n_tokens,
            n_sentences=sentences.texts_of(n_tokens),
            **{name: getattr(metrics, name) for name in MEASURED if metrics},
            spectral_norm=prepared.spectral_norm,
        ),
        records_table(kept, prepared.rates.numpy(), entropies, strengths, strongest_tokens, details),
    )


def _of_random_sets(
    method: Method, evaluation: EvaluationSet, config: ExamplesConfig, n_sets: int, identity: str
) -> FeatureRecords:
    n_tokens = evaluation.n_tokens
    sets = random_sets(n_tokens, n_sets, config)
    kept = Kept(sets, np.zeros(sets.shape, dtype=np.float32), np.full(n_sets, sets.shape[1]))
    rates, unknown = np.full(n_sets, sets.shape[1] / n_tokens), np.full(n_sets, math.nan)
    return FeatureRecords(
        Evaluation(
            identity=identity,
            architecture=RANDOM,
            layer=method.cell.layer,
            site=method.cell.site,
            d_in=0,
            n_features=n_sets,
            n_tokens=n_tokens,
            n_sentences=evaluation.sentences.texts_of(n_tokens),
        ),
        records_table(kept, rates, unknown, unknown, {}, {}),
    )


def _collect(
    autoencoder: Autoencoder, store: ActivationStore, start: int, end: int, cell: Cell, config: ExamplesConfig
) -> Collected:
    return collect(autoencoder, rows_of(store, cell, start, end), config, start)
