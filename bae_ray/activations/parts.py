"""Finding the parts of a language model of any architecture of transformers: its decoder, blocks and MLPs."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from bae_ray.errors import InvalidInputError

MLP_NAMES = ("mlp", "ffn", "feed_forward", "block_sparse_moe", "shared_mlp")
"""What the architectures of transformers call the MLP of a block."""
PARALLEL_MLP_NAMES = ("residual_mlp", "experts", "mlps")
"""Names of MLPs whose output is added to that of another MLP beside them."""


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


def mlp_of(block: nn.Module) -> nn.Module:
    """The block's only MLP. Raises `InvalidInputError` where there is none, or more than one."""
    names = [name for name, _ in block.named_children() if name in (*MLP_NAMES, *PARALLEL_MLP_NAMES)]
    if len(names) > 1:
        raise InvalidInputError(
            f"a {type(block).__name__} has {len(names)} MLPs side by side, {' and '.join(names)}, whose outputs it "
            "adds; expected one. The site residual works with this model; mlp_in and mlp_out do not."
        )
    if names and names[0] in MLP_NAMES:
        return getattr(block, names[0])
    parts = ", ".join(name for name, _ in block.named_children())
    raise InvalidInputError(
        f"cannot find the MLP of a {type(block).__name__}: expected a module called {', '.join(MLP_NAMES)}, found "
        f"{parts}. The site residual works with this model; mlp_in and mlp_out do not."
    )
