from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.training.resource_estimate import MARGIN, Measured, gpu_share
from bae_ray.work.devices import PER_DEVICE, Share, fitting


@pytest.mark.parametrize(
    ("share", "shares"),
    [(0.2, 5), (0.1, 10), (0.3, 3), (0.05, 20), (1 / 3, 3), (1 / 6, 6), (1 / 7, 7), (1, 1), (0.6, 1)],
)
def test_shares_of_one_gpu_are_counted_in_whole_numbers(share: float, shares: int):
    assert Share(1, share).fitting(cpus=4, gpus=1) == shares
    assert Share(1, share).fitting(cpus=4, gpus=3) == 3 * shares, "no share lies on two GPUs"


@pytest.mark.parametrize(
    ("total", "share", "workers"), [(4, 1, 4), (4, 0.1, 40), (0.3, 0.1, 3), (4, 3, 1), (4, 0.7, 5)]
)
def test_shares_of_cpus_may_lie_on_several(total: float, share: float, workers: int):
    assert fitting(total, share) == workers
    assert Share(share, 0).fitting(cpus=total, gpus=8) == workers


def test_one_worker_is_tried_where_none_fits():
    assert Share(8, 0).fitting(cpus=4, gpus=0) == 1
    assert Share(1, 2).fitting(cpus=4, gpus=1) == 1


shares = st.integers(1, 2 * PER_DEVICE).map(lambda part: part / PER_DEVICE)


@given(st.integers(1, 100), st.integers(0, 16))
def test_as_many_as_one_is_divided_by(number: int, gpus: int):
    assert Share(1, 1 / number).fitting(cpus=4, gpus=gpus) == max(1, number * gpus)
    assert fitting(1, 1 / number) == number


@given(shares, st.integers(0, 9))
def test_shares_placed_one_after_another(share: float, gpus: int):
    """As Ray places them, which cuts off what is below a part: on one GPU each, or on whole ones."""
    part = Fraction(int(share * PER_DEVICE), PER_DEVICE)
    free, placed = [Fraction(1)] * gpus, 0
    while part < 1 and (number := next((i for i, left in enumerate(free) if left >= part), None)) is not None:
        free[number] -= part
        placed += 1
    if part >= 1:
        placed = int(gpus // part)
    assert fitting(gpus, share, whole=True) == placed
    assert Share(1, share).fitting(cpus=64, gpus=gpus) == max(1, placed)


@given(st.integers(10**8, 10**11), st.integers(10**9, 2 * 10**11))
def test_as_many_trainings_as_memory_holds_have_a_share(peak: int, device: int):
    share = gpu_share(Measured(0.01, peak, device, 1))
    together = Share(1, share).fitting(cpus=16, gpus=1)
    assert 1 <= together <= 16
    assert together == 1 or together * peak * MARGIN <= device
    assert together == 16 or (together + 1) * peak * MARGIN > device
