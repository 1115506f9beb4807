import base64
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.autoencoders.config import ARCHITECTURES
from bae_ray.errors import CheckpointError
from bae_ray.training.stack import _stacked

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Make = Callable[..., Autoencoder]


def randomized(autoencoder: Autoencoder) -> Autoencoder:
    """Every parameter and every buffer has a value that no fresh autoencoder has."""
    generator = torch.Generator().manual_seed(7)
    for tensor in autoencoder.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return autoencoder


@pytest.fixture
def folder(tmp_path: Path, random_autoencoder: Make) -> Path:
    """A saved BAE of 6 inputs and 24 latents."""
    randomized(random_autoencoder("bae")).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("architecture", "options"),
        [(architecture, {}) for architecture in ARCHITECTURES]
        + [(architecture, {"standardize": True}) for architecture in ARCHITECTURES if architecture != "bae"]
        + [(architecture, {"encoder_bias": False}) for architecture in ARCHITECTURES if architecture != "gated_sae"],
    )
    def test_what_is_saved_is_loaded(
        self, random_autoencoder: Make, architecture: str, options: dict[str, Any], tmp_path: Path
    ):
        original = randomized(random_autoencoder(architecture, **options))
        original.save_pretrained(tmp_path)
        loaded = load_autoencoder(tmp_path)
        assert type(loaded) is type(original)
        assert loaded.config == original.config
        assert not loaded.training
        expected = original.state_dict()
        assert {"W_enc", "W_dec", "b_dec", "mean", "scale", "prior"} <= expected.keys()
        assert loaded.state_dict().keys() == expected.keys()
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        x = torch.randn(20, original.d_in, generator=torch.Generator().manual_seed(1))
        assert torch.equal(loaded(x).latents, original(x).latents)
        assert torch.equal(loaded(x).x_hat, original(x).x_hat)
        assert torch.equal(loaded.magnitudes(x), original.magnitudes(x))

    @pytest.mark.parametrize(
        ("architecture", "names"),
        [
            ("transcoder", {"target_mean", "target_scale"}),
            ("batchtopk", {"threshold"}),
            ("jumprelu", {"log_threshold"}),
            ("gated_sae", {"b_gate", "b_mag", "r_mag"}),
        ],
    )
    def test_what_an_architecture_has_of_its_own_is_in_the_file(
        self, random_autoencoder: Make, architecture: str, names: set[str], tmp_path: Path
    ):
        random_autoencoder(architecture, standardize=True).save_pretrained(tmp_path)
        assert names | {"latent_mean", "latent_std"} <= load_file(tmp_path / "model.safetensors").keys()

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_a_member_of_a_stack_is_saved_alone(self, random_autoencoder: Make, architecture: str, tmp_path: Path):
        members = [random_autoencoder(architecture) for _ in range(3)]
        randomized(members[1])
        expected = copy.deepcopy(members[1]).state_dict()
        _stacked(members)
        members[1].save_pretrained(tmp_path)
        loaded = load_autoencoder(tmp_path).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
        n_bytes = 4 * sum(tensor.numel() for tensor in expected.values())
        assert n_bytes < (tmp_path / "model.safetensors").stat().st_size < n_bytes + 1500  # the header

    def test_saving_leaves_no_other_file(self, folder: Path):
        assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]

    def test_saving_again_replaces(self, folder: Path, random_autoencoder: Make):
        random_autoencoder("relu").save_pretrained(str(folder))
        assert load_autoencoder(str(folder)).config.model_dump()["architecture"] == "relu"
        assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


class TestRefusals:
    def change(self, folder: Path, **fields: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file_is_named(self, folder: Path, name: str):
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=rf"{name} is missing.*config\.json and model\.safetensors"):
            load_autoencoder(folder)

    def test_missing_folder(self, tmp_path: Path):
        with pytest.raises(CheckpointError, match="is not a saved autoencoder"):
            load_autoencoder(tmp_path / "nowhere")

    def test_a_file_in_place_of_its_folder(self, folder: Path):
        with pytest.raises(CheckpointError, match="is not a saved autoencoder"):
            load_autoencoder(folder / "model.safetensors")

    def test_weights_that_do_not_fit_are_named(self, folder: Path):
        self.change(folder, expansion=2)
        with pytest.raises(CheckpointError, match=r"W_enc: expected \(6, 12\), found \(6, 24\)"):
            load_autoencoder(folder)

    def test_absent_weights_are_named(self, folder: Path):
        tensors = load_file(folder / "model.safetensors")
        tensors["W_out"] = tensors.pop("W_dec")
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(
            CheckpointError, match=r"W_dec: expected \(24, 6\), found absent; W_out: expected absent, found \(24, 6\)"
        ):
            load_autoencoder(folder)

    def test_another_architecture_of_the_same_weights_is_named(self, folder: Path):
        (folder / "config.json").write_text('{"architecture": "transcoder", "d_in": 6}')
        with pytest.raises(CheckpointError, match=r"target_mean: expected \(6,\), found absent"):
            load_autoencoder(folder)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"colour": "red"}, "colour"),
            ({"architecture": "vae"}, "vae"),
            ({"architecture": None}, "architecture"),
            ({"d_in": -1}, "d_in"),
            ({"k": 3}, r"k is 3: Extra inputs"),  # of topk, not of bae
        ],
    )
    def test_config_that_is_not_ours_is_refused(self, folder: Path, fields: dict, message: str):
        self.change(folder, **fields)
        with pytest.raises(CheckpointError, match=message):
            load_autoencoder(folder)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [({"d_in": None}, "d_in is not set"), ({"bits_per_feature": 5}, "5 bits per feature do not divide")],
    )
    def test_config_whose_widths_do_not_go_together_is_refused(self, folder: Path, fields: dict, message: str):
        self.change(folder, **fields)
        with pytest.raises(CheckpointError, match=message):
            load_autoencoder(folder)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
    def test_damaged_config_is_refused(self, folder: Path, content: bytes):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is not the config of an autoencoder|cannot be loaded as an auto"):
            load_autoencoder(folder)

    @pytest.mark.parametrize(
        ("name", "value"), [("W_dec", float("nan")), ("b_enc", float("inf")), ("prior", float("nan"))]
    )
    def test_weights_that_are_no_numbers_are_refused(self, folder: Path, name: str, value: float):
        weights = load_file(folder / "model.safetensors")
        weights[name].view(-1)[0] = value
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"{name} in .*: expected finite floating-point numbers"):
            load_autoencoder(folder)

    def test_a_config_of_absurd_size_takes_no_memory(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "d_latent": 10**12}))
        with pytest.raises(CheckpointError, match=r"W_enc: expected \(6, 1000000000000\), found"):
            load_autoencoder(folder)

    @pytest.mark.parametrize("keep", [0, 5, 100, 1800])
    def test_damaged_weights_are_refused(self, folder: Path, keep: int):
        content = (folder / "model.safetensors").read_bytes()
        assert len(content) > 1800
        (folder / "model.safetensors").write_bytes(content[:keep])
        with pytest.raises(CheckpointError, match="cannot be loaded as an autoencoder"):
            load_autoencoder(folder)

    def test_a_pickle_is_not_read(self, folder: Path, random_autoencoder: Make):
        torch.save(random_autoencoder("bae").state_dict(), folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="cannot be loaded as an autoencoder"):
            load_autoencoder(folder)


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
            self.send_header("X-Error-Code", "RepoNotFound" if file is None else "RevisionNotFound")
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
print(json.dumps({{
    "addresses": addresses,
    "main": load("someone/bae"),
    "commit": load("someone/bae", {COMMIT!r}),
    "absent": load("someone/absent"),
    "revision": load("someone/bae", "v2"),
}}))""",
        HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_DISABLE_XET="1",
    )
    assert all(COMMIT in address for address in found["addresses"])
    card = hub.repositories["someone/bae"].pop("README.md").decode()
    assert "library_name: bae_ray" in card
    assert 'load_autoencoder("someone/bae")' in card
    assert hub.repositories == {
        "someone/bae": {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    }
    assert [(repo["organization"], repo["name"]) for repo in hub.created] == [("someone", "bae")] * 2
    assert all("private" in (repo.get("visibility"), "private" if repo.get("private") else "") for repo in hub.created)
    assert hub.tokens == {"Bearer hf_ours"}
    expected = content(load_autoencoder(folder))
    assert found["main"] == expected
    assert found["commit"] == expected
    for key, name in (("absent", "someone/absent"), ("revision", "someone/bae")):
        assert found[key].startswith(f"'{name}' is neither a folder nor"), found[key]
        assert "404" in found[key]
