import pytest

from bae_ray.work.devices import Share, fitting


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
