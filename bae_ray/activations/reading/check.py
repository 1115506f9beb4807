"""A check of the beginning of each file, so that unusable files are found before long work starts."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.activations.reading.blocks import Columns, values_of
from bae_ray.activations.reading.formats import FAILURES, kind_of
from bae_ray.activations.reading.lines import unreadable
from bae_ray.activations.reading.record_values import is_chat
from bae_ray.activations.reading.records import records
from bae_ray.errors import UnreadableFileError, first_line

RECORDS, CHARACTERS = 1000, 1 << 20
"""Numbers of records, and of characters of text, at the beginning of a file that are checked."""
_OPTIONS = ("--text-column", "--input.label-column")


def check_files(paths: Sequence[Path], columns: Columns) -> bool:
    """Whether the texts of these files are chats: lists of messages, as the first one is.

    Raises `UnreadableFileError` where a file is not what its name says, has not all of the columns, or holds others
    than texts there.
    """
    chat: bool | None = None
    for path in paths:
        try:
            chat = _check(path, columns, chat)
        except FAILURES as error:
            raise unreadable(path, first_line(error)) from error
    return bool(chat)


def _check(path: Path, columns: Columns, chat: bool | None) -> bool | None:
    """Whether the texts are chats, which None says is not known yet."""
    kind, seen = kind_of(path), {}
    if kind is not None and kind.format == "parquet" and path.stat().st_size:
        schema = pq.read_schema(path)
        _check_schema(path, schema, columns)
        seen = dict.fromkeys(schema.names)
    n, characters = 0, 0
    for record in records(path, columns.names, columns.document):
        seen.update(dict.fromkeys(record.values))
        n, value = n + 1, record.values.get(columns.text)
        if value is not None and chat is None:
            chat = is_chat(value)
        text, *_ = values_of(record, columns._replace(chat=bool(chat)), f"corpus file {path}")
        characters += len(text or "")
        if n == RECORDS or characters > CHARACTERS:
            break
    for name, option in zip(columns.names, _OPTIONS, strict=False):
        if seen and name not in seen:
            among = "" if n < RECORDS and characters <= CHARACTERS else f" in its first {n} records"
            raise UnreadableFileError(
                f"corpus file {path} has no column '{name}'{among}; it has: {', '.join(map(str, seen))}. Name the "
                f"right one with {option}."
            )
    return chat


def _check_schema(path: Path, schema: pa.Schema, columns: Columns) -> None:
    for name in columns.names:
        if len(schema.get_all_field_indices(name)) > 1:
            raise UnreadableFileError(f"corpus file {path} has the column '{name}' twice. Rename one.")
    if columns.text not in schema.names:
        return
    found = schema.field(columns.text).type
    if not _holds_texts(found):
        reason = " Bytes are no text before they are decoded." if "binary" in str(found) else ""
        raise UnreadableFileError(
            f"column '{columns.text}' of corpus file {path} holds no text: its type is {found}; expected string, "
            f"large_string, string_view, a dictionary of these, or a list of messages.{reason} Write it as text, or "
            "name another with --text-column."
        )


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_texts(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.types.is_struct(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())
