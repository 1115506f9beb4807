"""Finding a corpus by name: bundled, local files, whose beginnings are checked, or the Hugging Face hub."""

import glob
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.activations.bundled import BUNDLED_CORPORA, bundled_corpus_file
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.reading.blocks import Columns, values_of
from bae_ray.activations.reading.formats import FAILURES, READ, ending, kind_of, unreadable
from bae_ray.activations.reading.record_values import is_chat
from bae_ray.activations.reading.records import records
from bae_ray.errors import UnknownCorpusError, UnreadableFileError, first_line
from bae_ray.files import checksum

RECORDS, CHARACTERS = 1000, 1 << 20
"""Number of records, and of characters, that are checked at the beginning of a file."""
_OPTIONS = ("--text-column", "--input.label-column")


class LocalFiles(NamedTuple):
    """Local files of one format, in order."""

    paths: tuple[Path, ...]
    columns: Columns
    """The columns that are read."""

    @property
    def are_lines(self) -> bool:
        """Whether each text is a line of a .txt file."""
        return self._format == "txt" and not self.columns.document

    @property
    def are_tables_of_text(self) -> bool:
        """Whether the format cannot tell numbers from text, as .csv and .tsv."""
        return self._format in ("csv", "tsv")

    @property
    def _format(self) -> str | None:
        kind = kind_of(self.paths[0])
        return kind and kind.format


class HubDataset(NamedTuple):
    """A data set on the Hugging Face hub; `resolve` has checked that it can be reached."""

    name: str
    sha: str


def resolve(config: CorpusConfig, label: str | None = None) -> LocalFiles | HubDataset:
    """The corpus that `config.corpus` names; its files must have the text column and the label column, if one is named.

    Raises `UnknownCorpusError` for an unknown one, and `UnreadableFileError` if its files do not have the format of
    their names, or lack a column.
    """
    columns = Columns(config.text_column, label, document=config.txt == "document")
    if config.corpus in BUNDLED_CORPORA:
        return _local_files(config, [bundled_corpus_file(config.corpus)], columns)
    path = Path(config.corpus).expanduser()
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if kind_of(file) and _is_data(file.relative_to(path))]
        found = [file for file in found if file.is_file()]
    elif path.is_file():
        found = [path]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", config.corpus):
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' is a URI; expected files that this machine (on a cluster: every machine) sees "
            "under a path, or a data set of the Hugging Face hub. Copy or mount it."
        )
    elif glob.has_magic(config.corpus):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    elif kind_of(path) or path.is_absolute() or config.corpus.startswith("."):
        raise UnknownCorpusError(f"corpus '{config.corpus}': there is no such file or folder. Check the path.")
    else:
        return _hub_dataset(config)
    return _local_files(config, [file.resolve() for file in found], columns)


def _is_data(path: Path) -> bool:
    """Whether no part of the path is hidden, as the files of notebooks and other tools are."""
    return not any(part.startswith((".", "_")) for part in path.parts)


def identity(config: CorpusConfig, source: LocalFiles | HubDataset) -> dict[str, object]:
    """What identifies the corpus and its content: hashes of local files, the commit of a hub data set."""
    fields: dict[str, object] = {"text_column": config.text_column, "max_texts": config.max_texts}
    if config.txt != "line":  # stores of earlier versions do not say
        fields["txt"] = config.txt
    if isinstance(source, HubDataset):
        return {"name": source.name, "commit": source.sha, "subset": config.subset, "split": config.split, **fields}
    return {"files": [[path.name, checksum(path)] for path in source.paths], **fields}


def _local_files(config: CorpusConfig, paths: list[Path], columns: Columns) -> LocalFiles:
    if not paths:
        raise UnknownCorpusError(f"corpus '{config.corpus}' matches no file of a known format: {READ}.")
    if unknown := [path for path in paths if kind_of(path) is None]:
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' has {unknown[0].name}, which is of no known format: {READ}."
        )
    if len({kind.format for path in paths if (kind := kind_of(path))}) > 1:
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' matches files that end in {', '.join(sorted(set(map(ending, paths))))}; "
            "expected one of these formats for all files. Narrow the folder or glob."
        )
    return LocalFiles(tuple(paths), columns._replace(chat=_check_files(paths, columns)))


def _hub_dataset(config: CorpusConfig) -> HubDataset:
    if importlib.util.find_spec("datasets") is None:
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' is none of the bundled ones ({', '.join(BUNDLED_CORPORA)}) and no local file or "
            "folder; a data set of the Hugging Face hub needs the package 'datasets': pip install 'bae-ray[hub]'."
        )
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(config.corpus, revision=config.corpus_revision, timeout=30)
    except Exception as error:
        reason = first_line(error).removesuffix(".")
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' is none of the bundled ones ({', '.join(BUNDLED_CORPORA)}), no local file or "
            f"folder, and was not found on the Hugging Face hub ({reason}). Check the name, or the network."
        ) from error
    return HubDataset(config.corpus, info.sha or "")


def _check_files(paths: Sequence[Path], columns: Columns) -> bool:
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
