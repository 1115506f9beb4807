"""The codec against the entropy limit and against what else one would do, on simulated and on real codes.

Bytes per vector over the limit, encode and decode vectors/s and MB/s (of the codes at a bit per latent), for: scheme
entropy, scheme indices (the paper's), zstd on those index lists, packbits, zstd on the packed bits. Everything of one
code is measured in this run, in one thread, one after another, the best of several times.

1. Simulated codes of independent latents of all kinds of rates, with 100 and 500 bits.
2. Codes of trained autoencoders on activations of another corpus, with the autoencoder's own prior: what
   jobs/compression.py leaves in sweep/ and held_out/. Of its runs those with entropies nearest to 100 and 500 bits.

The limit is the marginal entropy under the firing rates of the measured codes themselves. Sizes count everything but
what is once per file: header, prior and digest, which are beside.

    python benchmarks/codec.py [--rows 16384] [--d-latent 8192] [--compression runs/compression]
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
import zstandard
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.compression import Scheme, compress, decompress, read_header
from bae_ray.compression.header import DIGEST_SIZE, HEADER_SIZE
from bae_ray.training.config import RunConfig
from bae_ray.training.results import results

WANTED_BITS = (100.0, 500.0)
BLOCK_ROWS = 1024
REPEATS = 5


class Codes(NamedTuple):
    """Codes to be measured, and the prior that the codec is given."""

    name: str
    code: Tensor
    prior: Tensor

    @property
    def limit(self) -> float:
        """Marginal entropy in bits per vector, of these very codes."""
        return float(bernoulli_entropy(self.code.double().mean(0)).sum())


class Measured(NamedTuple):
    """One way to code."""

    method: str
    bits: float
    encode_s: float
    decode_s: float


def main(rows: int = 16_384, d_latent: int = 8192, compression: Path | None = None) -> None:
    """Measure, and print a table for each set of codes; `compression`: folder of jobs/compression.py."""
    torch.set_num_threads(1)
    sets = [simulated(bits, rows, d_latent) for bits in WANTED_BITS]
    if compression is not None:
        real = [held_out(compression, str(run)) for run in results(compression / "sweep")["run"]]
        sets += [min(real, key=lambda codes: abs(codes.limit - bits)) for bits in WANTED_BITS]
    console = Console(width=120)
    for codes in sets:
        console.print(table_of(codes, [measure(codes, method) for method in METHODS]))


def simulated(bits: float, rows: int, d_latent: int) -> Codes:
    """Independent latents, rates of many sizes, a tenth of them mostly on, with so many bits in all."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.rand(d_latent, generator=generator).pow(6)
    low, high = 0.0, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if bernoulli_entropy((shape * middle).double()).sum() > bits else (middle, high)
    rates = torch.where(torch.rand(d_latent, generator=generator) < 0.1, 1 - shape * low, shape * low)
    parts = [torch.rand(min(1024, rows - at), d_latent, generator=generator) < rates for at in range(0, rows, 1024)]
    return Codes(f"simulated, {bits:g} bits", torch.cat(parts).to(torch.uint8), rates)


def held_out(compression: Path, run: str) -> Codes:
    """Codes that a run's autoencoder makes of the held-out activations, and its own prior."""
    folder = compression / "sweep" / run
    cell = RunConfig.model_validate_json((folder / "run.json").read_text(encoding="utf-8")).cell
    rows = Rows(ActivationStore.open(compression / "held_out").shards(cell.layer, cell.position, cell.site))
    autoencoder = load_autoencoder(folder)
    with torch.no_grad():
        code = torch.cat([autoencoder.encode(batch).to(torch.uint8) for batch in rows.split(1024)])
    return Codes(f"real, layer {cell.layer}, run {run}", code, autoencoder.prior)


def by_scheme(scheme: Scheme, codes: Codes) -> tuple[int, Callable[[], object], Callable[[], object]]:
    """Bytes per file but for what is once, encoder, decoder."""

    def encode() -> bytes:
        return compress(codes.code, codes.prior, scheme, block_rows=BLOCK_ROWS)

    data = encode()
    if scheme == "entropy":
        assert torch.equal(decompress(data), codes.code)
    once = HEADER_SIZE + read_header(data).d_latent + DIGEST_SIZE
    return len(data) - once, encode, lambda: decompress(data)


def index_lists(codes: Codes) -> tuple[int, Callable[[], object], Callable[[], object]]:
    """Zstd (level 3) on the index lists of each block."""
    typical = codes.prior.round().to(torch.uint8).numpy()
    code, d_latent = codes.code.numpy(), codes.code.shape[1]

    def encode() -> list[bytes]:
        packed = []
        for start in range(0, len(code), BLOCK_ROWS):
            block = code[start : start + BLOCK_ROWS]
            row, latent = np.divmod(np.flatnonzero(block != typical), d_latent)
            counts = np.bincount(row, minlength=len(block)).astype("<u2")
            packed.append(zstandard.compress(counts.tobytes() + latent.astype("<u2").tobytes(), 3))
        return packed

    data = encode()

    def decode() -> np.ndarray:
        out = np.empty_like(code)
        out[:] = typical
        for number, block in enumerate(data):
            part = out[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS]
            numbers = np.frombuffer(zstandard.decompress(block), "<u2").astype(np.int64)
            counts, latent = numbers[: len(part)], numbers[len(part) :]
            part.reshape(-1)[np.repeat(np.arange(len(part)), counts) * d_latent + latent] ^= 1
        return out

    assert np.array_equal(decode(), code)
    return sum(map(len, data)), encode, decode


def packed_bits(codes: Codes, level: int | None) -> tuple[int, Callable[[], object], Callable[[], object]]:
    """Numpy's packbits, each block then by zstd."""
    code = codes.code.numpy()

    def encode() -> list[bytes]:
        blocks = [np.packbits(code[at : at + BLOCK_ROWS], axis=1).tobytes() for at in range(0, len(code), BLOCK_ROWS)]
        return blocks if level is None else [zstandard.compress(block, level) for block in blocks]

    data = encode()

    def decode() -> np.ndarray:
        blocks = data if level is None else [zstandard.decompress(block) for block in data]
        packed = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(code), -1)
        return np.unpackbits(packed, axis=1, count=code.shape[1])

    assert np.array_equal(decode(), code)
    return sum(map(len, data)), encode, decode


METHODS: dict[str, Callable[[Codes], tuple[int, Callable[[], object], Callable[[], object]]]] = {
    "entropy": lambda codes: by_scheme("entropy", codes),
    "indices (the paper's)": lambda codes: by_scheme("indices", codes),
    "indices + zstd": index_lists,
    "packbits": lambda codes: packed_bits(codes, None),
    "packbits + zstd": lambda codes: packed_bits(codes, 3),
}


def measure(codes: Codes, method: str) -> Measured:
    """Size and speed of one method."""
    size, encode, decode = METHODS[method](codes)
    return Measured(method, 8 * size / len(codes.code), seconds(encode), seconds(decode))


def seconds(work: Callable[[], object]) -> float:
    """The best of several times."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def table_of(codes: Codes, measured: list[Measured]) -> Table:
    """The comparison."""
    n, d_latent = codes.code.shape
    table = Table(
        title=f"{codes.name}: {n} x {d_latent}, limit {codes.limit:.1f} bits per vector", title_justify="left"
    )
    for column in ("", "bytes/vector", "x limit", "encode vectors/s", "MB/s", "decode vectors/s", "MB/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in measured:
        speeds = [n / row.encode_s, n / row.decode_s]
        cells = [text for speed in speeds for text in (f"{speed:,.0f}", f"{speed * d_latent / 8e6:,.0f}")]
        table.add_row(row.method, f"{row.bits / 8:.1f}", f"{row.bits / codes.limit:.3f}", *cells)
    return table


if __name__ == "__main__":
    tyro.cli(main)
