"""The synthetic directional benchmark (paper, section 4.1): vectors whose entropy is known.

Shapes: N samples, D width, R rank.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, field_validator
from torch import Tensor

from bae_ray.activations.store import ActivationStore, Cell, Manifest, Request, StoreWriter, rows_file
from bae_ray.config import Config
from bae_ray.files import atomic_path
from bae_ray.seeds import stream


class SyntheticConfig(Config):
    """Sets of vectors c M: M are r orthonormal rows, c a random subset of them. Each set has r bits."""

    d: int = Field(default=128, ge=1)
    """Width of the vectors."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """r of each set. Rank 0 is left out: all its vectors are the same."""
    n: int = Field(default=16_384, ge=4)
    """Vectors in each set."""
    seed: int = 0
    """Seed of the bases and the subsets."""

    @field_validator("ranks")
    @classmethod
    def _check_ranks(cls, ranks: tuple[int, ...], info: Any) -> tuple[int, ...]:
        d = info.data.get("d")
        for rank in ranks:
            if rank < 1 or (d is not None and rank > d):
                raise ValueError(f"rank {rank} is not possible: expected 1 to d = {d}")
        return ranks


def site(rank: int) -> str:
    """Name of a set in the store: the site of its cell."""
    return f"rank-{rank}"


def rank_of(site: str) -> int:
    """The rank of the set of that name."""
    return int(site.removeprefix("rank-"))


def random_subset_sums(rank: int, config: SyntheticConfig) -> tuple[Tensor, Tensor]:
    """Vectors [N, D] and the subsets they are sums of, [N, R] of 0 and 1."""
    generator = stream(config.seed, "synthetic", rank)
    basis = torch.linalg.qr(torch.randn(config.d, rank, generator=generator)).Q.T
    chosen = torch.randint(0, 2, (config.n, rank), generator=generator)
    return chosen.float() @ basis, chosen


def make_synthetic_store(config: SyntheticConfig, out: str | Path) -> ActivationStore:
    """The store of all sets, a cell for each rank; made if it is not there yet.

    Its rows' `token_ids` are the subsets' numbers in the set of the largest rank. Raises `ForeignStoreError` where the
    folder holds something else.
    """
    writer = StoreWriter(out)
    request = Request(
        model={"name": "synthetic", **config.model_dump(mode="json")},
        tokenizer={},
        corpus={},
        layers=(0,),
        sites=tuple(site(rank) for rank in config.ranks),
        positions=(0,),
        dtype="float32",
        batch_size=config.n,
        shard_size=config.n,
    )
    writer.claim(request)
    receipt = writer.receipt(0)
    if receipt is None:
        sets = {rank: random_subset_sums(rank, config) for rank in config.ranks}
        chosen = sets[max(config.ranks)][1]
        rows = pa.table(
            {
                "text_id": pa.array(range(config.n), pa.int64()),
                "token_ids": pa.array([row.nonzero().flatten().tolist() for row in chosen], pa.list_(pa.int32())),
                "text": pa.array([""] * config.n),
            }
        )
        with atomic_path(writer.path / rows_file(0)) as temporary:
            pq.write_table(rows, temporary)
        receipt = writer.write_shard(0, {Cell(0, site(rank), 0): vectors for rank, (vectors, _) in sets.items()})
    writer.finish(
        Manifest(request=request, d=config.d, n=config.n, texts_read=config.n, texts_too_short=0, shards=(receipt,))
    )
    return ActivationStore.open(out)
