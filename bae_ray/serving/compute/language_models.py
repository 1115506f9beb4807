"""The language models of a replica of the texts, loaded within a time limit and probed as an extraction does."""

import gc
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bae_ray.activations.capture import Capture
from bae_ray.activations.compute import Work
from bae_ray.activations.loading import load_model
from bae_ray.activations.model import ModelSource, find_model, load_tokenizer
from bae_ray.activations.parts import stack_of
from bae_ray.activations.probe import LENGTHS, probe_loaded
from bae_ray.activations.taps import SITES
from bae_ray.errors import InvalidInputError, NoHeadError, OutOfMemoryError, is_out_of_memory
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.serving.config import TextsConfig
from bae_ray.serving.monitoring.counts import Loads
from bae_ray.serving.registry.entry import EncoderOrigin
from bae_ray.serving.time_limits import TimeLimit

MODELS_KEPT = 2
LOAD_TIMEOUT_S = 60.0
"""A model that takes longer goes on loading. Until it is loaded, requests for it get 503, and other models are served.
"""

log = logging.getLogger("ray.serve")


class LanguageModel(NamedTuple):
    """A model in memory."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    """Its decoder, which gives activations."""
    captures: dict[tuple[int, str], Capture | str]
    """By layer and site: the capture, or the reason why the model is refused there."""
    editable: EditableModel | None = None
    """The whole of it, the decoder being a part; None until it is asked for."""


class LanguageModels:
    """The models used last, each loaded once for all layers. Not thread-safe."""

    def __init__(self, settings: TextsConfig, device: str, loads: Loads) -> None:
        self._settings, self._device, self._loads = settings, device, loads
        self._kept: OrderedDict[str, LanguageModel] = OrderedDict()
        self._time_limit = TimeLimit(LOAD_TIMEOUT_S)
        self._without_head: dict[str, str] = {}
        """Why models cannot be had with their heads: said again without loading them again."""
        self._users: Counter[str] = Counter()
        self.is_loading = False

    def get(self, name: str) -> LanguageModel:
        """The model with this name. Raises `InvalidInputError` if there is none, and `SlowError`."""
        return self._got(name, whole=False)

    def whole(self, name: str) -> tuple[LanguageModel, EditableModel]:
        """The same with its head. Raises what `get` does, and `InvalidInputError` where the model has no head."""
        model = self._got(name, whole=True)
        assert model.editable is not None
        return model, model.editable

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

    @contextmanager
    def used(self, name: str) -> Iterator[None]:
        """While the context is open, the model is not dropped for another one."""
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1

    def _got(self, name: str, whole: bool) -> LanguageModel:
        if whole and (refused := self._without_head.get(name)):
            raise NoHeadError(refused)
        if name not in self._kept or (whole and self._kept[name].editable is None):
            self.is_loading = True
            try:
                found = self._time_limit.call(("find", name), partial(self._find, name))
                # First, so that there is never one more in memory. The whole model takes the place of its decoder.
                while gone := name if name in self._kept else self._oldest():
                    del self._kept[gone]
                    gc.collect()  # a model and its hooks hold each other
                    self._loads.evicted(gone)
                load = partial(self._load, name, *found, whole)
                self._kept[name] = self._time_limit.call(("load", name, whole), load)
            finally:
                self.is_loading = False
        self._kept.move_to_end(name)
        return self._kept[name]

    def _oldest(self) -> str | None:
        """The model that has to go before another one comes. Raises `OutOfMemoryError` where all are used."""
        if len(self._kept) < MODELS_KEPT:
            return None
        for name in self._kept:
            if not self._users[name]:
                return name
        raise OutOfMemoryError("all language models that are kept write texts now")

    def _find(self, name: str) -> tuple[ModelSource, PreTrainedTokenizerBase]:
        source = find_model(self._settings.models.get(name, name))
        tokenizer = load_tokenizer(source)
        if not tokenizer.is_fast:
            raise InvalidInputError(
                f"the tokenizer of model '{name}' does not say where its tokens are in a text. Save it as a "
                "fast one, with a tokenizer.json."
            )
        return source, tokenizer

    def _load(self, name: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase, whole: bool) -> LanguageModel:
        with self._loads.loading(name):
            if not whole:
                with _errors_of(name, source):
                    model = load_model(source, self._settings.precision, self._device)
                return LanguageModel(source, tokenizer, model, {})
            try:
                with _errors_of(name, source):
                    editable = EditableModel(source, self._settings.precision, self._device)
            except NoHeadError as error:
                self._without_head[name] = str(error)
                raise
            return LanguageModel(source, tokenizer, stack_of(editable.model), {}, editable)

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
            with _errors_of(origin.model, model.source):
                probe_loaded(model.model, work, self._device)
        except InvalidInputError as error:
            return str(error)
        return Capture(model.model, work.layers, work.sites, shared=True)


@contextmanager
def _errors_of(name: str, source: ModelSource) -> Iterator[None]:
    """Around loading and probing: errors call the model by its name here, and too little memory is told as that.

    There may be enough next time.
    """
    try:
        yield
    except InvalidInputError as error:
        if (cause := error.__cause__) is not None and is_out_of_memory(cause):
            raise OutOfMemoryError("there is too little memory for the language model now") from cause
        log.error(f"language model {name}: {error}")  # with paths of this machine
        raise type(error)(str(error).replace(f"'{source.name}'", f"'{name}'")) from error
