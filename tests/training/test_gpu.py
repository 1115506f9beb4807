"""What runs differently on a GPU gives the numbers of the CPU, to the precision asked for."""

import gc
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig, BAEConfig, BatchTopKConfig, JumpReLUConfig, ReLUConfig
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.autoencoders.covariance import covariance_penalty
from bae_ray.errors import TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.dry_run import dry_run
from bae_ray.training.grid import expand
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.pack_plan import measure_sizes
from bae_ray.training.pack_size import chosen
from bae_ray.training.planned_store import planned_store
from bae_ray.training.resident import STEPS_BEFORE, ResidentSteps
from bae_ray.training.samples import Batches
from bae_ray.training.stack import Stack
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.together import TrainingData, train_together
from bae_ray.training.trainer import Trained, train, train_many

pytestmark = pytest.mark.gpu

TRAINING = TrainingConfig(epochs=6, batch_size=64, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)
X = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) * 30 + 500


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", [None, "float", "bfloat16"])
@pytest.mark.parametrize("working_set", [None, 1 << 14])
def test_covariance_penalty(precision, working_set, autocast: bool):
    code = (torch.rand(600, 300, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    on_cpu, on_gpu = code.clone().requires_grad_(), code.cuda().requires_grad_()
    expected = covariance_penalty(on_cpu, "float")
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = covariance_penalty(on_gpu, precision, working_set)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (wanted,) = torch.autograd.grad(expected, on_cpu)
    (ours,) = torch.autograd.grad(found, on_gpu)
    torch.testing.assert_close(ours.cpu(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("architecture", [BAEConfig(), ReLUConfig(), BatchTopKConfig(k=5), JumpReLUConfig()])
def test_training(architecture: ArchitectureConfig, precision: str):
    settings = TRAINING.model_copy(update={"precision": precision})
    trained = train(X, architecture, settings, device="cuda")
    assert trained.autoencoder.W_enc.is_cuda
    assert trained.val.fvu == pytest.approx(train(X, architecture, TRAINING).val.fvu, rel=0.1)


def test_from_disk_with_members_revival_early_stop_and_resume(tmp_path: Path):
    members = [
        (BAEConfig(), TRAINING.model_copy(update={"revive_every": 2, "grad_clip": 1.0})),
        (BAEConfig(), TRAINING.model_copy(update={"patience": 2, "decoder_norm": "unit"})),
        (ReLUConfig(standardize=True), TRAINING),
    ]
    state = tmp_path / "state.safetensors"

    class KilledError(Exception):
        pass

    def kill(member: int, lines: list) -> None:
        if member == 2 and lines[0].epoch == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_many(Rows([X[:200], X[200:]]), members, "cuda", kill, checkpoint=state, placement="disk")
    assert state.exists()
    resumed = train_many(Rows([X[:200], X[200:]]), members, "cuda", checkpoint=state, placement="disk")
    whole = train_many(X.cuda(), members, "cuda")
    for ours, theirs in zip(resumed, whole, strict=True):
        assert not isinstance(ours, TrainingError)
        assert not isinstance(theirs, TrainingError)
        assert ours.all.fvu == pytest.approx(theirs.all.fvu, rel=1e-2)
        assert ours.autoencoder.magnitudes(X.cuda()).isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, within torch.compile
def test_compiled():
    compiled = train(X, BAEConfig(), TRAINING.model_copy(update={"compile": True}), device="cuda")
    assert compiled.val.fvu == pytest.approx(train(X, BAEConfig(), TRAINING).val.fvu, rel=0.1)


@contextmanager
def no_waiting() -> Iterator[None]:
    """What waits for the device raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def config_of(architecture: str) -> ArchitectureConfig:
    return ARCHITECTURES[architecture].config.model_validate({"d_in": 16})


def resident(architecture: ArchitectureConfig, trainings: list[TrainingConfig], capture: bool) -> tuple[Stack, Any]:
    """A stack, and the steps of an epoch of ten on it."""
    device = torch.device("cuda")
    stack = Stack(architecture, trainings, device, 10)
    target = Rows([X[:64].flip(0)]) if architecture.architecture == "transcoder" else None  # pyright: ignore[reportAttributeAccessIssue]
    data = Batches(Rows([X[:64]]), target, lambda x: x / 100, lambda y: y / 100, device)
    records = torch.zeros(10, 1 + len(stack.names), len(trainings), device=device)
    steps = ResidentSteps([stack], data, 64, [records], capture)
    order = torch.arange(64).repeat(10)
    return stack, steps.run(order, 0, 0, [stack.weights(6)], [stack.active(6)])


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_step_waits(architecture: str, precision: str, capture: bool, capfd: pytest.CaptureFixture[str]):
    one = TRAINING.model_copy(update={"precision": precision, "grad_clip": 1.0})
    other = one.model_copy(update={"lr": 1e-3, "decoder_norm": "unit"})
    _, steps = resident(config_of(architecture), [one, one, other], capture)
    next(steps)  # which fills the inputs and compiles kernels
    with no_waiting():
        for _ in range(STEPS_BEFORE - 1):
            next(steps)
    next(steps)  # captured
    with no_waiting():
        for _ in steps:
            pass
    assert "not captured" not in capfd.readouterr().err


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_of_the_weights_in_bf16_are_casts_of_them(architecture: str, capture: bool):
    """Ten steps, in half of which the graph is replayed; weights that are saved stay in float32."""
    one = TRAINING.model_copy(update={"precision": "bf16"})
    members = [one, one.model_copy(update={"lr": 1e-3, "decoder_norm": "unit"})]
    (ours, steps), (cast, other_steps) = (resident(config_of(architecture), members, c) for c in (capture, False))
    assert vars(ours)["_half"] is not None
    vars(cast)["_half"] = None
    for some in (steps, other_steps):
        for _ in some:
            pass
    expected = cast.state()
    for name, tensor in ours.state().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)


def test_the_size_of_packs_is_measured(tmp_path: Path):
    """Small autoencoders leave most of a GPU idle, so that several together take less time each."""
    shapes = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 2, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(shapes))
    store = planned_store(ExtractConfig(model=str(tmp_path), layers=(1,), positions=(4,), max_texts=131_072))
    weights = ",".join(str(2.0**-number) for number in range(16))
    config = SweepConfig(
        axes=(f"training.entropy_weight={weights}",), autoencoder=BAEConfig(d_latent=256), packed="auto"
    )
    tried = measure_sizes(expand(config, store), store, "cuda", most=16, part=1.0)
    assert [one.size for one in tried] == [1, 2, 4, 8, 16][: len(tried)]
    assert all(one.measured and one.measured.device == "cuda" for one in tried)
    assert chosen(tried, 16).size >= 4
    plan = dry_run(config, store, tmp_path, executor="inline")
    assert plan.gpu_hours is not None
    assert plan.gpu_hours > 0
    assert "ms a step for each run" in plan.packing


LONG = TRAINING.model_copy(update={"epochs": 34, "lr": 3e-3, "entropy_warmup": 0.3, "covariance_warmup": 0.1})


def followed(members: list[Any], graph: str, **options: Any) -> tuple[list[Trained], list[list[TrainingMetrics]]]:
    lines: list[list[TrainingMetrics]] = [[] for _ in members]
    members = [(config, training.model_copy(update={"graph": graph})) for config, training in members]
    trained = train_many(X, members, "cuda", lambda i, some: lines[i].extend(some), **options)
    assert not any(isinstance(one, Exception) for one in trained), trained
    return trained, lines  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "transcoder"])
def test_captured_steps_are_the_uncaptured(architecture: str, capfd: pytest.CaptureFixture[str]):
    """204 steps, with warm-ups, revival and two optimizers, logged one by one."""
    config = ARCHITECTURES[architecture].config()
    changes: list[dict[str, Any]] = [
        {"log": "step"},
        {"revive_every": 10},
        {"lr": 1e-3, "lr_decay": 0.5, "patience": 8},
    ]
    members = [(config, LONG.model_copy(update=change)) for change in changes]
    captured, lines = followed(members, "auto")
    assert "not captured" not in capfd.readouterr().err
    uncaptured, expected = followed(members, "off")
    for ours, theirs, ends, other_ends in zip(captured, uncaptured, lines, expected, strict=True):
        assert len(ends) == len(other_ends)
        for line, other in zip(ends, other_ends, strict=True):
            assert (line.epoch, line.step, line.weights) == (other.epoch, other.step, other.weights)
            assert line.loss == pytest.approx(other.loss, rel=1e-2), (line.step, line.terms, other.terms)
        assert ours.all.fvu == pytest.approx(theirs.all.fvu, rel=1e-2)


@pytest.mark.parametrize("placement", ["device", "disk"])
def test_a_captured_training_goes_on_where_it_was_killed(placement: Any, tmp_path: Path):
    members = [(BAEConfig(), LONG), (BAEConfig(), LONG.model_copy(update={"revive_every": 4}))]
    state = tmp_path / "state.safetensors"

    class KilledError(Exception):
        pass

    def kill(member: int, lines: list) -> None:
        if member == 1 and lines[0].epoch == 20:
            raise KilledError

    whole, _ = followed(members, "auto", placement=placement)
    with pytest.raises(KilledError):
        train_many(X, members, "cuda", kill, checkpoint=state, checkpoint_every_s=0, placement=placement)
    assert state.exists()
    resumed, lines = followed(members, "auto", checkpoint=state, placement=placement)
    assert 1 < lines[0][0].epoch <= 20
    for ours, theirs in zip(resumed, whole, strict=True):
        assert ours.all.fvu == pytest.approx(theirs.all.fvu, rel=1e-2)


@pytest.mark.parametrize("placement", ["device", "disk"])
def test_several_cells_are_one_graph(placement: Any, capfd: pytest.CaptureFixture[str]):
    cells = [TrainingData(X), TrainingData(X * 30 + 500)]
    members = [(BAEConfig(), LONG), (BAEConfig(), LONG.model_copy(update={"revive_every": 4})), (BAEConfig(), LONG)]
    outcomes: dict[str, list[Any]] = {}
    for graph in ("auto", "off"):
        some = [(config, training.model_copy(update={"graph": graph})) for config, training in members]
        outcomes[graph] = train_together(cells, [1, 0, 0], some, "cuda", lambda *_: None, placement=placement)
    assert "not captured" not in capfd.readouterr().err
    alone = train(cells[1].x, *members[0], device="cuda")
    for ours, theirs in zip(*outcomes.values(), strict=True):
        assert ours.all.fvu == pytest.approx(theirs.all.fvu, rel=1e-2)
    assert outcomes["auto"][0].all.fvu == pytest.approx(alone.all.fvu, rel=1e-2)


def test_a_step_that_cannot_be_captured_is_taken_without(monkeypatch, capfd: pytest.CaptureFixture[str]):
    expected, _ = followed([(BAEConfig(), LONG)], "off")
    advance = Stack.advance

    def waits(self: Stack, *given: Any) -> torch.Tensor:
        measured = advance(self, *given)
        measured.sum().item()
        return measured

    monkeypatch.setattr(Stack, "advance", waits)
    found, _ = followed([(BAEConfig(), LONG)], "auto")
    assert "not captured as a CUDA graph" in capfd.readouterr().err
    assert found[0].all.fvu == pytest.approx(expected[0].all.fvu, rel=1e-2)


def test_the_graphs_memory_is_given_back():
    train(X, BAEConfig(), LONG, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    train(X, BAEConfig(expansion=64), LONG, device="cuda")
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + (1 << 20)
