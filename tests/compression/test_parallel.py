"""`bae-ray compress` and `decompress` as a user runs them, on a real Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.cli import EXIT_INVALID, EXIT_SOME_FAILED
from bae_ray.compression import compress_activations, decompress_activations, model_hash, read_header
from bae_ray.compression.config import CompressConfig
from bae_ray.compression.conversions import Compression, FileSource
from bae_ray.compression.parallel import convert
from bae_ray.errors import ConversionError

Command = Callable[..., tuple[int, str, str]]
D, N = 12, 300


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(x: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, and files of activations."""
    folder = tmp_path_factory.mktemp("codec")
    save(folder / "autoencoder", x, seed=1)
    save(folder / "other", x, seed=2)
    np.save(folder / "a.npy", x.numpy())
    save_file({"h": x[:70].bfloat16()}, folder / "b.safetensors")
    return folder


def save(path: Path, x: torch.Tensor, seed: int) -> Autoencoder:
    autoencoder = build_autoencoder(BAEConfig(d_in=D, d_latent=40)).requires_grad_(False).eval()
    autoencoder.reset_parameters(torch.Generator().manual_seed(seed))
    feature_statistics(autoencoder, x).set_reference(autoencoder)
    autoencoder.save_pretrained(path)
    return autoencoder


@pytest.fixture(scope="module")
def compressed(ray_cluster: None, folder: Path) -> Path:
    """The files' containers, several parts of the first one."""
    from bae_ray.cli.verb_codec import CompressCommand, compress
    from bae_ray.compression.config import CompressConfig

    sources = (str(folder / "a.npy"), str(folder / "b.safetensors"))
    command = CompressCommand(
        compression=CompressConfig(block_rows=32, part_rows=64, gpus_per_worker=0, workers=1),
        source=sources, autoencoder=(str(folder / "autoencoder"),), out=folder / "codes",
    )  # fmt: skip
    compress(command)
    return folder / "codes"


def test_files_become_what_the_library_makes_of_them(compressed: Path, folder: Path, x: torch.Tensor) -> None:
    autoencoder = load_autoencoder(folder / "autoencoder")
    for name, matrix in (("a", x), ("b", x[:70].bfloat16())):
        expected = compress_activations(autoencoder, matrix, block_rows=32)
        assert (compressed / f"{name}.codes").read_bytes() == expected
    assert not list((compressed / ".parts").iterdir())
    receipt = json.loads((compressed / "receipts" / "a.codes.json").read_text())
    assert (receipt["rows"], receipt["bytes_before"]) == (N, 4 * N * D)


def test_parts_share_the_rates_of_the_whole_file(
    ray_cluster: None, folder: Path, tmp_path: Path, x: torch.Tensor, bae_ray: Command
) -> None:
    np.save(tmp_path / "shifted.npy", (x + 1).numpy())
    command = ("compress", "--source", tmp_path / "shifted.npy", "--autoencoder", folder / "autoencoder", "--out",
               tmp_path / "codes", "--block-rows", 32, "--part-rows", 64, "--workers", 1, "--prior")  # fmt: skip
    assert bae_ray(*command, "data")[0] == 0
    autoencoder = load_autoencoder(folder / "autoencoder")
    expected = compress_activations(autoencoder, x + 1, prior="data", block_rows=32)
    assert (tmp_path / "codes" / "shifted.codes.safetensors").read_bytes() == expected
    assert expected != compress_activations(autoencoder, x + 1, block_rows=32)
    assert bae_ray(*command, "data")[0] == 0, "done again it is the same"
    code, _, complaint = bae_ray(*command, "encoder")
    assert code == EXIT_INVALID
    assert "of other input or options" in complaint


def test_done_again_it_only_prints_the_table(compressed: Path, folder: Path, bae_ray: Command) -> None:
    before = {file: file.stat().st_mtime_ns for file in compressed.glob("*.codes")}
    again = ("compress", "--source", folder / "a.npy", folder / "b.safetensors", "--autoencoder",
             folder / "autoencoder", "--out", compressed, "--block-rows", 32, "--part-rows", 64)  # fmt: skip
    code, printed, _ = bae_ray(*again)
    assert code == 0
    assert before == {file: file.stat().st_mtime_ns for file in compressed.glob("*.codes")}
    size = (compressed / "a.codes").stat().st_size
    for shown in ("a.codes", f"{4 * N * D:,}", f"{size:,}", f"{size / (4 * N * D):.2%}"):
        assert shown in printed
    code, _, complaint = bae_ray(*again, "--scheme", "indices")
    assert code == EXIT_INVALID
    assert "already there, of other input or options" in complaint


def test_cut_off_before_the_receipt_it_goes_on(
    ray_cluster: None, folder: Path, x: torch.Tensor, tmp_path: Path, bae_ray: Command
) -> None:
    """The output and its parts are there, and no receipt: the same command finishes, another is refused."""
    out = tmp_path / "codes"
    out.mkdir()
    (out / "receipts").write_text("no folder")
    command = ("compress", "--source", folder / "b.safetensors", "--autoencoder", folder / "autoencoder", "--out", out,
               "--block-rows", 32, "--workers", 1, "--gpus-per-worker", 0)  # fmt: skip
    code, _, complaint = bae_ray(*command)
    assert code != 0
    assert "cannot be written" in complaint
    (out / "receipts").unlink()
    shutil.copytree(out / ".parts", tmp_path / "parts")
    assert bae_ray(*command)[0] == 0
    shutil.rmtree(out / "receipts")
    shutil.copytree(tmp_path / "parts", out / ".parts", dirs_exist_ok=True)
    code, _, complaint = bae_ray(*command, "--scheme", "indices")
    assert code == EXIT_INVALID
    assert "already there, of other input or options" in complaint
    for _ in range(2):
        assert bae_ray(*command)[0] == 0
        assert not list((out / ".parts").iterdir())
        expected = compress_activations(load_autoencoder(folder / "autoencoder"), x[:70].bfloat16(), block_rows=32)
        assert (out / "b.codes").read_bytes() == expected
        assert (out / "receipts" / "b.codes.json").exists()
        shutil.copytree(tmp_path / "parts", out / ".parts", dirs_exist_ok=True)  # as if killed while removing them


@pytest.mark.parametrize("format_", ["npy", "safetensors"])
def test_back_to_activations(
    compressed: Path, folder: Path, tmp_path: Path, bae_ray: Command, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.chdir(folder)  # relative paths hold on the workers too
    code, printed, _ = bae_ray(
        "decompress", "--source", "codes", "--autoencoder", "other", "autoencoder", "--out", tmp_path,
        "--format", format_, "--part-rows", 100, "--workers", 1, "--gpus-per-worker", 0,
    )  # fmt: skip
    assert code == 0
    assert f"a.{format_}" in printed
    autoencoder = load_autoencoder(folder / "autoencoder")
    for name in ("a", "b"):
        file = tmp_path / f"{name}.{format_}"
        found = torch.from_numpy(np.load(file)) if format_ == "npy" else load_file(file)["activations"]
        expected = decompress_activations(autoencoder, compressed / f"{name}.codes")
        torch.testing.assert_close(found, expected)


def test_cells_of_a_store_by_their_runs(ray_cluster: None, tiny_store: Path, tmp_path: Path, bae_ray: Command) -> None:
    runs = []
    for layer in (1, 2):
        arguments = ("--layer", layer, "--position", 7, "--training.epochs", 2, "--training.batch-size", 16)
        assert bae_ray("train", "--store", tiny_store, "--out", tmp_path / "runs", *arguments)[0] == 0
    runs = sorted(file.parent for file in (tmp_path / "runs").glob("*/result.json"))
    code, _, _ = bae_ray(
        "compress", "--source", tiny_store, "--autoencoder", *runs, "--out", tmp_path / "codes", "--workers", 1,
        "--gpus-per-worker", 0,
    )  # fmt: skip
    assert code == 0
    for run in runs:
        cell = json.loads((run / "run.json").read_text())["cell"]
        file = tmp_path / "codes" / run.name / f"residual/layer-0{cell['layer']}/position-00007.codes"
        matrix = ActivationStore.open(tiny_store).matrix(cell["layer"], 7)
        assert file.read_bytes() == compress_activations(load_autoencoder(run), matrix)
        assert read_header(file).model_hash == model_hash(load_autoencoder(run))


def test_what_cannot_be_compressed_is_named(
    ray_cluster: None, folder: Path, x: torch.Tensor, tmp_path: Path, bae_ray: Command
) -> None:
    """A part with NaN fails by its rows; the others are kept, and the other file is finished."""
    bad = x.clone()
    bad[200, 3] = float("nan")
    np.save(tmp_path / "bad.npy", bad.numpy())
    code, _, complaint = bae_ray(
        "compress", "--source", tmp_path / "bad.npy", folder / "b.safetensors", "--autoencoder", folder / "autoencoder",
        "--out", tmp_path / "codes", "--part-rows", 64, "--block-rows", 64, "--workers", 1, "--gpus-per-worker", 0,
    )  # fmt: skip
    assert code == EXIT_SOME_FAILED
    assert "1 of 7 parts were not written" in complaint
    assert "bad.codes, rows 192 to 255: x[200, 3] is nan" in complaint
    (failure,) = json.loads((tmp_path / "codes" / "failures.json").read_text())["failures"]
    reason = failure.pop("reason")
    assert failure == {"name": "bad.codes", "start": 192, "stop": 256, "traceback": ""}
    assert reason in complaint
    assert (tmp_path / "codes" / "b.codes").exists()
    assert not (tmp_path / "codes" / "bad.codes").exists()
    assert len([part for part in (tmp_path / "codes" / ".parts").glob("*/0*") if part.is_file()]) == 4


def test_a_part_that_fails_unexpectedly_keeps_its_traceback(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CompressConfig(part_rows=64, block_rows=32)
    source = FileSource(str(folder / "b.safetensors"), None)
    conversions = [Compression(source, str(folder / "autoencoder"), "b", config)]
    with monkeypatch.context() as broken:
        broken.setattr(Compression, "write_part", lambda *_: 1 // 0)
        with pytest.raises(ConversionError, match=r"2 of 2 parts were not written:\n  b.codes, rows 0 to 63: ZeroDiv"):
            convert(conversions, tmp_path, config, "Compressing", executor="inline")
    failures = json.loads((tmp_path / "failures.json").read_text())["failures"]
    assert [(failure["start"], failure["stop"]) for failure in failures] == [(0, 64), (64, 70)]
    assert all(
        failure["traceback"].endswith("ZeroDivisionError: integer division or modulo by zero\n") for failure in failures
    )
    assert all("in write\n    self.conversion.write_part(" in failure["traceback"] for failure in failures)
    convert(conversions, tmp_path, config, "Compressing", executor="inline")
    assert not (tmp_path / "failures.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--source", "{f}/none.npy"], "none.npy cannot be read"),
        (["--source", "{f}/a.txt", "{f}/a.npy"], "give one store, or files only"),
        (["--source", "{f}/a.npy", "{f}/a.npy"], "would be written twice"),
        (["--source", "{f}/two.safetensors"], "holds the tensors g, h; say which one with --tensor"),
        (["--source", "{f}/two.safetensors", "--tensor", "z"], "'z' is not among them"),
        (["--source", "{f}/flat.npy"], "expected activations [n, d]"),
        (["--source", "{f}/wide.npy"], "has vectors of 13 numbers"),
        (["--source", "{f}/a.npy", "--threshold", "-0.5"], "threshold is -0.5; scheme entropy"),
        (["--source", "{f}/a.npy", "--autoencoder", "{f}/autoencoder", "{f}/other"], "files take one"),
        (["--source", "{f}/a.npy", "--autoencoder", "{f}/none"], "is not a saved autoencoder"),
        (["--source", "{f}/store"], "does not say which cell it was trained on"),
    ],
)
def test_bad_input_before_any_work(
    folder: Path, tmp_path: Path, bae_ray: Command, arguments: list[str], complaint: str
) -> None:
    save_file({"g": torch.zeros(2, D), "h": torch.zeros(2, D)}, folder / "two.safetensors")
    np.save(folder / "flat.npy", np.zeros(5, dtype=np.float32))
    np.save(folder / "wide.npy", np.zeros((5, 13), dtype=np.float32))
    given = [argument.format(f=folder) for argument in arguments]
    if "--autoencoder" not in given:
        given += ["--autoencoder", str(folder / "autoencoder")]
    code, _, printed = bae_ray("compress", *given, "--out", tmp_path / "codes")
    assert code == EXIT_INVALID
    assert complaint in printed.replace("\n", " ")
    assert not (tmp_path / "codes").exists()


def test_codes_of_another_autoencoder_are_refused(
    folder: Path, x: torch.Tensor, tmp_path: Path, bae_ray: Command
) -> None:
    file = tmp_path / "c.codes"
    file.write_bytes(compress_activations(load_autoencoder(folder / "autoencoder"), x))
    code, _, complaint = bae_ray("decompress", "--source", file, "--autoencoder", folder / "other", "--out", tmp_path)
    assert code != 0
    assert model_hash(load_autoencoder(folder / "autoencoder")) in complaint
    code, _, complaint = bae_ray("decompress", "--source", folder / "autoencoder", "--autoencoder", folder / "other",
                                 "--out", tmp_path)  # fmt: skip
    assert code == EXIT_INVALID
    assert "holds no container" in complaint


COMMAND = "import sys; from bae_ray.cli import main; sys.argv[0] = 'bae-ray'; main()"


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on(folder: Path, tmp_path: Path) -> None:
    """The driver is killed with some parts written; the same command keeps them and gives the same bytes."""
    n, part = 40_000, 500
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(3))
    np.save(tmp_path / "x.npy", x.numpy())
    arguments = [
        sys.executable, "-c", COMMAND, "compress", "--source", tmp_path / "x.npy", "--autoencoder",
        folder / "autoencoder", "--out", tmp_path / "codes", "--part-rows", str(part), "--block-rows", "250",
        "--workers", "1",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(parts_of(tmp_path)) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = parts_of(tmp_path)
    assert 3 <= len(kept) < n // part
    # What an earlier run has written is taken as it is: one part gets other rows, to be told by them.
    autoencoder = load_autoencoder(folder / "autoencoder")
    first = int(kept[0].name) * part
    x[first : first + part] *= -1
    kept[0].write_bytes(compress_activations(autoencoder, x[first : first + part], block_rows=250))
    assert subprocess.run(arguments, env=environment, check=False, capture_output=True).returncode == 0
    expected = compress_activations(autoencoder, x, block_rows=250)
    assert (tmp_path / "codes" / "x.codes").read_bytes() == expected


def parts_of(folder: Path) -> list[Path]:
    return [file for file in (folder / "codes" / ".parts").glob("*/[0-9]*") if file.is_file()]
