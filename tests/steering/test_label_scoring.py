"""Scores of labels beside whole passes of transformers, text by text and label by label."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError
from bae_ray.steering.edits import AddedVector, Tokens
from bae_ray.steering.label_scoring import AskedPrompts, LabelScores, divergence, measure_answers
from bae_ray.steering.steered_model import SteeredModel
from tests.steering.naive import Naive

LABELS = [[5], [7, 8], [9, 8, 3], [11, 8]]
HERE = Tap(1, "residual")


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("labels", [LABELS, [[5], [7]], [[7, 8], [6]]])
def test_labels_of_several_tokens(
    pair: tuple[SteeredModel, Naive],
    prompts: list[list[int]],
    vectors: Tensor,
    tokens: Tokens,
    batch_size: int,
    labels: list[list[int]],
):
    model, naive = pair
    asked = AskedPrompts(model, prompts, batch_size)
    for strength in (0.5, 0.0, 0.5):  # what was read before serves again
        found = asked.scores(labels, [AddedVector(HERE, vectors, strength, tokens)])
        for row, (prompt, vector) in enumerate(zip(prompts, vectors, strict=True)):
            start = 0 if tokens == "all" else len(prompt) - 1
            for column, label in enumerate(labels):
                logits = naive.logits([*prompt, *label], 1, lambda x, v=vector, s=strength: x + s * v, start)
                after = logits.double().log_softmax(1)[len(prompt) - 1 : -1]
                expected = sum(float(after[place, token]) for place, token in enumerate(label))
                assert float(found.log_probabilities[row, column]) == pytest.approx(expected, abs=1e-4)
                assert int(found.likeliest[row]) == int(after[0].argmax())


def test_next_tokens(pair: tuple[SteeredModel, Naive], prompts: list[list[int]], vectors: Tensor):
    model, naive = pair
    asked = AskedPrompts(model, prompts, 4)
    clean, steered = asked.next_tokens(), asked.next_tokens([AddedVector(HERE, vectors)])
    kl = divergence(clean, steered)
    assert divergence(clean, clean).eq(0).all()
    for row, (prompt, vector) in enumerate(zip(prompts, vectors, strict=True)):
        p = naive.logits(prompt)[-1].double().softmax(0).numpy()
        q = naive.logits(prompt, 1, lambda x, v=vector: x + v, len(prompt) - 1)[-1].double().softmax(0).numpy()
        np.testing.assert_allclose(clean[row].exp().numpy(), p, atol=1e-5)
        assert float(kl[row]) == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-4)


def test_measures_of_answers():
    probabilities = torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.3, 0.25], [0.2, 0.2, 0.1]], dtype=torch.float64)
    scores = LabelScores(probabilities.log(), torch.tensor([4, 9, 4]))
    found = measure_answers(scores, [[4, 1], [5], [6]], torch.tensor([0, 2, 0]))
    assert found.among_labels.tolist() == [True, False, False], "a tie is no answer"
    assert found.whole_vocabulary.tolist() == [True, False, True]
    expected = torch.tensor([0.5 / 0.2, 0.25 / 0.3, 1.0], dtype=torch.float64).log()
    torch.testing.assert_close(found.log_odds, expected)


def test_labels_that_cannot_be_asked_for_are_named(pair: tuple[SteeredModel, Naive]):
    model, _ = pair
    asked = AskedPrompts(model, [[1, 2], [3] * 62])
    with pytest.raises(InvalidInputError, match="labels 0 and 2 begin with the same token, 5"):
        asked.scores([[5, 1], [6], [5]])
    with pytest.raises(InvalidInputError, match="expected two labels at least, none empty"):
        asked.scores([[5]])
    with pytest.raises(InvalidInputError, match="expected two labels at least, none empty"):
        asked.scores([[5], []])
    asked.scores([[5, 1, 2], [6]])
    with pytest.raises(InvalidInputError, match="a text of 65 tokens is too long"):
        asked.scores([[5, 1, 2, 3], [6]])
    with pytest.raises(InvalidInputError, match="layer 9 is out of range"):
        asked.scores([[5], [6]], [AddedVector(Tap(9, "residual"), torch.ones(16))])
