"""Which texts a seed's vectors are made of, and which are steered: never the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bae_ray.activations.labelled import Labelled
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text

POOL_FILE = "pool.jsonl"
"""The examples that calibration may use, queries and demonstrations alike."""


class Split(NamedTuple):
    """Examples of a labelled corpus, by their number."""

    test: list[int]
    """Those that are steered; their texts are all different."""
    pool: list[int]
    """All others, but those with the text of one that is steered."""


def split(texts: Sequence[str], n_test: int, n_calibration: int, k: int, seed: int) -> Split:
    """Draw the examples to test on; what is left is for calibration.

    Raises `InvalidInputError` where too few are left for so many prompts of k demonstrations.
    """
    numbers: dict[str, int] = {}
    same = [numbers.setdefault(text.strip(), len(numbers)) for text in texts]
    order = np.random.default_rng((seed, len(texts))).permutation(len(texts)).tolist()
    first = {same[i]: i for i in reversed(order)}
    chosen = [i for i in order if first[same[i]] == i][:n_test]
    taken = {same[i] for i in chosen}
    pool = [i for i in range(len(texts)) if same[i] not in taken]
    if len(chosen) < n_test or len(pool) < max(n_calibration, k + 1):
        raise InvalidInputError(
            f"the corpus has {len(texts)} examples, {len(numbers)} of them different: expected {n_test} to test on "
            f"(test), and {max(n_calibration, k + 1)} others for prompts of {k} demonstrations (calibration). Ask for "
            "fewer, or give a larger corpus."
        )
    return Split(chosen, pool)


def write_pool(examples: Labelled, chosen: Split, folder: Path) -> Path:
    """Write the examples that calibration may use as a corpus of its own, each with its number in the whole one."""
    file = folder / POOL_FILE
    lines = [
        json.dumps({"text": examples.texts[i], "label": int(examples.labels[i]), "example": i}, ensure_ascii=False)
        for i in chosen.pool
    ]
    content = "\n".join(lines) + "\n"
    if not file.exists() or file.read_text(encoding="utf-8") != content:
        write_text(file, content)
    return file


def used(store: ActivationStore, chosen: Split) -> set[int]:
    """The numbers of all examples in a calibration's prompts, queries and demonstrations.

    Raises `InvalidInputError` where one is steered, too, or a query is one of its own demonstrations.
    """
    texts = store.texts
    found: set[int] = set()
    for query, shown in zip(texts["query"].tolist(), texts["demonstrations"].tolist(), strict=True):
        if query in shown:
            raise InvalidInputError(f"{store.folder}: example {chosen.pool[query]} is its own demonstration.")
        found |= {chosen.pool[i] for i in (query, *shown)}
    if leaked := found & set(chosen.test):
        raise InvalidInputError(
            f"{store.folder}: {len(leaked)} of the tests are in the calibration, such as example {min(leaked)}. Its "
            "files are of another version; give another --out."
        )
    return found
