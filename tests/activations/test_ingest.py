import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import resolve
from bae_ray.activations.ingest import ROWS_SCHEMA, RowsIndex, _Counts, _long_enough, _regroup, write_rows
from bae_ray.activations.model import find_model
from bae_ray.activations.store import rows_file
from bae_ray.errors import NoTextLongEnoughError, UnreadableFileError


def write(
    store: Path, corpus: Path | str, model: Path, length: int, shard_size: int, max_texts: int = 1000
) -> RowsIndex:
    config = CorpusConfig(corpus=str(corpus), max_texts=max_texts)
    return write_rows(store, resolve(config), config, find_model(str(model)), length, shard_size)


def read(store: Path, index: RowsIndex) -> pd.DataFrame:
    tables = [pq.read_table(store / rows_file(shard)) for shard in range(len(index.rows_per_shard))]
    return pa.concat_tables(tables).to_pandas()


def as_txt(texts: list[str], folder: Path) -> Path:
    (folder / "texts.txt").write_text("\n".join(texts))
    return folder / "texts.txt"


def as_parquet(texts: list[str], folder: Path) -> Path:
    """Several files, to be read in the order of their names."""
    (folder / "parts").mkdir()
    for i in range(4):
        pd.DataFrame({"text": texts[i * 50 : (i + 1) * 50]}).to_parquet(folder / "parts" / f"{i}.parquet")
    return folder / "parts"


def as_jsonl(texts: list[str], folder: Path) -> Path:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder / "texts.jsonl"


@pytest.mark.parametrize("save", [as_txt, as_parquet, as_jsonl])
def test_rows_are_the_long_texts_in_order(ray_cluster, tiny_model: Path, tiny_texts: list[str], tmp_path: Path, save):
    index = write(tmp_path / "store", save(tiny_texts, tmp_path), tiny_model, length=8, shard_size=30)
    rows = read(tmp_path / "store", index)
    expected = [i for i, text in enumerate(tiny_texts) if len(text.split()) >= 8]
    assert rows["text_id"].tolist() == expected
    assert rows["text"].tolist() == [tiny_texts[i] for i in expected]
    assert [list(ids) for ids in rows["token_ids"]] == [
        [int(word[1:]) + 1 for word in tiny_texts[i].split()[:8]] for i in expected
    ]
    assert (index.texts_read, index.texts_too_short, index.n) == (200, 200 - len(expected), len(expected))
    assert set(index.rows_per_shard[:-1]) == {30}


def test_stops_at_the_wanted_number(ray_cluster, tiny_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path):
    index = write(tmp_path, tiny_corpus, tiny_model, length=8, shard_size=16, max_texts=40)
    long = [i for i, text in enumerate(tiny_texts) if len(text.split()) >= 8][:40]
    assert index.rows_per_shard == (16, 16, 8)
    assert index.texts_read == long[-1] + 1
    assert index.texts_too_short == index.texts_read - 40


def test_no_text_long_enough_says_the_longest(ray_cluster, tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    with pytest.raises(
        NoTextLongEnoughError, match=r"position 39, which takes 40 tokens: the longest of 200 .* has 24"
    ):
        write(tmp_path, tiny_corpus, tiny_model, length=40, shard_size=16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_begin_with_the_text_whatever_the_tokenizer(
    ray_cluster, tiny_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path: Path, side: str
):
    """A tokenizer that ends each text with a token of its own, and truncates on either side."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model, truncation_side=side)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <unk>", special_tokens=[("<unk>", 0)])
    tokenizer.save_pretrained(model)
    rows = read(tmp_path / "s", write(tmp_path / "s", tiny_corpus, model, length=8, shard_size=500))
    ids = dict(zip(rows["text_id"], map(list, rows["token_ids"]), strict=True))
    words = {i: [int(word[1:]) + 1 for word in text.split()] for i, text in enumerate(tiny_texts)}
    assert ids == {i: [*given, 0][:8] for i, given in words.items() if len(given) >= 7}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b'{"text": "w1 w2"}\n' * 50 + b"{broken\n"), ("a.txt", b"w1 w2\n" * 300_000 + b"caf\xe9\n")],
)
def test_corpus_that_breaks_late_is_named(ray_cluster, tiny_model: Path, tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"{name}' cannot be read to its end"):
        write(tmp_path / "s", tmp_path / name, tiny_model, length=3, shard_size=16)


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6),
    st.integers(1, 5), st.integers(1, 12), st.integers(1, 7),
)  # fmt: skip
def test_cutting_into_shards(batches: list[list[int]], length: int, limit: int, size: int):
    """Whatever the batches of the reader, the shards hold the first long texts, and the counts agree."""
    lengths = [n for batch in batches for n in batch]
    tables = iter(
        pa.table(
            {
                "text": pa.array([str(n) for n in batch], pa.string()),
                "token_ids": pa.array([[7] * n for n in batch], pa.list_(pa.int32())),
                "n_tokens": pa.array(batch, pa.int32()),
            }
        )
        for batch in batches
    )
    counts = _Counts()
    shards = list(_regroup(_long_enough(tables, length, limit, counts), size))
    expected = [i for i, n in enumerate(lengths) if n >= length][:limit]
    seen = lengths[: expected[-1] + 1] if len(expected) == limit else lengths
    assert [i for shard in shards for i in shard["text_id"].to_pylist()] == expected
    assert all(len(shard) == size for shard in shards[:-1])
    assert all(shard.schema == ROWS_SCHEMA for shard in shards)
    assert (counts.read, counts.too_short) == (len(seen), len(seen) - len(expected))
    assert counts.longest == max(seen, default=0)
