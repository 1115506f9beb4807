"""Windows of equal length out of a corpus, against windows cut out of token lists."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.activations.config import WindowsInput
from bae_ray.activations.ingest import KEPT
from bae_ray.activations.layout import WindowedTexts
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.sources import find_source, windows
from bae_ray.activations.tokenising import tokens_after, tokens_before
from bae_ray.errors import InvalidInputError
from tests.activations.source_tables import END, START, config, ids_of, tables, with_tokens


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("$A", [], 0),
        ("<s> $A", [61], 0),
        ("$A <s>", [], 1),
        ("<s> <s> $A <s>", [61, 61], 1),
        ("<unk> $A", [0], 0),
        ("<unk> $A <unk>", [0], 1),
    ],
)
def test_tokens_that_frame_a_text(tiny_model: Path, tmp_path: Path, template: str, before: list[int], after: int):
    """Whatever they are: also the one that an unknown word has."""
    model = with_tokens(tiny_model, tmp_path, template, bos_token="<s>")
    tokenizer = load_tokenizer(find_model(str(model)))
    assert (tokens_before(tokenizer), tokens_after(tokenizer)) == (before, after)


def cut(texts: list[list[int]], window: WindowsInput, start: list[int], end: int | None) -> list[list[int]]:
    """The windows of these texts, one list of numbers at a time."""
    parts: list[list[int]] = [[]] if window.joined else texts
    if window.joined:
        for text in texts:
            parts[0] += text + ([] if end is None else [end])
    step = window.length - len(start)
    return [start + part[i : i + step] for part in parts for i in range(0, len(part) - step + 1, step)]


@pytest.mark.parametrize("start_token", [True, False])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("template", "special", "start", "end"),
    [
        ("$A", {}, [], None),
        ("<s> $A", {"bos_token": "<s>", "eos_token": "</s>"}, [61], 62),
        ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, [61], 62),
        ("$A </s>", {"eos_token": "</s>"}, [], 61),
        ("<s> $A", {"bos_token": "<s>"}, [61], 61),
    ],
)
def test_windows_are_those_of_the_texts_token_lists(
    ray_cluster, tiny_model, tiny_corpus, tiny_texts, tmp_path, template, special, start, end, joined, start_token
):
    model = with_tokens(tiny_model, tmp_path, template, **special)
    window = WindowsInput(length=9, joined=joined, start_token=start_token)
    found = tables(config(model, tiny_corpus, window))
    expected = cut([ids_of(text) for text in tiny_texts], window, start if start_token else [], end)
    assert found["token_ids"].to_pylist() == expected
    names = ["<unk>", *(f"w{i}" for i in range(60)), *special.values()]
    assert found["text"].to_pylist() == [" ".join(names[i] for i in ids) for ids in expected]


@given(
    st.lists(st.lists(st.lists(st.integers(1, 60), max_size=9), max_size=5), max_size=5),
    st.integers(2, 7), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_windows_do_not_depend_on_how_texts_are_batched(
    framed_model: Path, batches: list[list[list[int]]], length: int, joined: bool, start_token: bool
):
    window = WindowsInput(length=length, joined=joined, start_token=start_token)
    read = (
        pa.table({"text": ["w"] * len(batch), "token_ids": pa.array([[START, *ids] for ids in batch], KEPT.type)})
        for batch in batches
    )
    found = [
        row
        for table in windows(read, window, find_model(str(framed_model)), None, WindowedTexts())
        for row in table.to_pylist()
    ]
    texts = [text for batch in batches for text in batch]
    assert [row["token_ids"] for row in found] == cut(texts, window, [START] if start_token else [], END)


def test_windows_longer_than_the_model_takes_are_refused(ray_cluster, framed_model: Path, tiny_corpus: Path):
    assert set(map(len, tables(config(framed_model, tiny_corpus, WindowsInput(length=64)))["token_ids"])) == {64}
    with pytest.raises(InvalidInputError, match=r"input.length is 65, but the model takes 64 tokens"):
        find_source(config(framed_model, tiny_corpus, WindowsInput(length=65)), find_model(str(framed_model)), None)


def test_window_of_a_start_token_alone_is_refused(ray_cluster, framed_model: Path, tiny_corpus: Path):
    with pytest.raises(InvalidInputError, match=r"input.length is 1, but the start token alone takes 1"):
        tables(config(framed_model, tiny_corpus, WindowsInput(length=1)))
    found = tables(config(framed_model, tiny_corpus, WindowsInput(length=1, start_token=False)))
    assert set(map(len, found["token_ids"])) == {1}
