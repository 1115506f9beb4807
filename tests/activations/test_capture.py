"""Each site against plain hooks and transformers' own hidden states, on tiny random models of many families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BloomConfig,
    BloomModel,
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaConfig,
    GemmaModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    GraniteMoeSharedConfig,
    GraniteMoeSharedModel,
    LlamaConfig,
    LlamaModel,
    MptConfig,
    MptModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from bae_ray.activations.capture import Capture
from bae_ray.activations.loading import load_model, load_model_with_head
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.parts import find_blocks
from bae_ray.activations.taps import SITES, Tap
from bae_ray.errors import InvalidInputError

D, N_LAYERS = 16, 3
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": D, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=1)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SIZES, num_key_value_heads=1)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8)),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=60, n_embd=D, n_layer=N_LAYERS, n_head=2, n_positions=64)),
    "gpt_neox": lambda: GPTNeoXModel(GPTNeoXConfig(**SIZES)),
    "gemma": lambda: GemmaModel(GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8, pad_token_id=0)),
    "gemma2": lambda: Gemma2Model(
        Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8, sliding_window=8, pad_token_id=0)
    ),
    "gemma3": lambda: Gemma3TextModel(
        Gemma3TextConfig(**SIZES, num_key_value_heads=1, head_dim=8, sliding_window=8, pad_token_id=0)
    ),
}
WITH_RESIDUAL: dict[str, Callable[[], PreTrainedModel]] = {
    "bloom": lambda: BloomModel(BloomConfig(vocab_size=60, hidden_size=D, n_layer=N_LAYERS, n_head=2)),
    "mpt": lambda: MptModel(MptConfig(vocab_size=60, d_model=D, n_layers=N_LAYERS, n_heads=2, max_seq_len=64)),
}
"""Their MLPs return their output's sum with the residual stream."""


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of a family, saved."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param]().save_pretrained(path)
    return path


def captured(path: Path | str, layers: list[int], sites: list[str], ids: Tensor, at: list[int]) -> dict[Tap, Tensor]:
    """Our vectors [B, P, D] at positions `at` of every text."""
    capture = Capture(load_model(find_model(str(path)), "float32", "cpu"), layers, sites)
    index = (torch.arange(len(ids))[:, None] * ids.shape[1] + torch.tensor(at)).flatten()
    vectors, final = capture(ids, index)
    assert final is None
    assert vectors.shape == (len(capture.taps), index.numel(), vectors.shape[-1])
    return {tap: found.view(len(ids), len(at), -1) for tap, found in zip(capture.taps, vectors, strict=True)}


def oracle(path: Path | str, ids: Tensor) -> dict[Tap, Tensor]:
    """Every site of every layer [B, T, D]: plain hooks on a model of their own, and its hidden states."""
    source = find_model(str(path))
    model = AutoModel.from_pretrained(source.path, dtype=torch.float32)
    blocks = model.h if hasattr(model, "h") else model.layers
    found: dict[Tap, Tensor] = {}
    for layer, block in enumerate(blocks):
        block.mlp.register_forward_hook(
            lambda _module, args, output, layer=layer: found.update(
                {Tap(layer, "mlp_in"): args[0].clone(), Tap(layer, "mlp_out"): output.clone()}
            )
        )
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    return {Tap(layer, "residual"): states for layer, states in enumerate(hidden)} | found


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, 60, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("layers", "sites"),
    [
        ([0, 1, 2, 3], ["residual"]),
        ([0], ["residual"]),
        ([3], ["residual"]),
        ([2, 1], ["residual"]),
        ([0, 1, 2], ["residual", "mlp_in", "mlp_out"]),
        ([1], ["mlp_in"]),
        ([0, 1], ["mlp_out"]),
    ],
)
def test_every_site_is_that_of_plain_hooks(folder: Path, layers: list[int], sites: list[str]):
    ids, at = random_ids(5, 12), [0, 3, 11]
    expected = oracle(folder, ids)
    ours = captured(folder, layers, sites, ids, at)
    assert set(ours) == {Tap(layer, site) for layer in layers for site in sites}
    for tap, vectors in ours.items():
        torch.testing.assert_close(vectors, expected[tap][:, at], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", WITH_RESIDUAL)
def test_mlp_that_adds_the_residual_stream_has_no_output_of_its_own(family: str):
    torch.manual_seed(0)
    with pytest.raises(InvalidInputError, match=r"MLP takes the residual stream .* mlp_in work .* mlp_out does not"):
        Capture(WITH_RESIDUAL[family](), [1], ["mlp_out"])
    model = WITH_RESIDUAL[family]().eval()
    norms: list[Tensor] = []
    model.get_submodule("h.1" if family == "bloom" else "blocks.1").get_submodule(
        "post_attention_layernorm" if family == "bloom" else "norm_2"
    ).register_forward_hook(lambda _module, _args, output: norms.append(output))  # pyright: ignore[reportArgumentType]
    ids, index = random_ids(2, 5), torch.tensor([3, 9])
    vectors, _ = Capture(model, [1], ["residual", "mlp_in"])(ids, index)
    assert torch.equal(vectors[1], norms[0].flatten(0, 1)[index]), "what it gets is what its norm gives"


def test_block_with_two_mlps_has_no_single_input_and_output():
    config = GraniteMoeSharedConfig(**SIZES, num_key_value_heads=1, shared_intermediate_size=16)
    for site in ("mlp_in", "mlp_out"):
        with pytest.raises(InvalidInputError, match=r"2 MLPs side by side, block_sparse_moe and shared_mlp"):
            Capture(GraniteMoeSharedModel(config), [1], [site])
    assert Capture(GraniteMoeSharedModel(config), [1], ["residual"]).taps == [Tap(1, "residual")]


def test_bundled_model_at_every_layer_and_site():
    texts = [
        "The capital of France is Paris, and the capital of Italy is",
        "Stocks fell sharply on Monday after the bank",
    ]
    encoded = load_tokenizer(find_model("smollm2-135m"))(texts, truncation=True, max_length=8)
    ids, at = torch.tensor(encoded["input_ids"]), [0, 1, 4, 7]
    expected = oracle("smollm2-135m", ids)
    ours = captured("smollm2-135m", list(range(31)), ["residual"], ids, at)
    ours |= captured("smollm2-135m", list(range(30)), ["mlp_in", "mlp_out"], ids, at)
    assert set(ours) == set(expected)
    for tap, vectors in ours.items():
        torch.testing.assert_close(vectors, expected[tap][:, at], rtol=1e-4, atol=1e-4)


def test_padding_changes_no_vector(folder: Path):
    """A text alone, and on the left of any padding, whatever the padding holds: within what sums may differ by."""
    ids, at = random_ids(1, 9), [0, 4, 8]
    alone = captured(folder, [0, 1, 2], list(SITES), ids, at)
    padded = torch.zeros(4, 20, dtype=torch.long)
    padded[:, :9] = ids
    others = padded.clone()
    others[:, 9:] = random_ids(4, 11)
    for filled in (padded, others):
        for tap, vectors in captured(folder, [0, 1, 2], list(SITES), filled, at).items():
            torch.testing.assert_close(vectors, alone[tap].expand_as(vectors), rtol=0, atol=1e-5)
    zeros, random = (captured(folder, [0, 1, 2], list(SITES), filled, at) for filled in (padded, others))
    for tap in zeros:
        assert torch.equal(zeros[tap], random[tap]), "what the padding holds makes no difference at all"


def test_blocks_past_the_last_tap_are_not_run(tiny_model: Path):
    model = load_model(find_model(str(tiny_model)), "float32", "cpu")
    ran: list[int] = []
    for layer, block in enumerate(find_blocks(model)):
        block.register_forward_hook(lambda *_args, layer=layer: ran.append(layer))
    capture = Capture(model, [0, 2], ["residual"])
    assert len(capture.blocks) == 3
    capture(torch.zeros(1, 3, dtype=torch.long), torch.tensor([2]))
    assert ran == [0, 1]


def test_answers_are_the_models_own_logits(tiny_causal_model: Path):
    ids = random_ids(3, 7)
    capture = Capture(
        load_model_with_head(find_model(str(tiny_causal_model)), "float32", "cpu"), [1, 3], ["residual"], answers=True
    )
    vectors, logits = capture(ids, torch.tensor([6, 13]), torch.tensor([0, 20]))
    assert logits is not None
    expected = oracle(tiny_causal_model, ids)
    torch.testing.assert_close(vectors[0], expected[Tap(1, "residual")][:2, 6], rtol=0, atol=1e-5)
    torch.testing.assert_close(vectors[1], expected[Tap(3, "residual")][:2, 6], rtol=0, atol=1e-5)
    own = AutoModelForCausalLM.from_pretrained(tiny_causal_model, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(logits, torch.stack([own[0, 0], own[2, 6]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny_model: Path, dtype):
    ids, index = random_ids(2, 5), torch.tensor([4, 9])
    source = find_model(str(tiny_model))
    half, _ = Capture(load_model(source, dtype, "cpu"), [2], ["residual"])(ids, index)
    full, _ = Capture(load_model(source, "float32", "cpu"), [2], ["residual"])(ids, index)
    assert half.dtype == getattr(torch, dtype)
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


@pytest.mark.slow  # the compiler takes most of a minute
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own
@pytest.mark.parametrize("sites", [["residual"], ["residual", "mlp_in", "mlp_out"]], ids=len)
def test_compiled_blocks_give_the_same(tiny_model: Path, sites: list[str]):
    source, index = find_model(str(tiny_model)), torch.tensor([4, 9])
    plain = Capture(load_model(source, "float32", "cpu"), [0, 2], sites)
    compiled = Capture(load_model(source, "float32", "cpu"), [0, 2], sites)
    compiled.compile()
    for length in (5, 9, 12):
        ids = random_ids(2, length)
        torch.testing.assert_close(compiled(ids, index)[0], plain(ids, index)[0], rtol=0, atol=1e-5)
