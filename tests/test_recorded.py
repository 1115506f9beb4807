"""What may not change: run ids, store checksums, bytes of containers, HTTP answers, options, files on disk.

They were recorded before the code was rebuilt (`tests/recorded/record.py`). Where a difference is meant, record that
kind anew, and say in the commit why.
"""

import json
from pathlib import Path

import pytest

from tests.recorded.compare import VOLATILE, differences, made_with
from tests.recorded.record import KINDS, Kind


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind.is_long else (), id=kind.name) for kind in KINDS],
)
def test_what_was_recorded_is_what_there_is(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path):
    if kind.needs_ray:
        request.getfixturevalue("ray_cluster")
    recorded = json.loads(kind.file.read_text(encoding="utf-8"))
    observed = json.loads(json.dumps(kind.observe(tmp_path)))
    found = differences(recorded["observed"], observed, recorded["made_with"] == made_with())
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])


def test_a_difference_is_found():
    recorded = {"a": [1, 2.0, "x"], "b": {VOLATILE: 1}}
    assert differences(recorded, {"a": [1, 2.000001, "x"], "b": {VOLATILE: 1}}, same_machine=True) == []
    assert differences(recorded, {"a": [1, 2.0, "x"], "b": {VOLATILE: 2}}, same_machine=False) == []
    for changed in (
        {"a": [1, 2.0, "x"], "b": {VOLATILE: 2}},
        {"a": [1, 2.1, "x"], "b": recorded["b"]},
        {"a": [1.0, 2.0, "x"], "b": recorded["b"]},
        {"a": [1, 2.0], "b": recorded["b"]},
        {"a": [1, 2.0, "x"]},
        {**recorded, "c": None},
    ):
        assert len(differences(recorded, changed, same_machine=True)) == 1, changed
