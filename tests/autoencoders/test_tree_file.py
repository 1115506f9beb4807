"""The file of a tree: what was written is read, and nothing else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.tree_file import load_tree, save_tree
from bae_ray.errors import CheckpointError
from tests.autoencoders.known_codes import drawn, fitted, random_tree


@pytest.fixture
def tree() -> ChowLiuTree:
    return fitted(drawn(300, *random_tree(12, 0), 1))


def test_a_tree_comes_back(tree: ChowLiuTree, tmp_path: Path):
    save_tree(tree, tmp_path / "t.safetensors", "abc")
    for name in (None, "abc"):
        found = load_tree(tmp_path / "t.safetensors", name)
        assert torch.equal(found.parent, tree.parent)
        assert torch.equal(found.fired, tree.fired)
        assert (found.n, found.entropy_bits) == (300, tree.entropy_bits)
    with pytest.raises(
        CheckpointError, match=r"of the autoencoder abc; this one is xyz\. Restore the file, or remove it"
    ):
        load_tree(tmp_path / "t.safetensors", "xyz")


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
