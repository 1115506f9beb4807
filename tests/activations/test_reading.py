"""Files of every format, against the tables of docs/corpora.md and Python's own readers."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import LocalFiles, resolve
from bae_ray.activations.labelled import numbered
from bae_ray.activations.reading.blocks import LABEL, PLACE, PROBLEM, ROWS, TEXT, file_blocks
from bae_ray.activations.reading.formats import FORMATS
from bae_ray.errors import InvalidInputError, UnknownCorpusError, UnreadableFileError

DOCS = Path(__file__).parents[2] / "docs" / "corpora.md"
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
CHAT = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2 w3"}]


def read(path: Path, label: str | None = None, **options: Any) -> pa.Table:
    """All that is read of a corpus, where nothing is wrong with it."""
    source = resolve(CorpusConfig(corpus=str(path), **options), label)
    assert isinstance(source, LocalFiles)
    table = pa.concat_tables([block for file in source.paths for block in file_blocks(file, source.columns)])
    assert table[PROBLEM].null_count == len(table)
    return table


def texts(path: Path, **options: Any) -> list[str | None]:
    return read(path, **options)[TEXT].to_pylist()


def table_of_docs(header: str) -> list[list[str]]:
    """The cells of the table with that header."""
    lines = DOCS.read_text().split(header + "\n", 1)[1].splitlines()[1:]
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


FILES = table_of_docs("| file | holds | texts |")
LABELS = table_of_docs("| file | holds | `--input.label-words` | words of the labels |")
TYPES = table_of_docs("| type of the column | read as |")


@pytest.mark.parametrize(("name", "holds", "expected"), FILES, ids=[row[0].strip("`") for row in FILES])
def test_files_are_read_as_the_docs_say(tmp_path: Path, name: str, holds: str, expected: str):
    file = tmp_path / name.strip("`")
    content = holds.strip("`").encode().decode("unicode_escape").encode("latin-1")
    file.write_bytes(PACKED.get(file.suffix, bytes)(content))
    if not expected.startswith("error"):
        assert texts(file) == json.loads(expected.strip("`"))
        return
    with pytest.raises(UnreadableFileError, match=re.escape(expected.split("`")[1])) as error:
        read(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(("name", "holds", "given", "expected"), LABELS, ids=[row[0].strip("`") for row in LABELS])
def test_labels_are_read_as_the_docs_say(tmp_path: Path, name: str, holds: str, given: str, expected: str):
    file, words = tmp_path / name.strip("`"), tuple(given.strip("`").split()) or None
    file.write_bytes(holds.strip("`").encode().decode("unicode_escape").encode("latin-1"))
    said = expected.split("`")[1]
    if expected.startswith("error"):
        with pytest.raises(InvalidInputError, match=re.escape(said)):
            label_words(file, words)
    else:
        assert label_words(file, words) == json.loads(said)


def label_words(file: Path, given: tuple[str, ...] | None) -> list[str]:
    """The word of each label of a corpus."""
    config = CorpusConfig(corpus=str(file))
    table = read(file, "label").drop_columns([PROBLEM]).drop_null()
    words, labels = numbered(table, resolve(config, "label"), given, config)
    return [words[label] for label in labels]


ARROW = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary<values=string, indices=int32, ordered=0>": pa.dictionary(pa.int32(), pa.string()),
    "null": pa.null(),
    "list<element: struct<role: string, content: string>>": pa.list_(
        pa.struct([("role", pa.string()), ("content", pa.string())])
    ),
    "binary": pa.binary(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "timestamp[us]": pa.timestamp("us"),
    "list<element: string>": pa.list_(pa.string()),
}


@pytest.mark.parametrize(
    ("kind", "said"), [(kind, said) for kinds, said in TYPES for kind in re.findall("`([^`]*)`", kinds)]
)
def test_parquet_types_are_read_as_the_docs_say(tmp_path: Path, kind: str, said: str):
    file, values = tmp_path / "a.parquet", {"text": ["w1", None, "w2", "w1"], "missing texts": [None] * 4}
    values["messages"] = [CHAT, None, [], CHAT]
    given = values.get(said, [None, None])
    pq.write_table(pa.table({"text": pa.array(given, ARROW[kind]), "n": [1] * len(given)}), file)
    if said.startswith("error"):
        with pytest.raises(UnreadableFileError, match=f"{said.split('`')[1]} {re.escape(kind)}"):
            read(file)
        return
    found = texts(file)
    if said == "messages":
        found, given = [text and json.loads(text) for text in found], [CHAT, None, None, CHAT]
    assert found == given


def as_json(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records, indent=1).encode()


def as_jsonl(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def as_table(records: list[dict[str, Any]], **options: Any) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["text", "label", "n"], quoting=csv.QUOTE_ALL, **options)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    schema = pa.schema([("text", pa.string()), ("label", pa.string()), ("n", pa.float64())])
    pq.write_table(pa.Table.from_pylist(records, schema), file, row_group_size=3)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.json": as_json,
    "a.jsonl": as_jsonl,
    "a.jsonl.zst": lambda records: PACKED[".zst"](as_jsonl(records)),
    "a.csv": as_table,
    "a.tsv": lambda records: as_table(records, delimiter="\t"),
    "a.csv.gz": lambda records: PACKED[".gz"](as_table(records)),
    "a.parquet": as_parquet,
}
CHARACTERS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\r\n\t",;\\\u2028\x85\x0c\x00\ufeff'), max_size=9
)
WORDS = st.sampled_from(["007", "1e3", "true", "NaN", "null", "2024-01-01", "0", "-1", "1_000", "nan", "N/A", ""])


@given(st.lists(st.tuples(st.none() | CHARACTERS | WORDS, st.none() | WORDS | CHARACTERS), min_size=1, max_size=9))
@example([("w1", None), ("a\tb\nc", "1")])
@settings(deadline=None, max_examples=60)
def test_the_same_records_are_the_same_in_every_format(tmp_path_factory, values: list[tuple[str | None, str | None]]):
    """Texts and labels of any characters, digit for digit; missing ones, and blank ones, are null."""
    folder = tmp_path_factory.mktemp("formats")
    records = [{"text": text, "label": label, "n": i / 2} for i, (text, label) in enumerate(values)]
    expected = [text if text and not text.isspace() else None for text, _ in values]
    labels = [json.dumps(label) if label and not label.isspace() else None for _, label in values]
    swallowing = any("\t" in field and "\n" in field for pair in values for field in pair if field)
    for name, write in WRITERS.items():
        (folder / name).write_bytes(write(records))
        if name == "a.tsv" and swallowing:
            with pytest.raises(UnreadableFileError, match=r"line \d+ opens a quote"):
                read(folder / name, "label")
            continue
        found = read(folder / name, "label")
        assert (name, found[TEXT].to_pylist()) == (name, expected)
        assert (name, found[LABEL].to_pylist()) == (name, labels)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=9), st.sampled_from(["", "\n"]))
@settings(deadline=None, max_examples=60)
def test_lines_are_those_between_line_feeds(tmp_path_factory, lines: list[str], last: str):
    """Python's own splitting is the oracle, in every encoding that has a mark."""
    folder = tmp_path_factory.mktemp("lines")
    content = "\n".join(lines) + last
    assume(not content.startswith("\0"))  # UTF-16's mark and this are UTF-32's mark
    split = content.removesuffix("\n").split("\n") if content else []
    expected = [line.removesuffix("\r") for line in split]
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        file = folder / f"{encoding}.txt"
        file.write_bytes(content.encode(encoding))
        assert texts(file) == [line if line.strip() else None for line in expected]
        assert texts(file, txt="document") == ([content] if content.strip() else [None] * bool(content))


def test_numbers_are_labels_whatever_holds_them(tmp_path: Path):
    numbers = [0, 1, None, 2]
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "w", "label": {json.dumps(x)}}}\n' for x in [0, 1.0, None, 2])
    )
    for kind in (pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(5, 1)):
        pq.write_table(pa.table({"text": ["w"] * 4, "label": pa.array(numbers, kind)}), tmp_path / "a.parquet")
        for name in ("a.jsonl", "a.parquet"):
            assert read(tmp_path / name, "label")[LABEL].to_pylist() == ["0", "1", None, "2"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_what_is_wrong_late_comes_after_all_before_it(tmp_path: Path, name: str):
    """So it is no error where so many texts are not wanted."""
    n, file = 2 * ROWS + 5, tmp_path / name
    if name == "a.jsonl":
        file.write_text('{"text": "one"}\n' * n + '{"text": 1}\n{"text": "two"}\n')
    else:  # bytes that are no UTF-8, which Parquet's writers do not look at
        column = pa.array([b"one"] * n + [b"caf\xe9", b"two"]).view(pa.string())
        pq.write_table(pa.table({"text": column}), file)
    source = resolve(CorpusConfig(corpus=str(file)))
    assert isinstance(source, LocalFiles)
    found = pa.concat_tables(file_blocks(file, source.columns))
    assert found[TEXT].to_pylist() == ["one"] * n + [None]
    assert found[PROBLEM].null_count == n
    place = f"line {n + 1}," if name == "a.jsonl" else rf"row {n} \(counted from 0\): byte 3"
    assert re.search(rf"corpus file {file}, {place}", found[PROBLEM][-1].as_py())


@pytest.mark.parametrize(("name", "cut"), [("a.jsonl.gz", 9), ("a.jsonl.zst", 3), ("a.jsonl.xz", 9), ("a.parquet", 9)])
def test_files_that_are_cut_off_are_named(tmp_path: Path, name: str, cut: int):
    pack = PACKED.get(Path(name).suffix, bytes)
    write = as_parquet if name == "a.parquet" else as_jsonl
    (tmp_path / name).write_bytes(pack(write([{"text": f"{i**9}"} for i in range(99)]))[:-cut])
    place = "" if name == "a.parquet" else r"what comes after line \d+ is damaged or cut off: "
    with pytest.raises(UnreadableFileError, match=rf"{tmp_path}/{name} cannot be read as {name[1:]}: {place}\w"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "ending"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), ".gz"),
        ("a.txt", PACKED[".zst"](b"one"), ".zst"),
        ("b.csv", b"PAR1\xff", ".parquet"),
    ],
)
def test_other_content_than_the_name_says(tmp_path: Path, name: str, content: bytes, ending: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"the file looks like {ending}"):
        read(tmp_path / name)


@pytest.mark.parametrize("ending", PACKED)
def test_parts_packed_one_by_one_are_one_file(tmp_path: Path, ending: str):
    """As `cat a.gz b.gz > c.gz` and parallel packers make them."""
    parts = [as_jsonl([{"text": f"{part} {i}"} for i in range(9999)]) for part in range(3)]
    (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(map(PACKED[ending], parts)))
    assert texts(tmp_path / f"a.jsonl{ending}") == [f"{part} {i}" for part in range(3) for i in range(9999)]


def test_long_lines_and_deep_values(tmp_path: Path):
    text = "w" * 300_000
    (tmp_path / "a.csv").write_text(f"text\n{text}\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "w", "x": "9" * 9999}))
    assert texts(tmp_path / "a.csv") == [text]
    assert texts(tmp_path / "a.jsonl") == [text, "w"]
    (tmp_path / "a.jsonl").write_text('{"text": "one", "x": ' + "9" * 9999 + '}\n{"text": "two", "x": ' + "[" * 9999)
    with pytest.raises(UnreadableFileError, match="line 2 is nested too deeply"):
        read(tmp_path / "a.jsonl")


def test_hidden_files_of_a_folder_are_left_out_and_empty_ones_have_no_texts(tmp_path: Path):
    for name in ("b/part.jsonl", ".ipynb_checkpoints/a.jsonl", "b/.part.jsonl", "_SUCCESS.jsonl", "_tmp/a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b" / "empty.jsonl.xz").write_bytes(b"")
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress(b'{"text": "last"}'))
    (tmp_path / "README.md").write_text("not a corpus")
    assert texts(tmp_path) == ["b/part.jsonl", "last"]
    for ending in (*FORMATS, ".jsonl.gz", ".txt.zst", ".csv.bz2", ".json.xz"):
        (tmp_path / f"empty{ending}").write_bytes(b"")
        assert texts(tmp_path / f"empty{ending}") == []
    with pytest.raises(
        UnknownCorpusError, match=r"end in \.csv, \.csv\.bz2, \.json, .*; expected one of these formats"
    ):
        read(tmp_path)


@pytest.mark.parametrize("name", ["notes.md", "a.parquet.gz", "table.xlsx", "plain"])
def test_other_files_are_refused_with_what_is_read(tmp_path: Path, name: str):
    (tmp_path / name).write_text("one")
    with pytest.raises(UnknownCorpusError, match=rf"{name}, which is of no known format: \.txt, \.json, "):
        read(tmp_path / name)


def test_a_column_is_judged_by_more_than_the_first_record(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"id": 1}\n{"text": "one"}\n')
    assert texts(tmp_path / "a.jsonl") == [None, None, "one"]
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"body": "one"}\n')
    with pytest.raises(UnreadableFileError, match=r"has no column 'text'; it has: id, body\..*--text-column"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"from": "human", "value": "w1"}], "line 2, holds a message with from, value; expected a role and a content"),
        (["w1"], "line 2, holds a list with the text \"w1\"; expected text, or messages"),
        ("w1", "line 2, holds no list of messages, as those before, but the text"),
    ],
)  # fmt: skip
def test_messages_that_are_none_are_refused(tmp_path: Path, value: Any, message: str):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{"text": CHAT}, {"text": value}]))
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path / "a.jsonl")


def test_messages_are_the_same_in_json_and_parquet(tmp_path: Path):
    chats = [CHAT, None, [], [{**CHAT[0], "name": None}, {**CHAT[1], "turn": 3}]]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{"text": chat} for chat in chats]))
    pq.write_table(pa.Table.from_pylist([{"text": chat} for chat in chats]), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.jsonl") == texts(tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl")[PLACE].to_pylist()[-1] == f"corpus file {tmp_path}/a.jsonl, line 4"
