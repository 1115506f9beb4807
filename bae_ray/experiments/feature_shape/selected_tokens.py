"""The tokens of an evaluation set, and on which of them each feature is active.

Shapes: N tokens, D d_in, G features, A activations: pairs of a token and a feature.
"""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from bae_ray.activations.ragged import Ragged
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.cluster_controls import Pool
from bae_ray.analysis.feature_clusters import Bools, Floats, Ints
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import load_autoencoder
from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.autoencoders.hub import fetched
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.comsem.evaluation import Method, prepare, rows_of, runner
from bae_ray.comsem.examples import top_k
from bae_ray.config import content_hash
from bae_ray.files import at_hand, atomic_path, checksum

FOLDER = "selected"
TYPICAL = 0.5
"""A bit that is 1 more often than this says more where it is 0."""


class Subject(NamedTuple):
    """An autoencoder, and the tokens that its features are looked at on."""

    method: Method
    store: ActivationStore
    examples: ExamplesConfig
    """When a feature counts as active."""
    model: str
    """Name or folder of the language model, for its tokenizer."""

    @property
    def n_tokens(self) -> int:
        """N: the first this many tokens of the store."""
        return min(self.store.manifest.n, self.examples.max_tokens or self.store.manifest.n)

    def identity(self) -> str:
        """A hash of all that the activations depend on: weights, evaluation set, and when a feature is active."""
        folder = fetched(self.method.source, (CONFIG_FILE, WEIGHTS_FILE))
        weights = [checksum(file) for name in (CONFIG_FILE, WEIGHTS_FILE) if (file := at_hand(folder / name)).exists()]
        data, when = self.store.fingerprint(self.method.cell), [self.examples.k, self.examples.skip_zero]
        return content_hash([weights, data, self.n_tokens, when])


class Selected(NamedTuple):
    """Which features are active on which tokens, by Algorithm 1: of a token those of the k largest magnitudes."""

    tokens: Ints
    """[A]: number of the token, by feature and then in order."""
    ends: Ints
    """[G]: where each feature's tokens end."""
    rates: Floats
    """[G]: firing rates over the evaluation set."""

    def of(self, feature: int) -> Ints:
        """The tokens on which a feature is active, in order."""
        return self.tokens[self.ends[feature - 1] if feature else 0 : self.ends[feature]]

    @property
    def counts(self) -> Ints:
        """[G]: number of tokens on which each feature is active."""
        return np.diff(self.ends, prepend=0)


class Tokens(NamedTuple):
    """The first N tokens of an evaluation set, [N] each."""

    sentence: Ints
    position: Ints
    ids: Ints
    frequency: Ints
    """How often each one's id is there among them."""

    @classmethod
    def of(cls, store: ActivationStore, n: int) -> Self:
        """The first n tokens of a store of all tokens of texts."""
        texts = store.texts_table()
        kept, ids = Ragged.of(texts["kept"]), Ragged.of(texts["token_ids"])
        sentence = np.repeat(np.arange(len(kept)), kept.lengths)[:n]
        position = kept.values[:n].astype(np.int64)
        found = ids.values[(ids.ends - ids.lengths)[sentence] + position].astype(np.int64)
        _, number, count = np.unique(found, return_inverse=True, return_counts=True)
        return cls(sentence, position, found, count[number])


def select_tokens(subject: Subject, out: Path) -> Selected:
    """Find the tokens of every feature, in one pass; where it is finished in `out`, its file is read."""
    file = out / FOLDER / f"{subject.identity()}.safetensors"
    if not at_hand(file).exists():
        found = _pass(subject)
        with atomic_path(file) as temporary:
            save_file(found._asdict(), temporary)
    return Selected(**load_file(file))


@torch.no_grad()
def _pass(subject: Subject) -> Selected:
    n = subject.n_tokens
    prepared = prepare(subject.method, subject.store, runner(subject.store, n, 1, 0))
    autoencoder = prepared.autoencoder
    tokens, features, first = [], [], 0
    with evaluating(autoencoder):
        for batch in rows_of(subject.store, subject.method.cell, 0, n).split(rows_at_once(autoencoder)):
            magnitudes = autoencoder.magnitudes(batch.to(autoencoder.mean.device))
            rows, columns = top_k(magnitudes, subject.examples.k, subject.examples.skip_zero)
            tokens.append(rows.cpu().numpy() + first)
            features.append(columns.cpu().numpy())
            first += len(batch)
    token, feature = np.concatenate(tokens), np.concatenate(features)
    order = np.lexsort((token, feature))
    ends = np.bincount(feature, minlength=autoencoder.n_features).cumsum()
    return Selected(token[order].astype(np.int64), ends.astype(np.int64), prepared.rates.numpy().astype(np.float64))


class Directions(NamedTuple):
    """Where each feature points."""

    dictionary: Floats
    """Rows [G, D]."""
    is_binary: bool

    @classmethod
    def of(cls, source: str) -> Self:
        """Those of an autoencoder, by its folder or hub id."""
        autoencoder = load_autoencoder(source)
        return cls(autoencoder.W_dec.detach().double().numpy(), autoencoder.architecture.is_binary)


class Pools(NamedTuple):
    """Makes the pool of any feature."""

    subject: Subject
    tokens: Tokens
    selected: Selected
    directions: Directions

    def of(self, feature: int, most: int, seed: int) -> Pool:
        """All tokens but the first of the sentences in which a feature is active; at most `most`, of a sample of these.

        The projection rises towards where the feature is active: a bit that is mostly 1 says more where it is 0.
        """
        active = np.zeros(len(self.tokens.ids), dtype=np.bool_)
        active[self.selected.of(feature)] = True
        chosen = self._rows(active & (self.tokens.position > 0), most, seed)
        x = rows_of(self.subject.store, self.subject.method.cell, 0, len(active)).take(torch.from_numpy(chosen))
        sign = -1.0 if self.directions.is_binary and self.selected.rates[feature] > TYPICAL else 1.0
        found = x.double().numpy()
        return Pool(
            x=found,
            active=active[chosen],
            sentence=self.tokens.sentence[chosen],
            token_ids=self.tokens.ids[chosen],
            frequency=self.tokens.frequency[chosen],
            projection=sign * (found @ self.directions.dictionary[feature]),
        )

    def _rows(self, active: Bools, most: int, seed: int) -> Ints:
        """The rows of whole sentences, in a random order of these until there are enough."""
        later = self.tokens.position > 0
        sizes = np.bincount(self.tokens.sentence[later], minlength=int(self.tokens.sentence[-1]) + 1)
        sentences = np.random.default_rng([seed, 1]).permutation(np.unique(self.tokens.sentence[active]))
        some = sentences[: max(1, int(np.searchsorted(sizes[sentences].cumsum(), most, side="right")))]
        return np.flatnonzero(later & np.isin(self.tokens.sentence, some))
