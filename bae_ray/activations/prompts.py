"""Inputs besides plain texts: in-context-learning prompts, and random sequences of known entropy."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bae_ray.activations.ragged import Ints
from bae_ray.errors import InvalidInputError


class PromptFormat(NamedTuple):
    """How a prompt is written (the paper's Fig. 8, section A.3)."""

    text_prefix: str
    label_prefix: str
    label_words: tuple[str, ...]

    def write(self, texts: Sequence[str], labels: Ints, demonstrations: Sequence[int], query: int) -> str:
        """The prompt of a query after these demonstrations: it ends where the query's label would follow."""
        lines = [f"{self._line(texts[i])}{self.label_words[labels[i]]}\n" for i in demonstrations]
        return "".join([*lines, self._line(texts[query]).rstrip(" ")])

    def _line(self, text: str) -> str:
        return f"{self.text_prefix}{text} {self.label_prefix}"


class Drawn(NamedTuple):
    """The examples that one prompt is made of, by their index."""

    query: int
    demonstrations: list[int]


class SampledPrompts:
    """Queries and demonstrations drawn at random: prompt i is the same in every process.

    Every example is a query once before any is twice. A prompt's demonstrations are different examples, none with its
    query's text. Those of a smaller k are the first of a larger one's.
    """

    def __init__(self, texts: Sequence[str], k: int, seed: int) -> None:
        """Raises `InvalidInputError` where there are not enough examples for k demonstrations."""
        numbers: dict[str, int] = {}
        self._same = np.array([numbers.setdefault(text.strip(), len(numbers)) for text in texts], dtype=np.int64)
        self._k, self._seed = k, seed
        self._order: tuple[int, Ints] | None = None
        eligible = len(texts) - int(np.bincount(self._same).max(initial=0))
        if not texts or eligible < k:
            raise InvalidInputError(
                f"k is {k}, but of {len(texts)} examples some query has only {eligible} possible demonstrations. "
                "Ask for fewer demonstrations, or give a larger corpus."
            )

    def draw(self, i: int) -> Drawn:
        """The examples of prompt i."""
        query = self._query(i)
        generator = np.random.default_rng((self._seed, 1, i))
        chosen: list[int] = []
        while len(chosen) < self._k:
            candidate = int(generator.integers(len(self._same)))
            if self._same[candidate] != self._same[query] and candidate not in chosen:
                chosen.append(candidate)
        return Drawn(query, chosen)

    def _query(self, i: int) -> int:
        turn, place = divmod(i, len(self._same))
        if self._order is None or self._order[0] != turn:
            self._order = turn, np.random.default_rng((self._seed, 0, turn)).permutation(len(self._same))
        return int(self._order[1][place])


class FixedPrompts:
    """The layout of the paper's released code: the first k examples demonstrate every query.

    The release draws k + 1 examples for each prompt, takes the last as the query, and forgets the others. So the query
    may be one of the demonstrations.
    """

    def __init__(self, n_examples: int, n_prompts: int, k: int, seed: int) -> None:
        """Raises `InvalidInputError` where there are not k + 1 examples."""
        if n_examples < k + 1:
            raise InvalidInputError(
                f"k is {k}, which takes {k + 1} examples, but the corpus has {n_examples}. Give a smaller k."
            )
        drawn = random.Random(seed)  # noqa: S311 - the release's own generator, for its own draws
        self._queries = [drawn.sample(range(n_examples), k + 1)[-1] for _ in range(n_prompts)]
        self._k = k

    def draw(self, i: int) -> Drawn:
        """The examples of prompt i."""
        return Drawn(self._queries[i], list(range(self._k)))


def random_sequences(n: int, bits: int, tokens: tuple[int, int], seed: int) -> np.ndarray:
    """Token ids [n, bits], each one of the two with equal chance: a set of `bits` bits (the paper's Appendix B)."""
    return np.asarray(tokens)[np.random.default_rng(seed).integers(0, 2, (n, bits))]
