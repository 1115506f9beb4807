"""JSON files as records: one per line, or a list of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bae_ray.activations.reading.formats import numbered_lines, unreadable
from bae_ray.activations.reading.record_values import Doubled, Number, described

_SPACE = re.compile(r"[ \t\r\n]*")
_SHOWN = 20


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file with one per line, each with its place; lines without any are left out."""
    for number, line in numbered_lines(path):
        place, position = f"line {number}", _next(line, 0)
        if position == len(line):
            continue
        value, end = _decoded(path, place, line, position, " A record over several lines is read from .json files.")
        if (after := _next(line, end)) < len(line):
            raise unreadable(path, f"{place} goes on after its record: {_shown(line, after)}. Write one per line.")
        yield place, _record(path, place, value)


def values(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file that is a list of them, or has them one after another; it is held in memory whole."""
    text = "".join(line for _, line in numbered_lines(path))
    position = _next(text, 0)
    if listed := text.startswith("[", position):
        position = _next(text, position + 1)
        if text.startswith("]", position):
            yield from _nothing_more(path, text, position + 1)
            return
    line, counted, number = 1, 0, 0
    while listed or position < len(text):
        number, line, counted = number + 1, line + text.count("\n", counted, position), position
        place = f"line {line} (record {number})"
        value, end = _decoded(path, place, text, position)
        yield place, _record(path, place, value)
        position = _next(text, end)
        if listed and text.startswith("]", position):
            yield from _nothing_more(path, text, position + 1)
            return
        if listed and text.startswith(",", position):
            position = _next(text, position + 1)
        elif listed and position == len(text):
            raise unreadable(path, f"it ends after {place}, without the ] of its list. Is the file cut off?")
        elif listed:
            raise unreadable(
                path, f"{place} is followed by {_shown(text, position)}; expected a comma or the list's ]."
            )


def _nothing_more(path: Path, text: str, position: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if (after := _next(text, position)) < len(text):
        raise unreadable(
            path, f"line {text.count(chr(10), 0, after) + 1} goes on after the list: {_shown(text, after)}."
        )
    yield from ()


def _next(text: str, position: int) -> int:
    """Where the white space from there ends."""
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        found = Doubled(found)
        found.names = frozenset(name for name in found if names.count(name) > 1)
    return found


# Numbers stay as they are written: none is too long to be read, and none loses a digit.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=Number, strict=False
)


def _decoded(path: Path, place: str, text: str, position: int, hint: str = "") -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated") or _next(text, error.pos) == len(text):
            raise unreadable(
                path, f"{place} ends in the middle of its record, {_shown(text, position)}. Is the file cut off?{hint}"
            ) from error
        raise unreadable(
            path, f"{place} is no JSON: {error.msg} at character {error.pos - position}, {_shown(text, error.pos)}."
        ) from error
    except RecursionError as error:
        raise unreadable(path, f"{place} is nested too deeply. Leave that out.") from error


def _record(path: Path, place: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    hint = " A list of records is read from a file that ends in .json." if isinstance(value, list) else ""
    raise unreadable(path, f'{place} is {described(value)}; expected a record such as {{"text": "..."}}.{hint}')


def _shown(text: str, position: int) -> str:
    shown = text[position : position + _SHOWN]
    return json.dumps(shown, ensure_ascii=False) if shown else "nothing"
