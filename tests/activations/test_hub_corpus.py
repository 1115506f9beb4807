"""Data sets of the hub are streamed in order, at the revision that was found: by the library, without network."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset
from bae_ray.activations.dataset import TOKENIZED_AT_ONCE, read_corpus, tables
from bae_ray.errors import UnknownCorpusError, UnreadableFileError

datasets = pytest.importorskip("datasets")

N = 2 * TOKENIZED_AT_ONCE + 10


@pytest.fixture
def hub(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A data set of two files as the hub's would be; what it was asked for."""
    asked: list[dict] = []
    texts = [f"text {i}" if i % 7 else None for i in range(N)]
    for part, start in enumerate(range(0, N, N // 2)):
        rows = pa.table(
            {"body": texts[start : start + N // 2], "other": list(range(len(texts[start : start + N // 2])))}
        )
        pq.write_table(rows, tmp_path / f"{part}.parquet")
    load = datasets.load_dataset

    def from_files(name: str, subset: str | None, **options: object) -> object:
        asked.append({"name": name, "subset": subset, **options})
        files = sorted(map(str, tmp_path.glob("*.parquet")))
        return load("parquet", data_files=files, split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", from_files)
    return asked


def test_all_texts_in_order(hub: list[dict]):
    config = CorpusConfig(corpus="someone/texts", text_column="body", split="test", subset="small")
    found = pa.concat_tables(tables(read_corpus(HubDataset("someone/texts", "abc123"), config), config))
    assert found["text"].to_pylist() == [f"text {i}" if i % 7 else None for i in range(N)]
    assert hub == [
        {"name": "someone/texts", "subset": "small", "split": "test", "revision": "abc123", "streaming": True}
    ]


def test_a_missing_column_is_named(hub: list[dict]):
    config = CorpusConfig(corpus="someone/texts", text_column="text")
    with pytest.raises((UnknownCorpusError, UnreadableFileError), match="text"):
        list(tables(read_corpus(HubDataset("someone/texts", "abc123"), config), config))
