import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.errors import CheckpointError
from bae_ray.training.stack import _stacked
from tests.autoencoders.conftest import randomized

Make = Callable[..., Autoencoder]


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
