"""Finding a corpus by name: bundled, local files, or the Hugging Face hub. Reading it is Ray Data's work."""

import glob
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.activations.bundled import BUNDLED_CORPORA, bundled_corpus_file
from bae_ray.activations.config import CorpusConfig
from bae_ray.errors import UnknownCorpusError, UnreadableFileError
from bae_ray.files import checksum

FORMATS = (".txt", ".jsonl", ".parquet")


class LocalFiles(NamedTuple):
    """Local files of one format, in order."""

    paths: tuple[Path, ...]
    format: str
    """One of `FORMATS`."""


class HubDataset(NamedTuple):
    """A data set on the Hugging Face hub; `resolve` has checked that it can be reached."""

    name: str
    sha: str


def resolve(config: CorpusConfig, others: Sequence[str] = ()) -> LocalFiles | HubDataset:
    """What `config.corpus` stands for; its files must have a text column and these other columns.

    Raises `UnknownCorpusError` where it stands for nothing, and `UnreadableFileError` where its files are not what
    their names say or lack a column.
    """
    if config.corpus in BUNDLED_CORPORA:
        return _local_files(config, [bundled_corpus_file(config.corpus)], others)
    path = Path(config.corpus).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in FORMATS and file.is_file())
    elif path.is_file():
        found = [path]
    elif glob.has_magic(config.corpus):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    elif path.suffix in FORMATS or path.is_absolute() or config.corpus.startswith("."):
        raise UnknownCorpusError(f"corpus '{config.corpus}': there is no such file or folder. Check the path.")
    else:
        return _hub_dataset(config)
    return _local_files(config, [file.resolve() for file in found], others)


def identity(config: CorpusConfig, source: LocalFiles | HubDataset) -> dict[str, object]:
    """What tells this corpus from another, down to its content: hashes of local files, the commit of a hub data set."""
    fields = {"text_column": config.text_column, "max_texts": config.max_texts}
    if isinstance(source, HubDataset):
        return {"name": source.name, "commit": source.sha, "subset": config.subset, "split": config.split, **fields}
    return {"files": [[path.name, checksum(path)] for path in source.paths], **fields}


def _local_files(config: CorpusConfig, paths: list[Path], others: Sequence[str]) -> LocalFiles:
    if not paths:
        raise UnknownCorpusError(f"corpus '{config.corpus}' matches no file that ends in {', '.join(FORMATS)}.")
    formats = {path.suffix for path in paths}
    if len(formats) > 1 or not formats <= set(FORMATS):
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' matches files that end in {', '.join(sorted(formats))}; expected one of "
            f"{', '.join(FORMATS)} for all of them. Narrow the folder or glob."
        )
    for path in paths:
        _check_readable(config, path, others)
    return LocalFiles(tuple(paths), formats.pop())


def _check_readable(config: CorpusConfig, path: Path, others: Sequence[str]) -> None:
    """Open the file and look at its beginning: a bad file must not be found an hour into the run."""
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
            columns = {name: pa.types.is_string(kind) or pa.types.is_large_string(kind)
                       for name, kind in zip(schema.names, schema.types, strict=True)}  # fmt: skip
        elif path.suffix == ".jsonl":
            with open(path, encoding="utf-8") as file:
                columns = {name: isinstance(value, str) for name, value in json.loads(file.readline()).items()}
        else:
            with open(path, encoding="utf-8") as file:
                file.read(1 << 20)
            columns = {config.text_column: True}
    except (OSError, pa.ArrowInvalid, ValueError, AttributeError) as error:
        raise UnreadableFileError(f"corpus file {path} cannot be read as {path.suffix}: {error}") from error
    if config.text_column not in columns:
        raise UnreadableFileError(
            f"corpus file {path} has no column '{config.text_column}'; it has: {', '.join(columns)}. Name the right "
            "one with --text-column."
        )
    if not columns[config.text_column]:
        raise UnreadableFileError(f"column '{config.text_column}' of corpus file {path} holds no text. Name another.")
    for column in others:
        if column not in columns:
            raise UnreadableFileError(
                f"corpus file {path} has no column '{column}'; it has: {', '.join(columns)}. Name the right one with "
                "--input.label-column."
            )


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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnknownCorpusError(
            f"corpus '{config.corpus}' is none of the bundled ones ({', '.join(BUNDLED_CORPORA)}), no local file or "
            f"folder, and was not found on the Hugging Face hub ({reason}). Check the name, or the network."
        ) from error
    return HubDataset(config.corpus, info.sha or "")
