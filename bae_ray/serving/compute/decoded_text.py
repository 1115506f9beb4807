"""The text of tokens as they come, whatever the tokenizer makes of them one by one."""

from collections.abc import Sequence

from tokenizers import Tokenizer

CONTEXT = 6
"""Tokens before the first one that are decoded with it: some tokenizers drop the space before what comes first."""
UNREADABLE = "\ufffd"
"""What bytes become that are no character, or not yet."""


class DecodedText:
    """What was written, and what of it can be read already."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        """`before`: the tokens that the text goes on from."""
        self._tokenizer = tokenizer
        self._ids = list(before)[-CONTEXT:]
        self._start, self._read = 0, len(self._ids)
        self.text = ""

    def add(self, token: int) -> str:
        """What can be read now that could not be before: nothing where a character takes more tokens."""
        self._ids.append(token)
        new = self._unread()
        return "" if new.endswith(UNREADABLE) else self._emit(new)

    def finish(self) -> str:
        """What is left: a character that was cut off."""
        return self._emit(self._unread())

    def _unread(self) -> str:
        """The text of the tokens that are not read yet, decoded together with some that are."""
        known = self._tokenizer.decode(self._ids[self._start : self._read], skip_special_tokens=False)
        return self._tokenizer.decode(self._ids[self._start :], skip_special_tokens=False)[len(known) :]

    def _emit(self, new: str) -> str:
        if new:
            self._start, self._read = self._read, len(self._ids)
            self.text += new
        return new
