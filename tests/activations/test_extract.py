import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract, most_vectors
from bae_ray.activations.layout import Failure
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import (
    ExtractionError,
    ForeignStoreError,
    IncompleteStoreError,
    InvalidInputError,
    NotEnoughDiskError,
    NoTextLongEnoughError,
)
from bae_ray.storage import Folder, folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.receipts import write_failures

pytestmark = pytest.mark.usefixtures("ray_cluster")


ATTEMPTS = 3


def changed(config: ExtractConfig, **changes) -> ExtractConfig:
    return ExtractConfig.model_validate({**config.model_dump(), **changes})


def receipts(store: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (store / "receipts").iterdir()}


def test_store_from_before_models_were_tried_says_so(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    extract(tiny_config, out)
    assert "models were tried" not in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({name: manifest[name] for name in manifest if name != "probe"}))
    store = extract(tiny_config, out)
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "was made before models were tried" in said
    assert "extract --check tries the model now" in said
    assert "delete the store to extract anew" in said
    assert store.manifest.probe is None, "it is used as it is"


def test_every_vector_is_that_of_transformers(tiny_store: Path, tiny_model: Path):
    """One unbatched forward pass per text as the oracle, for each cell and row of a store of several shards."""
    store = ActivationStore.open(tiny_store)
    model = AutoModel.from_pretrained(tiny_model)
    for row, ids in enumerate(store.rows["token_ids"]):
        with torch.no_grad():
            hidden = model(torch.tensor([ids.tolist()]), output_hidden_states=True).hidden_states
        for cell in store.cells:
            ours = store.matrix(cell.layer, cell.position)[row]
            torch.testing.assert_close(ours, hidden[cell.layer][0, cell.position], rtol=0, atol=1e-5)


def test_finished_shards_are_not_computed_again(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Of a store that was finished without a shard that failed, only that one is."""
    path = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    whole = ActivationStore.open(tiny_store).manifest
    failed = Failure(shard=1, texts=40, first_text_id=0, last_text_id=9, reason="its worker died 3 times")
    others = tuple(shard for shard in whole.shards if shard.shard != 1)
    StoreWriter(folder_at(path)).finish(whole.model_copy(update={"shards": others, "failed": (failed,)}))
    write_failures(folder_at(path), [failed])
    (path / "receipts" / "00001.json").unlink()
    before = receipts(path)
    store = extract(tiny_config, path)
    index = StoreWriter(folder_at(path)).index()
    assert index is not None
    plan = rf"Plan: about \d+ s for {index.shards[1].tokens} tokens, at \d+ tokens/s measured on one of 1 workers\."
    assert re.search(plan, capsys.readouterr().err), "the time is told of what is left, however little"
    after = receipts(path)
    assert {name for name in after if after[name] != before.get(name)} == {"00001.json"}
    assert store.manifest == whole
    assert not (path / "failures.json").exists()
    store.verify()


def test_workers_and_fractional_gpus_change_nothing(tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path):
    store = extract(changed(tiny_config, workers=3, gpus_per_worker=0.5, batch_tokens=16_384), tmp_path / "store")
    assert store.manifest == ActivationStore.open(tiny_store).manifest


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_store(tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path, dtype: str):
    store = extract(changed(tiny_config, dtype=dtype, layers=(2,)), tmp_path / "store", "inline")
    assert store.matrix(2, 7).dtype == getattr(torch, dtype)
    full = ActivationStore.open(tiny_store).matrix(2, 7)
    torch.testing.assert_close(store.matrix(2, 7).float(), full, rtol=0.05, atol=0.05)


def test_store_of_another_run_is_never_touched(tiny_config: ExtractConfig, tiny_store: Path):
    before = receipts(tiny_store)
    with pytest.raises(ForeignStoreError, match=r"holds the store of a different run: .*positions is \[2, 7\] there"):
        extract(changed(tiny_config, positions=(2,)), tiny_store)
    assert receipts(tiny_store) == before


@pytest.fixture
def nan_config(tiny_config: ExtractConfig, tiny_model: Path, tiny_texts: list[str], tmp_path: Path) -> ExtractConfig:
    """A model that gives NaN for a word which only the text 90 has, at position 2; four shards."""
    broken = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights = load_file(broken / "model.safetensors")
    weights["embed_tokens.weight"][18] = float("nan")  # the word w17
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    texts = [f"{text} w1 w2 w3 w4 w5 w6 w7 w8".replace("w17", "w18") for text in tiny_texts[:160]]
    texts[90] = "w1 w1 w17 w1 w1 w1 w1 w1"
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return changed(tiny_config, model=str(broken), corpus=str(corpus), positions=(2, 7), layers=(0,), shard_size=40)


def test_shard_that_fails_for_good_is_named_and_the_store_finished_without_it(
    nan_config: ExtractConfig, tmp_path: Path, bae_ray: Callable[..., tuple[int, str, str]]
):
    path = tmp_path / "store"
    said = (
        r"shard 2 \(40 texts, rows/00002\.parquet, text_id 80 to 119\): ExtractionError: 16 NaN or infinite numbers in "
        r"layer 0, residual, position 2, first in text 90 "
    )
    with pytest.raises(ExtractionError, match=rf"1 of 4 shards were not written:\n  {said}") as error:
        extract(nan_config, path)
    assert "--finish-without-failed" in str(error.value)
    (failure,) = json.loads((path / "failures.json").read_text())["failures"]
    assert (failure["shard"], failure["first_text_id"], failure["last_text_id"]) == (2, 80, 119)
    with pytest.raises(IncompleteStoreError):
        ActivationStore.open(path)

    before = receipts(path)
    extract(changed(nan_config, finish_without_failed=True), path)
    assert receipts(path) == before
    store = ActivationStore.open(path)
    store.verify()
    assert [shard.shard for shard in store.manifest.shards] == [0, 1, 3]
    assert re.match(said, str(store.manifest.failed[0]))
    assert store.rows["text_id"].tolist() == [*range(80), *range(120, 160)]
    assert store.manifest.n == store.manifest.texts == len(store.matrix(0, 7)) == 120
    assert store.manifest.tokens == store.rows["token_ids"].map(len).sum()
    model = AutoModel.from_pretrained(nan_config.model)
    last = store.rows["token_ids"].iloc[-1][7]
    assert torch.equal(store.matrix(0, 7)[-1], model.get_input_embeddings().weight[last].detach())
    code, out, _ = bae_ray("store", "info", "--store", path)
    assert code == 0
    assert "shard 2 (40 texts" in out


def test_disk_too_small_is_said_before_anything_is_written(tiny_config: ExtractConfig, tmp_path: Path):
    with pytest.raises(NotEnoughDiskError, match=r"needs .* GB more, but .* free\. Make room .* or use fewer texts"):
        extract(changed(tiny_config, max_texts=10**14), tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "most"),
    [
        ({"max_texts": 50, "positions": (1, 2)}, 50),
        ({"max_texts": None, "positions": (1, 2)}, None),
        ({"max_texts": 50}, None),
        ({"max_texts": 50, "tokens": {"max_vectors": 10**6}}, None),
        ({"max_texts": None, "tokens": {"max_vectors": 10**6}}, 10**6),
        ({"max_texts": 50, "tokens": {"max_vectors": 10**6, "per_text": 8}}, 400),
        ({"max_texts": 50, "tokens": {"max_vectors": 300, "per_text": 8}}, 300),
        ({"max_texts": 50, "input": {"kind": "windows", "length": 20}}, 1000),
        ({"max_texts": 50, "input": {"kind": "random_tokens", "bits": 5}, "tokens": {"per_text": 8}}, 250),
    ],
)
def test_disk_is_asked_for_no_more_than_the_limits_allow(tiny_config: ExtractConfig, change: dict, most: int | None):
    """A text has at least one token, and nobody knows how many before it is read."""
    assert most_vectors(changed(tiny_config, **{"positions": ("all",), **change})) == most


def test_rows_are_kept_where_the_disk_turns_out_too_small(
    tiny_config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of all tokens, how many are known once the texts are read; then they are not read again."""
    config = changed(tiny_config, positions=("all",), layers=(0,))
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "free_bytes", lambda _folder: 1000)
        with pytest.raises(NotEnoughDiskError, match="Make room and run the same command again"):
            extract(config, tmp_path / "store")
    rows = {file: file.stat().st_mtime_ns for file in (tmp_path / "store" / "rows").iterdir()}
    assert len(rows) == 5
    extract(config, tmp_path / "store").verify()
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "store" / "rows").iterdir()} == rows


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": (0, 4)}, InvalidInputError, "layer 4 is out of range"),
        ({"positions": (64,)}, InvalidInputError, "position 64 is out of range"),
        ({"positions": (60,)}, NoTextLongEnoughError, "the longest of 200 texts has 24"),
    ],
)
def test_bad_requests(tiny_config: ExtractConfig, tmp_path: Path, change: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        extract(changed(tiny_config, **change), tmp_path / "store", "inline")


def test_bad_positions_leave_the_folder_free(tiny_config: ExtractConfig, tmp_path: Path):
    with pytest.raises(NoTextLongEnoughError):
        extract(changed(tiny_config, positions=(60,)), tmp_path / "store", "inline")
    assert not (tmp_path / "store").exists()
    assert extract(changed(tiny_config, layers=(0,)), tmp_path / "store", "inline").manifest.n > 0


def test_store_does_not_depend_on_how_the_paths_are_written(
    tiny_config: ExtractConfig, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(tiny_config.model).parent)
    relative = changed(tiny_config, model=Path(tiny_config.model).name)
    assert extract(relative, tiny_store).manifest.n > 0


@pytest.mark.gpu
def test_extraction_on_a_gpu(tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path):
    store = extract(changed(tiny_config, gpus_per_worker=1), tmp_path / "store")
    for cell in store.cells:
        on_cpu = ActivationStore.open(tiny_store).matrix(cell.layer, cell.position)
        torch.testing.assert_close(store.matrix(cell.layer, cell.position), on_cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_shard_that_kills_its_worker_is_given_up_and_the_others_kept(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path
):
    """Shard 1 is made to take long, and whichever worker is at it is killed, each time."""
    path = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    (path / "manifest.json").unlink()
    shutil.rmtree(path / "receipts")
    rows, writer = path / "rows" / "00001.parquet", StoreWriter(folder_at(path))
    content, index = rows.read_bytes(), writer.index()
    assert index is not None
    long = writer.write_rows(1, pa.concat_tables([pq.read_table(rows)] * 10_000), 1, 1)
    writer.write_index(index.model_copy(update={"shards": (index.shards[0], long, *index.shards[2:])}))
    kills: list[int] = []
    stopped = threading.Event()

    def kill_whoever_tries() -> None:
        while not stopped.wait(0.05):
            attempt = path / "attempts" / "00001"
            if attempt.exists() and int(attempt.read_text()) == len(kills) + 1 and len(kills) < ATTEMPTS:
                for process in psutil.Process().children(recursive=True):
                    if "MapWorker" in " ".join(process.cmdline()):
                        process.kill()
                kills.append(len(kills))

    killer = threading.Thread(target=kill_whoever_tries)
    killer.start()
    try:
        with pytest.raises(
            ExtractionError,
            match=r"1 of \d shards were not written:\s+shard 1 \(\d+ texts, .*\): its worker died 3 times",
        ):
            extract(tiny_config, path)
    finally:
        stopped.set()
        killer.join()
    assert len(kills) == ATTEMPTS
    n_shards = len(ActivationStore.open(tiny_store).manifest.shards)
    assert len(receipts(path)) == n_shards - 1

    rows.write_bytes(content)
    writer.write_index(index)
    assert extract(tiny_config, path).manifest == ActivationStore.open(tiny_store).manifest


@pytest.mark.slow
def test_run_whose_workers_keep_dying_while_they_load_the_model_ends(
    tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path
):
    """Of such workers only what they leave is there, from when the run has forgotten those of the run before."""
    path = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    (path / "manifest.json").unlink()
    (path / "receipts" / "00001.json").unlink()
    attempts = Attempts(folder_at(path), ATTEMPTS)
    attempts.begin("00001")
    stopped = threading.Event()

    def leave_starts() -> None:
        while (path / "attempts").exists():
            if stopped.wait(0.002):
                return
        for _ in range(ATTEMPTS):
            attempts.begin_start()

    leaver = threading.Thread(target=leave_starts)
    leaver.start()
    try:
        with pytest.raises(ExtractionError, match=r"3 workers died while they loaded the model"):
            extract(tiny_config, path)
    finally:
        stopped.set()
        leaver.join()
    assert extract(tiny_config, path).manifest == ActivationStore.open(tiny_store).manifest
