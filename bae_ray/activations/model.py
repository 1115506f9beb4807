"""Loading a causal language model and capturing its residual stream at chosen layers and positions.

Shapes: B texts, T tokens, P positions, D hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from bae_ray.activations.bundled import BUNDLED_MODEL, bundled_model_folder
from bae_ray.activations.config import Precision
from bae_ray.errors import InvalidInputError, UnknownModelError
from bae_ray.files import checksum

TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ModelSource(NamedTuple):
    """A language model by name, and what was read of its config. Holds on any machine of a cluster."""

    name: str
    """The bundled model's name, a folder, or a hub id."""
    revision: str | None
    """The hub commit, for a hub model."""
    n_layers: int
    """Number of blocks; `hidden_states` has one entry more."""
    hidden_size: int
    max_positions: int | None

    @property
    def path(self) -> str:
        """What transformers loads on this machine."""
        return str(bundled_model_folder()) if self.name == BUNDLED_MODEL else self.name


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Resolve a model's name and read its config, without its weights.

    Raises `UnknownModelError` where there is no such model, and `InvalidInputError` where it is not decoder-only.
    """
    folder = Path(name).expanduser().absolute()
    try:
        if name == BUNDLED_MODEL:
            path, commit = str(bundled_model_folder()), None
        elif folder.is_dir():
            path, commit = str(folder), None
        else:  # the file's place in the cache is named by its commit
            path = name
            commit = Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
        config = AutoConfig.from_pretrained(path, revision=commit).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnknownModelError(
            f"model '{name}' is not '{BUNDLED_MODEL}', no local folder with a config.json, and was not found on the "
            f"Hugging Face hub ({reason}). Check the name, or the network."
        ) from error
    if config.is_encoder_decoder or (config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder):
        raise InvalidInputError(
            f"model '{name}' is a {config.model_type}, whose tokens see those after them. Give a decoder-only model."
        )
    return ModelSource(
        name=BUNDLED_MODEL if name == BUNDLED_MODEL else path,
        revision=commit,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def model_identity(source: ModelSource) -> dict[str, object]:
    """What tells a model and its tokenizer from others: the hub commit, or the checksums of a folder's files."""
    if source.revision is not None:
        return {"name": source.name, "commit": source.revision}
    files = sorted(file for file in Path(source.path).iterdir() if file.is_file() and not file.name.startswith("."))
    return {"name": Path(source.name).name, "files": {file.name: checksum(file) for file in files}}


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's fast tokenizer."""
    return AutoTokenizer.from_pretrained(source.path, revision=source.revision)


def load_model(source: ModelSource, dtype: Precision, device: str) -> PreTrainedModel:
    """The model's decoder stack (no language-model head), in evaluation mode."""
    transformers_logging.disable_progress_bar()
    model = AutoModel.from_pretrained(source.path, revision=source.revision, dtype=TORCH_DTYPES[dtype])
    return model.eval().to(device)


def check_layers_and_positions(source: ModelSource, layers: Sequence[int], positions: Sequence[int]) -> None:
    """Raise `InvalidInputError` for a layer or position that the model does not have, or that is named twice."""
    for layer in layers:
        if not 0 <= layer <= source.n_layers:
            raise InvalidInputError(
                f"layer {layer} is out of range: the model has layers 0 (embeddings) to {source.n_layers} "
                "(after the final norm)."
            )
    limit = source.max_positions
    for position in positions:
        if position < 0 or (limit is not None and position >= limit):
            upper = "" if limit is None else f" to {limit - 1}, the model's context"
            raise InvalidInputError(f"position {position} is out of range: expected 0{upper}.")
    for name, values in (("layers", layers), ("positions", positions)):
        if not values or len(set(values)) != len(values):
            raise InvalidInputError(f"{name} {tuple(values)}: expected at least one, each named once.")


class _LastLayerReachedError(Exception):
    """Ends a forward pass at the last layer wanted."""


class ResidualCapture:
    """Forward passes that keep only the wanted vectors of the residual stream.

    `hidden_states[l]` is what block l receives, and the last entry what the model returns after its final norm. Blocks
    past the last wanted layer are dropped from the model: they are neither held in memory nor run.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        self._model = model
        self._layers = set(layers)
        self._n_layers = model.config.get_text_config().num_hidden_layers
        self._last = max(self._layers)
        self._positions: Tensor = torch.empty(0, dtype=torch.long)
        self._captured: dict[int, Tensor] = {}
        blocks = _blocks(model, self._n_layers)
        del blocks[self._last + 1 :]  # block `_last` stays, to be asked for its input; it never runs
        for layer, block in enumerate(blocks):
            if layer in self._layers:
                block.register_forward_pre_hook(self._hook(layer), with_kwargs=True)

    def __call__(self, token_ids: Tensor, positions: Tensor) -> dict[int, Tensor]:
        """Activations [B, P, D] by layer, for token ids [B, T] and positions [P], on the model's device."""
        self._positions = positions.to(token_ids.device)
        self._captured = {}
        with torch.inference_mode():
            try:
                final = self._model(input_ids=token_ids, use_cache=False).last_hidden_state
                if self._n_layers in self._layers:
                    self._captured[self._n_layers] = final.index_select(1, self._positions)
            except _LastLayerReachedError:
                pass
        captured, self._captured = self._captured, {}
        return captured

    def _hook(self, layer: int) -> Any:
        def capture(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self._captured[layer] = hidden.index_select(1, self._positions)
            if layer == self._last:
                raise _LastLayerReachedError

        return capture


def _blocks(model: PreTrainedModel, n_layers: int) -> nn.ModuleList:
    """The list of the model's blocks: its only ModuleList with one entry per layer."""
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers]
    if len(found) != 1:
        raise InvalidInputError(
            f"cannot find the blocks of a {type(model).__name__}: expected one list of {n_layers} modules, found "
            f"{len(found)}. A decoder-only model is needed."
        )
    return found[0]
