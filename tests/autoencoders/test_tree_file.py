"""The file of a tree: what was written is read, and nothing else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bae_ray.autoencoders import BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.tree_file import load_tree, save_tree
from bae_ray.errors import CheckpointError
from tests.autoencoders.known_codes import drawn, fitted, random_tree


@pytest.fixture
def tree() -> ChowLiuTree:
    return fitted(drawn(300, *random_tree(12, 0), 1))


def test_a_tree_comes_back(tree: ChowLiuTree, tmp_path: Path):
    save_tree(tree, tmp_path / "t.safetensors", "abc")
    for names in ((), ("abc",), ("xyz", "abc")):
        found = load_tree(tmp_path / "t.safetensors", names, 12)
        assert torch.equal(found.parent, tree.parent)
        assert torch.equal(found.fired, tree.fired)
        assert (found.n, found.entropy_bits) == (300, tree.entropy_bits)
    with pytest.raises(CheckpointError, match=r"of the autoencoder abc; this is xyz\. Restore the file, or remove it"):
        load_tree(tmp_path / "t.safetensors", ["xyz"])
    with pytest.raises(CheckpointError, match="is of 12 latents; the autoencoder has 11"):
        load_tree(tmp_path / "t.safetensors", d_latent=11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_autoencoder_is_known_by_its_tree_whatever_its_type(tree: ChowLiuTree, tmp_path: Path, dtype: torch.dtype):
    made = build_autoencoder(BAEConfig(d_in=5, d_latent=12))
    made.reset_parameters(torch.Generator().manual_seed(0))
    made.to(dtype).tree = tree
    made.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert loaded.tree is not None
    assert torch.equal(loaded.tree.fired, tree.fired)
    loaded.save_pretrained(tmp_path)
    loaded.W_dec.add_(1)
    save_file(loaded.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is of the codes of the autoencoder"):
        load_autoencoder(tmp_path)
    loaded.save_pretrained(tmp_path)
    assert load_autoencoder(tmp_path).tree is not None


def test_a_file_that_is_larger_than_a_tree_is_not_read(tree: ChowLiuTree, tmp_path: Path):
    with open(tmp_path / "t.safetensors", "wb") as file:
        file.truncate(10 << 40)
    with pytest.raises(CheckpointError, match="expected at most 65776"):
        load_tree(tmp_path / "t.safetensors", d_latent=12)


def test_every_damaged_byte_and_every_cut_is_noticed(tree: ChowLiuTree, tmp_path: Path):
    file = tmp_path / "t.safetensors"
    save_tree(tree, file)
    content, refused = file.read_bytes(), 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = load_tree(file)
        except CheckpointError:
            refused += 1
        else:  # the name of a field that is not needed
            assert (found.n, found.parent.tolist(), found.fired.tolist()) == (
                tree.n,
                tree.parent.tolist(),
                tree.fired.tolist(),
            )
    assert refused > 0.9 * len(content)
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            load_tree(file)


def test_what_is_no_tree_is_named(tmp_path: Path):
    file = tmp_path / "t.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        load_tree(file)
    save_file({"parent": torch.zeros(3, dtype=torch.int32)}, file)
    with pytest.raises(CheckpointError, match="no tree of a version"):
        load_tree(file)
    circle = {"parent": torch.tensor([1, 0], dtype=torch.int32), "fired": torch.zeros(2, 2, dtype=torch.int64)}
    for tensors, n, reason in (
        (circle, "3", "in a circle"), (circle, "9" * 30, "samples"), (circle, "x", "invalid literal"),
        ({"parent": torch.zeros(2, 2)}, "3", "read as a tree"), ({**circle, "fired": torch.zeros(2, 2)}, "3", "int64"),
    ):  # fmt: skip
        save_file(tensors, file, {"format": "bae_ray.tree", "version": "1", "n": n})
        with pytest.raises(CheckpointError, match=reason):
            load_tree(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(CheckpointError, match="read as a tree"):
        load_tree(file)
