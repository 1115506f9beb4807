"""Units of work: some subjects on some texts, and the file with a unit's measures.

A file holds a row for each subject, text and distance: sums over tokens. A rerun plans only what is in no file.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bae_ray.config import content_hash
from bae_ray.fidelity.next_token import MEASURES
from bae_ray.fidelity.subjects import Subject
from bae_ray.files import atomic_path, remove
from bae_ray.working_copies import refresh

SUBJECTS, TEXTS = 32, 8
"""Subjects share the clean pass of their unit. Small units end at about the same time, and little is lost with one."""
COLUMNS = ["subject", "text", "first", "last", "tokens", *MEASURES]
"""`text` is the text's index; `first` and `last` are distances, in tokens, from the first token that sees a replaced
activation."""


class MeasureUnit(NamedTuple):
    """Subjects that are measured together on the same texts."""

    subjects: tuple[Subject, ...]
    texts: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of its file."""
        return content_hash([[subject.name for subject in self.subjects], self.texts])

    @property
    def size(self) -> int:
        """Pairs of a subject and a text."""
        return len(self.subjects) * len(self.texts)


def plan_units(subjects: Iterable[Subject], lengths: Sequence[int], done: set[tuple[str, int]]) -> list[MeasureUnit]:
    """Units of all pairs of a subject and one of its texts, except for subjects that are finished there.

    Texts of like lengths go together. The same subjects always give the same units, whatever is finished. So an
    interrupted call ends with the same numbers: rounding depends on what is computed together.
    """
    groups: dict[tuple[int, ...], list[Subject]] = {}
    for subject in {one.name: one for one in subjects}.values():  # runs of one cell share its controls
        ordered = tuple(sorted(subject.texts, key=lambda text: (-lengths[text], text)))
        groups.setdefault(ordered, []).append(subject)
    units: list[MeasureUnit] = []
    for texts, group in groups.items():
        for some in _batched(sorted(group, key=_place), SUBJECTS):
            for start in range(0, len(texts), TEXTS):
                here = texts[start : start + TEXTS]
                left = tuple(one for one in some if any((one.name, text) not in done for text in here))
                units += [MeasureUnit(left, here)] if left else []
    return sorted(units, key=lambda unit: (-lengths[unit.texts[0]], unit.name))  # a lack of memory shows at once


def write_unit(folder: Path, unit: MeasureUnit, rows: pd.DataFrame) -> None:
    """Write the rows of a unit, atomically."""
    with atomic_path(folder / f"{unit.name}.parquet") as temporary:
        rows[COLUMNS].to_parquet(temporary, index=False)


def read_units(folder: Path) -> pd.DataFrame:
    """All rows there are, each once. A damaged file is removed: its unit is measured again."""
    refresh(folder)
    found = [table for file in sorted(folder.glob("*.parquet")) if (table := _read(file)) is not None]
    if not found:
        return pd.DataFrame({name: [] for name in COLUMNS})
    return pd.concat(found, ignore_index=True).drop_duplicates(["subject", "text", "first"], ignore_index=True)


def _read(file: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(file, columns=COLUMNS)
    except (OSError, ValueError):  # pyarrow's errors of a file that is none are ValueErrors
        remove(file)
        return None


def _place(subject: Subject) -> tuple[int, str, str, str]:
    """Sorts subjects by where they are, so that those of a unit share the activations that are read."""
    return (subject.tap.layer, subject.tap.site, str(subject.position), subject.name)


def _batched(group: Sequence[Subject], size: int) -> Iterator[tuple[Subject, ...]]:
    for start in range(0, len(group), size):
        yield tuple(group[start : start + size])
