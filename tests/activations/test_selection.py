from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.activations.config import Position, TokensConfig
from bae_ray.activations.ingest import Lengths, lengths, taken_tokens

IDS = st.lists(st.integers(0, 5), max_size=12)
SPECIAL = st.frozensets(st.integers(0, 5), max_size=3)
CONFIGS = st.builds(
    TokensConfig,
    per_text=st.none() | st.integers(1, 8), special=st.booleans(), first=st.booleans(), seed=st.integers(0, 2**32),
)  # fmt: skip
TEXT_IDS = st.integers(0, 2**40)


@pytest.mark.parametrize(
    ("positions", "longest", "expected", "read"),
    [
        ((1, 4, 2), 64, Lengths(least=5, most=None, cut=5), 5),
        ((0,), None, Lengths(least=1, most=None, cut=1), 1),
        ((63,), 64, Lengths(least=64, most=None, cut=64), 64),
        (("last",), 64, Lengths(least=1, most=64, cut=None), 65),
        (("last",), None, Lengths(least=1, most=None, cut=None), None),
        ((3, 7, "last"), 64, Lengths(least=8, most=64, cut=None), 65),
        ((7, "last"), None, Lengths(least=8, most=None, cut=None), None),
        (("all",), 64, Lengths(least=1, most=None, cut=64), 64),
        (("all",), None, Lengths(least=1, most=None, cut=None), None),
    ],
)
def test_what_positions_ask_of_a_texts_length(
    positions: tuple[Position, ...], longest: int | None, expected: Lengths, read: int | None
):
    assert lengths(positions, longest) == expected
    assert expected.read == read


def take(ids: list[int], text_id: int, config: TokensConfig, special: frozenset[int] = frozenset()) -> list[int]:
    return taken_tokens(np.array(ids, dtype=np.int32), text_id, config, special).tolist()


def allowed(ids: list[int], config: TokensConfig, special: frozenset[int]) -> list[int]:
    return [i for i, token in enumerate(ids) if (i > 0 or config.first) and (config.special or token not in special)]


@given(IDS, TEXT_IDS, st.integers(0, 9), SPECIAL)
@settings(deadline=None)
def test_all_tokens_are_taken_unless_asked_otherwise(ids: list[int], text_id: int, seed: int, special: frozenset[int]):
    assert take(ids, text_id, TokensConfig(seed=seed), special) == list(range(len(ids)))


@given(IDS, TEXT_IDS, CONFIGS, SPECIAL)
@settings(deadline=None)
def test_taken_tokens_are_some_of_those_allowed(
    ids: list[int], text_id: int, config: TokensConfig, special: frozenset[int]
):
    taken, possible = take(ids, text_id, config, special), allowed(ids, config, special)
    assert taken == sorted(set(taken))
    assert set(taken) <= set(possible)
    assert len(taken) == min(len(possible), config.per_text or len(possible))


def test_first_and_special_tokens_are_left_out():
    ids = [0, 5, 0, 5, 1]
    assert take(ids, 3, TokensConfig(first=False), frozenset({0})) == [1, 2, 3, 4]
    assert take(ids, 3, TokensConfig(special=False), frozenset({0, 1})) == [1, 3]
    assert take(ids, 3, TokensConfig(special=False, first=False), frozenset({5})) == [2, 4]
    assert take([0], 3, TokensConfig(special=False), frozenset({0})) == []
    assert take([], 3, TokensConfig(first=False)) == []


@given(st.lists(TEXT_IDS, min_size=2, max_size=6, unique=True), st.integers(0, 2**32), st.data())
@settings(deadline=None)
def test_draw_depends_on_the_seed_and_the_text_alone(texts: list[int], seed: int, data: st.DataObject):
    config = TokensConfig(per_text=3, seed=seed)
    before = {text_id: take([0] * 9, text_id, config) for text_id in texts}
    after = {text_id: take([5] * 9, text_id, config) for text_id in data.draw(st.permutations(texts))}
    assert after == before


def test_texts_and_seeds_draw_differently():
    of_texts = {tuple(take([0] * 40, text_id, TokensConfig(per_text=3))) for text_id in range(50)}
    of_seeds = {tuple(take([0] * 40, 0, TokensConfig(per_text=3, seed=seed))) for seed in range(50)}
    assert min(len(of_texts), len(of_seeds)) > 45  # 50 of 9880 possible draws


def test_every_allowed_token_is_drawn_equally_often():
    n, config = 6000, TokensConfig(per_text=3, first=False)
    counts = Counter(position for text_id in range(n) for position in take([0] * 11, text_id, config))
    expected = n * 3 / 10
    assert set(counts) == set(range(1, 11))
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
