"""From a corpus, through the tokenizer, to the rows files of a store."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import ExtractConfig, Position, TokensConfig, WindowsInput
from bae_ray.activations.ingest import lengths, write_rows
from bae_ray.activations.layout import RowsIndex
from bae_ray.activations.model import find_model
from bae_ray.activations.sources import find_source
from bae_ray.activations.writer import StoreWriter
from bae_ray.cluster import configure_data
from bae_ray.errors import NoTextLongEnoughError, UnreadableFileError
from bae_ray.storage import folder_at
from tests.activations.source_tables import index_of


def write(store: Path, corpus: Path, model: Path, *positions: Position, **options: Any) -> RowsIndex:
    config = ExtractConfig(corpus=str(corpus), model=str(model), positions=positions, **options)
    source = find_model(config.model)
    wanted = lengths(config.all_positions, config.max_tokens or source.max_positions)
    tables = find_source(config, source, wanted.read).tables(1)
    return index_of(
        write_rows(StoreWriter(folder_at(store)), tables, config, wanted, frozenset({0}), bytes_per_vector=4)
    )


def read(store: Path, index: RowsIndex) -> pd.DataFrame:
    writer = StoreWriter(folder_at(store))
    return pa.concat_tables(writer.read_rows(i, shard.file) for i, shard in enumerate(index.shards)).to_pandas()


def ids_of(text: str) -> list[int]:
    return [int(word[1:]) + 1 for word in text.split()]


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
    index = write(tmp_path / "store", save(tiny_texts, tmp_path), tiny_model, 2, 7, shard_size=30)
    rows = read(tmp_path / "store", index)
    expected = [i for i, text in enumerate(tiny_texts) if len(text.split()) >= 8]
    assert rows.columns.tolist() == ["text_id", "token_ids", "text"]
    assert rows["text_id"].tolist() == expected
    assert rows["text"].tolist() == [tiny_texts[i] for i in expected]
    assert [list(ids) for ids in rows["token_ids"]] == [ids_of(tiny_texts[i])[:8] for i in expected]
    assert (index.texts_read, index.texts_too_short, index.texts_too_long) == (200, 200 - len(expected), 0)
    assert (index.n, index.texts, index.tokens) == (len(expected), len(expected), 8 * len(expected))
    assert {shard.texts for shard in index.shards[:-1]} == {30}


@pytest.mark.slow
def test_order_is_kept_where_the_first_file_takes_longest(ray_cluster, tiny_model: Path, tmp_path: Path):
    """Also after an extraction in this process, whose shards may come in any order."""
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = [["w0 " * 60] * 20_000, *([f"w{i} w{i}"] for i in range(1, 8))]
    for i, texts in enumerate(parts):
        pd.DataFrame({"text": texts}).to_parquet(folder / f"{i}.parquet")
    configure_data(keep_order=False)
    index = write(tmp_path / "store", folder, tiny_model, 1, max_texts=None, shard_size=50_000)
    rows = read(tmp_path / "store", index)
    assert rows["text_id"].tolist() == list(range(20_007))
    assert rows["text"].tolist() == [text for texts in parts for text in texts]


def test_stops_at_the_wanted_number(ray_cluster, tiny_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path):
    index = write(tmp_path, tiny_corpus, tiny_model, 7, shard_size=16, max_texts=40)
    long = [i for i, text in enumerate(tiny_texts) if len(text.split()) >= 8][:40]
    assert [(shard.texts, shard.n, shard.tokens) for shard in index.shards] == [
        (16, 16, 128), (16, 16, 128), (8, 8, 64),
    ]  # fmt: skip
    assert index.texts_read == long[-1] + 1
    assert index.texts_too_short == index.texts_read - 40


def test_no_text_long_enough_says_the_longest(ray_cluster, tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    with pytest.raises(
        NoTextLongEnoughError, match=r"position 39, which takes 40 tokens: the longest of 200 .* has 24"
    ):
        write(tmp_path, tiny_corpus, tiny_model, 39)


@pytest.mark.parametrize(("positions", "least"), [(["last"], 1), ([5, "last"], 6)])
def test_texts_too_long_for_their_last_token_are_left_out(
    ray_cluster, tiny_model, tiny_corpus, tiny_texts, tmp_path, positions: list[Position], least: int
):
    index = write(tmp_path, tiny_corpus, tiny_model, *positions, max_tokens=10)
    sizes = [len(text.split()) for text in tiny_texts]
    expected = [i for i, size in enumerate(sizes) if least <= size <= 10]
    rows = read(tmp_path, index)
    assert rows["text_id"].tolist() == expected
    assert [list(ids) for ids in rows["token_ids"]] == [ids_of(tiny_texts[i]) for i in expected]
    assert index.texts_read == 200
    assert index.texts_too_long == sum(size > 10 for size in sizes)
    assert index.texts_too_short == sum(size < least for size in sizes)


def test_every_token_up_to_the_longest_wanted(ray_cluster, tiny_model: Path, tiny_corpus: Path, tiny_texts, tmp_path):
    index = write(tmp_path, tiny_corpus, tiny_model, "all", max_tokens=10, tokens=TokensConfig(first=False))
    rows = read(tmp_path, index)
    expected = [i for i, text in enumerate(tiny_texts) if len(text.split()) >= 2]
    assert rows["text_id"].tolist() == expected
    assert [list(ids) for ids in rows["token_ids"]] == [ids_of(tiny_texts[i])[:10] for i in expected]
    assert [list(kept) for kept in rows["kept"]] == [list(range(1, len(ids))) for ids in rows["token_ids"]]
    assert index.n == index.tokens - index.texts
    assert (index.texts_too_short, index.texts_too_long) == (200 - len(expected), 0)


def test_windows_of_texts_that_have_none(ray_cluster, tiny_model: Path, tmp_path: Path):
    corpus = as_txt(["w1 w2", "w3"] * 700 + ["w4 w5 w6 w7 w8"], tmp_path)
    window = WindowsInput(length=5, joined=False)
    index = write(tmp_path / "store", corpus, tiny_model, "all", input=window)
    assert [list(ids) for ids in read(tmp_path / "store", index)["token_ids"]] == [[5, 6, 7, 8, 9]]
    assert index.texts_read == 1


def test_no_window_that_fits_is_said(ray_cluster, tiny_model: Path, tmp_path: Path):
    corpus = as_txt(["w1 w2", "w3"], tmp_path)
    window = WindowsInput(length=50)
    with pytest.raises(NoTextLongEnoughError, match=r"has no text, or too little to fill one window"):
        write(tmp_path / "store", corpus, tiny_model, 1, input=window)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_begin_with_the_text_whatever_the_tokenizer(
    ray_cluster, tiny_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path: Path, side: str
):
    """A tokenizer that ends each text with a token of its own, and truncates on either side."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model, truncation_side=side)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <unk>", special_tokens=[("<unk>", 0)])
    tokenizer.save_pretrained(model)
    rows = read(tmp_path / "s", write(tmp_path / "s", tiny_corpus, model, 7, shard_size=500))
    ids = dict(zip(rows["text_id"], map(list, rows["token_ids"]), strict=True))
    words = {i: ids_of(text) for i, text in enumerate(tiny_texts)}
    assert ids == {i: [*given, 0][:8] for i, given in words.items() if len(given) >= 7}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "w1 w2"}\n' * 5000 + b"{broken\n", r"line 5001 is no JSON"),
        ("a.jsonl", b'{"text": "w1 w2"}\n' * 5000 + b'{"text": 42}\n', r"line 5001, holds no text but the number 42"),
        ("a.txt", b"w1 w2\n" * 300_000 + b"caf\xe9\n", r"byte 1800003 \(line 300001\) is 0xe9.* iconv -f"),
    ],
)
def test_corpus_that_breaks_late_is_named(
    ray_cluster, tiny_model: Path, tmp_path: Path, name: str, content: bytes, message: str
):
    """With the place of what is wrong, and no word of who read it; where enough comes before, it does not matter."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message) as error:
        write(tmp_path / "s", tmp_path / name, tiny_model, 2)
    assert str(tmp_path / name) in str(error.value)
    assert not re.search(r"ray|udf|block|task|batch", str(error.value).replace(str(tmp_path), ""), re.IGNORECASE)
    rows = read(tmp_path / "t", write(tmp_path / "t", tmp_path / name, tiny_model, 1, max_texts=5000))
    assert rows["text_id"].tolist() == list(range(5000))
