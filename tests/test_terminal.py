"""What a user sees: commands at a real terminal, each a process of its own, and what objects say of themselves."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bae_ray import ActivationStore, load_autoencoder, train, train_many
from bae_ray.autoencoders import BAEConfig, TopKConfig
from bae_ray.training.config import TrainingConfig

OURS = re.compile(
    r"^(Plan: |Sweep: |Tokenising |Extracting |Training |\d+ cells of |\d+ runs (?:trained|did not converge; )"
    r"|/|table |picture |page |matched |Paper: |[│┃┏┗┡└┌├╇━ ]|Entropy in bits|training / held-out"
    r"|[*!#~?]  \d+ of \d+ runs: |Entropy of held-out texts|in bits, with|interval|Tree bits|text takes|95 % interval)"
)


def at_a_terminal(*command: object) -> tuple[int, list[str]]:
    """Exit code and lines of a process whose output is a terminal; of a line that was drawn anew the last state."""
    import ray

    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "COLUMNS": "150",
        "TERM": "xterm",
    }
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "bae-ray"), *map(str, command)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        output += block
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
    return process.wait(60), [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_terminal_shows_what_is_for_the_user_alone(tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    small = ["--seeds", 0, 1, "--training.epochs", 3, "--training.batch-size", 32]
    for command in (
        ["extract", "--model", tiny_model, "--corpus", tiny_corpus, "--layers", 1, "--positions", 2, "--out",
         tmp_path / "store", "--gpus-per-worker", 0],
        ["sweep", "--store", tmp_path / "store", "--out", tmp_path / "runs", "--gpus-per-trial", 0, *small],
        ["report", "--runs", tmp_path / "runs", "--out", tmp_path / "report"],
    ):  # fmt: skip
        code, lines = at_a_terminal(*command)
        assert code == 0, lines
        assert lines
        assert [line for line in lines if not OURS.match(line)] == []


def test_trainings_show_their_progress_where_somebody_looks(capsys: pytest.CaptureFixture[str]):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    settings = TrainingConfig(epochs=3, batch_size=16)
    members = [(BAEConfig(), settings), (TopKConfig(k=2), settings)]
    train_many(x, members)
    assert capsys.readouterr().err == "", "a file is no terminal"
    train_many(x, members, progress=True)
    assert "Training: 3/3 epochs" in capsys.readouterr().err
    train(x, BAEConfig(), settings, progress=True)
    assert "Training: 3/3 epochs" in capsys.readouterr().err


def test_objects_say_what_they_are(tiny_store: Path, tmp_path: Path):
    shown = repr(ActivationStore.open(tiny_store))
    assert f"ActivationStore({tiny_store}: " in shown
    assert "8 cells of n = " in shown
    assert "d = 16 in float32" in shown
    trained = train(torch.randn(64, 8), BAEConfig(expansion=2), TrainingConfig(epochs=1, batch_size=16)).autoencoder
    assert repr(trained) == "BinaryAutoencoder(bae, d_in=8, d_latent=16)"
    trained.save_pretrained(tmp_path / "0123456789abcdef")
    loaded = load_autoencoder(tmp_path / "0123456789abcdef")
    assert repr(loaded) == "BinaryAutoencoder(bae, d_in=8, d_latent=16, 0123456789abcdef)"
