"""Text that is decoded token by token is the text of all tokens, whatever the tokenizer does with single ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bae_ray.serving.compute.decoded_text import UNREADABLE, DecodedText

TEXT = "Grüße \u2028 aus 東京 😀\n\nand more"


def byte_level() -> Tokenizer:
    """Every byte is a token, as the rarest are in GPT-2's vocabulary."""
    tokenizer = Tokenizer(
        models.BPE({sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Some words and every byte, as in Llama's vocabulary; the space before the first word is dropped."""
    words = ["\u2581and", "\u2581more", "\u2581aus", "a", "b", "\u2581"]
    vocabulary = {token: i for i, token in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def written(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> tuple[list[str], str]:
    """What each token brings, and all of it."""
    decoded = DecodedText(tokenizer, before)
    parts = [decoded.add(token) for token in ids]
    parts.append(decoded.finish())
    return parts, decoded.text


def test_characters_come_whole():
    tokenizer = byte_level()
    ids = tokenizer.encode(TEXT).ids
    parts, text = written(tokenizer, ids[:3], ids[3:])
    assert text == "".join(parts) == TEXT[3:]
    assert UNREADABLE not in text
    assert any(len(part) == 1 and ord(part) > 0xFFFF for part in parts), "four tokens, and then their character"


def test_words_keep_the_spaces_between_them():
    tokenizer = byte_fallback()
    ids = [256, 257, 258, 257, 0x0A, 257]
    assert written(tokenizer, ids[:1], ids[1:])[1] == " more aus more\n more"


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(data=st.data())
def test_any_tokens_can_be_written(make, data: st.DataObject):
    """Bytes that are no characters, beside ones that are: nothing raises, and nothing is shown twice or taken back."""
    tokenizer = make()
    tokens = st.integers(0, tokenizer.get_vocab_size() - 1)
    before, ids = data.draw(st.lists(tokens, min_size=1, max_size=4)), data.draw(st.lists(tokens, max_size=12))
    parts, text = written(tokenizer, before, ids)
    assert "".join(parts) == text
    whole = tokenizer.decode([*before, *ids], skip_special_tokens=False)
    if UNREADABLE not in whole:
        assert whole.endswith(text)
    assert parts[-1] == "" or parts[-1].endswith(UNREADABLE), "only what nobody can read is held back to the end"
