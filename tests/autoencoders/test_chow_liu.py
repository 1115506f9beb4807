"""Trees over latents against enumeration, brute force, and codes of known entropy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders import pair_counts
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.pair_counts import PairCounts, fired_counts
from bae_ray.autoencoders.rooted import depths, rooted
from bae_ray.errors import InvalidInputError
from tests.autoencoders.known_codes import bernoulli, drawn, entropy_of, fitted, joint_entropy, random_tree


@st.composite
def codes(draw: st.DrawFn, most: int = 7) -> Tensor:
    """Codes of bits that hang together: some copies, some functions of two others, some constant."""
    n, width, seed = draw(st.integers(1, 60)), draw(st.integers(1, most)), draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    code = torch.rand(n, width, generator=generator) < torch.rand(width, generator=generator)
    for latent in range(2, width):
        kind = draw(st.sampled_from(["own", "copy", "xor", "off", "on"]))
        code[:, latent] = {
            "own": code[:, latent], "copy": code[:, latent - 1], "xor": code[:, latent - 1] ^ code[:, latent - 2],
            "off": torch.zeros(n, dtype=torch.bool), "on": torch.ones(n, dtype=torch.bool),
        }[kind]  # fmt: skip
    return code


@settings(max_examples=150, deadline=None)
@given(codes())
def test_tree_bits_lie_between_the_joint_and_the_marginal_entropy(code: Tensor):
    tree = fitted(code)
    assert joint_entropy(code) - 1e-9 <= tree.entropy_bits <= tree.marginal_bits + 1e-9
    assert tree.marginal_bits == pytest.approx(sum(map(bernoulli, code.double().mean(0).tolist())), abs=1e-9)
    assert tree.alone().entropy_bits == pytest.approx(tree.marginal_bits, abs=1e-9)


def test_the_joint_entropy_of_twelve_latents_of_a_tree_is_found():
    rates, parent = random_tree(12, 3)
    code = drawn(4_000, rates, parent, 0)
    assert joint_entropy(code) <= fitted(code).entropy_bits == pytest.approx(entropy_of(rates, parent), rel=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_is_the_best_of_all_of_six_latents(seed: int):
    """All 6^4 labelled trees, by their Pruefer codes; the information of each pair by its four frequencies."""
    rates, parent = random_tree(6, seed)
    code = drawn(150, rates, parent, seed) ^ (torch.rand(150, 6, generator=torch.Generator().manual_seed(seed)) < 0.2)

    def information(one: int, other: int) -> float:
        bits = [bernoulli(float(code[:, i].double().mean())) for i in (one, other)]
        return sum(bits) - joint_entropy(code[:, [one, other]])

    known = {pair: information(*pair) for pair in itertools.combinations(range(6), 2)}
    best = max(
        sum(known[min(a, b), max(a, b)] for a, b in tree_of(sequence))
        for sequence in itertools.product(range(6), repeat=4)
    )
    tree = fitted(code)
    assert tree.marginal_bits - tree.entropy_bits == pytest.approx(best, abs=1e-9)


def tree_of(sequence: tuple[int, ...]) -> list[tuple[int, int]]:
    degree, edges = [1 + sequence.count(i) for i in range(len(sequence) + 2)], []
    for latent in sequence:
        leaf = degree.index(1)
        edges.append((leaf, latent))
        degree[leaf] -= 1
        degree[latent] -= 1
    return [*edges, tuple(i for i, d in enumerate(degree) if d == 1)]  # type: ignore[list-item]


def test_the_entropy_of_a_tree_is_recovered():
    rates, parent = random_tree(60, 1)
    tree = fitted(drawn(50_000, rates, parent, 2), 9)
    assert tree.entropy_bits == pytest.approx(entropy_of(rates, parent), rel=0.005)


def known(kind: str, n: int) -> tuple[Tensor, float, float]:
    """Codes [n, 24], their entropy, and what a tree can see of it at best."""
    generator = torch.Generator().manual_seed(n)
    fair = torch.rand(n, 24, generator=generator) < 0.5
    noise = torch.rand(n, 24, generator=generator) < 0.1
    if kind == "independent":
        return fair, 24, 24
    if kind == "copies":
        return fair[:, :6].repeat(1, 4), 6, 6
    if kind == "noisy copies":
        return (
            fair[:, :6].repeat(1, 4) ^ (noise & (torch.arange(24) >= 6)),
            6 + 18 * bernoulli(0.1),
            6 + 18 * bernoulli(0.1),
        )
    if kind == "chain":
        return (
            (torch.cat([fair[:, :1], noise[:, 1:]], 1).int().cumsum(1) % 2).bool(),
            1 + 23 * bernoulli(0.1),
            1 + 23 * bernoulli(0.1),
        )
    return torch.cat([fair[:, :16], fair[:, :8] ^ fair[:, 8:16]], 1), 16, 24


@pytest.mark.parametrize("n", [100, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("kind", ["independent", "copies", "noisy copies", "chain", "exclusive or"])
def test_the_bias_of_tree_bits_and_of_the_length_of_unseen_codes(kind: str, n: int):
    """From n codes tree bits are too low, by at most half a parameter's worth and what the best edge gains by chance.

    There are two parameters a latent, of 1 / (2 n ln 2) bits each; the largest of F chance informations is about
    ln(F) / (n ln 2). Unseen codes take at least their entropy, on average, and at most as much more. Of three bits of
    which each is the exclusive or of the others a tree counts three.
    """
    code, _, seen = known(kind, n)
    tree, width = fitted(code), code.shape[1]
    slack = width * (1 + np.log(width)) / (n * np.log(2))
    deviation = 4 * np.sqrt(width / n)  # of sampling: the bits of one code differ by about one a latent
    assert seen - slack - deviation <= tree.entropy_bits <= seen + deviation
    unseen = known(kind, n + 1)[0]
    assert (
        seen - deviation <= float(tree.code_lengths(unseen).mean()) <= seen + width * np.log2(n) / n + slack + deviation
    )


def test_the_length_of_a_code_is_the_product_of_its_rates():
    rates, parent = random_tree(9, 5)
    code = drawn(40, rates, parent, 6)
    tree = fitted(code)
    other = torch.rand(700, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    expected = []
    for row in other.tolist():
        bits = 0.0
        for latent, above in enumerate(tree.parent.tolist()):
            chosen = torch.ones(40, dtype=torch.bool) if above < 0 else code[:, above] == row[above]
            p = (float(code[chosen, latent].sum()) + 0.5) / (int(chosen.sum()) + 1)
            bits -= np.log2(p if row[latent] else 1 - p)
        expected.append(bits)
    assert tree.code_lengths(other).tolist() == pytest.approx(expected)
    assert tree.code_lengths(other.float()).tolist() == pytest.approx(expected)
    every = torch.tensor(list(itertools.product((0, 1), repeat=9)))
    assert float((-tree.code_lengths(every)).exp2().sum()) == pytest.approx(1)


def test_a_code_that_does_not_vary_takes_nothing():
    code = torch.tensor([[True, False, True]] * 5)
    tree = fitted(code)
    assert (tree.entropy_bits, tree.marginal_bits, tree.parent.tolist()) == (0, 0, [-1, -1, -1])
    assert tree.code_lengths(code[:1]).item() == pytest.approx(-3 * np.log2(5.5 / 6))
    with pytest.raises(InvalidInputError, match="no codes to fit a tree to"):
        ChowLiuTree.fit([])
    with pytest.raises(InvalidInputError, match="no codes to fit a tree to"):
        ChowLiuTree.fit([code[:0]])


@pytest.mark.parametrize("varying", [None, torch.tensor([1, 2, 5, 6])])
def test_pairs_are_counted_in_blocks_and_batches(varying: Tensor | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pair_counts, "BLOCK", 3)
    monkeypatch.setattr(pair_counts, "ROWS_AT_ONCE", 10)
    code = torch.rand(95, 8, generator=torch.Generator().manual_seed(0)) < 0.4
    counts = PairCounts(8, varying)
    for part in code.split(30):
        counts.add(part)
        counts.together()
    chosen = code if varying is None else code[:, varying]
    assert torch.equal(counts.together().long(), chosen.long().T @ chosen.long())
    assert (counts.n, counts.fired.tolist()) == (95, code.sum(0).tolist())


def test_too_many_latents_to_count_are_refused():
    with pytest.raises(InvalidInputError, match="40000 latents vary; their pairs take 5 GiB"):
        PairCounts(40_000)


def test_trees_are_rooted_at_their_centre():
    parent = rooted(torch.tensor([[3, 4], [4, 5], [5, 6], [6, 7], [5, 1]]), 9)
    assert parent.tolist() == [-1, 5, -1, 4, 5, -1, 5, 6, -1]
    assert depths(parent).tolist() == [0, 1, 0, 2, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 127, 128, 129])
def test_depths_of_chains_and_of_any_trees(size: int):
    chain = torch.arange(-1, size - 1)
    assert torch.equal(depths(chain), torch.arange(size))
    for seed in range(5):
        parent = random_tree(size, seed)[1] if size else []
        wanted = []
        for above in parent:
            wanted.append(0 if above < 0 else wanted[above] + 1)
        assert depths(torch.tensor(parent, dtype=torch.int64)).tolist() == wanted
    for circle in range(1, min(size, 9)):
        ring = chain.clone()
        ring[0] = circle
        with pytest.raises(InvalidInputError, match="in a circle"):
            depths(ring)


@pytest.mark.parametrize(
    ("parent", "fired", "n", "reason"),
    [
        ([1, 0], [[1, 0], [1, 0]], 4, "in a circle"),
        ([-1, 2], [[1, 0], [1, 0]], 4, "is no latent"),
        ([-2, 0], [[1, 0], [1, 0]], 4, "is no latent"),
        ([-1, 0], [[5, 0], [1, 0]], 4, "fired 5 times in 4 samples"),
        ([-1, 0], [[2, 0], [1, 3]], 4, "more often than that did"),
        ([-1, 0], [[2, 0], [3, 0]], 4, "more often than that did"),
        ([-1, 0], [[0, 0], [-1, 0]], 4, "fired 0 times in 4"),
        ([-1, 0], [[0, 0], [0, 0]], 0, "1 to 2147483647 samples"),
        ([-1], [[0, 0], [0, 0]], 1, "int64"),
    ],
)
def test_numbers_that_no_samples_have_are_refused(parent: list[int], fired: list[list[int]], n: int, reason: str):
    with pytest.raises(InvalidInputError, match=reason):
        ChowLiuTree(torch.tensor(parent), torch.tensor(fired), n)
    with pytest.raises(InvalidInputError, match="the tree is of 2 latents"):
        ChowLiuTree(torch.tensor([-1, 0]), torch.tensor([[2, 0], [1, 0]]), 3).code_lengths(torch.zeros(4, 3))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1100), st.integers(1, 9), st.floats(0, 1), st.sampled_from([torch.bool, torch.uint8, torch.float32])
)
def test_firings_are_counted_exactly(n: int, width: int, rate: float, dtype: torch.dtype):
    code = (torch.rand(n, 2 * width, generator=torch.Generator().manual_seed(n)) <= rate).to(dtype)
    for some in (code, code[:, ::2], code[: n // 2]):
        assert torch.equal(fired_counts(some), some.double().sum(0).long())
