"""Arrays as JSON gives them: numbers become tensors, whatever else is refused before NumPy sees it."""

from typing import Any

import pytest
import torch

from bae_ray.serving.http.arrays import array
from bae_ray.serving.http.problems import Problem
from tests.memory import at_most


@pytest.mark.parametrize("value", [[[1, 2.5], [3, 4]], [1, 2], [[0.0]]])
def test_numbers_are_a_tensor(value: list[Any]):
    assert array(value, "x").tolist() == torch.tensor(value).tolist()


@pytest.mark.parametrize(
    "value",
    [[["a", "b"]], [[True]], [[None]], [[1], 2], [[[1]]], [[1, 2], [3]], [[2**70]], [{"data": ""}], "text", 1, None],
)
def test_what_is_no_matrix_of_numbers_is_refused(value: Any):
    with pytest.raises(Problem) as refused:
        array(value, "x")
    assert refused.value.code == "invalid"


def test_a_long_text_among_many_takes_no_memory():
    value = [["a" * 10**6, *["b"] * 10**5]]  # as an array of texts: 400 GB
    with at_most(10**6), pytest.raises(Problem):
        array(value, "x")
