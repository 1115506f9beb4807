"""What the model reads: texts, chats and random sequences as tables of tokens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import ICLInput, InputConfig, RandomTokensInput, TextsInput, WindowsInput
from bae_ray.activations.model import find_model
from bae_ray.activations.prompts import random_sequences
from bae_ray.activations.sources import find_source
from bae_ray.errors import InvalidInputError, UnreadableFileError
from tests.activations.source_tables import END, LABELLED, START, WORDS, config, ids_of, jsonl, tables


@pytest.mark.parametrize("read", [None, 1, 8])
def test_texts_are_tokenised_as_the_tokenizer_does(ray_cluster, framed_model: Path, tiny_corpus, tiny_texts, read):
    found = tables(config(framed_model, tiny_corpus, TextsInput()), read)
    assert found["text"].to_pylist() == tiny_texts
    assert found["token_ids"].to_pylist() == [[START, *ids_of(text), END][:read] for text in tiny_texts]


def test_missing_texts_are_empty(ray_cluster, tiny_model: Path, tmp_path: Path):
    corpus = jsonl(tmp_path, [{"text": "w1 w2"}, {"text": None}, {"text": ""}, {"text": "w3"}])
    found = tables(config(tiny_model, corpus, TextsInput()))
    assert found.to_pydict() == {"text": ["w1 w2", None, None, "w3"], "token_ids": [[2, 3], [], [], [4]]}


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
        (RandomTokensInput(), {"max_texts": None}, r"max_texts is None, but random sequences have no end"),
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
