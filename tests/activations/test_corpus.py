import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from bae_ray.activations.bundled import bundled_corpus_file
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import LocalFiles, identity, resolve
from bae_ray.errors import UnknownCorpusError, UnreadableFileError


@pytest.mark.parametrize(("name", "n", "labels"), [("agnews", 127_600, 4), ("sst2", 67_349, 2), ("mr", 8_530, 2)])
def test_bundled_corpora_are_whole(name: str, n: int, labels: int):
    table = pq.read_table(bundled_corpus_file(name))
    assert len(table) == n
    assert set(table["label"].to_pylist()) == set(range(labels))
    assert all(table["text"].to_pylist())


def test_a_second_use_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path))
    file = bundled_corpus_file("mr")
    assert file.is_relative_to(tmp_path)
    before = file.stat().st_mtime_ns
    assert bundled_corpus_file("mr").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [file.parent.name]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text("one\ntwo\n")
    (folder / "sub" / "a.txt").write_text("three\n")
    pd.DataFrame({"text": ["x"], "n": [1]}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "x", "n": 1}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("texts", ["texts/b.txt", "texts/sub/a.txt"]),
        ("texts/*.txt", ["texts/b.txt"]),
        ("t.jsonl", ["t.jsonl"]),
        ("t.parquet", ["t.parquet"]),
    ],
)
def test_files_folders_and_globs(files: Path, name: str, found: list[str]):
    source = resolve(CorpusConfig(corpus=str(files / name)))
    assert isinstance(source, LocalFiles)
    assert [str(path.relative_to(files)) for path in source.paths] == found


def test_identity_follows_the_content(files: Path):
    config = CorpusConfig(corpus=str(files / "texts"))
    before = identity(config, resolve(config))
    assert identity(config, resolve(config)) == before
    (files / "texts" / "b.txt").write_text("one\ntwO\n")
    assert identity(config, resolve(config)) != before


@pytest.mark.parametrize("name", ["missing.jsonl", "/no/such/folder", "./nothing"])
def test_missing_path_is_named(name: str):
    with pytest.raises(UnknownCorpusError, match=f"corpus '{name}': there is no such file or folder"):
        resolve(CorpusConfig(corpus=name))


def test_unknown_name_lists_the_bundled_ones():
    with pytest.raises(UnknownCorpusError, match=r"corpus 'no-such-corpus' .*agnews, sst2, mr.* Hugging Face hub"):
        resolve(CorpusConfig(corpus="no-such-corpus"))


@pytest.mark.parametrize("pattern", ["texts/*.csv", "nothing-*"])
def test_glob_without_files(files: Path, pattern: str):
    with pytest.raises(UnknownCorpusError, match="matches no file"):
        resolve(CorpusConfig(corpus=str(files / pattern)))


def test_mixed_formats_are_refused(files: Path):
    with pytest.raises(UnknownCorpusError, match=r"\.jsonl, \.parquet; expected one of"):
        resolve(CorpusConfig(corpus=str(files / "t.*")))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_missing_text_column_lists_the_columns(files: Path, name: str):
    with pytest.raises(UnreadableFileError, match=r"no column 'body'; it has: text, n\. .*--text-column"):
        resolve(CorpusConfig(corpus=str(files / name), text_column="body"))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_column_without_text_is_refused(files: Path, name: str):
    with pytest.raises(UnreadableFileError, match=r"column 'n' .* holds no text"):
        resolve(CorpusConfig(corpus=str(files / name), text_column="n"))


@pytest.mark.parametrize("name", ["bad.parquet", "bad.jsonl", "bad.txt"])
def test_unreadable_file_is_named(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00 nothing of the kind")
    with pytest.raises(UnreadableFileError, match=rf"{name} cannot be read as \.{name[4:]}"):
        resolve(CorpusConfig(corpus=str(tmp_path / name)))
