"""Token ids are those of the tokenizer's own call, however it frames and cuts a text."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.activations import tokenising
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.tokenising import decoded, tokenize

BUNDLED = find_model("smollm2-135m")


@cache
def framed() -> PreTrainedTokenizerFast:
    """The bundled model's, with tokens before and after a text."""
    tokenizer = load_tokenizer(BUNDLED)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
    template = TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=named)
    tokenizer.backend_tokenizer.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer with a call of its own."""

    def _encode_plus(self, text: Any, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super()._encode_plus([one.upper() for one in text], **options)

    def _decode(self, token_ids: Any, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super()._decode(token_ids, **options).upper()


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.none() | st.integers(1, 12), st.booleans())
@settings(deadline=None, max_examples=150)
def test_ids_are_those_of_the_tokenizers_own_call(texts: list[str], read: int | None, added: bool):
    tokenizer = framed()
    expected = [ids if added else ids[:-1] for ids in tokenizer(texts)["input_ids"]]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokenising, "tokenizer_of", lambda _: tokenizer)
        found = tokenize(pa.table({"text": texts}), "text", BUNDLED, read, added)
    assert found["text"].to_pylist() == texts
    assert found["token_ids"].to_pylist() == [ids[:read] for ids in expected]


def test_a_tokenizer_with_a_call_of_its_own_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load_tokenizer(BUNDLED).save_pretrained(tmp_path)
    tokenizer = Shouting.from_pretrained(tmp_path)
    monkeypatch.setattr(tokenising, "tokenizer_of", lambda _: tokenizer)
    found = tokenize(pa.table({"text": ["the cat", "sat"]}), "text", BUNDLED, None)
    assert found["token_ids"].to_pylist() == load_tokenizer(BUNDLED)(["THE CAT", "SAT"])["input_ids"]


@given(st.lists(st.lists(st.integers(0, 49_151), min_size=3, max_size=3), min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_rows_are_decoded_as_by_the_tokenizers_own_call(rows: list[list[int]]):
    """Special tokens and halves of characters, too."""
    tokenizer = framed()
    expected = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in rows]
    assert decoded(np.array(rows, np.int32), tokenizer) == expected


def test_a_tokenizer_that_decodes_in_its_own_way_is_called(tmp_path: Path):
    load_tokenizer(BUNDLED).save_pretrained(tmp_path)
    tokenizer = Shouting.from_pretrained(tmp_path)
    assert decoded(np.array(load_tokenizer(BUNDLED)(["the cat"])["input_ids"]), tokenizer) == ["THE CAT"]


def test_a_tokenizer_keeps_nothing_of_an_earlier_call():
    """One that was cut to a length, or encoded special tokens as text, for others."""
    tokenizer = load_tokenizer(BUNDLED)
    text = "<|im_end|> as a token, and more words than four"
    expected = tokenizer([text])["input_ids"]
    tokenizer([text], truncation=True, max_length=4, padding="max_length", split_special_tokens=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokenising, "tokenizer_of", lambda _: tokenizer)
        assert tokenize(pa.table({"text": [text]}), "text", BUNDLED, None)["token_ids"].to_pylist() == expected
