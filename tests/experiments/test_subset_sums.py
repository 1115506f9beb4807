from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bae_ray.errors import ForeignStoreError
from bae_ray.experiments.synthetic.subset_sums import SyntheticConfig, make_synthetic_store, random_subset_sums

CONFIG = SyntheticConfig(d=16, ranks=(1, 3, 8), n=2000)


def test_vectors_are_random_subset_sums_of_an_orthonormal_basis(tmp_path: Path):
    store = make_synthetic_store(CONFIG, tmp_path / "store")
    assert [cell.site for cell in store.cells] == ["rank-1", "rank-3", "rank-8"]
    for rank in CONFIG.ranks:
        x = store.matrix(0, 0, f"rank-{rank}")
        assert x.shape == (2000, 16)
        assert torch.linalg.matrix_rank(x) == rank
        distinct = x.round(decimals=4).unique(dim=0)
        assert len(distinct) == 2**rank  # every subset is there, and no other vector
        norms = x.square().sum(1)  # of an orthonormal sum: how many are chosen
        torch.testing.assert_close(norms, norms.round(), rtol=0, atol=1e-4)
        assert norms.mean().item() == pytest.approx(rank / 2, rel=0.05)


def test_rows_hold_the_subsets(tmp_path: Path):
    store = make_synthetic_store(CONFIG, tmp_path / "store")
    _, chosen = random_subset_sums(8, CONFIG)
    assert [list(row) for row in store.rows["token_ids"]] == [row.nonzero().flatten().tolist() for row in chosen]


def test_made_once_and_never_over_another(tmp_path: Path):
    first = make_synthetic_store(CONFIG, tmp_path / "store")
    written = (tmp_path / "store" / first.cells[0].file(0)).stat().st_mtime_ns
    again = make_synthetic_store(CONFIG, tmp_path / "store")
    assert (tmp_path / "store" / first.cells[0].file(0)).stat().st_mtime_ns == written
    assert again.manifest == first.manifest
    with pytest.raises(ForeignStoreError, match="different run"):
        make_synthetic_store(CONFIG.model_copy(update={"seed": 1}), tmp_path / "store")


@pytest.mark.parametrize("ranks", [(0,), (17,)])
def test_impossible_ranks(ranks: tuple[int, ...]):
    with pytest.raises(ValidationError, match=rf"rank {ranks[0]} is not possible: expected 1 to d = 16"):
        SyntheticConfig(d=16, ranks=ranks)
