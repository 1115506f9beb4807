"""What a feature's card shows beside its examples: its strongest tokens, similar features, and words it promotes.

Shapes: G features, D width of the activations, V words of the language model's vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.comsem.examples import NO_TOKEN, Kept
from bae_ray.comsem.sentences import Sentences

NEAREST = 5
"""Number of features shown as similar."""
WORDS = 10
"""Number of words shown as promoted, and as suppressed."""
AT_ONCE = 256
"""Features that are compared with the dictionary, or with the vocabulary, at a time."""
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


class Strongest(NamedTuple):
    """One of a feature's strongest tokens."""

    text: int
    """Number of the sentence in the evaluation set."""
    pieces: list[str]
    """The token and its neighbours, as pieces of the sentence."""
    values: list[float]
    """The feature's magnitude on each piece; NaN where the evaluation set leaves the token out."""
    at: int
    """Index of the token among the pieces."""


@torch.no_grad()
def strongest(
    autoencoder: Autoencoder, rows: Rows, sentences: Sentences, kept: Kept, features: list[int], around: int
) -> dict[int, list[Strongest]]:
    """The strongest tokens of these features. Reads only the activations of these tokens and their neighbours."""
    windows = [
        (feature, sentences.window(int(token), around))
        for feature in features
        for token in kept.tokens[feature]
        if token != NO_TOKEN
    ]
    wanted = np.array([row for _, window in windows for row in window.rows], dtype=np.int64)
    of = np.repeat(
        np.array([feature for feature, _ in windows], dtype=np.int64), [len(window.rows) for _, window in windows]
    )
    values = np.full(len(wanted), np.nan, dtype=np.float32)
    order = np.argsort(wanted, kind="stable")
    order = order[(wanted[order] >= 0) & (wanted[order] < len(rows))]
    needed = np.unique(wanted[order])
    at_once, device = rows_at_once(autoencoder), autoencoder.mean.device
    with evaluating(autoencoder):
        for start in range(0, len(needed), at_once):
            batch = needed[start : start + at_once]
            magnitudes = autoencoder.magnitudes(rows.take(torch.from_numpy(batch)).to(device))
            here = order[slice(*np.searchsorted(wanted[order], [batch[0], batch[-1] + 1]))]
            row = torch.from_numpy(np.searchsorted(batch, wanted[here])).to(device)
            values[here] = magnitudes[row, torch.from_numpy(of[here]).to(device)].float().cpu().numpy()
    found: dict[int, list[Strongest]] = {feature: [] for feature in features}
    start = 0
    for feature, window in windows:
        end = start + len(window.rows)
        found[feature].append(Strongest(window.text, window.pieces, values[start:end].tolist(), window.at))
        start = end
    return found


class Similar(NamedTuple):
    """Another feature."""

    feature: int
    cosine: float
    """Cosine of the two rows of the dictionary."""


@torch.no_grad()
def similar(dictionary: Tensor, features: Sequence[int]) -> dict[int, list[Similar]]:
    """For some features the nearest of all others, by the cosine of their rows of the dictionary [G, D]."""
    unit = nn.functional.normalize(dictionary.float(), dim=1)
    found: dict[int, list[Similar]] = {}
    for start in range(0, len(features), AT_ONCE):
        chosen = torch.tensor(features[start : start + AT_ONCE], device=unit.device)
        cosines = unit[chosen] @ unit.T
        cosines[torch.arange(len(chosen)), chosen] = -torch.inf
        values, others = cosines.topk(min(NEAREST, len(unit) - 1), dim=1)
        for feature, row, near in zip(chosen.tolist(), values.tolist(), others.tolist(), strict=True):
            found[feature] = [Similar(other, value) for other, value in zip(near, row, strict=True)]
    return found


class Word(NamedTuple):
    """A word of the vocabulary, and how a feature changes its logit."""

    word: str
    logit: float
    """For a row of the dictionary that has the root mean square 1."""


class Words(NamedTuple):
    """The words that a feature makes more likely and less likely, those that change most first."""

    promoted: list[Word]
    suppressed: list[Word]


NO_WORDS = Words([], [])


@torch.no_grad()
def words(dictionary: Tensor, features: Sequence[int], source: ModelSource, layer: int) -> dict[int, Words]:
    """The words that rows of a dictionary [G, D] of a layer's residual stream promote and suppress, for some features.

    Each row, scaled to a root mean square of 1, goes through the language model's final norm and unembedding, as in the
    logit lens; the result for a row of zeros (the biases) is subtracted. Rows of the last layer, which is after that
    norm, only go through the unembedding. Empty where the model's weights are not on this machine, have no head, or
    are of another width than the dictionary.
    """
    width = dictionary.shape[1]
    if not features or width != source.hidden_size or not Path(source.path).is_dir():
        return {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source.path, output_loading_info=True)
    except (OSError, ValueError):  # no weights, or no class with a head: everything else works without
        return {}
    causal, notes = loaded
    causal = causal.float().eval().to(dictionary.device)
    model, head = causal.base_model, causal.get_output_embeddings()
    if head is None or any(name.startswith(("lm_head", "embed_out")) for name in notes["missing_keys"]):
        return {}
    norm = (
        nn.Identity()
        if layer == source.n_layers
        else next((part for name in FINAL_NORMS if (part := _part(model, name)) is not None), None)
    )
    if norm is None or getattr(head, "in_features", width) != width:
        return {}
    tokenizer = load_tokenizer(source)
    nothing = head(norm(torch.zeros_like(dictionary[:1])))
    found: dict[int, Words] = {}
    for start in range(0, len(features), AT_ONCE):
        chosen = list(features[start : start + AT_ONCE])
        rows = dictionary[chosen].float()
        logits = head(norm(rows / rows.pow(2).mean(1, keepdim=True).sqrt().clamp_min(1e-30))) - nothing
        ends = [(logits * sign).topk(min(WORDS, logits.shape[1]), dim=1) for sign in (1, -1)]
        for i, feature in enumerate(chosen):
            promoted, suppressed = (
                [
                    Word(str(tokenizer.decode([int(word)])), sign * value)
                    for value, word in zip(end.values[i].tolist(), end.indices[i].tolist(), strict=True)
                ]
                for end, sign in zip(ends, (1, -1), strict=True)
            )
            found[feature] = Words(promoted, suppressed)
    return found


def _part(model: nn.Module, name: str) -> Any:
    """The norm of this name in the model or in its decoder."""
    return next(
        (part for owner in (model, getattr(model, "decoder", None)) if (part := getattr(owner, name, None))), None
    )
