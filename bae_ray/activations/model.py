"""Finding and loading a causal language model and its tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from bae_ray.activations.bundled import BUNDLED_MODEL, bundled_model_folder
from bae_ray.activations.capture import Capture
from bae_ray.activations.config import Position, Precision
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
    """Longest text in tokens, if the model has a limit."""
    vocabulary: int
    """Number of token ids."""

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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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
        vocabulary=config.vocab_size,
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


def load_model_with_head(source: ModelSource, dtype: Precision, device: str) -> tuple[PreTrainedModel, nn.Module]:
    """The model's decoder stack, and the head that turns its last vectors into logits; both in evaluation mode.

    Raises `InvalidInputError` where the weights have no head.
    """
    transformers_logging.disable_progress_bar()
    found: Any = AutoModelForCausalLM.from_pretrained(
        source.path, revision=source.revision, dtype=TORCH_DTYPES[dtype], output_loading_info=True
    )
    loaded, notes = found
    head = loaded.get_output_embeddings()
    if head is None or any(name.startswith(("lm_head", "embed_out")) for name in notes["missing_keys"]):
        raise InvalidInputError(
            f"model '{source.name}' has no language-model head, so it cannot answer prompts. Give the causal model "
            "whose weights include one."
        )
    loaded.eval().to(device)
    return loaded.base_model, head


def check_request(
    source: ModelSource, layers: Sequence[int], sites: Sequence[str], positions: Sequence[Position], longest: int | None
) -> None:
    """Raise `InvalidInputError` for a layer, site or position that the model does not have, or that is named twice.

    `longest` is the longest text in tokens that is wanted. The model is built without its weights to look for its MLPs.
    """
    for layer in layers:
        if not 0 <= layer <= source.n_layers:
            raise InvalidInputError(
                f"layer {layer} is out of range: the model has layers 0 (embeddings) to {source.n_layers} "
                "(after the final norm)."
            )
        if layer == source.n_layers and (others := [site for site in sites if site != "residual"]):
            raise InvalidInputError(
                f"layer {layer} has no {' or '.join(others)}: the last block, layer {layer - 1}, was before it. Leave "
                f"layer {layer} out, or take the site residual alone."
            )
    if not layers or len(set(layers)) != len(layers):
        raise InvalidInputError(f"layers {tuple(layers)}: expected at least one, each named once.")
    limit = source.max_positions
    if longest is not None and limit is not None and longest > limit:
        raise InvalidInputError(f"texts of {longest} tokens are too long: the model takes {limit}, its context.")
    limit = longest if longest is not None else limit
    for position in positions:
        if isinstance(position, int) and (position < 0 or (limit is not None and position >= limit)):
            upper = (
                ""
                if limit is None
                else f" to {limit - 1}, " + ("the longest text" if longest else "the model's context")
            )
            raise InvalidInputError(f"position {position} is out of range: expected 0{upper}.")
    if set(sites) != {"residual"}:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
        with torch.device("meta"):
            Capture(AutoModel.from_config(config), layers, sites)
