"""Values of records as texts, chats and labels. Types are not guessed: only what the file marks as text is text."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

SHOWN = 40


class Number(NamedTuple):
    """A number of a JSON file, as it is written."""

    written: str


class Doubled(dict[str, Any]):
    """An object of a JSON file in which a name stands twice."""

    names: frozenset[str] = frozenset()


def is_chat(value: object) -> bool:
    """Whether it is a list, as chats are; texts are not."""
    return isinstance(value, list)


def as_text(value: object) -> str | None:
    """The text; None for a missing, empty or blank one. Raises `ValueError` for other types."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"holds no text but {described(value)}; expected text in quotes, or null to leave it out")
    if not value or value.isspace():
        return None
    _check_characters(value)
    return value


def as_chat(value: object) -> str | None:
    """The messages as JSON; None for a missing or empty list. Raises `ValueError` for other values."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise ValueError(f"holds no list of messages, as those before, but {described(value)}")
    messages = []
    for message in value:
        if not isinstance(message, dict):
            raise ValueError(
                f"holds a list with {described(message)}; expected text, or messages with role and content"
            )
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str | list):
            raise ValueError(
                f"holds a message with {', '.join(map(str, message)) or 'nothing'}; expected a role and a content, "
                "both text"
            )
        messages.append({name: _plain(part) for name, part in message.items() if part is not None})
    written = json.dumps(messages, ensure_ascii=False)
    _check_characters(written)
    return written


def as_label(value: object) -> str | None:
    """The label as JSON, a whole number or a word; None for a missing one. Raises `ValueError` for other values."""
    if value is None:
        return None
    if isinstance(value, str):
        _check_characters(value)
        return json.dumps(value) if value.strip() else None
    if isinstance(value, bool):
        return json.dumps(str(value))
    if isinstance(value, int | float | Decimal | Number):
        number = Decimal(value.written if isinstance(value, Number) else value)
        if number.is_nan():  # what pandas writes for a missing one
            return None
        if number.is_finite() and number == number.to_integral_value():
            return str(int(number))
    raise ValueError(f"holds no label but {described(value)}; expected a word or a whole number")


def described(value: object) -> str:
    """What a value is, for messages."""
    if isinstance(value, bool):
        return f"the logical value {str(value).lower()}"
    if isinstance(value, Number):
        return f"the number {_short(value.written)}"
    if isinstance(value, int | float | Decimal):
        return f"the number {_short(str(value))}"
    if isinstance(value, str):
        return f"the text {_short(json.dumps(value))}"
    if isinstance(value, bytes):
        return f"bytes, {_short(repr(value))}"
    if isinstance(value, Mapping):
        return f"an object of {_short(', '.join(map(str, value)))}"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}, {_short(str(value))}"


def _check_characters(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(
            f"holds {half} at character {error.start}, half of a pair of UTF-16, which is no character. Write both "
            "halves, or neither"
        ) from error


def _plain(value: Any) -> Any:
    """The same with numbers as such."""
    if isinstance(value, Number):
        return json.loads(value.written)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
