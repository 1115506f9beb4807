import struct
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.pack_trainer import PackTrainer
from bae_ray.training.packing import pack
from bae_ray.training.run_folder import read_result
from bae_ray.training.sweep_config import ExecutionConfig, SweepConfig
from bae_ray.training.trackers import check_trackers


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name in the event files of a folder: length, its checksum, the event, its checksum."""
    found: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for file in folder.iterdir():
        content, start = file.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
            start += 16 + length
    return found


def test_metrics_and_measures_of_every_run_go_to_tensorboard(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    config = SweepConfig(
        layers=(1,), positions=(2,), training=TrainingConfig(epochs=3, batch_size=32),
        axes=("training.entropy_weight=0,1e-3",),
    )  # fmt: skip
    runs = expand(config, store)
    trainer = PackTrainer("cpu", store.folder, tmp_path, config)
    (together,) = pack(runs, 8)
    assert trainer(together) == 2
    for run in runs:
        found = scalars(tmp_path / "tensorboard" / run.id)
        assert [value for _, value in found["epoch"]] == [1, 2, 3]
        steps = [step for step, _ in found["loss"]]
        assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
        assert {"reconstruction", "entropy", "covariance", "entropy_weight"} <= found.keys()
        result = read_result(tmp_path, run)
        assert found["result/entropy_bits"][0][1] == pytest.approx(result.entropy_bits)


def test_no_training_is_lost_for_a_tracker_that_fails(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = ActivationStore.open(tiny_store)
    config = SweepConfig(layers=(1,), positions=(2,), training=TrainingConfig(epochs=2, batch_size=32))
    (tmp_path / "tensorboard").write_text("no folder")
    (together,) = pack(expand(config, store), 8)
    assert PackTrainer("cpu", store.folder, tmp_path, config)(together) == 1
    assert "warning: nothing more is logged to TensorBoard from here:" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_missing_package_is_said_before_anything_is_trained(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidInputError, match=f"{package} is here, but the package is not installed"):
        check_trackers(ExecutionConfig.model_validate({package: "here"}))
