"""Loading a language model's weights. Missing ones are an error: transformers would fill them with random numbers."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bae_ray.activations.config import Precision
from bae_ray.activations.divided import place
from bae_ray.activations.model import ModelSource
from bae_ray.activations.parts import decoder_of, find_blocks, stack_of
from bae_ray.errors import InvalidInputError, NoHeadError, first_line

TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MAX_NAMES_SHOWN = 3
NOT_FOR_TEXTS = re.compile(
    r"(^|\.)(pooler|vision\w*|visual\w*|audio\w*|image\w*|multi_modal\w*|\w*projector|connector|embed_(vision|audio))\."
)
"""Modules that no text of a causal model goes through."""
BUFFERS = re.compile(
    r"(attn|attention)\.(masked_)?bias$|inv_freq$|(position|token_type)_ids$|embed_positions\.(weights|_float_tensor)$"
)
"""Constants that older versions of transformers saved beside the weights."""
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.")
"""Names of heads of causal models, which `load_model` does not load."""
STACK_PARTS = r"\w*([Nn]orm|[Ee]mbed|position)|(ln|wte|wpe)\b|ln_"
"""Beginnings of the names of parts outside the blocks, in files that hold only a stack and so no prefix."""
WRAPPERS = {
    "_orig_mod.": "a model that torch.compile had wrapped: save its `_orig_mod`",
    "base_model.model.": "a model that PEFT had wrapped: save what its `merge_and_unload()` returns",
    "module.": "a model that DataParallel had wrapped: save its `module`",
}
"""Prefixes of the names of weights, and the model that was saved then."""


def load_model(source: ModelSource, dtype: Precision, *devices: str) -> PreTrainedModel:
    """The model's decoder stack (no language-model head), in evaluation mode; on several devices, divided among them.

    Raises `InvalidInputError` where the weights cannot be loaded, or are not all there.
    """
    model, notes = _loaded(AutoModel, source, dtype)
    _check(source, model, notes, notes["missing_keys"])
    if model.get_output_embeddings() is not None:  # what AutoModel gives for a Llama 4
        model = stack_of(model)
    return place(model, devices)


def load_model_with_head(source: ModelSource, dtype: Precision, *devices: str) -> PreTrainedModel:
    """The whole causal model, in evaluation mode; on several devices, divided among them.

    Raises `InvalidInputError` where the weights cannot be loaded or are not all there; `NoHeadError`.
    """
    model, notes = _loaded(AutoModelForCausalLM, source, dtype)
    inside = {id(module) for module in stack_of(model).modules()}
    missing = set(notes["missing_keys"])
    of_head = {name for name in missing if id(model.get_submodule(name.rpartition(".")[0])) not in inside}
    _check(source, model, notes, missing - of_head)
    if model.get_output_embeddings() is None or of_head:
        raise NoHeadError(
            f"model '{source.name}' has no language-model head, so it cannot answer prompts. Give the causal model "
            "whose weights include one."
        )
    return place(model, devices)


def _loaded(kind: Any, source: ModelSource, dtype: Precision) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model, and what transformers says of its weights: missing, mismatched and unexpected names."""
    try:
        with _quiet():
            return kind.from_pretrained(
                source.path,
                revision=source.revision,
                dtype=TORCH_DTYPES[dtype],
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told by `_check`, with their names
                trust_remote_code=False,
            )
    except Exception as error:  # of transformers, safetensors, a quantiser: a checkpoint can be wrong in many ways
        raise InvalidInputError(
            f"model '{source.name}' cannot be loaded: {first_line(error)} Expected all files of a causal model, as "
            "save_pretrained writes them."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the progress bars and the report of transformers; what matters is raised as an error."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check(source: ModelSource, model: PreTrainedModel, notes: dict[str, Any], missing: Iterable[str]) -> None:
    """Raise `InvalidInputError` where weights that a text goes through are missing, of another shape, or left over."""
    unexpected, lacking = (
        sorted(name for name in names if not NOT_FOR_TEXTS.search(name) and not BUFFERS.search(name))
        for names in (notes["unexpected_keys"], missing)
    )
    if lacking:
        wrapped = next((prefix for prefix in WRAPPERS if any(name.startswith(prefix) for name in unexpected)), None)
        remedy = (
            "Give all files of the checkpoint, and a config.json that is of it."
            if wrapped is None
            else f"The names in its files begin with '{wrapped}': they are of {WRAPPERS[wrapped]}."
        )
        raise InvalidInputError(
            f"model '{source.name}' lacks {len(lacking)} of its weights: {_some(lacking)}. transformers would fill "
            f"them with random numbers. {remedy}"
        )
    if other := sorted(notes["mismatched_keys"], key=str):
        name, found, expected = other[0]
        raise InvalidInputError(
            f"model '{source.name}': {len(other)} weights are of another shape than its config.json says: {name} is "
            f"{list(found)}, expected {list(expected)}. Give the config.json of these weights."
        )
    of_stack = _of_stack(model)
    if left := [name for name in unexpected if of_stack.search(name) and not HEAD.search(name)]:
        raise InvalidInputError(
            f"model '{source.name}' has {len(left)} weights that a {type(model).__name__} of its config.json has no "
            f"place for: {_some(left)}. Give the config.json of these weights; an adapter's are merged first "
            "(merge_and_unload)."
        )


def _of_stack(model: PreTrainedModel) -> re.Pattern[str]:
    """A pattern for the names of weights in the model's decoder and blocks, with the model's own prefix or without.

    Does not match those of heads and of other parts beside the decoder.
    """
    prefix, decoder = model.base_model_prefix, decoder_of(model)
    paths = {id(module): name for name, module in model.named_modules()}
    inner, blocks = (
        re.escape(re.sub(rf"^{prefix}(\.|$)", "", paths[id(module)])) for module in (decoder, find_blocks(decoder))
    )
    children = "|".join(re.escape(name) for name, _ in decoder.named_children())
    own = rf"^({prefix}\.)?{inner}\." if inner else rf"^({prefix}\.|({children})\.|{STACK_PARTS})"
    return re.compile(rf"{own}|(^|\.){blocks}\.\d+\.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
