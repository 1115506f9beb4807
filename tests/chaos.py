"""A Ray cluster of several nodes on this machine whose workers, nodes and drivers are killed by tests."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE_S = 180
NODE_STARTS = 3
"""On a busy machine a node may give up waiting for its own agent, after half a minute."""

Node = subprocess.Popen[bytes]
Receipts = dict[str, tuple[int, int]]
"""Each receipt's inode and time of change: a receipt written again has others."""
Driver = subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """Ray nodes as processes of this machine, each with an IP address of its own, in nobody else's way.

    Not `ray.cluster_utils.Cluster`, which would make itself the default address of every `ray.init` on this machine and
    reset the state of the Ray that the test session is connected to.
    """

    def __init__(self, worker: str) -> None:
        """`worker`: what the command lines of the workers hold that are to be killed."""
        self._worker = worker
        self._temporary = tempfile.mkdtemp(prefix="bae-", dir="/tmp")  # Ray's sockets need a short path
        self._port = free_port()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment |= {"RAY_ADDRESS": f"127.0.0.1:{self._port}", "RAY_AUTH_MODE": "token"}
        self._started = 0
        self._head: Node | None = None
        self.nodes: list[Node] = []

    def start_head(self, *options: str, cpus: int = 0) -> None:
        """The head, which takes no work but for `cpus`."""
        options = (*options, f"--temp-dir={self._temporary}", f"--ray-client-server-port={free_port()}")
        self._head = self._start(
            "--head", f"--num-cpus={cpus}", f"--port={self._port}", "--include-dashboard=false", *options
        )

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
        """The node's workers."""
        found: list[psutil.Process] = []
        for process in psutil.Process(node.pid).children(recursive=True):
            try:
                if self._worker in " ".join(process.cmdline()):
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

    def drain(self, node: Node) -> None:
        """Ask Ray to take the node out of use, as an autoscaler does before its machine is taken away."""
        options = [option for child in psutil.Process(node.pid).children() for option in child.cmdline()]
        (node_id,) = [option.removeprefix("--node_id=") for option in options if option.startswith("--node_id=")]
        command = [
            str(Path(sys.executable).with_name("ray")), "drain-node", f"--address=127.0.0.1:{self._port}",
            f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test",
            "--deadline-remaining-seconds=300",
        ]  # fmt: skip
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=PATIENCE_S)

    def shutdown(self) -> None:
        for node in [*self.nodes, self._head]:
            if node is not None:
                self.kill_node(node)
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextmanager
def three_nodes(worker: str) -> Iterator[Cluster]:
    """A head that takes no work, and three nodes of one CPU."""
    cluster = Cluster(worker)
    try:
        cluster.start_head()
        for _ in range(3):
            cluster.add_node()
        yield cluster
    finally:
        cluster.shutdown()


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
    try:
        assert driver.wait(timeout=PATIENCE_S) == 0, log_of(out).read_text()[-3000:]
    finally:
        driver.kill()


class Watch:
    """What has been seen of the receipts of finished work: files that match a pattern below a folder."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._folder, self._pattern = folder, pattern
        self.written: set[tuple[str, tuple[int, int]]] = set()
        """Every receipt ever seen; one that is written a second time counts twice."""

    def look(self) -> Receipts:
        receipts: Receipts = {}
        for file in self._folder.glob(self._pattern):
            stats = file.stat()
            receipts[str(file.relative_to(self._folder))] = (stats.st_ino, stats.st_mtime_ns)
        self.written |= set(receipts.items())
        return receipts

    def wait_for(self, count: int, driver: subprocess.Popen[bytes]) -> Receipts:
        """Look until there are so many receipts."""
        deadline = time.monotonic() + PATIENCE_S
        while len(receipts := self.look()) < count:
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < deadline, f"no progress beyond {len(receipts)}"
            time.sleep(0.02)
        return receipts


def wreak(
    cluster: Cluster,
    watch: Watch,
    launch: Callable[[], Driver],
    events: Sequence[str],
    pause: tuple[int, int],
    total: int,
    generator: random.Random,
) -> list[Receipts]:
    """Kill workers, nodes and the driver that `launch` starts, each after so much progress; then let it end.

    What was finished before each kill.
    """
    kept: list[Receipts] = []
    driver = launch()
    try:
        for event in events:
            watch.wait_for(len(watch.look()) + generator.randint(*pause), driver)
            time.sleep(generator.uniform(0, 0.3))
            victim = busy(cluster, generator) if event != "driver" else None
            kept.append(watch.look())
            assert len(kept[-1]) < total, f"too late to kill a {event}"
            assert driver.poll() is None
            if event == "worker":
                assert victim is not None
                generator.choice(cluster.workers(victim)).kill()
            elif event == "node":
                assert victim is not None
                cluster.kill_node(victim)
                cluster.add_node()
            else:
                driver.kill()
                driver.wait()
                driver = launch()
        watch.wait_for(total, driver)
        assert driver.wait(timeout=PATIENCE_S) == 0
    finally:
        driver.kill()
        driver.wait()
    return kept


def busy(cluster: Cluster, generator: random.Random) -> Node:
    """One of the nodes that have a worker; waits until there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while not (nodes := [node for node in cluster.nodes if cluster.workers(node)]):
        assert time.monotonic() < deadline, "no node has a worker"
        time.sleep(0.02)
    return generator.choice(nodes)


def assert_each_finished_once(watch: Watch, kept: Sequence[Receipts], total: int) -> None:
    """All work is finished, and what was finished before a kill was left alone."""
    receipts = watch.look()
    assert len(receipts) == total
    for before in kept:
        assert {name: receipts[name] for name in before} == before, "finished work was done again"
    assert len(watch.written) == total, "something was finished twice"
