import pandas as pd
import pytest

from bae_ray.analysis.accuracy import accuracy


def answers(labels: list[int], predicted: list[int], tokens: list[int]) -> pd.DataFrame:
    label_token = [100 + label for label in labels]
    return pd.DataFrame(
        {"label": labels, "predicted": predicted, "label_token": label_token, "predicted_token": tokens}
    )


def test_counts_by_hand():
    measured = accuracy(answers([0, 0, 0, 1], [0, 1, 0, 1], [100, 101, 7, 9]), n_labels=2)
    assert (measured.n, measured.label_accuracy, measured.full_accuracy) == (4, 0.75, 0.25)
    assert (measured.chance, measured.majority) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("hits", "low", "high"),
    [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)],  # Wilson intervals of 0, 5 and 10 in 10, from tables
)
def test_intervals_are_wilsons(hits: int, low: float, high: float):
    predicted = [0] * hits + [1] * (10 - hits)
    measured = accuracy(answers([0] * 10, predicted, [100] * 10), n_labels=4)
    assert (measured.label_low, measured.label_high) == pytest.approx((low, high), abs=1e-4)
    assert measured.full_high == pytest.approx(1)
