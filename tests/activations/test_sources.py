import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.ingest import KEPT
from bae_ray.activations.inputs import ICLInput, InputConfig, RandomTokensInput, TextsInput, WindowsInput
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.prompts import FixedPrompts, SampledPrompts, random_sequences
from bae_ray.activations.sources import find_source
from bae_ray.activations.tokenizing import tokenizer_of, tokens_after, tokens_before
from bae_ray.activations.windows import CorpusTexts, windows
from bae_ray.errors import InvalidInputError, UnreadableFileError

START, END = 61, 62


def with_tokens(tiny_model: Path, folder: Path, template: str, **special: str) -> Path:
    """The tiny model with a tokenizer that has these special tokens, and frames a text like the template."""
    model = Path(shutil.copytree(tiny_model, folder / "model"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.add_special_tokens({**special})
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<unk>", *special.values())]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=named)
    tokenizer.save_pretrained(model)
    return model


@pytest.fixture(scope="module")
def framed_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer that puts <s> (61) before and </s> (62) after each text."""
    folder = tmp_path_factory.mktemp("framed")
    return with_tokens(tiny_model, folder, "<s> $A </s>", bos_token="<s>", eos_token="</s>")


def jsonl(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = folder / "examples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def config(model: Path | str, corpus: Path | str, input_: InputConfig, **options: Any) -> ExtractConfig:
    return ExtractConfig(model=str(model), corpus=str(corpus), input=input_, **options)


def tables(config: ExtractConfig, read: int | None = None) -> pa.Table:
    return pa.concat_tables(find_source(config, find_model(config.model), read).tables())


def ids_of(text: str) -> list[int]:
    return [int(word[1:]) + 1 for word in text.split()]


@pytest.mark.parametrize("read", [None, 1, 8])
def test_texts_are_tokenised_as_the_tokenizer_does(ray_cluster, framed_model: Path, tiny_corpus, tiny_texts, read):
    found = tables(config(framed_model, tiny_corpus, TextsInput()), read)
    assert found["text"].to_pylist() == tiny_texts
    assert found["token_ids"].to_pylist() == [[START, *ids_of(text), END][:read] for text in tiny_texts]


def test_missing_texts_are_empty(ray_cluster, tiny_model: Path, tmp_path: Path):
    corpus = jsonl(tmp_path, [{"text": "w1 w2"}, {"text": None}, {"text": ""}, {"text": "w3"}])
    found = tables(config(tiny_model, corpus, TextsInput()))
    assert found.to_pydict() == {"text": ["w1 w2", None, None, "w3"], "token_ids": [[2, 3], [], [], [4]]}


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
        for table in windows(read, window, find_model(str(framed_model)), None, CorpusTexts())
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


TEXTS = [f"w{i} w{i + 1} w{i + 2}" for i in range(20, 32)]
NUMBERS = [i % 3 for i in range(12)]
WORDS = ("w9", "w7", "w8")
LABELLED = [{"text": text, "label": number} for text, number in zip(TEXTS, NUMBERS, strict=True)]


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


CHATS = [
    [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2 w3"}],
    None,
    [],
    [{"role": "user", "content": "w4"}],
]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "w50 {{ m.content }} {% endfor %}"
)


@pytest.fixture
def chat_model(framed_model: Path, tmp_path: Path) -> Path:
    """The framed model with a chat template, which begins each message with w50."""
    model = Path(shutil.copytree(framed_model, tmp_path / "chat"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    return model


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_messages_are_read_by_the_models_template(ray_cluster, chat_model: Path, tmp_path: Path, kind: str):
    """With the special tokens that it puts, and no others."""
    rows = [{"messages": chat} for chat in CHATS]
    corpus = jsonl(tmp_path, rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), corpus := tmp_path / "a.parquet")
    found = tables(config(chat_model, corpus, TextsInput(), text_column="messages"))
    assert found.to_pydict() == {
        "text": ["w50 w1 w50 w2 w3 ", None, None, "w50 w4 "],
        "token_ids": [[51, 2, 51, 3, 4], [], [], [51, 5]],
    }
    window = WindowsInput(length=3, start_token=False)
    ids = tables(config(chat_model, corpus, window, text_column="messages"))["token_ids"].to_pylist()
    assert ids == [[51, 2, 51], [3, 4, END], [51, 5, END]]


def test_messages_that_cannot_be_texts_are_refused(ray_cluster, framed_model, chat_model: Path, tmp_path: Path):
    rows = [{"messages": CHATS[0], "label": 1}, {"messages": [{"role": "system", "content": "w1"}], "label": 0}]
    corpus = jsonl(tmp_path, rows)
    with pytest.raises(InvalidInputError, match=r"'messages' of corpus .* has no chat template"):
        find_source(
            config(framed_model, corpus, TextsInput(), text_column="messages"), find_model(str(framed_model)), None
        )
    with pytest.raises(InvalidInputError, match=r"a prompt is made of texts\. Name another column"):
        tables(config(chat_model, corpus, ICLInput(label_words=WORDS), text_column="messages"))
    with pytest.raises(
        UnreadableFileError, match=r"examples.jsonl, line 2: the model's chat template refuses .*: no system role\."
    ):
        tables(config(chat_model, corpus, TextsInput(), text_column="messages"))


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
    tokenizer, rows = tokenizer_of(model), pa.concat_tables(source.tables()).to_pylist()
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
    for row in pa.concat_tables(source.tables()).to_pylist():
        whole = tokenizer(row["text"] + " " + ["bad", "good"][row["label"]])["input_ids"]
        assert row["token_ids"] == whole[: len(row["token_ids"])]
        assert row["label_token"] == whole[len(row["token_ids"])]


def test_random_sequences_are_rows_of_tokens(tiny_model: Path):
    n = 10_000
    found = tables(config(tiny_model, "agnews", RandomTokensInput(bits=5, tokens=(7, 3), seed=2), max_texts=n))
    ids = np.array(found["token_ids"].to_pylist())
    assert np.array_equal(ids, random_sequences(n, 5, (7, 3), 2))
    assert found["text"].to_pylist() == [" ".join({7: "w6", 3: "w2"}[token] for token in row) for row in ids]


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        (RandomTokensInput(tokens=(0, 61)), {}, r"input.tokens are \(0, 61\): expected two different ids of 0 to 60"),
        (RandomTokensInput(tokens=(-1, 5)), {}, r"input.tokens are \(-1, 5\)"),
        (RandomTokensInput(tokens=(4, 4)), {}, r"input.tokens are \(4, 4\): expected two different"),
        (RandomTokensInput(bits=65), {}, r"input.bits is 65, but the model takes 64 tokens"),
        (RandomTokensInput(), {"max_texts": None}, r"max_texts is left out: random sequences have no end"),
    ],
)
def test_random_sequences_that_cannot_be_are_refused(tiny_model: Path, chosen, options: dict, message: str):
    with pytest.raises(InvalidInputError, match=message):
        find_source(config(tiny_model, "agnews", chosen, **options), find_model(str(tiny_model)), None)


def test_identity_tells_every_source_from_another_and_outlives_its_file(ray_cluster, tiny_model, tmp_path: Path):
    """A store's request is compared with what was read from its JSON."""
    corpus = jsonl(tmp_path, LABELLED)
    inputs: list[InputConfig] = [
        TextsInput(), WindowsInput(length=8), WindowsInput(length=9), WindowsInput(length=8, joined=False),
        ICLInput(label_words=WORDS), ICLInput(k=3, label_words=WORDS), ICLInput(seed=1, label_words=WORDS),
        ICLInput(demonstrations="fixed", label_words=WORDS), ICLInput(label_prefix="topic: ", label_words=WORDS),
        RandomTokensInput(), RandomTokensInput(bits=9), RandomTokensInput(seed=1), RandomTokensInput(tokens=(0, 2)),
    ]  # fmt: skip
    model = find_model(str(tiny_model))
    identities = [find_source(config(tiny_model, corpus, chosen), model, None).identity for chosen in inputs]
    assert [json.loads(json.dumps(identity)) for identity in identities] == identities
    assert len({json.dumps(identity) for identity in identities}) == len(inputs)
    corpus.write_text(corpus.read_text().replace("w20", "w19"))
    again = [find_source(config(tiny_model, corpus, chosen), model, None).identity for chosen in inputs]
    assert [before == after for before, after in zip(identities, again, strict=True)] == [
        isinstance(chosen, RandomTokensInput) for chosen in inputs
    ]


@pytest.mark.parametrize("kind", [ICLInput, RandomTokensInput])
def test_negative_seeds_are_refused(kind: type[ICLInput | RandomTokensInput]):
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        kind(seed=-1)
