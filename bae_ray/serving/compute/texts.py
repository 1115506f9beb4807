"""The deployment that runs language models on texts: activations, what they write when steered, and fidelity.

Shapes: T tokens of all texts together, D hidden size.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from ray import serve
from transformers import BatchEncoding

from bae_ray.activations.capture import Capture
from bae_ray.activations.layout import Cell
from bae_ray.feature_model import FeatureModel
from bae_ray.fidelity.text_fidelity import TextFidelity
from bae_ray.serving.compute.encoder_files import EncoderFiles
from bae_ray.serving.compute.interface import (
    COMPUTING,
    LOADING,
    Steering,
    TextActivations,
    TooLongError,
    TooManyTokensError,
    WrittenText,
    WrittenToken,
    refusals,
)
from bae_ray.serving.compute.language_models import LanguageModel, LanguageModels
from bae_ray.serving.compute.operations import in_thread
from bae_ray.serving.compute.steered_pair import SteeredPair
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.monitoring.counts import Counted, TextCounts
from bae_ray.serving.ray_serve.deployment import deployed, listen_like_ray, own_id
from bae_ray.serving.registry.entry import EncoderOrigin

TOKEN_CHARACTERS = 64
"""No text has more characters per token than this, on average."""
BATCH_TOKENS = 4096
IsGone = Callable[[], bool]
"""Whether the client has gone."""


class Texts:
    """A replica, whose thread runs one pass of a model at a time."""

    def __init__(self, config: ServiceConfig) -> None:
        listen_like_ray()
        self._max_tokens = config.limits.max_tokens
        self._device = "cuda" if config.texts.num_gpus and torch.cuda.is_available() else "cpu"
        self._counts = TextCounts(own_id(), self._device)
        self._thread = ThreadPoolExecutor(1, "language model")
        self._models = LanguageModels(config.texts, self._device, self._counts)
        self._encoders = EncoderFiles(config, self._device)

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

    async def steer(
        self, origin: EncoderOrigin, encoder: str, text: str, steering: Steering
    ) -> AsyncGenerator[list[WrittenToken] | list[WrittenText]]:
        """What the model writes after a text, with and without the edits: the next token of both, again and again.

        At last the two whole texts. `encoder` is the key of the registry's entry. If the client goes away, no further
        token is written; other requests are served between tokens. Raises what `activations` does.
        """
        with self._models.used(origin.model):
            pair = await in_thread(self._thread, self._pair, origin, encoder, text, steering)
            while tokens := await in_thread(self._thread, pair.next):
                self._counts.wrote(len(tokens))
                yield tokens
            yield pair.written()

    async def fidelity(self, origin: EncoderOrigin, encoder: str, texts: list[str], first: bool) -> list[TextFidelity]:
        """What the model still predicts on the reconstruction, text by text: see `FeatureModel.fidelity`.

        If the client goes away, it ends with the current text. Raises what `activations` does, and `InvalidInputError`
        for a text that is too short.
        """
        found = []
        with self._models.used(origin.model):
            model = await in_thread(self._thread, self._feature_model, origin, encoder, texts)
            for number, text in enumerate(texts):
                with refusals(f"Text {number}: "):
                    found.append(await in_thread(self._thread, model.fidelity, text, first))
        return found

    async def doing(self) -> str:
        """What the replica is doing: `COMPUTING` or `LOADING`."""
        return LOADING if self._models.is_loading or self._encoders.is_loading else COMPUTING

    async def counted(self) -> Counted:
        """The metrics of this replica."""
        return self._counts.collected()

    def _feature_model(self, origin: EncoderOrigin, encoder: str, texts: list[str], added: int = 0) -> FeatureModel:
        """The encoder and its model, which takes these texts with as many tokens `added`."""
        model, editable = self._models.whole(origin.model)
        self._encoded(model, texts, added)
        autoencoder = self._encoders.get(encoder)
        place = autoencoder.config.target_cell(origin.layer, origin.site)
        target = None if place is None else Cell(*place, origin.position)
        return FeatureModel(editable, autoencoder, Cell(origin.layer, origin.site, origin.position), target)

    def _pair(self, origin: EncoderOrigin, encoder: str, text: str, steering: Steering) -> SteeredPair:
        model = self._feature_model(origin, encoder, [text], steering.max_new_tokens)
        with refusals():
            return SteeredPair(model, text, steering)

    def _encoded(self, model: LanguageModel, texts: list[str], added: int = 0) -> BatchEncoding:
        """Token ids of texts, and where they are in them. Raises `TooLongError`."""
        longest, limit = self._max_tokens, model.source.max_positions
        if limit is not None:
            if limit <= added:
                raise TooLongError(f"The model takes {limit} tokens, of the text and new ones together.")
            longest = min(longest, limit - added)
        beside = f", beside {added} new ones" if added else ""
        for number, text in enumerate(texts):  # tokenising megabytes would hold up everybody
            if len(text) > longest * TOKEN_CHARACTERS:
                raise TooLongError(f"Text {number} has {len(text)} characters; {longest} tokens are taken.")
        encoded = model.tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        for number, row in enumerate(encoded["input_ids"]):
            if len(row) > longest:
                raise TooLongError(f"Text {number} has {len(row)} tokens; {longest} are taken{beside}.")
        return encoded

    def _compute(
        self, origin: EncoderOrigin, texts: list[str], most: int, is_gone: IsGone = lambda: False
    ) -> TextActivations:
        model = self._models.get(origin.model)
        capture = self._models.capture(model, origin)
        encoded = self._encoded(model, texts)
        ids: list[list[int]] = encoded["input_ids"]
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
            tokens=[str(model.tokenizer.decode([token])) for token in flat],
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
