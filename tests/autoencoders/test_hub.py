"""Autoencoders on the Hugging Face hub: in its cache, and on a small real server with its endpoints."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from tests.hub_server import COMMIT, Hub, serving


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


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


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
