"""Bits under a tree: what they take beside the plain product of all pairs; and the codec that reaches them.

1. Tree bits of codes [n, 8192] of which V latents vary, in batches: finding these, counting their pairs (exact whole
   numbers), the spanning tree. Beside it, in the same run, the plain product in float32 that any count of pairs needs:
   n x V x V, of codes that are cut to the varying latents already. "Count / product" is of the first two. Memory: the
   growth of the process's peak, which 4 V^2 bytes of counts explain, whatever n is.
2. Scheme `tree` of the codec: bits per vector over the code length that the tree says of codes not in its fit, and
   encode and decode vectors/s. Beside it scheme `entropy` of the same codes.

    python benchmarks/entropy.py [--rows 50000] [--varying 1000 4000] [--threads 2]
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.pair_counts import PairCounts, fired_counts
from bae_ray.compression import Scheme, compress, decompress, fit_tree

D_LATENT = 8192
BATCH = 4096
REPEATS = 3


def main(rows: int = 50_000, varying: tuple[int, ...] = (1000, 4000), threads: int = 2) -> None:
    """Measure, and print two tables."""
    torch.set_num_threads(threads)
    console = Console(width=140)
    table = Table("n", "V", "tree bits", "marginal", "product s", "count s", "count / product", "tree s",
                  "MiB", "4 V^2 MiB", title=f"Tree bits of codes of {D_LATENT} latents, {threads} threads")  # fmt: skip
    for width in varying:
        for n in (rows // 4, rows):
            table.add_row(*of_tree(codes(n, width, 30 / width), width))
    console.print(table)
    table = Table("V", "scheme", "bits/vector", "over the code length", "encode/s", "decode/s",
                  title="The codec, codes that the tree has not seen")  # fmt: skip
    for width in varying:
        code = codes(3 * BATCH, width, 8 / width)
        for row in of_codec(code[:BATCH], code[BATCH:]):
            table.add_row(str(width), *row)
    console.print(table)


def codes(n: int, varying: int, rate: float) -> Tensor:
    """Codes [n, 8192] of groups of ten latents that fire together, but for each a few times at this rate."""
    generator = torch.Generator().manual_seed(0)
    code = torch.zeros(n, D_LATENT, dtype=torch.bool)
    place = torch.randperm(D_LATENT, generator=generator)[:varying].sort().values
    for part in code.split(BATCH):
        group = torch.rand(len(part), varying // 10, generator=generator) < 10 * rate
        own = torch.rand(len(part), varying, generator=generator) < rate
        part[:, place] = group.repeat_interleave(10, 1) ^ own
    return code


def of_tree(code: Tensor, varying: int) -> list[str]:
    """A row: the two sides, timed one after the other."""
    fired = code.sum(0)
    cut = code[:, (fired > 0) & (fired < len(code))]

    def product() -> Tensor:
        total = torch.zeros(cut.shape[1], cut.shape[1])
        for part in cut.split(BATCH):
            x = part.float()
            total += x.T @ x
        return total

    def count() -> PairCounts:
        total = torch.stack([fired_counts(part) for part in code.split(BATCH)]).sum(0)
        counts = PairCounts(D_LATENT, ((total > 0) & (total < len(code))).nonzero().squeeze(1))
        for part in code.split(BATCH):
            counts.add(part)
        return counts

    before = peak(anew=True)
    count_s, counts = timed(count)
    tree_s, tree = timed(lambda: ChowLiuTree.of(counts), 1)
    grown = peak() - before
    product_s, plain = timed(product)
    assert torch.equal(plain.long(), counts.together().long())
    numbers = (product_s, count_s, count_s / product_s, tree_s, grown, 4 * varying**2 / 2**20)
    return [str(len(code)), str(varying), f"{tree.entropy_bits:.1f}", f"{tree.marginal_bits:.1f}",
            *(f"{number:.2f}" for number in numbers)]  # fmt: skip


def of_codec(fitted: Tensor, unseen: Tensor) -> list[list[str]]:
    """A row for each scheme."""
    tree = fit_tree(fitted)
    limit = float(tree.code_lengths(unseen).mean())
    rates = (fitted.double().sum(0) + 0.5) / (len(fitted) + 1)
    return [of_scheme("tree", tree, unseen, limit), of_scheme("entropy", rates, unseen, limit)]


def of_scheme(scheme: Scheme, model: Tensor | ChowLiuTree, unseen: Tensor, limit: float) -> list[str]:
    """The row of one scheme; `limit` is the code length in bits."""
    encode_s, data = timed(lambda: compress(unseen, model, scheme, table="reference"))
    decode_s, back = timed(lambda: decompress(data, prior=model))
    assert torch.equal(back.bool(), unseen)
    bits = 8 * len(data) / len(unseen)
    return [
        scheme,
        f"{bits:.1f}",
        f"{bits / limit:.3f}",
        f"{len(unseen) / encode_s:,.0f}",
        f"{len(unseen) / decode_s:,.0f}",
    ]


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """The best time in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


def peak(anew: bool = False) -> float:
    """Largest memory of this process in MiB, since the last call with `anew`."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    tyro.cli(main)
