"""Reading a language model's activations at chosen layers and sites while it runs; finding its parts.

Shapes: B texts, T tokens, M vectors wanted of a batch, D hidden size, S = layers x sites.
"""

import inspect
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bae_ray.errors import InvalidInputError

SITES = ("residual", "mlp_in", "mlp_out")
"""In the order of the forward pass."""
MLP_NAMES = ("mlp", "ffn", "feed_forward", "block_sparse_moe", "shared_mlp")
"""What the architectures of transformers call the MLP of a block."""
PARALLEL_MLP_NAMES = ("residual_mlp", "experts", "mlps")
"""Names of MLPs whose output is added to that of another MLP beside them."""


class Tap(NamedTuple):
    """A place in the model whose activations are wanted."""

    layer: int
    site: str


class _LastTapReachedError(Exception):
    """Ends a forward pass at the last tap."""


class Capture:
    """Forward passes that keep only the wanted vectors.

    The residual stream at layer l is what block l receives, as `hidden_states[l]` of transformers; the last one is what
    the model returns after its final norm. mlp_in and mlp_out at layer l are what the MLP of block l gets and gives. A
    pass ends at the last tap, and blocks past it are dropped from the model: neither held in memory nor run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        sites: Sequence[str],
        answers: bool = False,
        shared: bool = False,
    ) -> None:
        """Hook a model: a stack without a head, or with `answers` a whole causal model, all of which is run then.

        `shared`: leave the model whole, for other captures of it.

        Raises `InvalidInputError` for an architecture whose blocks, or their MLPs, cannot be found.
        """
        self._model, self._answers = model, answers
        config = model.config.get_text_config()
        self._width: int = config.hidden_size
        self._stream: int | None = getattr(config, "altup_active_idx", None)
        self.taps = [Tap(layer, site) for layer in sorted(layers) for site in SITES if site in sites]
        self._final = Tap(config.num_hidden_layers, "residual")
        self._last = None if answers or self._final in self.taps else self.taps[-1]
        self._index: Tensor = torch.empty(0, dtype=torch.long)
        self._shape: tuple[int, ...] = ()
        self._captured: dict[Tap, Tensor] = {}
        self._runs = False
        self.blocks = find_blocks(model)
        if self._last is not None and not shared:
            del self.blocks[self._last.layer + 1 :]
        for tap in self.taps:
            self._hook(tap)

    def __call__(self, token_ids: Tensor, index: Tensor, asked: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Activations [S, M, D] of `taps`, for token ids [B, T] padded on the right, on the model's device.

        `index` [M] are indices into the B T tokens. With `answers`, `asked` are indices after which the model's own
        logits [len(asked), V] are returned as well.

        Raises `InvalidInputError` where the model's blocks do not all run, or not on vectors [B, T, D].
        """
        self._index, self._shape, self._captured, self._runs = index, tuple(token_ids.shape), {}, True
        logits = None
        with torch.inference_mode():
            try:
                # No mask: the padding comes after a text's tokens, and a causal model never looks there.
                if asked is not None:
                    logits = logits_at(self._model, token_ids, asked)
                else:
                    self._model(input_ids=token_ids, use_cache=False)
            except _LastTapReachedError:
                pass
            finally:
                self._runs = False
            captured, self._captured = self._captured, {}
            if idle := sorted({tap.layer for tap in self.taps if tap not in captured}):
                raise InvalidInputError(
                    f"layers {', '.join(map(str, idle))} of a {type(self._model).__name__} are not run by texts alone. "
                    "Name the others with --layers."
                )
            return torch.stack([captured[tap] for tap in self.taps]), logits

    def compile(self) -> None:
        """Compile the model's blocks; hooks stay outside of what is compiled."""
        inside = any(tap.site != "residual" for tap in self.taps)
        for block in self.blocks:
            for part in block.children() if inside else [block]:
                part.forward = torch.compile(part.forward, dynamic=True)

    def _reach(self, tap: Tap, hidden: Tensor) -> None:
        if not self._runs:  # the pass is another capture's
            return
        if hidden.dim() == 4 and self._stream is not None:  # of several streams the one that blocks compute with
            hidden = hidden[self._stream]
        expected = (*self._shape, self._width)
        if tuple(hidden.shape) not in (expected, (prod(self._shape), self._width)):
            raise InvalidInputError(
                f"layer {tap.layer}, {tap.site}, of a {type(self._model).__name__} is of shape {tuple(hidden.shape)}; "
                f"expected {expected}: texts, tokens, hidden size. Leave it out with --layers and --sites, or give "
                "another model."
            )
        self._captured[tap] = hidden.reshape(-1, self._width).index_select(0, self._index)
        if tap == self._last:
            raise _LastTapReachedError

    def _hook(self, tap: Tap) -> None:
        def received(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._reach(tap, args[0] if args else kwargs["hidden_states"])

        def given(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._reach(tap, output[0] if isinstance(output, tuple) else output)

        def returned(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._reach(tap, output.last_hidden_state)

        if tap == self._final:
            (decoder_of(self._model) if self._answers else self._model).register_forward_hook(returned)
            return
        block = self.blocks[tap.layer]
        module = block if tap.site == "residual" else _mlp(block)
        if tap.site == "mlp_out":
            _check_output(module)
            module.register_forward_hook(given)
        else:
            module.register_forward_pre_hook(received, with_kwargs=True)


def _mlp(block: nn.Module) -> nn.Module:
    """The block's only MLP."""
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


def _check_output(mlp: nn.Module) -> None:
    """Raise `InvalidInputError` where the MLP gives more than its own output."""
    if "residual" in inspect.signature(mlp.forward).parameters:
        raise InvalidInputError(
            f"a {type(mlp).__name__} takes the residual stream and gives its sum with the MLP's output; expected the "
            "output alone. The sites residual and mlp_in work with this model; mlp_out does not."
        )


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
