"""The usual quantisers, to compare a codec with. They need faiss (extra `compression`).

Shapes: N vectors, D d_in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from bae_ray.errors import InvalidInputError

Matrix = np.ndarray[Any, np.dtype[np.float32]]


class Quantized(NamedTuple):
    """Vectors after quantisation, and the bytes that they take."""

    method: str
    x_hat: Matrix
    """[N, D]."""
    bytes_per_vector: float
    side_bytes: int
    """What is stored once: means, ranges, codebooks."""


def mean_only(train: Matrix, x: Matrix) -> Quantized:
    """Every vector is the mean of the training vectors."""
    mean = train.mean(0, dtype=np.float64).astype(np.float32)
    return Quantized("mean", np.broadcast_to(mean, x.shape), 0, mean.nbytes)


def scalar(train: Matrix, x: Matrix, bits: int) -> Quantized:
    """Each dimension by itself in 4 or 8 bits, within a range of its training vectors.

    Three ranges are tried: the whole range with room for new extremes, the whole range, and the range without 1 % at
    both ends. The one with the smallest squared error on the training vectors is taken. A range that keeps outliers has
    fewer levels for all other values; a narrower one cuts outliers off.
    """
    faiss = require_faiss()
    kind = {4: faiss.ScalarQuantizer.QT_4bit, 8: faiss.ScalarQuantizer.QT_8bit}[bits]
    everything, quantiles = faiss.ScalarQuantizer.RS_minmax, faiss.ScalarQuantizer.RS_quantiles
    fitted = []
    for statistic, argument in ((everything, 0.2), (everything, 0.0), (quantiles, 0.01)):
        quantizer = faiss.ScalarQuantizer(x.shape[1], kind)
        quantizer.rangestat, quantizer.rangestat_arg = statistic, argument
        with _one_thread(faiss):
            quantizer.train(train)
        error = float(np.square(train - quantizer.decode(quantizer.compute_codes(train))).sum(dtype=np.float64))
        fitted.append((error, len(fitted), quantizer))
    best = min(fitted)[2]
    return Quantized(f"int{bits}", best.decode(best.compute_codes(x)), best.code_size, 8 * x.shape[1])


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Around what several threads of faiss's would do over each other: ranges by quantiles came out differently."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def product(train: Matrix, x: Matrix, size: int) -> Quantized:
    """Product quantisation (Jegou et al., 2011): `size` groups of dimensions, a byte each.

    Raises `InvalidInputError` where `size` does not divide D.
    """
    d = x.shape[1]
    if d % size:
        raise InvalidInputError(f"product quantisation to {size} bytes: expected a divisor of the width {d}.")
    quantizer = require_faiss().ProductQuantizer(d, size, 8)
    quantizer.train(train)
    return Quantized(f"product {size}", quantizer.decode(quantizer.compute_codes(x)), size, 4 * 256 * d)


def residual(train: Matrix, x: Matrix, size: int) -> Quantized:
    """Residual quantisation (Chen et al., 2010): `size` codebooks of whole vectors, a byte each, one after another."""
    d = x.shape[1]
    quantizer = require_faiss().ResidualQuantizer(d, size, 8)
    quantizer.max_beam_size = 1  # in training a wider beam takes many times longer for next to nothing
    quantizer.train(train)
    quantizer.max_beam_size = 4
    x_hat = quantizer.decode(quantizer.compute_codes(x))
    return Quantized(f"residual {size}", x_hat, size, 4 * 256 * d * size)


def require_faiss() -> Any:
    """The faiss module. Raises `InvalidInputError` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise InvalidInputError(
            "the quantisers that codes are compared with need faiss, which is not installed: pip install "
            "'bae-ray[compression]'."
        ) from error
    return faiss
