"""Tokens in their sentences, as a byte-level tokenizer splits them."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.comsem.sentences import REPLACEMENT, Sentences
from bae_ray.errors import InvalidInputError

TEXTS = ["The  cat sat — it's a café, 日本 😀 end.", "Hello\n\nworld, don't panic! "]


def byte_level(special: bool) -> PreTrainedTokenizerFast:
    """Every byte is a token, but for some words; with `special`, a text begins with a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "s"), ("a", "t"), ("Ġs", "at"), ("Ġ", "æ"), ("Ã", "©")]
    tokens = ["<s>", *alphabet, *("".join(pair) for pair in merges)]
    made: Any = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if special:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(special=True)


def sentences(tokenizer: PreTrainedTokenizerFast, keep_every: int = 1, **changes: Any) -> Sentences:
    """Of a store that holds these texts; with `keep_every` 2, every other token of them."""
    ids: Any = [tokenizer(text)["input_ids"] for text in TEXTS]
    kept = [list(range(0, len(of), keep_every)) for of in ids]
    lists = pa.list_(pa.int32())
    table = pa.table({"text": TEXTS, "token_ids": pa.array(ids, lists), "kept": pa.array(kept, lists)})
    request = SimpleNamespace(**{"positions": ("all",), "input": {"kind": "texts"}, **changes})
    manifest = SimpleNamespace(n=sum(map(len, kept)), request=request)
    store: Any = SimpleNamespace(folder="store", manifest=manifest, texts_table=lambda: table)
    return Sentences(store, tokenizer)


@pytest.mark.parametrize("around", [0, 1, 3, 100])
def test_offsets_are_of_the_token(tokenizer: PreTrainedTokenizerFast, around: int):
    found = sentences(tokenizer)
    for token in range(found.n_tokens):
        example = found.example(token, around)
        if example.token != "<s>":
            assert example.context[example.start : example.end] == example.token
            assert example.token == example.token.strip() or not example.token.strip()
        assert any(example.context in text for text in TEXTS)
        assert 0 <= example.position <= around
    whole = found.example(4, 100)
    assert (whole.context, whole.position) == (TEXTS[0], 4)


def test_pieces_are_the_text(tokenizer: PreTrainedTokenizerFast):
    """Joined they are the sentence; further bytes of a character are marked as such."""
    found = sentences(tokenizer)
    window = found.window(5, 1000)
    assert window.pieces[0] == "<s>"
    assert "".join(window.pieces[1:]).replace(REPLACEMENT, "") == TEXTS[0]
    assert window.pieces.count(REPLACEMENT) == 2 + 2 + 2 + 3  # of the dash, two ideographs and the emoji
    assert (window.rows, window.at) == (list(range(len(window.pieces))), 5)
    assert " cat" in window.pieces


def test_tokens_left_out_of_the_store_have_no_row(tokenizer: PreTrainedTokenizerFast):
    found = sentences(tokenizer, keep_every=2)
    window = found.window(3, 2)
    assert (window.rows, window.at) == ([2, -1, 3, -1, 4], 2)
    assert found.texts_of(found.n_tokens) == 2
    assert found.texts_of(1) == 1


def test_another_tokenizer_is_found_out(tokenizer: PreTrainedTokenizerFast):
    found = sentences(tokenizer)
    found._tokenizer = byte_level(special=False)
    with pytest.raises(InvalidInputError, match="Name that one with --tokenizer"):
        found.example(0, 1)


@pytest.mark.parametrize("changes", [{"positions": (1, 2)}, {"input": {"kind": "icl"}}])
def test_stores_of_something_else_are_refused(tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any]):
    with pytest.raises(InvalidInputError, match=r"--positions all --input\.kind texts"):
        sentences(tokenizer, **changes)
