"""Stores on a disk that fills up or becomes read-only, and where nothing can be written."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Receipt
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import ExtractionError, InvalidInputError
from bae_ray.storage import folder_at

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def slow_config(tiny_config: ExtractConfig) -> ExtractConfig:
    """The tiny extraction in many small shards, by one worker."""
    return tiny_config.model_copy(update={"shard_size": 2, "batch_size": 1, "workers": 1})


@pytest.fixture(scope="module")
def quiet(slow_config: ExtractConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `slow_config` where nothing went wrong."""
    path = tmp_path_factory.mktemp("stores") / "quiet"
    extract(slow_config, path)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, mode: str) -> bool:
    """Whether the disk is `ro` or `rw` now; not so while a file is being written."""
    return subprocess.run(["mount", "-o", f"remount,{mode}", disk], capture_output=True, check=False).returncode == 0


def fill(disk: Path, ended: threading.Event) -> None:
    """Take all space, and what becomes free."""
    with open(disk / "filler", "wb", buffering=0) as filler:
        while not ended.is_set():
            try:
                filler.write(b"\0" * 4096)
            except OSError:
                time.sleep(0.002)


def make_read_only(disk: Path, ended: threading.Event) -> None:
    while not (ended.is_set() or remount(disk, "ro")):
        pass


def mend(disk: Path) -> None:
    assert remount(disk, "rw")
    (disk / "filler").unlink(missing_ok=True)


def receipts(store: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (store / "receipts").glob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "said"), [(fill, "No space left on device"), (make_read_only, "Read-only file sys")])
def test_disk_that_takes_no_more_in_the_middle(
    disk: Path, slow_config: ExtractConfig, quiet: Path, spoil: Callable[[Path, threading.Event], None], said: str
):
    store = disk / "store"
    ended = threading.Event()

    def spoil_after_two_shards() -> None:
        while len(receipts(store)) < 2:
            if ended.wait(0.002):
                return
        spoil(disk, ended)

    spoiler = threading.Thread(target=spoil_after_two_shards)
    spoiler.start()
    try:
        with pytest.raises(
            ExtractionError, match=rf"{store} cannot be written to any more: .*{said}.* Finished shards are kept"
        ):
            extract(slow_config, store)
    finally:
        ended.set()
        spoiler.join()
    finished = receipts(store)
    assert 2 <= len(finished) < len(receipts(quiet)), "too late to show anything"
    for name in finished:
        receipt = Receipt.model_validate_json((store / "receipts" / name).read_text())
        assert [folder_at(store).problem(file, record) for file, record in receipt.files.items()] == [None] * 9

    mend(disk)
    assert extract(slow_config, store).manifest == ActivationStore.open(quiet).manifest
    assert {name: receipts(store)[name] for name in finished} == finished, "a finished shard was computed again"
    assert not list(store.rglob("*.tmp"))


@pytest.mark.slow
def test_shard_whose_files_vanish_before_the_end_is_computed_by_the_next_run(
    slow_config: ExtractConfig, quiet: Path, tmp_path: Path
):
    store = tmp_path / "store"
    ended = threading.Event()
    vanishing = store / next(iter(ActivationStore.open(quiet).cells)).file(0)

    def remove_once_finished() -> None:
        while not (store / "receipts" / "00000.json").exists():
            if ended.wait(0.002):
                return
        vanishing.unlink()

    remover = threading.Thread(target=remove_once_finished)
    remover.start()
    try:
        with pytest.raises(ExtractionError, match=rf"files of 1 shards in {store}, such as shard 0, are gone"):
            extract(slow_config, store)
    finally:
        ended.set()
        remover.join()
    finished = receipts(store)
    assert extract(slow_config, store).manifest == ActivationStore.open(quiet).manifest
    assert [name for name, time_ in receipts(store).items() if time_ != finished[name]] == ["00000.json"]


@pytest.mark.parametrize("tried", [True, False])
def test_store_begun_on_a_disk_that_has_become_read_only(
    disk: Path, slow_config: ExtractConfig, quiet: Path, tried: bool
):
    """Nothing can be written from the first shard on, be there attempts to forget from an earlier run or not."""
    store = Path(shutil.copytree(quiet, disk / "store"))
    (store / "manifest.json").unlink()
    shutil.rmtree(store / "receipts")
    if tried:
        (store / "attempts").mkdir()
        (store / "attempts" / "00000").write_text("1")
    assert remount(disk, "ro")
    with pytest.raises(ExtractionError, match=f"{store} cannot be written to any more: .*Read-only file system"):
        extract(slow_config, store)


def file_in_its_place(disk: Path) -> Path:
    (disk / "store").write_text("not a folder")
    return disk / "store"


def below_a_file(disk: Path) -> Path:
    return file_in_its_place(disk) / "store"


def read_only(disk: Path) -> Path:
    assert remount(disk, "ro")
    return disk / "store"


@pytest.mark.parametrize("destination", [file_in_its_place, below_a_file, read_only])
def test_destination_that_cannot_be_written_is_refused_at_once(
    disk: Path, tiny_config: ExtractConfig, destination: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
):
    store = destination(disk)
    with pytest.raises(InvalidInputError, match=f"{store} cannot be written to"):
        extract(tiny_config, store)
    assert "Plan" not in capsys.readouterr().err
