"""The deployment that runs language models on texts, loaded within a time limit and probed as an extraction does.

Shapes: T tokens of all texts together, D hidden size.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from ray import serve
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bae_ray.activations.capture import Capture
from bae_ray.activations.compute import Work
from bae_ray.activations.loading import load_model
from bae_ray.activations.model import ModelSource, find_model, load_tokenizer
from bae_ray.activations.probe import LENGTHS, probe_loaded
from bae_ray.activations.taps import SITES
from bae_ray.errors import InvalidInputError
from bae_ray.serving.compute.interface import COMPUTING, LOADING, TextActivations, TooLongError, TooManyTokensError
from bae_ray.serving.compute.operations import in_thread
from bae_ray.serving.config import ServiceConfig, TextsConfig
from bae_ray.serving.monitoring.counts import Counted, Loads
from bae_ray.serving.ray_serve.deployment import deployed, listen_like_ray, own_id
from bae_ray.serving.registry.entry import EncoderOrigin
from bae_ray.serving.time_limits import TimeLimit

TOKEN_CHARACTERS = 64
"""No text has more characters per token than this, on average."""
BATCH_TOKENS = 4096
IsGone = Callable[[], bool]
"""Whether the client has gone."""
MODELS_KEPT = 2
LOAD_TIMEOUT_S = 60.0
"""A model that takes longer goes on loading. Until it is loaded, requests for it get 503, and other models are served.
"""


class Texts:
    """A replica, which runs one request at a time."""

    def __init__(self, config: ServiceConfig) -> None:
        listen_like_ray()
        self._max_tokens = config.limits.max_tokens
        self._device = "cuda" if config.texts.num_gpus and torch.cuda.is_available() else "cpu"
        self._loads = Loads(own_id(), "texts", "language_model", self._device)
        self._thread = ThreadPoolExecutor(1, "language model")
        self._models = LanguageModels(config.texts, self._device, self._loads)

    async def activations(self, origin: EncoderOrigin, texts: list[str], most: int) -> TextActivations:
        """The activations of every token at the layer and site of an encoder.

        Raises `TooLongError` for a text of too many tokens and `TooManyTokensError` for more than `most` tokens
        together, both before the model runs, and `InvalidInputError` if there is no such model or layer. If the client
        goes away, the computation ends with the current batch.
        """
        gone = threading.Event()
        try:
            return await in_thread(self._thread, self._compute, origin, texts, most, gone.is_set)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def doing(self) -> str:
        """What the replica is doing: `COMPUTING` or `LOADING`."""
        return LOADING if self._models.is_loading else COMPUTING

    async def counted(self) -> Counted:
        """The loads and evictions of this replica."""
        return self._loads.collected()

    def _compute(
        self, origin: EncoderOrigin, texts: list[str], most: int, is_gone: IsGone = lambda: False
    ) -> TextActivations:
        model = self._models.get(origin.model)
        capture = self._models.capture(model, origin)
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
        """Activations [T, D], texts in their order, computed in batches of similar lengths."""
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


def texts(config: ServiceConfig) -> serve.Application:
    """The deployment as the config says."""
    return deployed(Texts, config.texts, max_ongoing=8, drain_s=config.drain_s).bind(config)


class LanguageModel(NamedTuple):
    """A model in memory."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    captures: dict[tuple[int, str], Capture | str]
    """By layer and site: the capture, or the reason why the model is refused there."""


class LanguageModels:
    """The models used last, each loaded once for all layers. Not thread-safe."""

    def __init__(self, settings: TextsConfig, device: str, loads: Loads) -> None:
        self._settings, self._device, self._loads = settings, device, loads
        self._kept: OrderedDict[str, LanguageModel] = OrderedDict()
        self._time_limit = TimeLimit(LOAD_TIMEOUT_S)
        self.is_loading = False

    def get(self, name: str) -> LanguageModel:
        """The model with this name. Raises `InvalidInputError` if there is none, and `SlowError`."""
        if name not in self._kept:
            self.is_loading = True
            try:
                found = self._time_limit.call(("find", name), partial(self._find, name))
                while len(self._kept) >= MODELS_KEPT:  # first, so that there is never one more in memory
                    self._loads.evicted(self._kept.popitem(last=False)[0])
                self._kept[name] = self._time_limit.call(("load", name), partial(self._load, name, *found))
            finally:
                self.is_loading = False
        self._kept.move_to_end(name)
        return self._kept[name]

    def capture(self, model: LanguageModel, origin: EncoderOrigin) -> Capture:
        """The capture of a model's activations at a layer and site.

        Raises `InvalidInputError` if there is no such site, or if an extraction would refuse the model there.
        """
        tap = (origin.layer, origin.site)
        if tap not in model.captures:
            if not 0 <= origin.layer <= model.source.n_layers or origin.site not in SITES:
                raise InvalidInputError(f"{origin.model} has no {origin.site} at layer {origin.layer}.")
            model.captures[tap] = self._probed(model, origin)
        if isinstance(found := model.captures[tap], str):
            raise InvalidInputError(found)
        return found

    def _find(self, name: str) -> tuple[ModelSource, PreTrainedTokenizerBase]:
        source = find_model(self._settings.models.get(name, name))
        tokenizer = load_tokenizer(source)
        if not tokenizer.is_fast:
            raise InvalidInputError(
                f"the tokenizer of model '{source.name}' does not say where its tokens are in a text. Save it as a "
                "fast one, with a tokenizer.json."
            )
        return source, tokenizer

    def _load(self, name: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
        with self._loads.loading(name):
            return LanguageModel(source, tokenizer, load_model(source, self._settings.precision, self._device), {})

    def _probed(self, model: LanguageModel, origin: EncoderOrigin) -> Capture | str:
        work = Work(
            model=model.source,
            layers=(origin.layer,),
            sites=(origin.site,),
            positions=("all",),
            dtype=self._settings.precision,
            batch_size=len(LENGTHS),  # texts are computed in batches
            batch_tokens=sum(LENGTHS),
            compile=False,
            label_tokens=None,
        )
        try:
            probe_loaded(model.model, work, self._device)
        except InvalidInputError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError | MemoryError):  # there may be enough next time
                raise error.__cause__ from None
            return str(error)
        return Capture(model.model, work.layers, work.sites, shared=True)
