"""Places inside a language model, and hooks that read or replace the activations there.

Shapes: B texts, T tokens, D hidden size.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bae_ray.activations.parts import mlp_of
from bae_ray.errors import InvalidInputError

SITES = ("residual", "mlp_in", "mlp_out")
"""In the order of the forward pass."""

Visit = Callable[[Tensor], Tensor | None]
"""A function of the activations at a tap that returns their replacement, or None to keep them."""


class Tap(NamedTuple):
    """A place in the model: a layer and a site.

    The residual stream at layer l is what block l receives, as `hidden_states[l]` of transformers; the last one is what
    the model returns after its final norm. mlp_in and mlp_out at layer l are input and output of the MLP of block l.
    """

    layer: int
    site: str


def attach(blocks: nn.ModuleList, top: nn.Module, tap: Tap, visit: Visit) -> RemovableHandle:
    """Call `visit` with the activations at a tap in each forward pass, until the handle is removed.

    `blocks` are those of the model (`find_blocks`), `top` is what applies the final norm. Raises `InvalidInputError`
    where a block's MLP cannot be found.
    """

    def received(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (new := visit(args[0] if args else kwargs["hidden_states"])) is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def given(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = visit(output[0])
            return None if new is None else (new, *output[1:])
        return visit(output)

    def returned(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if (new := visit(output.last_hidden_state)) is not None:
            output.last_hidden_state = new

    if tap == Tap(len(blocks), "residual"):
        return top.register_forward_hook(returned)
    block = blocks[tap.layer]
    module = block if tap.site == "residual" else mlp_of(block)
    if tap.site == "mlp_out":
        _check_output(module)
        return module.register_forward_hook(given)
    return module.register_forward_pre_hook(received, with_kwargs=True)


def _check_output(mlp: nn.Module) -> None:
    """Raise `InvalidInputError` where the MLP gives more than its own output."""
    if "residual" in inspect.signature(mlp.forward).parameters:
        raise InvalidInputError(
            f"a {type(mlp).__name__} takes the residual stream and gives its sum with the MLP's output; expected the "
            "output alone. The sites residual and mlp_in work with this model; mlp_out does not."
        )
