"""Triton's kernels of a binary code's terms; binary_triton.py and covariance_triton.py tell the shapes.

A program computes a tile, but for `order`, whose program computes a member.
"""

# pyright: reportPossiblyUnboundVariable=false, reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # where torch is built for a CPU: then nothing here is called
    triton = None


def jit(function: Callable[..., None]) -> Any:
    """A kernel, compiled on its first call."""
    return function if triton is None else triton.jit(function)


@jit
def binarize(pre, code, fired, N, F, STRICT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The code, and how often each latent fires."""
    member = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < N) & (column[None, :] < F)
    at = member * N * F + row[:, None] * F + column[None, :]
    x = tl.load(pre + at, mask=inside, other=-1.0)
    fires = (x > 0) if STRICT else (x >= 0)
    tl.store(code + at, fires.to(code.dtype.element_ty), mask=inside)
    tl.atomic_add(fired + member * F + column, tl.sum(fires.to(tl.int32), 0), mask=column < F)


@jit
def order(
    fired, latents, fired_in_order, counts, entropy, slope, N, F, PRINTED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The numbers of a member's varying latents to the front, how often each fires, and how many they are.

    And the entropy of the firing rates, with its derivative by an entry of the code.
    """
    member = tl.program_id(0)
    base = member.to(tl.int64) * F
    count = tl.full((), 0, tl.int32)
    bits = tl.full((), 0.0, tl.float32)
    for start in range(0, F, BLOCK):
        latent = start + tl.arange(0, BLOCK)
        times = tl.load(fired + base + latent, mask=latent < F, other=0)
        varies = (times > 0) & (times < N)
        one = varies.to(tl.int32)
        place = count + tl.cumsum(one, 0) - one
        tl.store(latents + base + place, latent, mask=varies)
        tl.store(fired_in_order + base + place, times, mask=varies)
        count += tl.sum(one, 0)
        p = tl.where(varies, times.to(tl.float32) / N, 0.5)
        log_p, log_q = tl.log2(p), tl.log2(1 - p)
        if PRINTED:
            terms, slopes = -p * log_p, -log_p - 1.4426950408889634  # 1 / ln 2
        else:
            terms, slopes = -(p * log_p + (1 - p) * log_q), log_q - log_p
        bits += tl.sum(tl.where(varies, terms, 0.0), 0)
        tl.store(slope + base + latent, tl.where(varies, slopes / N, 0.0), mask=latent < F)
    tl.store(counts + member, count)
    tl.store(entropy + member, bits)


@jit
def backward(
    pre, to_code, covariances, fired, slope, to_entropy, to_covariance, out, N, F,
    RULE: tl.constexpr, COVARIANCE: tl.constexpr, ENTROPY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of the pre-activations from those of the code and its two terms."""
    member = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < N) & (column[None, :] < F)
    at = member * N * F + row[:, None] * F + column[None, :]
    g = tl.load(to_code + at, mask=inside, other=0.0).to(tl.float32)
    if ENTROPY:
        slopes = tl.load(slope + member * F + column, mask=column < F, other=0.0)
        g += (slopes * tl.load(to_entropy + member))[None, :]
    if COVARIANCE:
        times = tl.load(fired + member * F + column, mask=column < F, other=0)
        varies = ((times > 0) & (times < N))[None, :]
        g += tl.load(covariances + at, mask=inside & varies, other=0.0) * tl.load(to_covariance + member)
    if RULE == "sigmoid":
        s = tl.sigmoid(tl.load(pre + at, mask=inside, other=0.0).to(tl.float32))
        g = g * (1 - s) * s
    if RULE == "release":
        g = g * (1 - g)
    tl.store(out + at, g.to(out.dtype.element_ty), mask=inside)


@jit
def gather(code, latents, counts, gathered, N, F, TILE: tl.constexpr):
    """The varying columns in order; to the end of the last tile of them, zeros."""
    member = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + member)
    first = tl.program_id(1) * TILE
    if first < count:
        row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
        column = first + tl.arange(0, TILE)
        latent = tl.load(latents + member * F + column, mask=column < count, other=0)
        inside = row[:, None] < N
        base = member * N * F + row[:, None] * F
        values = tl.load(code + base + latent[None, :], mask=inside & (column < count)[None, :], other=0.0)
        values = values.to(gathered.dtype.element_ty)
        tl.store(gathered + base + column[None, :], values, mask=inside & (column < F)[None, :])


@jit
def signs(
    gathered, fired, counts, found, sums, total, N, F, start, width,
    SYMMETRIC: tl.constexpr, KEEP: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of covariances: their signs [F, B], the sum of their absolute values, and s' signs.

    Where the block holds all columns, the tiles below the diagonal are mirrored.
    """
    i_tile, j_tile = tl.program_id(0), tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + member)
    wanted = (i_tile * TILE < count) & (start + j_tile * TILE < count)
    if SYMMETRIC:
        wanted = wanted & (j_tile >= i_tile)
    if wanted:
        i = i_tile * TILE + tl.arange(0, TILE)
        column = j_tile * TILE + tl.arange(0, TILE)
        j = start + column
        together = tl.zeros((TILE, TILE), dtype=tl.float32)
        base = gathered + member * N * F
        for first in range(0, N, DEPTH):
            row = first + tl.arange(0, DEPTH)
            there = row[:, None] < N
            at = base + row[:, None].to(tl.int64) * F
            left = tl.load(at + i[None, :], mask=there & (i[None, :] < F), other=0.0)
            right = tl.load(at + j[None, :], mask=there & (j[None, :] < F), other=0.0)
            together = tl.dot(tl.trans(left), right, together)
        fired_i = tl.load(fired + member * F + i, mask=i < count, other=0)
        fired_j = tl.load(fired + member * F + j, mask=j < count, other=0)
        if WIDE:
            fired_i = fired_i.to(tl.int64)
            fired_j = fired_j.to(tl.int64)
        covariance = together.to(fired_i.dtype) * N - fired_i[:, None] * fired_j[None, :]
        covariance = tl.where(i[:, None] == j[None, :], 0, covariance)
        absolute = tl.sum(tl.sum(tl.abs(covariance).to(tl.int64), 1), 0)
        if SYMMETRIC:
            absolute *= tl.where(j_tile > i_tile, 2, 1)
        tl.atomic_add(total + member, absolute)
        if KEEP:
            sign = (covariance > 0).to(tl.int32) - (covariance < 0).to(tl.int32)
            tl.atomic_add(sums + member * F + j, tl.sum(sign * fired_i[:, None], 0), mask=j < count)
            operand = sign.to(found.dtype.element_ty)
            out = found + member * F * width
            tl.store(
                out + i[:, None].to(tl.int64) * width + column[None, :],
                operand,
                mask=(i[:, None] < F) & (column[None, :] < width),
            )
            if SYMMETRIC:
                if j_tile > i_tile:
                    tl.atomic_add(sums + member * F + i, tl.sum(sign * fired_j[None, :], 1), mask=i < count)
                    tl.store(
                        out + column[:, None].to(tl.int64) * width + i[None, :],
                        tl.trans(operand),
                        mask=(column[:, None] < F) & (i[None, :] < F),
                    )


@jit
def gradient(
    gathered, latents, counts, found, sums, out, N, F, start, width, scale,
    TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of (C S - mean over samples) 2 / (N - 1), put where its columns were in the code."""
    member = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + member)
    j_tile = tl.program_id(1)
    if start + j_tile * TILE < count:
        row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
        column = j_tile * TILE + tl.arange(0, TILE)
        inside = row[:, None] < N
        product = tl.zeros((TILE, TILE), dtype=tl.float32)
        for first in range(0, count, DEPTH):  # beyond the count, code and signs are 0 to the end of the tile
            k = first + tl.arange(0, DEPTH)
            left = tl.load(
                gathered + member * N * F + row[:, None] * F + k[None, :], mask=inside & (k[None, :] < F), other=0.0
            )
            right = tl.load(
                found + member * F * width + k[:, None].to(tl.int64) * width + column[None, :],
                mask=(k[:, None] < F) & (column[None, :] < width),
                other=0.0,
            )
            product = tl.dot(left, right, product)
        j = start + column
        real = (j < count) & (column < width)
        latent = tl.load(latents + member * F + j, mask=real, other=0)
        mean = tl.div_rn(
            tl.load(sums + member * F + j, mask=real, other=0).to(tl.float32), tl.full((TILE,), 1.0, tl.float32) * N
        )
        tl.store(
            out + member * N * F + row[:, None] * F + latent[None, :],
            (product - mean[None, :]) * scale,
            mask=inside & real[None, :],
        )
