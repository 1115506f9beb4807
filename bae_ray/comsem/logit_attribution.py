"""The words of the vocabulary that a feature's row of the dictionary promotes and suppresses (logit attribution).

Shapes: G features, D width of the activations, V words of the language model's vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bae_ray.activations.model import ModelSource, load_tokenizer

WORDS = 10
"""Number of words shown as promoted, and as suppressed."""
AT_ONCE = 256
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


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
