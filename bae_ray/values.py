"""Which numbers are taken wherever an array or a tensor enters: in Python, over HTTP and from files.

Real numbers, of floating-point or integer types of any width, that are finite once they are of the type that is
computed with: float32, or the autoencoder's own. Integers are the numbers that they are, and subnormal numbers too.
Complex numbers are no activations, and booleans are a code: only what takes codes takes them.
"""

from typing import TYPE_CHECKING, Any

from bae_ray.errors import InvalidInputError, NotFiniteError

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 1e20
"""Sums of products of smaller numbers with any weights that occur stay within float32's range."""


def check_type(x: Any, name: str, booleans: bool = False) -> None:
    """Raise `InvalidInputError` where a tensor or an array is not of real numbers. `booleans`: whether they are taken.

    Costs nothing: looks at the type only.
    """
    dtype = getattr(x.dtype, "name", str(x.dtype).removeprefix("torch."))
    if not (dtype.startswith(("float", "bfloat", "int", "uint")) or (booleans and dtype == "bool")):
        raise InvalidInputError(
            f"{name} is of {dtype}; expected real numbers, of a floating-point or an integer type. Convert it first."
        )


def check_finite(x: Any, name: str, first_row: int = 0) -> None:
    """Raise `NotFiniteError` where a tensor or an array [N, ...] of the type computed with holds NaN or infinity.

    `first_row`: which of all rows the first of these is.
    """
    import numpy as np

    if isinstance(x, np.ndarray):
        good = np.isfinite(x)  # several times as fast as torch's
        place = None if good.all() else np.argwhere(~good)[0].tolist()
    else:
        place = None if is_finite(x) else (~x.isfinite()).nonzero()[0].tolist()
    if place is not None:
        value = x[tuple(place)].item()
        where = ", ".join(map(str, [first_row + place[0], *place[1:]] if place else []))
        raise NotFiniteError(
            f"{name}[{where}] is {value} as {str(x.dtype).removeprefix('torch.')}; expected finite numbers, within its "
            "range. Leave such vectors out."
        )


def is_finite(x: "Tensor") -> bool:
    """Whether all numbers of a tensor are finite, in one pass without copies."""
    return largest(x) < float("inf")  # also False of NaN


def largest(x: "Tensor") -> float:
    """The largest absolute value; NaN where there is any, 0 where there is nothing."""
    if not x.numel():
        return 0.0
    low, high = x.detach().aminmax()
    return float((-low).maximum(high))
