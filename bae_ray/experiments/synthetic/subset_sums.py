"""The synthetic directional benchmark (paper, section 4.1): vectors whose entropy is known.

Shapes: N samples, D width, R rank.
"""

import pyarrow as pa
import torch
from torch import Tensor

from bae_ray.activations.layout import MANIFEST, Cell, Manifest, Request
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.experiments.synthetic.config import SyntheticConfig
from bae_ray.seeds import stream
from bae_ray.storage import Location, folder_at


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


def make_synthetic_store(config: SyntheticConfig, out: Location) -> ActivationStore:
    """The store of all sets, a cell for each rank; made if it is not there yet.

    Its rows' `token_ids` are the subsets' numbers in the set of the largest rank. Raises `ForeignStoreError` where the
    folder holds something else.
    """
    writer = StoreWriter(folder_at(out))
    request = Request(
        model={"name": "synthetic", **config.model_dump(mode="json")},
        tokenizer={},
        input={"kind": "synthetic"},
        layers=(0,),
        sites=tuple(site(rank) for rank in config.ranks),
        positions=(0,),
        dtype="float32",
        batch_size=config.n,
        batch_tokens=config.n,
        shard_size=config.n,
        shard_mb=1,
    )
    writer.claim(request)
    if writer.folder.exists(MANIFEST):
        return ActivationStore.open(out)
    sets = {rank: random_subset_sums(rank, config) for rank in config.ranks}
    chosen = sets[max(config.ranks)][1]
    rows = pa.table(
        {
            "text_id": pa.array(range(config.n), pa.int64()),
            "token_ids": pa.array([row.nonzero().flatten().tolist() for row in chosen], pa.list_(pa.int32())),
            "text": pa.array([""] * config.n),
        }
    )
    written = writer.write_rows(0, rows, n=config.n, tokens=int(chosen.sum()))
    cells = {Cell(0, site(rank), 0): vectors for rank, (vectors, _) in sets.items()}
    receipt = writer.write_shard(0, written, cells)
    writer.finish(
        Manifest(
            request=request,
            d=config.d,
            n=config.n,
            texts=config.n,
            tokens=written.tokens,
            texts_read=config.n,
            texts_too_short=0,
            texts_too_long=0,
            shards=(receipt,),
        )
    )
    return ActivationStore.open(out)
