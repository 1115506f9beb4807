"""Autoencoders on the Hugging Face hub: in its cache, and on a small real server with its endpoints."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bae_ray.autoencoders import Autoencoder, load_autoencoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(script: str, **environment: str) -> dict[str, Any]:
    """What a script prints as JSON, in a process whose hub is set by the environment."""
    whole = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**whole, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOAD = """
import json
from bae_ray.autoencoders import load_autoencoder
from bae_ray.errors import CheckpointError

def load(source, revision=None):
    try:
        loaded = load_autoencoder(source, revision)
    except CheckpointError as error:
        return str(error)
    return [loaded.W_enc.tolist(), loaded.prior.tolist(), loaded.config.model_dump()]
"""


def content(autoencoder: Autoencoder) -> list[Any]:
    return [autoencoder.W_enc.tolist(), autoencoder.prior.tolist(), autoencoder.config.model_dump()]


def test_an_autoencoder_in_the_hubs_cache(folder: Path, tmp_path: Path):
    """As left by an earlier download, with the hub out of reach; and one that is not there."""
    repository = tmp_path / "cache" / "models--someone--bae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (tmp_path / "cache" / "models--someone--half" / "refs").mkdir(parents=True)
    (tmp_path / "cache" / "models--someone--half" / "refs" / "main").write_text(COMMIT)
    half = tmp_path / "cache" / "models--someone--half" / "snapshots" / COMMIT
    half.mkdir(parents=True)
    shutil.copy(folder / "config.json", half)
    found = run(
        LOAD
        + f"""
print(json.dumps({{
    "main": load("someone/bae"),
    "commit": load("someone/bae", {COMMIT!r}),
    "absent": load("someone/absent"),
    "half": load("someone/half"),
    "not_an_id": load("someone/no such"),
    "one_word": load("absent"),
}}))""",
        HF_HUB_CACHE=str(tmp_path / "cache"),
        HF_HUB_OFFLINE="1",
    )
    expected = content(load_autoencoder(folder))
    assert found["main"] == expected
    assert found["commit"] == expected
    for key, name in (
        ("absent", "someone/absent"),
        ("half", "someone/half"),
        ("not_an_id", "someone/no such"),
        ("one_word", "absent"),
    ):
        start = f"'{name}' is neither a folder nor an autoencoder on the Hugging Face hub that can be reached: "
        assert found[key].startswith(start), found[key]
        assert found[key].endswith("Check the name, the connection and HF_TOKEN.")
        assert len(found[key]) > len(start) + 60


def test_a_folder_is_preferred_to_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    assert load_autoencoder("saved").d_in == 6


class Hub(ThreadingHTTPServer):
    """A hub of models on this machine, with one commit per repository: what an upload and a download ask of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
            return
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.created.append(wanted)
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            self.answer(409 if known else 200, {"url": f"{self.endpoint}/{name}", "name": name})
            return
        name, _, action = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(200, {"files": modes})
        elif action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    assert line["value"]["encoding"] == "base64"
                    self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"commitUrl": f"{self.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(404, {"error": self.path})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, _, rest = self.path[1:].partition("/resolve/")
        revision, _, path = rest.partition("/")
        file = self.server.repositories.get(name, {}).get(path)
        if file is None or revision not in ("main", COMMIT):
            self.send_response(404)
            missing = "EntryNotFound" if name in self.server.repositories else "RepoNotFound"
            self.send_header("X-Error-Code", missing if file is None else "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(file).hexdigest()}"')
        self.send_header("Content-Length", str(len(file)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(file)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_is_pushed_to_the_hub_is_loaded_from_it(hub: Hub, folder: Path, tmp_path: Path):
    found = run(
        LOAD
        + f"""
autoencoder = load_autoencoder({str(folder)!r})
addresses = [autoencoder.push_to_hub("someone/bae", private=True, token="hf_ours") for _ in range(2)]

def with_tree():
    import torch
    from bae_ray.compression import fit_tree

    autoencoder.tree = fit_tree(torch.rand(20, autoencoder.d_latent) < 0.5)
    autoencoder.push_to_hub("someone/tree", token="hf_ours")
    return load_autoencoder("someone/tree").tree.fired.tolist() == autoencoder.tree.fired.tolist()

print(json.dumps({{
    "addresses": addresses,
    "main": load("someone/bae"),
    "commit": load("someone/bae", {COMMIT!r}),
    "absent": load("someone/absent"),
    "revision": load("someone/bae", "v2"),
    "tree": [load_autoencoder("someone/bae").tree is None, with_tree()],
}}))""",
        HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_DISABLE_XET="1",
    )
    assert all(COMMIT in address for address in found["addresses"])
    card = hub.repositories["someone/bae"].pop("README.md").decode()
    assert "library_name: bae_ray" in card
    assert 'load_autoencoder("someone/bae")' in card
    assert found["tree"] == [True, True]
    assert hub.repositories.pop("someone/tree").keys() >= {"tree.safetensors", "model.safetensors"}
    assert hub.repositories == {
        "someone/bae": {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    }
    created = [("someone", "bae")] * 2 + [("someone", "tree")]
    assert [(repo["organization"], repo["name"]) for repo in hub.created] == created
    private = ["private" in (repo.get("visibility"), "private" if repo.get("private") else "") for repo in hub.created]
    assert private == [True, True, False]
    assert hub.tokens == {"Bearer hf_ours"}
    expected = content(load_autoencoder(folder))
    assert found["main"] == expected
    assert found["commit"] == expected
    for key, name in (("absent", "someone/absent"), ("revision", "someone/bae")):
        assert found[key].startswith(f"'{name}' is neither a folder nor"), found[key]
        assert "404" in found[key]
