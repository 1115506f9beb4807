"""Finding the parts of a language model for texts: its decoder stack, its blocks and its head."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

from bae_ray.errors import InvalidInputError


def stack_of(causal: PreTrainedModel) -> PreTrainedModel:
    """The part of a causal model below its head, which gives the last vectors."""
    stack = next(_inside(causal), causal)
    return stack_of(stack) if stack is not causal and stack.get_output_embeddings() is not None else stack


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The innermost part that reads texts, without a head and without parts for images or sounds."""
    inner = next(_inside(model), None)
    return model if inner is None else decoder_of(inner)


def _inside(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The models inside a model, as far as transformers names them; a Llama 4 only has `model`."""
    for inner in (model.base_model, model.get_decoder(), getattr(model, "model", None)):
        if isinstance(inner, PreTrainedModel) and inner is not model:
            yield inner


def find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of the model's blocks: the only ModuleList of its decoder with one entry per layer.

    Raises `InvalidInputError` where there is none, or more than one.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [module for module in decoder_of(model).modules() if isinstance(module, nn.ModuleList)]
    # A block has parts, unlike a projection, of which there may be as many.
    found = [module for module in lists if len(module) == n_layers and any(True for _ in module[0].children())]
    if len(found) != 1:
        raise InvalidInputError(
            f"cannot find the blocks of a {type(model).__name__}: expected one list of {n_layers} modules, found "
            f"{len(found)}. A decoder-only model is needed."
        )
    return found[0]


def logits_at(causal: PreTrainedModel, token_ids: Tensor, index: Tensor) -> Tensor:
    """The causal model's own logits [M, V] at `index` [M], counted through the B T tokens of token ids [B, T].

    Whatever it does after its last vectors is done: a transform before the head, a scale, a soft cap. Only the vectors
    of the index go through that, so that there are no logits of B T tokens.

    Raises `InvalidInputError` for a model whose head does not take the last vectors of its decoder.
    """

    def choose(_module: nn.Module, _args: object, output: dict) -> dict:
        hidden: Tensor = output["last_hidden_state"]
        output["last_hidden_state"] = hidden.flatten(0, 1).index_select(0, index)[:, None]
        return output

    # The innermost one: the causal model of an OPT calls it without what stands between.
    handle = decoder_of(causal).register_forward_hook(choose)  # pyright: ignore[reportArgumentType]
    try:
        logits: Tensor = causal(input_ids=token_ids, use_cache=False).logits
    finally:
        handle.remove()
    if logits.dim() != 3 or logits.shape[:2] != (len(index), 1):
        raise InvalidInputError(
            f"the head of a {type(causal).__name__} does not take the last vectors of its decoder: {len(index)} chosen "
            f"ones gave logits of shape {tuple(logits.shape)}. It cannot answer prompts here; give another model."
        )
    return logits[:, 0]
