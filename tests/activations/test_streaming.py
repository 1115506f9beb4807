"""Shards are computed while later texts are still tokenised; what was computed stays, whatever happens to the rest."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from bae_ray.activations import extract as extraction
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.sources import Source
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import ExtractionError, NotEnoughDiskError, UnreadableFileError
from bae_ray.storage import Folder

PATIENCE_S = 120.0

pytestmark = pytest.mark.usefixtures("ray_cluster")

Tables = Callable[[Iterator[pa.Table]], Iterator[pa.Table]]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tables], None]:
    """Have the texts of the corpus go through a function."""
    found = extraction.find_source

    def through(change: Tables) -> None:
        def find(*arguments: object) -> Source:
            source = found(*arguments)  # pyright: ignore[reportArgumentType]
            return source._replace(tables=lambda cpus: change(source.tables(cpus)))

        monkeypatch.setattr(extraction, "find_source", find)

    return through


def once_computed(store: Path, texts: int = 80) -> Tables:
    """The first texts; the others once the first shard is computed."""

    def wait(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        table = pa.concat_tables(tables)
        yield table.slice(0, texts)
        until = time.monotonic() + PATIENCE_S
        while not (store / "receipts" / "00000.json").exists():
            assert time.monotonic() < until, "no shard was computed while texts were still to come"
            time.sleep(0.02)
        yield table.slice(texts)

    return wait


@pytest.mark.parametrize("executor", ["ray", "inline"])
def test_the_first_shard_is_computed_before_the_last_text_is_tokenised(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path, tables: Callable[[Tables], None], executor: str
):
    tables(once_computed(tmp_path / "store"))
    store = extract(tiny_config, tmp_path / "store", executor)  # pyright: ignore[reportArgumentType]
    expected = ActivationStore.open(tiny_store).manifest
    assert store.manifest.shards == expected.shards or executor == "inline"  # which says how many threads it has
    assert [shard.files for shard in store.manifest.shards] == [shard.files for shard in expected.shards]


def test_shards_computed_before_all_texts_were_tokenised_are_not_computed_again(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path
):
    """As a driver leaves them that is killed meanwhile. One of other rows is: the corpus was read in another way."""
    path = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    for name in ("manifest.json", "rows.json", "rows/00003.parquet", "receipts/00003.json"):
        (path / name).unlink()
    receipt = path / "receipts" / "00001.json"
    rows = ActivationStore.open(tiny_store).manifest.shards[1].files["rows/00001.parquet"]
    receipt.write_text(receipt.read_text().replace(rows.checksum, "0" * 32))
    before = {file.name: file.stat().st_mtime_ns for file in (path / "receipts").iterdir()}
    store = extract(tiny_config, path)
    assert store.manifest == ActivationStore.open(tiny_store).manifest
    after = {file.name: file.stat().st_mtime_ns for file in (path / "receipts").iterdir()}
    assert {name for name in before if after[name] == before[name]} == {"00000.json", "00002.json"}


def test_a_corpus_that_ends_badly_costs_no_finished_shard(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path, tables: Callable[[Tables], None]
):
    out = tmp_path / "store"

    def bad_end(found: Iterator[pa.Table]) -> Iterator[pa.Table]:
        yield next(once_computed(out)(found))
        list(once_computed(out)(iter([pa.table({"text": ["w1"]})])))
        raise UnreadableFileError("corpus 'texts' cannot be read to its end: the network is gone.")

    tables(bad_end)
    with pytest.raises(UnreadableFileError, match="the network is gone"):
        extract(tiny_config, out)
    kept = (out / "receipts" / "00000.json").stat().st_mtime_ns
    tables(lambda found: found)
    assert extract(tiny_config, out).manifest == ActivationStore.open(tiny_store).manifest
    assert (out / "receipts" / "00000.json").stat().st_mtime_ns == kept


def test_a_disk_too_small_for_all_gets_no_more_than_fits(
    tiny_config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All texts are tokenised, so that the message says how much is needed, and they stay."""
    config = tiny_config.model_copy(update={"max_texts": None})
    vector = 2 * 4 * 16 * 4  # positions, layers, numbers, bytes
    monkeypatch.setattr(Folder, "free_bytes", lambda _folder: 3 * 40 * vector)
    with pytest.raises(NotEnoughDiskError, match=r"needs 0\.00 GB more"):
        extract(config, tmp_path / "store")
    assert (tmp_path / "store" / "rows.json").exists()
    written = sorted(file.name for file in (tmp_path / "store" / "receipts").iterdir())
    assert written == ["00000.json", "00001.json", "00002.json"]


def test_rows_that_cannot_be_written_end_the_run(
    tiny_config: ExtractConfig, tmp_path: Path, tables: Callable[[Tables], None]
):
    out = tmp_path / "store"

    def in_the_way(found: Iterator[pa.Table]) -> Iterator[pa.Table]:
        whole = pa.concat_tables(found)
        yield whole.slice(0, 100)
        (out / "rows" / "00002.parquet").mkdir()
        yield whole.slice(100)

    tables(in_the_way)
    with pytest.raises(ExtractionError, match=r"cannot be written to any more: .*Finished shards are kept"):
        extract(tiny_config, out)


ON_ONE_CPU = """
import sys
import ray
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
common = dict(model=sys.argv[1], corpus=sys.argv[2], gpus_per_worker=0, layers=(1,), positions=("last",), shard_size=8)
for kind in ({"kind": "texts"}, {"kind": "windows", "length": 20}, {"kind": "icl", "k": 1}):
    config = ExtractConfig.model_validate({**common, "input": kind})
    print(kind["kind"], extract(config, f"{sys.argv[3]}/{kind['kind']}").manifest.n > 0, flush=True)
"""


@pytest.mark.slow
def test_workers_that_have_all_cpus_do_not_wait_for_texts_for_ever(
    tiny_causal_model: Path, tiny_texts: list[str], tmp_path: Path
):
    """The one CPU is the worker's, and every kind of text is read, made and tokenised beside it."""
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(f'{{"text": "{text}", "label": "w{i % 2}"}}\n' for i, text in enumerate(tiny_texts)))
    command = [sys.executable, "-c", ON_ONE_CPU, str(tiny_causal_model), str(corpus), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == ["texts True", "windows True", "icl True"], done.stderr[-2000:]
