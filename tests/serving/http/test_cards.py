"""Cards that cannot be used are none, and the log is told once; nothing else of the encoder is lost."""

import asyncio
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bae_ray import files
from bae_ray.report import published_cards as report_cards
from bae_ray.serving.http import feature_cards
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.registry.registry import Registry
from bae_ray.serving.time_limits import THREAD
from tests.serving.support import make_encoder, until, write_cards

RECORD = {"index": "3", "explanations": []}


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    make_encoder(tmp_path / "one")
    write_cards(tmp_path / "one", RECORD)
    return Registry(tmp_path).look()["one"]


def record(entry: Entry) -> dict[str, Any] | None:
    card = asyncio.run(feature_cards.find_card(entry, 3))
    return None if card is None else card.record


def is_none(entry: Entry) -> bool:
    with pytest.raises(Problem, match="no card"):
        asyncio.run(feature_cards.find_page(entry, 3))
    return record(entry) is None


def test_weights_that_were_replaced_take_the_cards_with_them(entry: Entry, caplog: pytest.LogCaptureFixture):
    assert record(entry) == RECORD
    make_encoder(entry.folder, seed=1)
    with caplog.at_level("ERROR", "ray.serve"):
        for _ in range(3):
            assert is_none(entry)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "not of the weights" in said
    assert "one@" in said
    write_cards(entry.folder, RECORD)
    assert record(entry) == RECORD, "published anew"


def test_weights_are_hashed_once(entry: Entry, monkeypatch: pytest.MonkeyPatch):
    hashed: list[Path] = []
    monkeypatch.setattr(report_cards, "checksum", lambda file: hashed.append(file) or files.checksum(file))
    for _ in range(3):
        assert record(entry) == RECORD
    assert hashed == [entry.folder / "model.safetensors"]


@pytest.mark.parametrize("about", [{"weights": None}, {"weights": []}])
def test_cards_that_name_no_weights_are_none(entry: Entry, about: dict[str, Any]):
    write_cards(entry.folder, RECORD, **about)
    assert is_none(entry)


@pytest.mark.parametrize("about", [{"summary": {"method": "bae"}}, {"summary": None}, {"judge": {}}])
def test_a_page_that_cannot_be_made_takes_nothing_else(entry: Entry, about: dict[str, Any]):
    write_cards(entry.folder, RECORD, **about)
    with pytest.raises(Problem, match="no card"):
        asyncio.run(feature_cards.find_page(entry, 3))
    assert record(entry) == RECORD


@pytest.mark.parametrize("columns", [{"record": [3]}, {"record": ["{"]}, {"record": ['"\\ud800"']}, {"feature": ["x"]}])
def test_tables_of_another_form_are_none(entry: Entry, columns: dict[str, list[Any]]):
    file = entry.folder / "cards.parquet"
    about = pq.read_schema(file).metadata
    known = {"feature": [3], "card": [json.dumps({"index": 3})], "record": [json.dumps(RECORD)]}
    pq.write_table(pa.table({**known, **columns}).replace_schema_metadata(about), file)
    assert is_none(entry)


def test_a_file_that_is_none(entry: Entry):
    (entry.folder / "cards.parquet").unlink()
    assert is_none(entry)
    (entry.folder / "cards.parquet").mkdir()
    assert is_none(entry)
    shutil.rmtree(entry.folder)
    assert is_none(entry)


def test_a_folder_that_hangs_holds_one_thread_and_no_other_card(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    make_encoder(tmp_path / "two")
    write_cards(tmp_path / "two", RECORD)
    other = Registry(tmp_path).look()["two"]
    ended, read_card = threading.Event(), feature_cards.read_card

    def hangs(folder: Path, index: int) -> Any:
        if folder == entry.folder:
            ended.wait(30)
        return read_card(folder, index)

    monkeypatch.setattr(feature_cards, "read_card", hangs)
    monkeypatch.setattr(feature_cards._reads, "_limit_s", 0.3)

    async def ask() -> list[Any]:
        slow = [feature_cards.find_card(entry, index) for index in range(40)]
        return await asyncio.gather(*slow, feature_cards.find_card(other, 3))

    before = sum(thread.name == THREAD for thread in threading.enumerate())
    started = time.monotonic()
    *slow, quick = asyncio.run(ask())
    assert slow == [None] * 40
    assert quick.record == RECORD
    assert time.monotonic() - started < 5, "all but the first are told at once"
    assert sum(thread.name == THREAD for thread in threading.enumerate()) <= before + 1
    assert "cannot be used" in caplog.text
    ended.set()
    until(lambda: record(entry) == RECORD)
