"""A worker of an executor that measures units and writes their files; no unit stops the others."""

from pathlib import Path
from typing import NamedTuple

from bae_ray.errors import UnfinishedError
from bae_ray.fidelity.measurer import FidelityMeasurer
from bae_ray.fidelity.spliced_batch import Given
from bae_ray.fidelity.units import MeasureUnit, write_unit
from bae_ray.storage import folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.receipts import traceback_of


class UnitOutcome(NamedTuple):
    """Why subjects of a unit, by name, could not be measured."""

    failures: dict[str, str]
    tracebacks: str = ""
    """Where unexpected errors arose."""


class FidelityWorker:
    """Measures one unit after another."""

    def __init__(self, device: str, given: Given, folder: Path, attempts: int) -> None:
        self._measurer, self._folder = FidelityMeasurer(given, device), folder
        self._attempts = Attempts(folder_at(folder), attempts)

    def __call__(self, unit: MeasureUnit) -> UnitOutcome:
        """Measure a unit and write its file."""
        try:
            with self._attempts.under_way(unit.name):
                if given_up := self._attempts.begin(unit.name):
                    raise UnfinishedError(given_up)
                found = self._measurer.measure(unit)
                if found.rows is not None:
                    write_unit(self._folder, unit, found.rows)
            return UnitOutcome(found.failures, found.tracebacks)
        except Exception as error:  # one unit's must not end the others
            reason = str(error) if isinstance(error, UnfinishedError) else f"{type(error).__name__}: {error}"
            return UnitOutcome({subject.name: reason for subject in unit.subjects}, traceback_of(error))
