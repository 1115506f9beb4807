"""docs/add-an-architecture.md, done as it stands: an architecture of another package, from its files to a table."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest

from bae_ray.autoencoders.architectures import ARCHITECTURES, Architecture, find_architecture, register
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.errors import InvalidInputError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-an-architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
SMALL = ["--training.epochs", "3", "--training.batch-size", "32"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, as installed: where pip would put them, with the entry points of pyproject.toml."""
    folder = tmp_path_factory.mktemp("site")
    for _, block in BLOCKS:
        if named := re.match(r"# (\S+\.(?:py|toml))\n", block):
            file = folder / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_the_page_adds_an_architecture(package: Path, tiny_store: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), str(ROOT)])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "store").symlink_to(tiny_store)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (commands,) = [block for language, block in BLOCKS if language == "bash"]
    sweep, train = [shlex.split(line) for line in commands.splitlines()]
    cells = ["--layers", "1", "--positions", "2", "--gpus-per-trial", "0", "--packed", "1"]
    assert "2 runs trained, 0 failed." in run("-m", "bae_ray", *sweep[1:], *cells, *SMALL)
    train = [{"10": "1", "16": "2"}.get(word, word) for word in train]
    assert "held-out texts" in run("-m", "bae_ray", *train[1:], *SMALL)
    assert "--autoencoder.k INT" in run("-m", "bae_ray", *train[1:], "--help")
    use = BLOCKS[-1][1] + "print(autoencoder, autoencoder.architecture.label, len(table), sep='|')"
    described, label, runs = run("-c", use).strip().split("|")
    assert described.startswith("AbsTopKAutoencoder(abs_topk, d_in=16, ")
    assert (label, runs) == ("Absolute top-k SAE", "3")


def test_an_architecture_that_is_not_installed_is_not_known(tmp_path: Path, bae_ray: Any):
    code, _, err = bae_ray(
        "train", "--store", tmp_path, "--out", tmp_path, "--layer", 1, "--position", 2,
        "--autoencoder.architecture", "abs_topk",
    )  # fmt: skip
    assert code == 2
    assert "architecture 'abs_topk' is not known; expected one of bae, relu, topk" in err


class OtherConfig(ArchitectureConfig):
    """Options of another architecture of a name that is taken."""

    architecture: Literal["topk"] = "topk"


def test_a_name_has_one_architecture():
    register(find_architecture("topk"))  # again
    other = Architecture(config=OtherConfig, autoencoder="other:Other", label="Other")
    with pytest.raises(InvalidInputError, match="an architecture 'topk' already"):
        register(other)
    assert ARCHITECTURES["topk"] is find_architecture("topk")


def test_the_table_of_the_page_has_every_field():
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.split("## 2.")[0], re.MULTILINE)
    assert listed == list(Architecture.__dataclass_fields__)
