"""Steered texts beside those of a plain loop over transformers, without batches and caches."""

import pytest
import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError
from bae_ray.steering.edits import AddedVector, Tokens
from bae_ray.steering.generation import GenerationConfig, choose, generate
from bae_ray.steering.steered_model import SteeredModel
from tests.steering.naive import Naive

Pair = tuple[SteeredModel, Naive]


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_greedy_texts_with_a_vector_each(
    pair: Pair, prompts: list[list[int]], vectors: Tensor, tokens: Tokens, batch_size: int
):
    model, naive = pair
    edit = AddedVector(Tap(2, "residual"), vectors, 0.7, tokens)
    written = generate(model, prompts, GenerationConfig(max_new_tokens=6, temperature=0), [edit], batch_size)
    lengths: set[int] = set()
    for prompt, vector, found in zip(prompts, vectors, written, strict=True):
        start = 0 if tokens == "all" else len(prompt) - 1
        expected = naive.greedy(prompt, 6, 2, lambda x, v=vector: x + 0.7 * v, start)
        assert found.token_ids == expected
        assert found.ended == (len(expected) < 6)
        lengths.add(len(expected))
    plain = generate(model, prompts, GenerationConfig(max_new_tokens=6, temperature=0))
    assert [one.token_ids for one in plain] != [one.token_ids for one in written]


def test_two_vectors_at_one_place_add_up(pair: Pair, prompts: list[list[int]], vectors: Tensor):
    model, _ = pair
    greedy, here = GenerationConfig(max_new_tokens=4, temperature=0), Tap(1, "residual")
    both = [AddedVector(here, vectors[0], 2.0), AddedVector(here, vectors[1], -1.0)]
    sum_of_both = [AddedVector(here, 2 * vectors[0] - vectors[1])]
    assert generate(model, prompts, greedy, both) == generate(model, prompts, greedy, sum_of_both)


@pytest.mark.parametrize("site", ["mlp_in", "mlp_out", "residual"])
def test_every_site_steers(pair: Pair, prompts: list[list[int]], vectors: Tensor, site: str):
    model, _ = pair
    greedy = GenerationConfig(max_new_tokens=4, temperature=0)
    layer = 3 if site == "residual" else 1
    steered = generate(model, prompts, greedy, [AddedVector(Tap(layer, site), vectors, 5.0)])
    assert steered != generate(model, prompts, greedy)
    assert generate(model, prompts, greedy, [AddedVector(Tap(layer, site), vectors, 0.0)]) == generate(
        model, prompts, greedy
    )


def test_a_batch_draws_what_each_text_draws_alone(pair: Pair, prompts: list[list[int]], vectors: Tensor):
    model, _ = pair
    edit = AddedVector(Tap(1, "residual"), vectors)
    found = [
        generate(model, prompts, GenerationConfig(max_new_tokens=8, temperature=1.5, seed=seed), [edit], batch)
        for seed, batch in ((0, 1), (0, 16), (0, 16), (1, 16))
    ]
    assert found[0] == found[1] == found[2] != found[3]
    twins = generate(model, [prompts[1]] * 8, GenerationConfig(max_new_tokens=8, temperature=1.5))
    assert len({tuple(one.token_ids) for one in twins}) > 1, "texts of one prompt have random numbers of their own"


def test_tokens_are_drawn_by_their_probability():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    n = 20_000
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature in (1.0, 0.5):
        chosen = choose(logits.expand(n, -1), temperature, drawn)
        expected = (logits[0] / temperature).softmax(0)
        torch.testing.assert_close(chosen.bincount(minlength=4) / n, expected, atol=0.015, rtol=0)
    assert choose(logits, 0, drawn[:1]).tolist() == [3]
    assert choose(logits, 1e-320, drawn[:1]).tolist() == [3], "a number that small divides to infinity"
    assert choose(logits, 1.0, torch.tensor([0.0], dtype=torch.float64)).tolist() == [0]
    edge = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert choose(torch.tensor([[1.0, -torch.inf]]), 1.0, edge).tolist() == [0], "no token of probability 0"


def test_a_text_ends_at_the_end_token(pair: Pair, prompts: list[list[int]]):
    """A vector along the end token's embedding in the head makes all texts end at once."""
    model, _ = pair
    weights = model.editable.model.state_dict()
    head = next(weights[name] for name in ("lm_head.weight", "embed_out.weight") if name in weights)
    end = AddedVector(Tap(3, "residual"), head[0] - head[1:].mean(0), 1000.0)
    written = generate(model, prompts, GenerationConfig(max_new_tokens=50, temperature=0), [end])
    assert {(tuple(one.token_ids), one.ended) for one in written} == {((), True)}


def test_what_cannot_be_written_is_named(pair: Pair):
    model, _ = pair
    with pytest.raises(InvalidInputError, match=r"a text of 65 tokens is too long: .* takes 64, its context"):
        generate(model, [[1] * 33, [1]], GenerationConfig(max_new_tokens=32))
    assert len(generate(model, [[1] * 33, [1]], GenerationConfig(max_new_tokens=31))) == 2
    with pytest.raises(InvalidInputError, match="there is no prompt"):
        generate(model, [], GenerationConfig())
    with pytest.raises(InvalidInputError, match="a prompt has no token"):
        generate(model, [[1], []], GenerationConfig())
