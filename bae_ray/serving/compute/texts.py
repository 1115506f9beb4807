"""The deployment that runs an encoder's own language model on texts.

Shapes: T tokens of all texts together, D hidden size.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from ray import serve
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bae_ray.activations.capture import SITES, Capture
from bae_ray.activations.loading import load_model
from bae_ray.activations.model import ModelSource, find_model, load_tokenizer
from bae_ray.errors import InvalidInputError
from bae_ray.serving.compute.interface import (
    COMPUTING,
    LOADING,
    TextActivations,
    TooLongError,
    TooManyTokensError,
)
from bae_ray.serving.compute.threads import in_thread
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.monitoring.counts import Counted
from bae_ray.serving.monitoring.load_counts import Loads
from bae_ray.serving.ray_serve.deployment import deployed, own_id
from bae_ray.serving.ray_serve.loopback import listen_like_ray
from bae_ray.serving.registry.entry import Origin

TOKEN_CHARACTERS = 64
"""No text has tokens that are longer than this on average."""
MODELS_KEPT = 2
BATCH_TOKENS = 4096
IsGone = Callable[[], bool]
"""Whether nobody waits for the result any more."""


class _Model(NamedTuple):
    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    captures: dict[tuple[int, str], Capture]
    """By layer and site, all of the one model."""


class Texts:
    """A replica: the language models asked for last, each loaded once for all layers that encoders are of."""

    def __init__(self, config: ServiceConfig) -> None:
        listen_like_ray()
        self._settings = config.texts
        self._max_tokens = config.limits.max_tokens
        self._device = "cuda" if self._settings.num_gpus and torch.cuda.is_available() else "cpu"
        self._loads = Loads(own_id(), "texts", "language_model", self._device)
        self._thread = ThreadPoolExecutor(1, "language model")
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._loading = False

    async def activations(self, origin: Origin, texts: list[str], most: int) -> TextActivations:
        """The activations of every token at the layer and site of an encoder.

        Raises `TooLongError` for a text of too many tokens, `TooManyTokensError` where they are more than `most`
        together, before the language model runs, and `InvalidInputError` where it cannot be found or does not have the
        layer. What nobody waits for any more ends with the batch that is computed.
        """
        gone = threading.Event()
        try:
            return await in_thread(self._thread, self._compute, origin, texts, most, gone.is_set)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def doing(self) -> str:
        """What it is at: `COMPUTING` or `LOADING`."""
        return LOADING if self._loading else COMPUTING

    async def counted(self) -> Counted:
        """What this replica has loaded and evicted."""
        return self._loads.collected()

    def _compute(self, origin: Origin, texts: list[str], most: int, is_gone: IsGone = lambda: False) -> TextActivations:
        model = self._model(origin.model)
        capture = _capture(model, origin)
        tokenizer = model.tokenizer
        longest = min(self._max_tokens, model.source.max_positions or self._max_tokens)
        for number, text in enumerate(texts):  # tokenising megabytes would hold up everybody
            if len(text) > longest * TOKEN_CHARACTERS:
                raise TooLongError(f"Text {number} has {len(text)} characters; {longest} tokens are taken.")
        encoded = tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        for number, row in enumerate(ids):
            if len(row) > longest:
                raise TooLongError(f"Text {number} has {len(row)} tokens; {longest} are taken.")
        if (count := sum(map(len, ids))) > most:
            raise TooManyTokensError(
                f"The texts have {count} tokens; the answer may be of {most}. Send fewer texts, or a smaller top_k."
            )
        spans = [span for row in encoded["offset_mapping"] for span in row]
        flat = [token for row in ids for token in row]
        return TextActivations(
            x=self._vectors(capture, ids, is_gone),
            token_ids=np.array(flat, np.int32),
            spans=np.array(spans, np.int32).reshape(-1, 2),
            tokens=[str(tokenizer.decode([token])) for token in flat],
            splits=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        )

    def _vectors(self, capture: Capture, ids: list[list[int]], is_gone: IsGone) -> np.ndarray:
        """Activations [T, D], the texts in their order, computed in batches of like lengths."""
        made: dict[int, torch.Tensor] = {}
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
        while order and not is_gone():
            width = len(ids[order[-1]])
            batch = [order.pop() for _ in range(min(len(order), max(1, BATCH_TOKENS // width)))]
            padded = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in zip(padded, batch, strict=True):
                row[: len(ids[i])] = torch.tensor(ids[i])
            kept = torch.cat([torch.arange(len(ids[i])) + row * width for row, i in enumerate(batch)])
            vectors, _ = capture(padded.to(self._device), kept.to(self._device))
            parts = vectors[0].float().cpu().split([len(ids[i]) for i in batch])
            made.update(zip(batch, parts, strict=True))
        parts = [made[i] for i in sorted(made)]
        return torch.cat(parts).numpy() if parts else np.empty((0, 0), np.float32)

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            source = find_model(self._settings.models.get(name, name))
            while len(self._models) >= MODELS_KEPT:  # first, so that there is never one more in memory
                self._loads.evicted(self._models.popitem(last=False)[0])
            tokenizer = load_tokenizer(source)
            if not tokenizer.is_fast:
                raise InvalidInputError(
                    f"the tokenizer of model '{source.name}' does not say where its tokens are in a text. Save it as a "
                    "fast one, with a tokenizer.json."
                )
            self._loading = True
            try:
                with self._loads.loading(name):
                    model = load_model(source, self._settings.precision, self._device)
                    self._models[name] = _Model(source, tokenizer, model, {})
            finally:
                self._loading = False
        self._models.move_to_end(name)
        return self._models[name]


def _capture(model: _Model, origin: Origin) -> Capture:
    """What reads the model's activations at a layer and site. Raises `InvalidInputError` where there are none."""
    tap = (origin.layer, origin.site)
    if tap not in model.captures:
        if not 0 <= origin.layer <= model.source.n_layers or origin.site not in SITES:
            raise InvalidInputError(f"{origin.model} has no {origin.site} at layer {origin.layer}.")
        model.captures[tap] = Capture(model.model, (origin.layer,), (origin.site,), shared=True)
    return model.captures[tap]


def texts(config: ServiceConfig) -> serve.Application:
    """The deployment as the config says."""
    return deployed(Texts, config.texts, max_ongoing=8, drain_s=config.drain_s).bind(config)
