"""Clients that ask a service for minutes while it is hurt, and compare every answer with the library's."""

import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from bae_ray import load_autoencoder
from bae_ray.autoencoders import Autoencoder
from tests.serving.command import Command
from tests.serving.support import KEY, D, make_encoder, make_run, until

HEADERS = {"authorization": f"Bearer {KEY}"}
HANG_S = 60
"""A request that takes longer hangs."""
TEXTS = ["w1 w2 w3", "w4", "w9 w8 w7 w6 w5"]
TOP_K = 3
ATTACKERS = 500


class Soak:
    """A registry, clients that know what is in it, and what they have seen."""

    def __init__(self, registry: Path, model: Path) -> None:
        self.registry = registry
        make_run(registry / "run", "tiny")
        make_encoder(registry / "broken", 5)
        self.versions = [make_encoder(registry.parent / f"version{i}", 10 + i) for i in range(2)]
        shutil.copytree(registry.parent / "version0", registry / "swapped")
        self.weights = (registry / "broken" / "model.safetensors").read_bytes()
        self.x = np.random.default_rng(0).normal(size=(64, D)).astype(np.float32)
        self.codes = {"run": [packed(load_autoencoder(registry / "run"), self.x)]}
        self.codes["broken"] = [packed(load_autoencoder(registry / "broken"), self.x)]
        self.codes["swapped"] = [packed(version, self.x) for version in self.versions]
        self.tokens = [features(model, load_autoencoder(registry / "run"), text) for text in TEXTS]
        self.statuses: dict[str, Counter[int]] = {name: Counter() for name in (*self.codes, "texts")}
        self.answered: dict[str, tuple[float, float]] = {}
        """When the last request of a kind that was answered was sent, and when it was answered."""
        self.unreached: list[float] = []
        self.wrong: list[str] = []
        self.slowest = 0.0
        self._stop = threading.Event()

    def ask(self, service: Command, name: str) -> int:
        """Ask once, and look at the answer; its status, or 0 where nobody took the request."""
        started = time.monotonic()
        try:
            if name == "texts":
                url, body = f"{service.url}/v1/encoders/run/texts/encode?top_k={TOP_K}", {"texts": TEXTS}
            else:
                url, body = f"{service.url}/v1/encoders/{name}/encode", {"x": self.x.tolist()}
            answer = httpx.post(url, json=body, headers=HEADERS, timeout=2 * HANG_S)
        except httpx.TransportError:
            self.unreached.append(time.monotonic())
            return 0
        seconds = time.monotonic() - started
        self.slowest = max(self.slowest, seconds)
        self.statuses[name][answer.status_code] += 1
        if seconds > HANG_S:
            self.wrong.append(f"{name} took {seconds:.0f} s: {answer.status_code} {answer.text[:200]}")
        if answer.status_code == 200:
            self.answered[name] = started, time.monotonic()
            if not self._is_right(name, answer.json()):
                self.wrong.append(f"{name}: a wrong answer {answer.text[:200]}")
        elif answer.status_code not in (429, 503) and not (answer.status_code == 404 and name == "swapped"):
            self.wrong.append(f"{name}: {answer.status_code} {answer.text[:300]}")
        return answer.status_code

    def _is_right(self, name: str, answer: dict) -> bool:
        if name != "texts":
            return answer["code"] in self.codes[name]
        for text, wanted in zip(answer["texts"], self.tokens, strict=True):
            found = [[feature["magnitude"] for feature in token["features"]] for token in text["tokens"]]
            if not np.allclose(found, wanted, atol=1e-3):
                return False
        return True

    def client(self, service: Command, names: list[str]) -> Callable[[], None]:
        """What a thread does that asks for these in turn."""

        def run() -> None:
            for name in itertools.cycle(names):
                if self._stop.is_set():
                    return
                time.sleep(0.02 if self.ask(service, name) == 200 else 0.2)

        return run

    def recovered(self, names: tuple[str, ...] = ("run", "texts"), seconds: float = 180) -> float:
        """Seconds until all of these were asked anew and answered."""
        hurt = time.monotonic()
        until(lambda: all(name in self.answered and self.answered[name][0] > hurt for name in names), seconds)
        return max(self.answered[name][1] for name in names) - hurt

    def stop(self) -> None:
        """Let the clients stop."""
        self._stop.set()


def packed(autoencoder: Autoencoder, x: np.ndarray) -> list[list[int]]:
    """Codes as the service writes them."""
    return np.packbits(autoencoder.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()


def features(model: Path, autoencoder: Autoencoder, text: str) -> list[list[float]]:
    """The largest magnitudes of each token, by transformers and the library."""
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(model)(ids, output_hidden_states=True).hidden_states[2][0]
        return autoencoder.magnitudes(hidden).topk(TOP_K).values.tolist()


def kill(service: Command, name: str) -> None:
    """Kill the processes of this name, when there are any."""
    for process in until(lambda: service.processes(name), 60):
        os.kill(process.pid, signal.SIGKILL)


def swap(soak: Soak, version: int) -> None:
    """Put another encoder in a folder's place."""
    made = soak.registry.parent / f"swap{time.monotonic_ns()}"
    shutil.copytree(soak.registry.parent / f"version{version}", made)
    (soak.registry / "swapped").rename(made.with_name(made.name + ".old"))
    made.rename(soak.registry / "swapped")


def crack(soak: Soak) -> None:
    """Cut an encoder's weights off, and put them back after a while."""
    file = soak.registry / "broken" / "model.safetensors"
    for data in (soak.weights[: len(soak.weights) // 2], soak.weights):
        new = soak.registry.parent / "new"
        new.write_bytes(data)
        new.replace(file)
        time.sleep(4)


def attack(service: Command) -> None:
    """Many bodies of which one byte comes, and as many half heads, for ten seconds."""
    with ExitStack() as stack:
        for number in range(ATTACKERS):
            with suppress(OSError):
                if number % 2:
                    stack.enter_context(service.half_sent(length=1 << 20))
                else:
                    half = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
                    half.sendall(b"POST /v1/enc")
        end = time.monotonic() + 10
        while time.monotonic() < end:
            asked = time.monotonic()
            assert httpx.get(f"{service.url}/livez", timeout=60).status_code == 200
            assert time.monotonic() - asked < 5, "/livez is answered meanwhile"
            time.sleep(0.5)


def run(soak: Soak, service: Command, seconds: float, pause: float) -> dict[str, list[float]]:
    """Hurt the service in every way in turn, for so long; seconds until it answered again, by what was done."""
    clients = [["run"], ["run", "swapped"], ["run", "broken"], ["swapped", "broken"], ["texts"], ["texts", "run"]]
    threads = [threading.Thread(target=soak.client(service, names), daemon=True) for names in clients]
    until(lambda: soak.ask(service, "texts") == 200, 120)
    versions = itertools.cycle([1, 0])
    faults: dict[str, Callable[[], None]] = {
        "encoders killed": lambda: kill(service, "ray::ServeReplica:bae_ray-encoders"),
        "encoder swapped": lambda: swap(soak, next(versions)),
        "texts killed": lambda: kill(service, "ray::ServeReplica:bae_ray-texts"),
        "slow bodies": lambda: attack(service),
        "gateway killed": lambda: kill(service, "ray::ServeReplica:bae_ray:Gateway"),
        "encoder broken": lambda: crack(soak),
        "proxy killed": lambda: kill(service, "ray::ProxyActor"),
    }
    seen: dict[str, list[float]] = {name: [] for name in faults}
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for name, hurt in itertools.cycle(faults.items()):
        time.sleep(pause)
        hurt()
        seen[name].append(soak.recovered())
        print(f"{name}: answered again after {seen[name][-1]:.1f} s", flush=True)
        if time.monotonic() > end and all(seen.values()):
            break
    soak.stop()
    for thread in threads:
        thread.join(2 * HANG_S)
        assert not thread.is_alive(), "a client hangs"
    return seen


def told(soak: Soak, seen: dict[str, list[float]], stop_s: float) -> str:
    """The figures."""
    worst = {name: round(max(times), 1) for name, times in seen.items()}
    statuses = {name: dict(counts) for name, counts in soak.statuses.items()}
    figures = {
        "faults": {name: len(times) for name, times in seen.items()},
        "slowest_recovery_s": worst,
        "statuses": statuses,
        "unreached": len(soak.unreached),
        "slowest_answer_s": round(soak.slowest, 1),
        "stop_s": round(stop_s, 1),
    }
    return json.dumps(figures)
