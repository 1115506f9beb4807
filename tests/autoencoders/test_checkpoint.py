import json
from pathlib import Path

import pytest
import torch

from bae_ray.autoencoders import BAEConfig, build_autoencoder, load_autoencoder, save_autoencoder
from bae_ray.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(BAEConfig(d_in=6, expansion=3))
    autoencoder.mean.normal_()
    autoencoder.scale.fill_(2.5)
    autoencoder.prior.uniform_()
    save_autoencoder(autoencoder, tmp_path / "saved")
    return tmp_path / "saved"


def test_what_is_saved_is_loaded(folder: Path):
    torch.manual_seed(0)
    original = build_autoencoder(BAEConfig(d_in=6, expansion=3))
    loaded = load_autoencoder(folder)
    assert loaded.config == original.config
    assert torch.equal(loaded.state_dict()["W_enc"], original.state_dict()["W_enc"])
    assert loaded.scale.item() == 2.5
    assert loaded.prior.shape == (18,)
    assert loaded.prior.max() > 0
    assert not loaded.training


def test_saving_leaves_no_other_file(folder: Path):
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"is missing.*config\.json and model\.safetensors"):
        load_autoencoder(folder)


def test_weights_that_do_not_fit_are_named(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "expansion": 2}))
    with pytest.raises(CheckpointError, match=r"W_enc: expected \(6, 12\), found \(6, 18\)"):
        load_autoencoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"colour": "red"}, "colour"), ({"architecture": "vae"}, "architecture"), ({"d_in": -1}, "d_in")],
)
def test_config_that_is_not_ours_is_refused(folder: Path, change: dict, message: str):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_autoencoder(folder)


def test_damaged_weights_are_refused(folder: Path):
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_autoencoder(folder)
