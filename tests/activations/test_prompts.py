import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.activations.prompts import Drawn, FixedPrompts, PromptFormat, SampledPrompts, random_sequences
from bae_ray.errors import InvalidInputError

TEXTS = st.builds(
    lambda before, word, after: f"{before}{word}{after}",
    st.sampled_from(["", " ", "\t"]),
    st.sampled_from(["good", "bad", "so so", "a", ""]),
    st.sampled_from(["", " ", "\n"]),
)
CORPORA = st.lists(TEXTS, min_size=1, max_size=12)
"""Small, so that many texts come twice, or differ only in the blanks around them."""
SEEDS = st.integers(0, 2**32)


def others(texts: list[str]) -> int:
    """How many examples there are to demonstrate the query that has the fewest."""
    return min(sum(other.strip() != text.strip() for other in texts) for text in texts)


def draws(texts: list[str], k: int, seed: int, n: int) -> list[Drawn]:
    prompts = SampledPrompts(texts, k, seed)
    return [prompts.draw(i) for i in range(n)]


@given(CORPORA, SEEDS, st.data())
@settings(deadline=None)
def test_no_demonstration_is_the_query_or_another_one(texts: list[str], seed: int, data: st.DataObject):
    k = data.draw(st.integers(0, others(texts)))
    for query, demonstrations in draws(texts, k, seed, 2 * len(texts)):
        assert len(set(demonstrations)) == len(demonstrations) == k
        assert set(demonstrations) <= set(range(len(texts))) - {query}
        assert texts[query].strip() not in {texts[i].strip() for i in demonstrations}


@given(CORPORA, SEEDS, st.integers(1, 8))
@settings(deadline=None)
def test_too_few_examples_are_refused(texts: list[str], seed: int, more: int):
    k = others(texts) + more
    with pytest.raises(InvalidInputError, match=rf"k is {k}, but of {len(texts)} examples .* only {others(texts)} "):
        SampledPrompts(texts, k, seed)


@pytest.mark.parametrize("k", [0, 4])
def test_no_examples_are_refused(k: int):
    with pytest.raises(InvalidInputError, match=f"k is {k}"):
        SampledPrompts([], k, 0)


@given(CORPORA, SEEDS, st.data())
@settings(deadline=None)
def test_prompt_is_the_same_whoever_draws_it_and_when(texts: list[str], seed: int, data: st.DataObject):
    k, n = data.draw(st.integers(0, others(texts))), 3 * len(texts)
    order = data.draw(st.permutations(range(n)))
    mine = SampledPrompts(texts, k, seed)
    drawn = {i: mine.draw(i) for i in order}
    assert [drawn[i] for i in range(n)] == draws(texts, k, seed, n)


@given(CORPORA, SEEDS)
@settings(deadline=None)
def test_every_example_is_a_query_once_before_any_twice(texts: list[str], seed: int):
    n = len(texts)
    queries = [drawn.query for drawn in draws(texts, 0, seed, 3 * n)]
    for turn in range(3):
        assert sorted(queries[turn * n : (turn + 1) * n]) == list(range(n))


@given(CORPORA, SEEDS, st.data())
@settings(deadline=None)
def test_smaller_k_has_the_same_queries_and_first_demonstrations(texts: list[str], seed: int, data: st.DataObject):
    k = data.draw(st.integers(0, others(texts)))
    smaller = data.draw(st.integers(0, k))
    n = 2 * len(texts)
    expected = [Drawn(query, demonstrations[:smaller]) for query, demonstrations in draws(texts, k, seed, n)]
    assert draws(texts, smaller, seed, n) == expected


@given(SEEDS, st.integers(1, 100))
@settings(deadline=None)
def test_seeds_differ(seed: int, more: int):
    texts = [f"text {i}" for i in range(60)]
    mine, theirs = draws(texts, 3, seed, 60), draws(texts, 3, seed + more, 60)
    assert [drawn.query for drawn in mine] != [drawn.query for drawn in theirs]
    assert [drawn.demonstrations for drawn in mine] != [drawn.demonstrations for drawn in theirs]


def test_each_turn_is_drawn_anew():
    texts = [f"text {i}" for i in range(60)]
    drawn = draws(texts, 3, 0, 120)
    first, second = drawn[:60], drawn[60:]
    assert [prompt.query for prompt in first] != [prompt.query for prompt in second]
    of_query = {prompt.query: prompt.demonstrations for prompt in first}
    assert sum(of_query[prompt.query] == prompt.demonstrations for prompt in second) < 3


def test_every_example_demonstrates_every_other_equally_often():
    n = 10_000
    counts = Counter((query, i) for query, chosen in draws(["a", "b", "c", "d", "e"], 2, 7, n) for i in chosen)
    expected = n / 5 * 2 / 4
    assert set(counts) == {(query, i) for query in range(5) for i in range(5) if query != i}
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def released_layout(n_examples: int, n_prompts: int, k: int, seed: int) -> list[Drawn]:
    """What the paper's released code does."""
    random.seed(seed)
    prompts = []
    for _ in range(n_prompts):
        sample = random.sample(range(n_examples), k + 1)
        prompts.append(Drawn(sample[-1], list(range(k))))
    return prompts


@given(st.integers(1, 40), st.integers(0, 6), SEEDS, st.data())
@settings(deadline=None)
def test_fixed_demonstrations_are_those_of_the_released_code(more: int, k: int, seed: int, data: st.DataObject):
    prompts = FixedPrompts(k + more, 20, k, seed)
    drawn = {i: prompts.draw(i) for i in data.draw(st.permutations(range(20)))}
    assert [drawn[i] for i in range(20)] == released_layout(k + more, 20, k, seed)


def test_fixed_demonstrations_leave_pythons_own_draws_alone():
    random.seed(3)
    state = random.getstate()
    FixedPrompts(9, 20, 4, 0)
    assert random.getstate() == state


@given(st.integers(0, 9), st.integers(0, 5))
@settings(deadline=None)
def test_too_few_examples_for_fixed_demonstrations_are_refused(n: int, more: int):
    k = n + more
    with pytest.raises(InvalidInputError, match=rf"k is {k}, which takes {k + 1} examples, but the corpus has {n}"):
        FixedPrompts(n, 5, k, 0)


def test_prompts_are_written_as_in_the_paper():
    form = PromptFormat("sentence: ", "sentiment: ", ("negative", "positive"))
    texts, labels = ["dull and long", "a joy", "so good"], np.array([0, 1, 1])
    assert form.write(texts, labels, [], 2) == "sentence: so good sentiment:"
    assert form.write(texts, labels, [1, 0], 2) == (
        "sentence: a joy sentiment: positive\nsentence: dull and long sentiment: negative\nsentence: so good sentiment:"
    )


def entropy(values: np.ndarray) -> float:
    """In bits, of what was counted."""
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(shares * np.log2(shares)).sum())


def test_random_sequences_have_a_bit_for_each_token():
    n, bits = 20_000, 6
    ids = random_sequences(n, bits, (40, 7), seed=1)
    assert ids.shape == (n, bits)
    assert set(np.unique(ids)) == {7, 40}
    assert all(entropy(ids[:, i]) > 0.999 for i in range(bits))
    # Counted from n draws, the entropy of 2^bits sequences is about (2^bits - 1) / (2 n ln 2) = 0.002 too low.
    assert bits - 0.01 < entropy((ids == 40) @ 2 ** np.arange(bits)) <= bits


@given(SEEDS, st.integers(1, 40), st.tuples(st.integers(0, 9), st.integers(10, 19)))
@settings(deadline=None)
def test_random_sequences_follow_their_seed(seed: int, bits: int, tokens: tuple[int, int]):
    ids = random_sequences(50, bits, tokens, seed)
    assert ids.shape == (50, bits)
    assert set(ids.ravel().tolist()) <= set(tokens)
    assert np.array_equal(ids, random_sequences(50, bits, tokens, seed))
    assert not np.array_equal(ids, random_sequences(50, bits, tokens, seed + 1))
