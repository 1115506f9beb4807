"""Workers, a whole node and the driver are killed while a cluster extracts: the store is that of a quiet run."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from bae_ray.activations.layout import rows_file
from bae_ray.activations.store import ActivationStore
from tests.chaos import Cluster, Watch, assert_each_finished_once, finish, start, three_nodes, wreak

pytestmark = pytest.mark.slow

SEED = 3
TEXTS, TEXTS_PER_SHARD = 1000, 10
SHARDS = TEXTS // TEXTS_PER_SHARD
EVENTS = ("worker", "worker", "worker", "worker", "node", "driver", "driver")
SHARDS_BETWEEN_EVENTS = (3, 9)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with three_nodes("ray::MapWorker") as cluster:
        yield cluster


@pytest.fixture
def arguments(tiny_model: Path, tiny_texts: list[str], tmp_path: Path) -> list[str]:
    """The command without its output folder: a model, texts and shards that take half a minute on two cores."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    torch.manual_seed(0)
    LlamaModel(
        LlamaConfig(
            vocab_size=61, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64,
        )
    ).save_pretrained(model)  # fmt: skip
    words = " ".join(tiny_texts).split()
    generator = random.Random(SEED)
    corpus = tmp_path / "texts.jsonl"
    texts = [" ".join(generator.choices(words, k=generator.randint(40, 60))) for _ in range(TEXTS)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [
        "extract", "--model", str(model), "--corpus", str(corpus), "--layers", "2", "6", "--positions", "5", "last",
        "--shard-size", str(TEXTS_PER_SHARD), "--batch-size", "1", "--workers", "3", "--gpus-per-worker", "0",
        "--attempts", "20",
    ]  # fmt: skip


def test_killed_workers_node_and_driver_leave_the_store_of_a_quiet_run(
    cluster: Cluster, arguments: list[str], tmp_path: Path
):
    quiet, out = tmp_path / "quiet", tmp_path / "chaos"
    finish(start(arguments, quiet, {**os.environ, "RAY_ADDRESS": "local"}), quiet)

    generator = random.Random(SEED)
    watch = Watch(out, "receipts/*.json")
    events = list(EVENTS)
    generator.shuffle(events)
    kept = wreak(
        cluster, watch, lambda: start(arguments, out, cluster.environment), events, SHARDS_BETWEEN_EVENTS, SHARDS,
        generator,
    )  # fmt: skip

    assert_each_finished_once(watch, kept, SHARDS)
    assert_same_store(out, quiet)


def assert_same_store(out: Path, quiet: Path) -> None:
    """Same checksums, every file as recorded, each text once, and nothing else in the folder."""
    ours, theirs = ActivationStore.open(out), ActivationStore.open(quiet)
    assert ours.manifest == theirs.manifest
    ours.verify()
    text_ids: list[Any] = ours.rows["text_id"].tolist()
    assert text_ids == list(range(TEXTS))
    assert {str(f.relative_to(out)) for f in out.rglob("*")} == {str(f.relative_to(quiet)) for f in quiet.rglob("*")}
    assert all((out / rows_file(shard)).exists() for shard in range(SHARDS))
