"""How often 95 % intervals of bits hold the true ones, in simulation: at least .92. Slow tests print the table."""

import math
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from bae_ray.analysis.joint_bits import joint_bits
from bae_ray.analysis.sampling import code_entropy
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from tests.analysis.simulated_codes import CODES, Code, conditional_entropy, entropy, states

LEAST = 0.92
NOISE = 0.03
"""By how much the share of so few simulations may be lower by chance."""


def drawn(code: Code, n: int, seed: int) -> Tensor:
    return code.draw(n, torch.Generator().manual_seed(seed))


def covered(name: str, n: int, times: int) -> tuple[float, float]:
    """How often the marginal entropy's interval holds it, and the mean stated bias as a share of the true one."""
    code = CODES[name]
    found = [code_entropy([drawn(code, n, seed)], n, seed) for seed in range(times)]
    held = sum(one.low - 1e-9 <= code.bits <= one.high + 1e-9 for one in found) / times
    stated, true = sum(one.bias for one in found), sum(code.bits - one.bits for one in found)
    return held, stated / true


@pytest.mark.parametrize(("name", "n"), [("rare", 128), ("rare, half dead", 128), ("fair", 128), ("mixed", 26)])
def test_the_interval_of_a_marginal_entropy_holds_it(name: str, n: int):
    held, of_bias = covered(name, n, 60)
    assert held >= LEAST - NOISE
    assert 0.7 < of_bias < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("n", [26, 128, 512, 2048])
@pytest.mark.parametrize("name", CODES)
def test_intervals_of_marginal_entropies_hold_them(name: str, n: int, capsys: pytest.CaptureFixture[str]):
    held, of_bias = covered(name, n, 300)
    with capsys.disabled():
        print(f"\n| {name} | {n} | {held:.3f} | {of_bias:.2f} |")
    assert held >= LEAST - 0.02


def of_a_tree(code: Code, n: int, times: int) -> dict[str, float]:
    """How often the intervals of bits under a tree hold those of infinitely many samples."""
    many = drawn(code, 20_000, 10**6)
    held: dict[str, float] = defaultdict(float)
    for seed in range(times):
        x = drawn(code, n, seed)
        train, heldout = x[n // 5 :], x[: n // 5]
        found = joint_bits([train], [heldout], seed)
        assert found is not None
        tree = ChowLiuTree.fit([train])
        truth = {
            "tree": code.bits if code.independent else conditional_entropy(many, found.model.parent.tolist()),
            "heldout": float(tree.code_lengths(many).mean()),
            "heldout_marginal": float(tree.alone().code_lengths(many).mean()),
        }
        for name, bits in truth.items():
            estimate = getattr(found, name)
            held[name] += (estimate.low <= bits <= estimate.high) / times
    return held


@pytest.mark.parametrize(("name", "n"), [("noisy copies", 128), ("fair", 128)])
def test_intervals_of_bits_under_a_tree_hold_them(name: str, n: int):
    assert all(share >= LEAST - 0.05 for share in of_a_tree(CODES[name], n, 40).values())


@pytest.mark.slow
@pytest.mark.parametrize("n", [128, 512, 2048])
@pytest.mark.parametrize("name", CODES)
def test_intervals_of_bits_under_a_tree_hold_them_always(name: str, n: int, capsys: pytest.CaptureFixture[str]):
    held = of_a_tree(CODES[name], n, 60 if len(CODES[name].rates) > 500 else 150)
    with capsys.disabled():
        print(f"\n| {name} | {n} | " + " | ".join(f"{share:.3f}" for share in held.values()) + " |")
    assert all(share >= LEAST - 0.04 for share in held.values())


def of_whole_codes(size: int, n: int, times: int) -> tuple[float, int]:
    """How often the interval of the joint entropy holds it, where it is told; and how often it is."""
    code, bits = states(size)
    told = []
    for seed in range(times):
        x = drawn(code, n, seed)
        found = joint_bits([x[n // 5 :]], [x[: n // 5]], seed)
        assert found is not None
        if found.joint is not None:
            told.append(found.joint.low <= bits <= found.joint.high)
    return sum(told) / max(len(told), 1), len(told)


@pytest.mark.parametrize(("size", "n", "times"), [(4, 128, 60), (12, 512, 60)])
def test_intervals_of_joint_entropies_hold_them(size: int, n: int, times: int):
    share, told = of_whole_codes(size, n, times)
    assert told == times
    assert share >= LEAST - NOISE


@pytest.mark.slow
@pytest.mark.parametrize("n", [128, 512, 2048])
@pytest.mark.parametrize("size", [2, 4, 12, 40])
def test_intervals_of_joint_entropies_hold_them_where_they_are_told(
    size: int, n: int, capsys: pytest.CaptureFixture[str]
):
    share, told = of_whole_codes(size, n, 300)
    with capsys.disabled():
        print(f"\n| {size} states | {n} | {share:.3f} of {told} |")
    assert share >= LEAST - 0.02 or told == 0


@pytest.mark.parametrize("n", [100, 256])
@pytest.mark.parametrize("share", [0.5, 0.45, 0.4, 0.1])
def test_intervals_of_two_states_hold_their_entropy(share: float, n: int):
    """By the binomial probabilities of all outcomes: also where nearly equal shares make an entropy look sure."""
    true, missed = entropy(torch.tensor([share])), 0.0
    for count in range(n + 1):
        probability = float(stats.binom.pmf(count, n, share))
        if probability > 1e-3:
            x = (torch.arange(n) < count)[:, None]
            found = joint_bits([x[1:]], [x[:1]], 0)
            assert found is not None
            assert found.joint is not None
            missed += probability * (not found.joint.low <= true <= found.joint.high)
    assert missed <= 0.06


@pytest.mark.parametrize(("texts", "tokens"), [(20, 50), (50, 20)])
@pytest.mark.parametrize("share", [0.5, 0.45, 0.4])
def test_intervals_of_two_states_hold_their_entropy_where_texts_have_one_each(share: float, texts: int, tokens: int):
    """All tokens of a text are of one state, as much as samples can go together."""
    true, missed = entropy(torch.tensor([share])), 0.0
    of = torch.arange(texts).repeat_interleave(tokens)
    for count in range(1, texts):  # of one state alone nothing is known of the other
        probability = float(stats.binom.pmf(count, texts, share))
        if probability > 1e-3:
            x = (of < count)[:, None]
            found = joint_bits([x[tokens:]], [x[:tokens]], 0, (of[tokens:], of[:tokens]))
            assert found is not None
            assert found.joint is not None
            missed += probability * (not found.joint.low <= true <= found.joint.high)
    assert missed <= 0.06


def test_intervals_of_many_equal_codes_hold_their_entropy_and_are_narrow():
    held = []
    for seed in range(60):
        state = torch.randint(100, (4096,), generator=torch.Generator().manual_seed(seed))
        x = state[:, None] >> torch.arange(7) & 1 == 1
        found = joint_bits([x[800:]], [x[:800]], seed)
        assert found is not None
        assert found.joint is not None
        held.append(found.joint.low <= math.log2(100) <= found.joint.high)
        assert found.joint.high - found.joint.low < 0.05
    assert sum(held) / 60 >= LEAST - NOISE


def parts(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(50)


def test_texts_of_several_samples_count_once():
    """Samples that are repeated in a text tell no more than one: so say interval and bias."""
    code, n = CODES["skewed"], 128
    x, texts = drawn(code, n, 0), torch.arange(n).repeat_interleave(5)
    once = code_entropy(parts(x), n, 0)
    repeated = code_entropy(parts(x.repeat_interleave(5, 0)), 5 * n, 0, texts)
    apart = code_entropy(parts(x.repeat_interleave(5, 0)), 5 * n, 0)
    assert repeated.bits == pytest.approx(once.bits)
    assert repeated.bias == pytest.approx(once.bias, rel=0.25)
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.35)
    assert apart.bias < 0.3 * once.bias


def test_one_sample_tells_nothing():
    found = code_entropy([torch.tensor([[True, False, True]])], 1, 0)
    assert (found.bits, found.low, found.high) == (0, 0, 3)
