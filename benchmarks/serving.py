"""Rows per second and latency of the encoder service, against the bare torch encode of the same batches.

A service is started with `bae-ray serve`, by default and with `--haproxy`, and asked over HTTP by clients that each
send their next request when the last one is answered. The floor is `autoencoder.encode` alone, in this process, on
batches of as many rows, with all threads, measured just before and just after each setting: other work on the machine
slows both sides.

    python benchmarks/serving.py [--clients 1 16 64] [--rows 1 64 256 1024] [--seconds 5]
"""

import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import aiohttp
import torch
import tyro
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from services import started

from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.files import write_text

OUT = Path("runs/benchmarks/serving.json")
KEY = "benchmark" * 4
LARGEST_BODY = 48 << 20
Format = Literal["safetensors", "json"]
Proxy = Literal["default", "haproxy"]


class Measured(NamedTuple):
    """What came of one setting."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    refused: int


def main(
    clients: tuple[int, ...] = (1, 16, 64),
    rows: tuple[int, ...] = (1, 64, 256, 1024),
    widths: tuple[int, ...] = (576, 2048),
    formats: tuple[Format, ...] = ("safetensors", "json"),
    proxies: tuple[Proxy, ...] = ("default", "haproxy"),
    seconds: float = 5,
) -> None:
    """Measure all combinations, print a table, and write all figures to runs/benchmarks/serving.json."""
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        registry = Path(name) / "registry"
        encoders = {d: _encoder(registry / f"d{d}", d) for d in widths}
        for proxy in proxies:
            with _service(registry, proxy) as url:
                for d, n, format_, count in itertools.product(widths, rows, formats, clients):
                    body = _body(d, n, format_)
                    if len(body) > LARGEST_BODY:
                        continue
                    before = _floor(encoders[d], d, n, seconds)
                    found = asyncio.run(_ask(url, d, n, body, format_, count, seconds))
                    floor = (before + _floor(encoders[d], d, n, seconds)) / 2
                    setting = {"proxy": proxy, "d": d, "rows": n, "format": format_, "clients": count}
                    measured.append({**setting, **found._asdict(), "floor": floor})
                    print(measured[-1], flush=True)
    _show(measured)
    facts = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "torch": torch.__version__}
    write_text(OUT, json.dumps({**facts, "measured": measured}, indent=2) + "\n")
    print(f"All figures: {OUT}")


def _encoder(folder: Path, d: int) -> Autoencoder:
    """A binary autoencoder of 4 d latents with random weights."""
    torch.manual_seed(0)
    made = build_autoencoder(BAEConfig(d_in=d, expansion=4))
    made.prior.fill_(0.1)
    made.save_pretrained(folder)
    return load_autoencoder(folder)


@torch.inference_mode()
def _floor(encoder: Autoencoder, d: int, n: int, seconds: float) -> float:
    """Rows per second of the bare encode, after a warm-up."""
    x = torch.randn(n, d)
    encoder.encode(x)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds / 2:
        encoder.encode(x)
        done += n
    return done / (time.perf_counter() - started)


def _service(registry: Path, proxy: Proxy) -> AbstractContextManager[str]:
    verb = ["serve", "--registry", str(registry), *(["--haproxy"] if proxy == "haproxy" else [])]
    return started(verb, OUT.with_name(f"serving-{proxy}.log"), {"BAE_RAY_API_KEYS": KEY, "RAY_DEDUP_LOGS": "1"})


def _body(d: int, n: int, format_: Format) -> bytes:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    return save({"x": x}) if format_ == "safetensors" else json.dumps({"x": x.tolist()}).encode()


async def _ask(url: str, d: int, n: int, body: bytes, format_: Format, count: int, seconds: float) -> Measured:
    media = "application/x-safetensors" if format_ == "safetensors" else "application/json"
    headers = {"content-type": media, "authorization": f"Bearer {KEY}"}
    path = f"{url}/v1/encoders/d{d}/encode"
    latencies: list[float] = []
    refused = 0
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def post() -> int:
            async with session.post(path, data=body, headers=headers) as response:
                await response.read()
                if response.status not in (200, 429):
                    raise RuntimeError(f"{response.status}: {await response.text()}")
                return response.status

        async def client(end: float) -> None:
            nonlocal refused
            while (started := time.perf_counter()) < end:
                if await post() == 200:
                    latencies.append(time.perf_counter() - started)
                else:
                    refused += 1
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(post() for _ in range(min(count, 4))))
        started = time.perf_counter()
        await asyncio.gather(*(client(started + seconds) for _ in range(count)))
        took = time.perf_counter() - started
    p99 = statistics.quantiles(latencies, n=100)[98] if len(latencies) > 1 else latencies[0]
    return Measured(len(latencies) * n / took, 1000 * statistics.median(latencies), 1000 * p99, refused)


def _show(measured: list[dict[str, Any]]) -> None:
    table = Table("proxy", "d", "rows", "format", "clients", "rows/s", "of the floor", "p50 ms", "p99 ms", "refused")
    for row in measured:
        ratio = row["rows_per_s"] / row["floor"]
        table.add_row(
            row["proxy"], str(row["d"]), str(row["rows"]), row["format"], str(row["clients"]),
            f"{row['rows_per_s']:,.0f}", f"{ratio:.2f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}",
            str(row["refused"]),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
