"""Reading the texts of a corpus and tokenising them, with Ray Data."""

from collections.abc import Iterator
from functools import lru_cache, partial

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.cluster import configure_data
from bae_ray.errors import UnknownCorpusError, UnreadableFileError

BLOCK_ROWS = 8192
TOKENIZED_AT_ONCE = 1024


def tokenize(table: pa.Table, column: str, model: ModelSource, read: int | None, added: bool = True) -> pa.Table:
    """A table (text, token_ids, and the other columns) for the texts in `column`; ids end after `read`.

    `added`: with the tokens that the tokenizer puts before and after a text; else only with those before it, so that
    the last one is the text's own.
    """
    texts = [text or "" for text in table[column].to_pylist()]
    tokenizer = tokenizer_of(model)
    tokenizer.truncation_side = "right"
    # Tokenizers that end a text with a special token put it after the truncated text: cut only beyond it.
    cut = None if read is None else read + tokenizer.num_special_tokens_to_add()
    encoded = tokenizer(texts, truncation=cut is not None, max_length=cut, return_attention_mask=False, verbose=False)
    after = 0 if added else tokens_after(tokenizer)
    ids = [row[: len(row) - after][:read] for row in encoded["input_ids"]] if texts else []
    others = table.drop_columns([column])
    columns = {"text": pa.array(texts, pa.string()), "token_ids": pa.array(ids, pa.list_(pa.int32()))}
    return pa.table({**columns, **dict(zip(others.column_names, others.columns, strict=True))})


def tokens_before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    return encoded["input_ids"][: encoded["special_tokens_mask"].index(0)]


def tokens_after(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts after a text."""
    return tokenizer.num_special_tokens_to_add() - len(tokens_before(tokenizer))


@lru_cache(maxsize=1)
def tokenizer_of(model: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer, loaded once per process."""
    return load_tokenizer(model)


def tokenized(
    dataset: ray.data.Dataset,
    config: CorpusConfig,
    model: ModelSource,
    read: int | None,
    *,
    column: str | None = None,
    added: bool = True,
) -> Iterator[pa.Table]:
    """The texts of a data set in order, tokenised; `column` holds them, by default the corpus's text column."""
    tokenized = dataset.map_batches(
        partial(tokenize, column=column or config.text_column, model=model, read=read, added=added),
        batch_format="pyarrow",
        batch_size=TOKENIZED_AT_ONCE,
        zero_copy_batch=True,
    )
    return tables(tokenized, config)


def tables(dataset: ray.data.Dataset, config: CorpusConfig) -> Iterator[pa.Table]:
    """The rows of a data set in order. Raises `UnreadableFileError` where reading it fails."""
    try:
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    except Exception as error:  # Ray's, around whatever the reader of the format raised
        cause = getattr(error, "cause", None) or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UnreadableFileError(f"corpus '{config.corpus}' cannot be read to its end: {reason}") from error


def read_corpus(source: LocalFiles | HubDataset, config: CorpusConfig, *others: str) -> ray.data.Dataset:
    """The text column of a corpus, and others."""
    configure_data()  # before the data set is made: it keeps the settings of that moment
    columns = [config.text_column, *others]
    if isinstance(source, HubDataset):
        import datasets

        try:
            loaded = datasets.load_dataset(
                source.name, config.subset, split=config.split, revision=source.sha, streaming=True
            )  # streamed: nothing past the last wanted text is downloaded
            selected = loaded.select_columns(columns)
        except ValueError as error:  # no such subset, split or column; the message lists those there are
            raise UnknownCorpusError(f"corpus '{config.corpus}': {error}") from error
        return ray.data.from_huggingface(selected)
    if config.corpus in BUNDLED_CORPORA:  # from this machine's cache, which the cluster's other machines cannot read
        table = pq.read_table(source.paths[0], columns=columns)
        return ray.data.from_arrow([table.slice(start, BLOCK_ROWS) for start in range(0, len(table), BLOCK_ROWS)])
    paths = [str(path) for path in source.paths]
    if source.format == ".parquet":
        dataset = ray.data.read_parquet(paths)
    elif source.format == ".jsonl":
        dataset = ray.data.read_json(paths, lines=True)
    else:
        dataset = ray.data.read_text(paths).rename_columns({"text": config.text_column})
    return dataset.select_columns(columns)
