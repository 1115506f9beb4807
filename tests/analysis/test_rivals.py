"""All measures of a cell together, and product quantisers."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bae_ray.activations.rows import Rows
from bae_ray.analysis.gaussian_rate import gaussian_rate_bits
from bae_ray.analysis.product_code import ProductCodes
from bae_ray.analysis.rivals import CellRivals
from bae_ray.analysis.spectrum import spectrum
from bae_ray.errors import InvalidInputError


def rows(x: np.ndarray) -> Rows:
    return Rows([torch.from_numpy(x.astype(np.float32))])


def products(train: np.ndarray, heldout: np.ndarray) -> ProductCodes:
    return ProductCodes(spectrum(rows(train)), rows(train), rows(heldout), 0)


def test_a_product_of_few_states_takes_the_entropy_of_its_indices():
    generator = np.random.default_rng(0)
    points = generator.standard_normal((3, 3, 3))
    symbols = [generator.choice(3, 500, p=p) for p in ([0.4, 0.35, 0.25], [1 / 3] * 3, [0.25, 0.5, 0.25])]
    x = np.concatenate([group[symbol] for group, symbol in zip(points, symbols, strict=True)], 1)
    found = products(x[:400], x[400:]).at(1e-6)
    assert found.fvu == pytest.approx(0, abs=1e-6)
    assert found.bits == pytest.approx(sum(entropy(np.bincount(part), base=2) for part in symbols), rel=1e-6)


def test_the_fewest_groups_with_the_fvu_are_taken_or_the_nearest():
    x = np.random.default_rng(1).standard_normal((600, 12))
    codes = products(x[:500], x[500:])
    asked = [codes.at(fvu) for fvu in (1.5, 0.9, 0.7, 0.3, 0.1, 1e-9)]
    assert [code.bits for code in asked] == sorted(code.bits for code in asked)
    assert asked[0].bits == 0
    assert asked[0].fvu == pytest.approx(1, abs=0.05)
    assert all(code.fvu <= fvu for code, fvu in zip(asked, (1.5, 0.9, 0.7, 0.3, 0.1), strict=False))
    assert asked[-1].fvu == pytest.approx(min(code.fvu for code in asked), abs=0.01), "a Gaussian has no code of FVU 0"
    assert 0 < asked[-1].fvu < 0.05, "16 levels for each number"
    for code in asked[1:]:
        assert code.bits > 6 * math.log2(1 / code.fvu), "no code is below the rate-distortion bound"
    again = products(x[:500], x[500:])
    assert [again.at(fvu) for fvu in (0.3, 0.9)] == [asked[3], asked[1]], "whatever was asked before"


def test_without_faiss_and_of_few_samples_there_is_no_product_code(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(2).standard_normal((40, 4))
    assert not math.isnan(products(x[:16], x[16:]).at(0.5).bits)
    assert math.isnan(products(x[:15], x[15:]).at(0.5).bits)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert math.isnan(products(x[:16], x[16:]).at(0.5).bits)
    found = CellRivals(rows(x[:30]), rows(x[30:])).at(0.5)
    assert (found.product_bits, found.product_fvu) == (None, None)
    assert None not in found[:3]


def test_the_measures_of_a_cell_do_not_hang_on_its_units_or_on_how_it_lies_in_memory():
    generator = np.random.default_rng(3)
    x = generator.standard_normal((300, 8)) @ generator.standard_normal((8, 8))
    train, heldout = x[:240], x[240:]
    found = CellRivals(rows(train), rows(heldout)).at(0.4)
    assert None not in found
    assert found == CellRivals(rows(train), rows(heldout)).at(0.4)
    assert found.gaussian_bits == pytest.approx(gaussian_rate_bits(spectrum(rows(train)).variances, 0.4))
    pieces = Rows([torch.from_numpy(part.astype(np.float32)) for part in np.array_split(train, 4)])
    assert CellRivals(pieces, rows(heldout)).at(0.4) == pytest.approx(found, rel=1e-9)
    assert CellRivals(rows(1024 * train), rows(1024 * heldout)).at(0.4) == pytest.approx(found, rel=1e-9)


def test_of_cells_of_which_little_can_be_told_the_rest_is_told():
    x = np.random.default_rng(4).standard_normal((4, 3))
    assert CellRivals(rows(np.ones((3, 3))), rows(x)).at(0.5)[5:] == (None, None, None, None)
    assert CellRivals(rows(x[:2]), rows(x[2:])).at(0.0).gaussian_bits is None, "there is no end"
    with pytest.raises(InvalidInputError, match="fvu is -1"):
        CellRivals(rows(x[:2]), rows(x[2:])).at(-1)
