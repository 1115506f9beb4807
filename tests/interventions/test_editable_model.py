"""Replaced activations against plain hooks of our own, on tiny random models of several families."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bae_ray.activations.model import find_model
from bae_ray.activations.taps import SITES, Tap
from bae_ray.errors import InvalidInputError
from bae_ray.interventions.editable_model import CleanPass, EditableModel
from tests.activations.odd_models import GROUPED, SIZES, save_random

GPT2: dict[str, Any] = {
    "vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED, "gpt2": GPT2, "gpt_neox": SIZES, "mixtral": {**GROUPED, "num_local_experts": 4},
}  # fmt: skip
N_LAYERS, T = 3, 7
EVERY = [Tap(layer, site) for layer in range(N_LAYERS) for site in SITES] + [Tap(N_LAYERS, "residual")]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> EditableModel:
    folder = save_random(
        tiny_model, tmp_path_factory.mktemp("families") / "model", request.param, **FAMILIES[request.param]
    )
    return EditableModel(find_model(str(folder)))


def clean_pass(model: EditableModel) -> CleanPass:
    """Two texts, the second one padded, with the logits after every token."""
    ids = torch.randint(1, 60, (2, T), generator=torch.Generator().manual_seed(0))
    ids[1, 5:] = 0
    return model.clean(ids, torch.arange(2 * T), EVERY)


def own_parts(model: EditableModel, tap: Tap) -> tuple[nn.Module, str]:
    """The module, and whether its input or its output is the tap, found in another way than by the project's."""
    names = dict(model.model.named_modules())
    block = next(
        module for name, module in names.items() if name.endswith((f"layers.{tap.layer}", f"h.{tap.layer}"))
    ) if tap.layer < N_LAYERS else None  # fmt: skip
    if block is None:
        return next(m for name, m in names.items() if name.endswith((".norm", ".ln_f", "final_layer_norm"))), "output"
    if tap.site == "residual":
        return block, "input"
    mlp: Any = getattr(block, "mlp", None) or getattr(block, "block_sparse_moe", None)
    return mlp, "input" if tap.site == "mlp_in" else "output"


def by_hand(model: EditableModel, ids: Tensor, tap: Tap, value: Tensor) -> Tensor:
    """Logits [B * T, V] with `value` at a tap, by a hook of torch alone."""
    module, side = own_parts(model, tap)

    def before(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (value.reshape(args[0].shape), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": value}

    def after(_m: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (value.reshape(output[0].shape), *output[1:])
        return value.reshape(output.shape)

    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if side == "input"
        else module.register_forward_hook(after)
    )
    try:
        with torch.no_grad():
            return model.model(ids, use_cache=False).logits.flatten(0, 1)
    finally:
        handle.remove()


def test_every_layer_and_site_put_back_changes_nothing(model: EditableModel):
    clean = clean_pass(model)
    with torch.no_grad():
        torch.testing.assert_close(clean.logits, model.model(clean.token_ids).logits.flatten(0, 1), rtol=0, atol=1e-5)
    for tap in EVERY:
        found = model.spliced(clean, tap, clean.activations[tap])
        torch.testing.assert_close(found, clean.logits, rtol=1e-6, atol=1e-6 * float(clean.logits.abs().max()))


def test_every_layer_and_site_replaced_is_as_by_hand(model: EditableModel):
    clean = clean_pass(model)
    for tap in EVERY:
        for value in (torch.zeros_like(clean.activations[tap]), torch.tanh(clean.activations[tap]) + 0.1):
            expected = by_hand(model, clean.token_ids, tap, value)
            found = model.spliced(clean, tap, value)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
            some = torch.tensor([0, 9])
            torch.testing.assert_close(model.spliced(clean, tap, value, some), found[some], rtol=1e-4, atol=1e-5)


def test_layers_below_are_not_run_again(model: EditableModel):
    clean, ran = clean_pass(model), []
    model.spliced(clean, Tap(2, "residual"), clean.activations[Tap(2, "residual")])  # tries whether it may
    blocks = [own_parts(model, Tap(layer, "residual"))[0] for layer in range(N_LAYERS)]
    mlps = [own_parts(model, Tap(layer, "mlp_in"))[0] for layer in range(N_LAYERS)]
    handles = [mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, mlp in enumerate(mlps)]
    try:
        model.spliced(clean, Tap(2, "residual"), clean.activations[Tap(2, "residual")])
        assert ran == [2]
        model.clean(clean.token_ids, clean.asked)
        assert ran == [2, 0, 1, 2], "they run again afterwards"
    finally:
        for handle in handles:
            handle.remove()
    assert all("forward" not in block.__dict__ for block in blocks)


def test_an_error_leaves_the_model_as_it_was(model: EditableModel):
    clean = clean_pass(model)

    def fails(_: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), model.edited({Tap(0, "residual"): lambda x: x * 2, Tap(1, "mlp_in"): fails}):
        model.model(clean.token_ids)
    with torch.no_grad():
        torch.testing.assert_close(model.model(clean.token_ids).logits.flatten(0, 1), clean.logits)


def test_edits_are_told_whole_texts(model: EditableModel):
    """Whatever shape a module has for them."""
    shapes: dict[Tap, tuple[int, ...]] = {}

    def look(tap: Tap, x: Tensor) -> None:
        shapes[tap] = tuple(x.shape)

    with model.edited({tap: lambda x, tap=tap: look(tap, x) for tap in EVERY}):
        model.model(torch.ones(2, 4, dtype=torch.long))
    assert shapes == dict.fromkeys(EVERY, (2, 4, 16))


def test_a_layer_that_is_not_there_is_refused(model: EditableModel):
    with (
        pytest.raises(InvalidInputError, match="layer 4 is out of range: expected 0 to 3"),
        model.edited({Tap(4, "residual"): lambda x: x}),
    ):
        pass
