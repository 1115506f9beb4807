"""Finding a causal language model, its config and its tokenizer; loading.py loads the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from bae_ray.activations.bundled import BUNDLED_MODEL, bundled_model_folder
from bae_ray.activations.config import Position
from bae_ray.errors import InvalidInputError, UnknownModelError, first_line
from bae_ray.files import checksum

ADAPTER = "adapter_config.json"
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings whose factors change for all texts of a batch once one of them is longer than a certain length."""


class ModelSource(NamedTuple):
    """A language model by name, with facts from its config. Valid on any machine of a cluster."""

    name: str
    """The bundled model's name, a folder, or a hub id."""
    revision: str | None
    """The hub commit, for a hub model."""
    n_layers: int
    """Number of blocks; `hidden_states` has one entry more."""
    hidden_size: int
    max_positions: int | None
    """Longest text in tokens, if limited: by the model's context, or by a length from which vectors depend on the
    length."""
    vocabulary: int
    """Number of token ids."""
    limited_by: str = "its context"
    """What sets `max_positions`."""

    @property
    def path(self) -> str:
        """What transformers loads on this machine."""
        return str(bundled_model_folder()) if self.name == BUNDLED_MODEL else self.name


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Resolve a model's name and read its config, without its weights.

    Raises `UnknownModelError` for an unknown model, and `InvalidInputError` for one that does not read from left to
    right.
    """
    folder = Path(name).expanduser().absolute()
    if name == BUNDLED_MODEL:
        path, commit = str(bundled_model_folder()), None
    elif folder.is_dir():
        path, commit = str(folder), None
    else:
        path, commit = name, _commit(name, revision)
    _refuse_adapter(name, path, commit)
    whole = _config(name, path, commit)
    config = whole.get_text_config()
    _refuse_looking_ahead(name, whole, config)
    context = getattr(config, "max_position_embeddings", None)
    context = context if context is None or context > 0 else None  # XLNet says -1
    short = _longest_of_one_kind(config)
    limited = short is not None and (context is None or short < context)
    return ModelSource(
        name=BUNDLED_MODEL if name == BUNDLED_MODEL else path,
        revision=commit,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        max_positions=short if limited else context,
        vocabulary=config.vocab_size,
        limited_by="since one longer text would change the rotary factors of its whole batch"
        if limited
        else "its context",
    )


def _commit(name: str, revision: str | None) -> str:
    """The hub commit that a revision stands for."""
    try:  # the file's place in the cache is named by its commit
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (OSError, ValueError, KeyError) as error:
        unreached = isinstance(error, LocalEntryNotFoundError)  # the hub: asked again, it would be waited for again
        _refuse_adapter(name, name, revision, local_files_only=unreached)  # one alone has no config.json
        raise _unknown(name, error) from error


def _unknown(name: str, error: Exception) -> UnknownModelError:
    reason = first_line(error).removesuffix(".")
    return UnknownModelError(
        f"model '{name}' is not '{BUNDLED_MODEL}', no local folder with a config.json, and was not found on the "
        f"Hugging Face hub ({reason}). Check the name, or the network."
    )


def _refuse_adapter(name: str, path: str, commit: str | None, local_files_only: bool = False) -> None:
    """Raise `InvalidInputError` for an adapter: without the package peft it would be ignored silently."""
    quietly: dict[str, Any] = dict.fromkeys(
        ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors",
         "_raise_exceptions_for_gated_repo"), False
    )  # fmt: skip
    if cached_file(path, ADAPTER, revision=commit, local_files_only=local_files_only, **quietly) is not None:
        raise InvalidInputError(
            f"model '{name}' holds an adapter ({ADAPTER}), which is not applied. Merge it into its model "
            "(merge_and_unload of the package peft), save that with save_pretrained, and give its folder."
        )


def _config(name: str, path: str, commit: str | None) -> PretrainedConfig:
    """The model's config. Raises `InvalidInputError` where transformers cannot use it, or it is no language model's."""
    try:
        whole = AutoConfig.from_pretrained(path, revision=commit, trust_remote_code=False)
        config = whole.get_text_config()
    except Exception as error:  # a config.json can be wrong in many ways
        if Path(path).is_dir() and not Path(path, "config.json").is_file():
            raise _unknown(name, error) from error
        reason = (
            "it has code of its own, which is not run."
            if "trust_remote_code" in str(error)
            else f"its config.json cannot be used: {first_line(error)}"
        )
        raise InvalidInputError(f"model '{name}': {reason} Give a model that transformers itself has.") from error
    needed = ("num_hidden_layers", "hidden_size", "vocab_size")
    if lacking := [field for field in needed if not isinstance(getattr(config, field, None), int)]:
        raise InvalidInputError(
            f"model '{name}' is a {whole.model_type}, whose config has no {' and no '.join(lacking)}: it is no "
            "language model. Give a decoder-only one."
        )
    return whole


def _refuse_looking_ahead(name: str, whole: PretrainedConfig, config: PretrainedConfig) -> None:
    """Raise `InvalidInputError` where a config says so; a probe finds those whose config does not."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    said = [
        value
        for part in (whole, config)
        for value in (getattr(part, "is_causal", True) is False, getattr(part, "use_bidirectional_attention", None))
    ]
    if (
        getattr(config, "is_encoder_decoder", False)
        or (masked and not getattr(config, "causal", False))
        or any(value is True or value == "all" for value in said)
    ):
        raise InvalidInputError(
            f"model '{name}' is a {whole.model_type}, whose tokens see those after them. Give a decoder-only model."
        )


def _longest_of_one_kind(config: PretrainedConfig) -> int | None:
    """Number of tokens up to which rotary factors do not depend on the batch. None: they never do."""
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    lengths = [
        kind.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
        for kind in kinds
        if (kind.get("rope_type") or kind.get("type")) in LENGTH_DEPENDENT
    ]
    return min((length for length in lengths if length is not None), default=None)


def model_identity(source: ModelSource) -> dict[str, object]:
    """What identifies a model and its tokenizer: the hub commit, or the checksums of a folder's files."""
    if source.revision is not None:
        return {"name": source.name, "commit": source.revision}
    files = sorted(file for file in Path(source.path).iterdir() if file.is_file() and not file.name.startswith("."))
    return {"name": Path(source.name).name, "files": {file.name: checksum(file) for file in files}}


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises `InvalidInputError` for a missing one, or one with ordinary tokens that the model does not have.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    except Exception as error:  # its files can be missing or wrong in many ways
        raise InvalidInputError(
            f"the tokenizer of model '{source.name}' cannot be loaded: {first_line(error)} Expected tokenizer.json "
            "beside config.json, as the tokenizer's save_pretrained writes it."
        ) from error
    special = set(tokenizer.all_special_ids)  # such as one for padding, which no text has
    ordinary = {number: token for token, number in tokenizer.get_vocab().items() if number not in special}
    if beyond := {number: token for number, token in ordinary.items() if number >= source.vocabulary}:
        worst = max(beyond)
        raise InvalidInputError(
            f"the tokenizer of model '{source.name}' has {len(beyond)} tokens that the model does not, such as "
            f"'{beyond[worst]}' with id {worst}: the model has {source.vocabulary}. Give the tokenizer that belongs to "
            "its weights, or enlarge its embeddings (resize_token_embeddings)."
        )
    return tokenizer


def wanted_layers(source: ModelSource, layers: Sequence[int] | None, sites: Sequence[str]) -> tuple[int, ...]:
    """The layers in order. None: all layers that have these sites. The last one, after the final norm, has no MLP."""
    every = range(source.n_layers + (tuple(sites) == ("residual",)))
    return tuple(sorted(every if layers is None else layers))


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
        raise InvalidInputError(
            f"texts of {longest} tokens are too long: the model takes {limit}, {source.limited_by}."
        )
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
        config = AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
        from bae_ray.activations.capture import Capture  # loads modelling code, which not all who tokenise need

        with torch.device("meta"):
            Capture(AutoModel.from_config(config, trust_remote_code=False), layers, sites)
