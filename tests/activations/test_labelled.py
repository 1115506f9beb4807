"""In-context-learning prompts of labelled corpora, and the tokens that answer them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import ICLInput
from bae_ray.activations.model import find_model
from bae_ray.activations.prompts import FixedPrompts, SampledPrompts
from bae_ray.activations.sources import find_source
from bae_ray.activations.tokenising import tokenizer_of
from bae_ray.errors import InvalidInputError, UnreadableFileError
from tests.activations.source_tables import LABELLED, NUMBERS, START, TEXTS, WORDS, config, jsonl, tables, with_tokens


def rebuilt(row: dict[str, Any], label_prefix: str) -> str:
    """The prompt of the examples that a row names."""
    prompt = ""
    for i in row["demonstrations"]:
        prompt += "sentence: " + TEXTS[i] + " " + label_prefix + " " + WORDS[NUMBERS[i]] + "\n"
    return prompt + "sentence: " + TEXTS[row["query"]] + " " + label_prefix


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("demonstrations", ["sampled", "fixed"])
@pytest.mark.parametrize("template", ["$A", "<s> $A </s>", "$A </s>"])
def test_prompts_are_those_of_the_examples_they_name(
    ray_cluster, tiny_model: Path, tmp_path: Path, k: int, demonstrations: Any, template: str
):
    """The prompt's last token is its own, here w5: 6, whatever the tokenizer puts after a text."""
    model = with_tokens(tiny_model, tmp_path, template, bos_token="<s>", eos_token="</s>")
    chosen = ICLInput(k=k, demonstrations=demonstrations, seed=5, label_words=WORDS, label_prefix="w5 ")
    rows = tables(config(model, jsonl(tmp_path, LABELLED), chosen, max_texts=30)).to_pylist()
    tokenizer = tokenizer_of(find_model(str(model)))
    drawer = SampledPrompts(TEXTS, k, 5) if demonstrations == "sampled" else FixedPrompts(12, 30, k, 5)
    assert [(row["query"], row["demonstrations"]) for row in rows] == [drawer.draw(i) for i in range(30)]
    for row in rows:
        assert row["text"] == rebuilt(row, "w5")
        bare = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        assert row["token_ids"] == [START] * template.startswith("<s>") + bare
        assert row["token_ids"][-1] == 6
        assert row["label"] == NUMBERS[row["query"]]
        assert row["label_token"] == {"w9": 10, "w7": 8, "w8": 9}[WORDS[row["label"]]]


def test_many_prompts_come_in_order(ray_cluster, tiny_model: Path, tmp_path: Path):
    found = tables(config(tiny_model, jsonl(tmp_path, LABELLED), ICLInput(k=2, label_words=WORDS), max_texts=2500))
    drawer = SampledPrompts(TEXTS, 2, 0)
    assert found["query"].to_pylist() == [drawer.draw(i).query for i in range(2500)]
    assert found["demonstrations"].to_pylist() == [drawer.draw(i).demonstrations for i in range(2500)]


def test_without_a_number_each_example_is_a_query_once(ray_cluster, tiny_model: Path, tmp_path: Path):
    found = tables(config(tiny_model, jsonl(tmp_path, LABELLED), ICLInput(k=2, label_words=WORDS), max_texts=None))
    assert sorted(found["query"].to_pylist()) == list(range(12))


@pytest.mark.parametrize("words", [None, WORDS])
def test_labels_may_be_words(ray_cluster, tiny_model: Path, tmp_path: Path, words: tuple[str, ...] | None):
    """Left out, the label words are those there are, in their own order."""
    corpus = jsonl(tmp_path, [{"body": text, "mood": WORDS[i]} for text, i in zip(TEXTS, NUMBERS, strict=True)])
    chosen = ICLInput(k=2, label_column="mood", label_words=words)
    rows = tables(config(tiny_model, corpus, chosen, text_column="body", max_texts=12)).to_pylist()
    order = words or ("w7", "w8", "w9")
    for row in rows:
        word = WORDS[NUMBERS[row["query"]]]
        assert row["text"] == rebuilt(row, "label:")
        assert row["label"] == order.index(word)
        assert row["label_token"] == int(word[1:]) + 1


def test_text_column_may_have_any_name(ray_cluster, tiny_model: Path, tmp_path: Path):
    corpus = jsonl(tmp_path, [{"query": text, "kind": i} for text, i in zip(TEXTS, NUMBERS, strict=True)])
    chosen = ICLInput(k=2, label_column="kind", label_words=WORDS)
    rows = tables(config(tiny_model, corpus, chosen, text_column="query", max_texts=12)).to_pylist()
    assert [row["text"] for row in rows] == [rebuilt(row, "label:") for row in rows]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    return "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows)


@pytest.mark.parametrize("words", [("2", "1", "0"), ("w9", "w7", "w8"), None])
@pytest.mark.parametrize("form", [str, int])
def test_prompts_do_not_depend_on_the_format(
    ray_cluster, tiny_model: Path, tmp_path: Path, words: tuple[str, ...] | None, form: type
):
    """Labels that are text are words where they are, and numbers are numbers: digits are no reason to swap them."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.add_tokens(["0", "1", "2"])
    tokenizer.save_pretrained(model)
    architecture = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**architecture, "vocab_size": len(tokenizer)}))
    rows = [{"text": text, "label": form(number)} for text, number in zip(TEXTS, NUMBERS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(as_csv(rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    files = [jsonl(tmp_path, rows), *(tmp_path / f"a.{kind}" for kind in ("parquet", "json"))]
    chosen = ICLInput(k=2, label_words=words, label_prefix="w5 ")
    if form is int and words is None:
        for file in files:
            with pytest.raises(InvalidInputError, match="are numbers: give the word for each"):
                tables(config(model, file, chosen))
        return
    found = [tables(config(model, file, chosen)).to_pylist() for file in files]
    assert all(other == found[0] for other in found[1:])
    if words == ("2", "1", "0"):  # of what a table of text holds nobody can tell whether it was a number
        with pytest.raises(InvalidInputError, match=r"label 0 of .* may be the label word '0', or the number of '2'"):
            tables(config(model, tmp_path / "a.csv", chosen))
    else:
        assert tables(config(model, tmp_path / "a.csv", chosen)).to_pylist() == found[0]
    named = words if form is int or words == ("w9", "w7", "w8") else ("0", "1", "2")
    assert named is not None
    for row in found[0]:
        shown = "".join(f"sentence: {TEXTS[i]} w5 {named[NUMBERS[i]]}\n" for i in row["demonstrations"])
        assert row["text"] == shown + f"sentence: {TEXTS[row['query']]} w5"


@pytest.mark.parametrize("labels", [[0, None, 1, 2], ["w9", None, "w7", "w8"]], ids=["numbers", "words"])
def test_examples_without_a_label_are_left_out(ray_cluster, tiny_model: Path, tmp_path: Path, labels: list):
    corpus = jsonl(tmp_path, [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)])
    chosen = ICLInput(k=0, label_words=WORDS)
    rows = tables(config(tiny_model, corpus, chosen, max_texts=3)).to_pylist()
    assert {row["text"]: row["label"] for row in rows} == {
        "sentence: w0 label:": 0, "sentence: w2 label:": 1, "sentence: w3 label:": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "labels", "message"),
    [
        (ICLInput(label_words=WORDS), [0, 1, 3], r"labels .* go from 0 to 3, but there are 3 label words: w9, w7, w8"),
        (ICLInput(label_words=WORDS), [0, -1, 1], r"labels .* go from -1 to 1"),
        (ICLInput(), [0, 1, 0], r"are numbers: give the word for each with --input.label-words"),
        (ICLInput(label_words=WORDS), ["w7", "w6", "w9"], r"label 'w6' is none of the label words w9, w7, w8"),
        (ICLInput(label_words=WORDS), [0.5, 1, 2], r"column 'label' of .* line 1, holds no label but the number 0.5"),
        (ICLInput(label_words=WORDS, label_column="text"), [0, 1, 2], r"label_column and text_column are both 'text'"),
        (ICLInput(label_words=("up", "down")), [0, 1, 0], r"labels 'up' and 'down' begin with the same token"),
        (ICLInput(label_words=("w9", "w9")), [0, 1, 0], r"'w9'"),
        (ICLInput(label_words=("w9", "w7"), k=4), [0, 1, 0], r"k is 4, but of 3 examples"),
        (ICLInput(label_words=("w9", "w7"), k=3, demonstrations="fixed"), [0, 1, 0], r"k is 3, which takes 4 examples"),
        (ICLInput(label_words=WORDS, k=0), [None, None], r"0 examples"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    ray_cluster, tiny_model: Path, tmp_path: Path, chosen: ICLInput, labels: list, message: str
):
    corpus = jsonl(tmp_path, [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)])
    with pytest.raises(InvalidInputError, match=message):
        tables(config(tiny_model, corpus, chosen, max_texts=4))


@pytest.mark.parametrize(
    "write", [lambda folder: jsonl(folder, [{"text": "w1", "mood": 1}]), lambda folder: folder / "a.txt"]
)
def test_missing_label_column_is_named(ray_cluster, tiny_model: Path, tmp_path: Path, write):
    (tmp_path / "a.txt").write_text("w1\nw2\n")
    with pytest.raises(UnreadableFileError, match=r"no column 'label'; it has: text.* --input.label-column"):
        tables(config(tiny_model, write(tmp_path), ICLInput(label_words=WORDS)))


def test_prompts_of_the_bundled_corpus(ray_cluster):
    model = find_model("smollm2-135m")
    source = find_source(config(model.name, "sst2", ICLInput(k=2), max_texts=20), model, None)
    tokenizer, rows = tokenizer_of(model), pa.concat_tables(source.tables(1)).to_pylist()
    assert source.label_tokens is not None
    assert [tokenizer.decode([token]) for token in source.label_tokens] == [" negative", " positive"]
    assert {(row["label"], tokenizer.decode([row["label_token"]])) for row in rows} == {
        (0, " negative"), (1, " positive"),
    }  # fmt: skip
    for row in rows:
        assert tokenizer.decode(row["token_ids"][-1:]) == ":"
        lines = row["text"].split("\n")
        assert len(lines) == 3
        assert all(line.startswith("sentence: ") for line in lines)
        assert all(line.endswith((" sentiment: negative", " sentiment: positive")) for line in lines[:2])
        assert lines[2].endswith(" sentiment:")


def test_label_tokens_are_those_that_follow_a_prompt(ray_cluster, tmp_path: Path):
    """With no label prefix, a word follows the text: with the blank before it."""
    model = find_model("smollm2-135m")
    corpus = jsonl(tmp_path, [{"text": "so dull", "label": "bad"}, {"text": "so fine", "label": "good"}])
    source = find_source(config(model.name, corpus, ICLInput(k=1, label_prefix=""), max_texts=4), model, None)
    tokenizer = tokenizer_of(model)
    for row in pa.concat_tables(source.tables(1)).to_pylist():
        whole = tokenizer(row["text"] + " " + ["bad", "good"][row["label"]])["input_ids"]
        assert row["token_ids"] == whole[: len(row["token_ids"])]
        assert row["label_token"] == whole[len(row["token_ids"])]
