"""Commands on a cluster of four nodes while workers, nodes, drivers and the head are killed, stopped and drained."""

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors import safe_open

from tests.chaos import PATIENCE_S, Cluster, Node, log_of, start

NODES = 4
END_S = 20
"""In so many seconds a worker ends that is asked to."""
LATE_S = 15
"""On a busy machine, beside that."""
EVENTS = ("kill a worker", "stop a worker", "stop a node", "drain a node", "kill a node", "kill the driver", "lose all")
COMMAND_S = 1800


@contextmanager
def four_nodes() -> Iterator["Storm"]:
    """A head that takes no work, four nodes of one CPU, and what befalls them."""
    storm = Storm()
    try:
        yield storm
    finally:
        storm.cluster.shutdown()


class Storm:
    """What happens to a cluster; each kind of it about as often as the others."""

    def __init__(self, seed: int = 7) -> None:
        self.cluster = _started()
        self.happened: Counter[str] = Counter()
        self.ended_s: list[float] = []
        """How long workers took to end that were asked to."""
        self._generator = random.Random(seed)
        self._next: list[str] = []

    def run(self, arguments: list[str], out: Path, history: "History | None" = None) -> None:
        """Have a command end well while things happen, given again where its driver is killed."""
        until = time.monotonic() + COMMAND_S
        driver = start(arguments, out, self.cluster.environment)
        try:
            pause = self._pause()
            while driver.poll() is None:
                time.sleep(0.02)
                if history is not None:
                    history.look()
                if time.monotonic() > pause:
                    event = self._draw()
                    if self._befalls(event):
                        self.happened[event] += 1
                    if event in ("kill the driver", "lose all") and driver.poll() is None:
                        driver.kill()
                        driver.wait()
                        if event == "lose all":
                            self.cluster.shutdown()
                            self.cluster = _started()
                        driver = start(arguments, out, self.cluster.environment)
                    pause = self._pause()
                assert time.monotonic() < until, log_of(out).read_text()[-3000:]
            assert driver.returncode == 0, log_of(out).read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait()

    def _pause(self) -> float:
        return time.monotonic() + self._generator.uniform(4, 12)

    def _draw(self) -> str:
        if not self._next:
            self._next = [*EVENTS]
            self._generator.shuffle(self._next)
        return self._next.pop()

    def _befalls(self, event: str) -> bool:
        """Whether there was something for it to befall."""
        if event in ("kill the driver", "lose all"):
            return True
        nodes = [node for node in self.cluster.nodes if self._workers(node)]
        if not nodes:
            return False
        node = self._generator.choice(nodes)
        with suppress(psutil.NoSuchProcess):
            worker = self._generator.choice(self._workers(node) or [psutil.Process(node.pid)])
            if event == "kill a worker":
                worker.kill()
            elif event == "stop a worker":
                self._ask(lambda: worker.send_signal(signal.SIGTERM), [worker])
        if "node" in event:
            if event == "drain a node":
                self._ask(lambda: self.cluster.drain(node), self._workers(node))
            elif event == "stop a node":
                self._ask(lambda: node.send_signal(signal.SIGTERM), self._workers(node))
                node.wait(PATIENCE_S)
            self.cluster.kill_node(node)
            self.cluster.add_node()
        return True

    def _ask(self, how, workers: list[psutil.Process]) -> None:
        how()
        asked = time.monotonic()
        _, alive = psutil.wait_procs(workers, END_S + LATE_S)
        self.ended_s.append(time.monotonic() - asked)
        assert not alive, f"workers that were asked to end are still there: {alive}"

    def _workers(self, node: Node) -> list[psutil.Process]:
        """The actors of Ray Data and Ray Tune that do our units, not Ray's own agents."""
        found: list[psutil.Process] = []
        for process in self.cluster.workers(node):
            with suppress(psutil.Error, IndexError):
                if re.match("ray::(MapWorker|ResourceTrainable)", process.cmdline()[0]):
                    found.append(process)
        return found


def _started() -> Cluster:
    cluster = Cluster("ray::")
    cluster.start_head()
    for _ in range(NODES):
        cluster.add_node()
    return cluster


class History:
    """What has been seen of the trainings below a folder, each with a state of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._saved: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self.again = 0
        """Epochs trained a second time."""

    def look(self) -> None:
        """Look at all that is not finished: no epoch before the last state seen is trained again."""
        for file in self._folder.glob("*/metrics.jsonl"):
            run = file.parent.name
            with suppress(FileNotFoundError, json.JSONDecodeError, IndexError):
                lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
                last = json.loads(lines[-1])["epoch"]
                if last < (before := self._epochs.get(run, 0)):
                    self.again += before - last
                    assert last + 1 >= self._saved.get(run, 0), f"{run} is trained again from before its state"
                self._epochs[run] = last
            if not (file.parent / "result.json").exists():
                with suppress(FileNotFoundError), safe_open(file.with_name("state.safetensors"), "pt") as state:
                    self._saved[run] = json.loads((state.metadata() or {})["training"])["epoch"]
