"""Workers, a whole node and the driver are killed while a cluster extracts: the store is that of a quiet run."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from bae_ray.activations.layout import rows_file
from bae_ray.activations.store import ActivationStore

pytestmark = pytest.mark.slow

SEED = 3
TEXTS, TEXTS_PER_SHARD = 1000, 10
SHARDS = TEXTS // TEXTS_PER_SHARD
EVENTS = ("worker", "worker", "worker", "worker", "node", "driver", "driver")
SHARDS_BETWEEN_EVENTS = (3, 9)
WORKER = "ray::MapWorker"
PATIENCE_S = 180
NODE_STARTS = 3
"""On a busy machine a node may give up waiting for its own agent, after half a minute."""

Node = subprocess.Popen[bytes]
Receipts = dict[str, tuple[int, int]]
"""Each receipt's inode and time of change: a receipt written again has others."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """Ray nodes as processes of this machine, each with an IP address of its own, in nobody else's way.

    Not `ray.cluster_utils.Cluster`, which would make itself the default address of every `ray.init` on this machine and
    reset the state of the Ray that the test session is connected to.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.mkdtemp(prefix="bae-", dir="/tmp")  # Ray's sockets need a short path
        self._port = free_port()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment |= {"RAY_ADDRESS": f"127.0.0.1:{self._port}", "RAY_AUTH_MODE": "token"}
        self._started = 0
        self._head: Node | None = None
        self.nodes: list[Node] = []

    def start_head(self) -> None:
        """The head, which takes no work."""
        self._head = self._start("--head", "--num-cpus=0", f"--port={self._port}", f"--temp-dir={self._temporary}",
                                 "--include-dashboard=false", f"--ray-client-server-port={free_port()}")  # fmt: skip

    def add_node(self) -> None:
        """One more node, of one CPU."""
        self.nodes.append(self._start("--num-cpus=1", f"--address=127.0.0.1:{self._port}"))

    def _start(self, *options: str) -> Node:
        """Start a node and wait until it has joined: two that start at once choose the same names of sockets."""
        printed = ""
        for _ in range(NODE_STARTS):
            self._started += 1
            command = [
                str(Path(sys.executable).with_name("ray")), "start", "--block", *options, "--disable-usage-stats",
                f"--node-ip-address=127.0.0.{self._started}", f"--dashboard-agent-listen-port={free_port()}",
                "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000",
            ]  # fmt: skip
            log = Path(self._temporary) / f"node-{self._started}.log"
            with open(log, "wb") as stream:
                node = subprocess.Popen(command, env=self.environment, stdout=stream, stderr=stream)
            while node.poll() is None:
                printed = log.read_text()
                if "Ray runtime started" in printed:
                    return node
                time.sleep(0.1)
        raise RuntimeError(f"a node did not start:\n{printed}")

    def workers(self, node: Node) -> list[psutil.Process]:
        """The node's workers of the extraction."""
        found: list[psutil.Process] = []
        for process in psutil.Process(node.pid).children(recursive=True):
            try:
                if WORKER in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # gone, or a zombie
                continue
        return found

    def kill_node(self, node: Node) -> None:
        """All of the node's processes at once, as where its machine is gone."""
        root = [psutil.Process(node.pid)] if node.poll() is None else []
        everything = [*root, *(child for process in root for child in process.children(recursive=True))]
        for process in everything:
            try:
                process.kill()
            except psutil.NoSuchProcess:  # it went with the others
                continue
        node.wait()
        self.nodes = [other for other in self.nodes if other is not node]

    def shutdown(self) -> None:
        for node in [*self.nodes, self._head]:
            if node is not None:
                self.kill_node(node)
        shutil.rmtree(self._temporary, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that takes no work, and three nodes of one CPU."""
    cluster = Cluster()
    try:
        cluster.start_head()
        for _ in range(3):
            cluster.add_node()
        yield cluster
    finally:
        cluster.shutdown()


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


def start(arguments: list[str], out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The command as a process of its own; what it prints is added to a log beside the store."""
    with open(log_of(out), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", "from bae_ray.cli import main; main()", *arguments, "--out", str(out)],
            env={**environment, "PYTHONWARNINGS": "ignore"}, stdout=log, stderr=log,
        )  # fmt: skip


def log_of(out: Path) -> Path:
    return out.with_suffix(".log")


def finish(driver: subprocess.Popen[bytes], out: Path) -> None:
    assert driver.wait(timeout=PATIENCE_S) == 0, log_of(out).read_text()[-3000:]


class Watch:
    """What has been seen of a store's receipts."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "receipts"
        self.written: set[tuple[str, tuple[int, int]]] = set()
        """Every receipt ever seen; one that is written a second time counts twice."""

    def look(self) -> Receipts:
        receipts: Receipts = {}
        for file in self._folder.glob("*.json"):
            stats = file.stat()
            receipts[file.name] = (stats.st_ino, stats.st_mtime_ns)
        self.written |= set(receipts.items())
        return receipts

    def wait_for(self, count: int, driver: subprocess.Popen[bytes]) -> Receipts:
        """Look until there are so many receipts."""
        deadline = time.monotonic() + PATIENCE_S
        while len(receipts := self.look()) < count:
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < deadline, f"no progress beyond {len(receipts)} shards"
            time.sleep(0.02)
        return receipts


def test_killed_workers_node_and_driver_leave_the_store_of_a_quiet_run(
    cluster: Cluster, arguments: list[str], tmp_path: Path
):
    quiet, out = tmp_path / "quiet", tmp_path / "chaos"
    finish(start(arguments, quiet, {**os.environ, "RAY_ADDRESS": "local"}), quiet)

    generator = random.Random(SEED)
    watch = Watch(out)
    kept: list[Receipts] = []
    events = list(EVENTS)
    generator.shuffle(events)
    driver = start(arguments, out, cluster.environment)
    try:
        for event in events:
            watch.wait_for(len(watch.look()) + generator.randint(*SHARDS_BETWEEN_EVENTS), driver)
            time.sleep(generator.uniform(0, 0.3))
            victim = busy(cluster, generator) if event != "driver" else None
            kept.append(watch.look())
            assert len(kept[-1]) < SHARDS, f"too late to kill a {event}"
            assert driver.poll() is None
            if event == "worker":
                assert victim is not None
                generator.choice(cluster.workers(victim)).kill()
            elif event == "node":
                assert victim is not None
                cluster.kill_node(victim)
                cluster.add_node()
            else:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                driver = start(arguments, out, cluster.environment)
        watch.wait_for(SHARDS, driver)
        finish(driver, out)
    finally:
        driver.kill()
        driver.wait()

    receipts = watch.look()
    assert len(receipts) == SHARDS
    for before in kept:
        assert {name: receipts[name] for name in before} == before, "a finished shard was computed again"
    assert len(watch.written) == SHARDS, "a shard was finished twice"
    assert_same_store(out, quiet)


def busy(cluster: Cluster, generator: random.Random) -> Node:
    """One of the nodes that have a worker; waits until there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while not (nodes := [node for node in cluster.nodes if cluster.workers(node)]):
        assert time.monotonic() < deadline, "no node has a worker"
        time.sleep(0.02)
    return generator.choice(nodes)


def assert_same_store(out: Path, quiet: Path) -> None:
    """Same checksums, every file as recorded, each text once, and nothing else in the folder."""
    ours, theirs = ActivationStore.open(out), ActivationStore.open(quiet)
    assert ours.manifest == theirs.manifest
    ours.verify()
    text_ids: list[Any] = ours.rows["text_id"].tolist()
    assert text_ids == list(range(TEXTS))
    assert {str(f.relative_to(out)) for f in out.rglob("*")} == {str(f.relative_to(quiet)) for f in quiet.rglob("*")}
    assert all((out / rows_file(shard)).exists() for shard in range(SHARDS))
