"""The sides of benchmarks/training.py that run on bae_ray's own packages: ours, a plain implementation, the floors.

Run by it in a process of its own: python benchmarks/training_sides.py '[{"side": "ours", ...}]'.
"""

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_plain import PlainBAE, plain_terms
from training_timing import Side, Spec, answer, autocast, measure, random_batch

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import (
    ArchitectureConfig,
    Autoencoder,
    BAEConfig,
    ReLUConfig,
    TopKConfig,
    build_autoencoder,
    load_autoencoder,
)
from bae_ray.errors import BaeRayError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.measuring import Trained
from bae_ray.training.resident import ResidentSteps
from bae_ray.training.samples import Batch, Batches
from bae_ray.training.stack import Stack
from bae_ray.training.trainer import train, train_many

ENTROPY_WEIGHT = COVARIANCE_WEIGHT = 1e-7
FROZEN = 1e-12
"""A learning rate that float32 weights do not move with: the share of varying latents is to stay as it was set."""
CONSTANT = 1e3
"""Bias that no pre-activation outweighs."""
K = 15
DEMO = (  # jobs/layer_position_entropy.py
    BAEConfig(expansion=2),
    TrainingConfig(epochs=60, batch_size=256, lr=3e-3, entropy_weight=2e-3, covariance_weight=1e-5),
)
LAYER, POSITION = 10, 16
ACTIVATIONS = "activations.safetensors"
MEMBERS = 4
STEPS_BETWEEN_READS = 1000
"""Of an epoch, on a GPU."""


def plain(spec: Spec) -> Side:
    """Linear layers, a dense covariance, autograd throughout, torch's default Adam."""
    start, batches = _start(spec), _batches(spec)
    model = PlainBAE(start.d_in, start.d_latent)
    with torch.no_grad():
        model.encoder.weight.copy_(start.W_enc.T)
        if start.b_enc is not None:
            model.encoder.bias.copy_(start.b_enc)
        model.decoder.weight.copy_(start.W_dec.T)
        model.decoder.bias.copy_(start.b_dec)
    del start
    model.to(spec.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=FROZEN)
    stream = itertools.cycle(batches)

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        with autocast(spec):
            terms = plain_terms(model, next(stream))
            loss = terms[0] + ENTROPY_WEIGHT * terms[1] + COVARIANCE_WEIGHT * terms[2]
        loss.backward()
        optimizer.step()
        return terms

    def facts() -> dict[str, Any]:
        with torch.no_grad(), autocast(spec):
            return {
                "terms": [float(term) for term in plain_terms(model, batches[0])],
                "found_varying": _varying([model(x)[0] for x in batches]),
            }

    return Side(step, facts)


def ours(spec: Spec) -> Side:
    """The package's own step: on a GPU, as in a training, a CUDA graph of it."""
    return _stepped(spec, spec.device == "cuda")


def uncaptured(spec: Spec) -> Side:
    """The package's own step, an operation after another."""
    return _stepped(spec, False)


def _stepped(spec: Spec, captured: bool) -> Side:
    start, batches = _start(spec), [Batch(x, x) for x in _batches(spec)]
    config: ArchitectureConfig = start.config
    training = TrainingConfig.model_validate(
        {
            "lr": FROZEN,
            "entropy_weight": ENTROPY_WEIGHT,
            "covariance_weight": COVARIANCE_WEIGHT,
            "entropy_warmup": 0,
            "l1_reduction": "mean",
            "precision": spec.precision,
        }
        | ({"decoder_norm": "unit", "grad_clip": 1.0} if spec.constrained else {})
    )
    stack = Stack(config, [training] * spec.members, torch.device(spec.device), n_steps=1_000_000)
    member = stack.members[0].autoencoder
    for one in stack.members:
        one.autoencoder.load_state_dict(start.state_dict())
    stack.refresh()
    del start
    step = _captured(stack, batches) if captured else _one_by_one(stack, batches)

    def facts() -> dict[str, Any]:
        if spec.architecture != "bae":
            return {}
        with torch.no_grad(), autocast(spec):
            codes = [member.activate(member.pre_activations(batch.x)) for batch in batches]
        return {
            "terms": stack.step(batches[0], stack.weights(1), frozenset(stack.names), 0)[1:, 0].tolist(),
            "found_varying": _varying(codes),
        }

    return Side(step, facts)


def _one_by_one(stack: Stack, batches: list[Batch]) -> Callable[[], object]:
    weights, active, stream = stack.weights(1), frozenset(stack.names), itertools.cycle(batches)
    return lambda: stack.step(next(stream), weights, active, 0)


def _captured(stack: Stack, batches: list[Batch]) -> Callable[[], object]:
    x = torch.cat([batch.x for batch in batches])
    data = Batches(Rows([x.cpu()]), None, lambda x: x, lambda y: y, stack.device, "device")
    n_steps = len(batches) * -(-STEPS_BETWEEN_READS // len(batches))
    records = torch.zeros(n_steps, 1 + len(stack.names), len(stack.members), device=stack.device)
    steps = ResidentSteps([stack], data, len(batches[0].x), [records], capture=True)
    order = torch.arange(len(x)).repeat(n_steps // len(batches))
    epochs = (steps.run(order, 0, 0, [stack.weights(1)], [frozenset(stack.names)]) for _ in itertools.count())
    stream = itertools.chain.from_iterable(epochs)
    return lambda: next(stream)


def graphed_floor(spec: Spec) -> Side:
    """The five matrix products and Adam's step of all members, as one CUDA graph."""
    products, optimizer = floor(spec), adam(spec)
    for side in (products, optimizer):
        side.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        products.step()
        optimizer.step()
    return Side(graph.replay, products.facts)


def floor(spec: Spec) -> Side:
    """The five matrix products of a step: two forward, three backward; into memory that is there already."""
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    n, d, f, m = spec.batch_size, spec.d, spec.d * spec.expansion, spec.members
    members = () if m == 1 else (m,)
    multiply = torch.mm if m == 1 else torch.bmm
    x, code, W_enc, W_dec = (
        torch.randn(*members, *shape, device=spec.device).to(dtype) for shape in ((n, d), (n, f), (d, f), (f, d))
    )
    to_latents, to_activations, to_W_enc, to_W_dec = (torch.empty_like(like) for like in (code, x, W_enc, W_dec))

    def step() -> None:
        multiply(x, W_enc, out=to_latents)
        multiply(code, W_dec, out=to_activations)
        multiply(x, W_dec.mT, out=to_latents)
        multiply(code.mT, x, out=to_W_dec)
        multiply(x.mT, code, out=to_W_enc)

    return Side(step, lambda: {"flop": 10 * m * n * d * f})


def adam(spec: Spec) -> Side:
    """The optimizer's step alone, fused, over the parameters of an autoencoder."""
    d, f = spec.d, spec.d * spec.expansion
    shapes = [(d, f), (f,), (f, d), (d,)] * spec.members
    parameters = [nn.Parameter(torch.randn(shape, device=spec.device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(parameters, lr=FROZEN, fused=True, capturable=spec.device == "cuda")
    n_bytes = 4 * sum(parameter.numel() for parameter in parameters)
    # It reads weights, gradients and both moments, and writes all but the gradients.
    return Side(optimizer.step, lambda: {"traffic_bytes": 7 * n_bytes})


def peak(spec: Spec) -> Side:
    """A matrix product large enough to keep the device at its peak."""
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    n = spec.d
    a, b, out = (torch.randn(n, n, device=spec.device).to(dtype) for _ in range(3))
    return Side(lambda: torch.mm(a, b, out=out), lambda: {"flop": 2 * n**3})


def train_on_store(spec: Spec) -> dict[str, Any]:
    """Train with the demo's settings on a cell of a store, and leave weights and activations in `spec.trained`."""
    assert spec.store is not None
    assert spec.trained is not None
    x = ActivationStore.open(spec.store).matrix(LAYER, POSITION)
    architecture, training = DEMO
    outcome = train(x, architecture, training, spec.device)
    autoencoder = outcome.autoencoder.cpu()
    autoencoder.save_pretrained(spec.trained)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batch_size = min(training.batch_size, len(x))
    save_file({"x": autoencoder.normalize(x.float())[order].contiguous()}, Path(spec.trained) / ACTIVATIONS)
    return {"s": outcome.seconds, "d": x.shape[1], "batch_size": batch_size, "expansion": architecture.expansion}


def many(spec: Spec) -> dict[str, Any]:
    """Four autoencoders trained as one against the same trained one after another."""
    x = random_batch(spec)  # `batch_size` is the number of activations here; `steps` of epochs
    members = [
        (
            BAEConfig(expansion=spec.expansion),
            TrainingConfig(epochs=spec.steps, lr=3e-3, entropy_weight=weight, covariance_weight=1e-5),
        )
        for weight in [1e-4 * 4**number for number in range(MEMBERS)]
    ]
    train_many(x, [(a, t.model_copy(update={"epochs": 1})) for a, t in members], spec.device)
    together, apart = [], []
    differences: list[float] = []
    for _ in range(MEMBERS - 1):
        started = time.perf_counter()
        stacked = train_many(x, members, spec.device)
        together.append(time.perf_counter() - started)
        started = time.perf_counter()
        alone = [train(x, architecture, training, spec.device) for architecture, training in members]
        apart.append(time.perf_counter() - started)
        differences = [_difference(one, other) for one, other in zip(stacked, alone, strict=True)]
    return {
        "together_s": statistics.median(together),
        "apart_s": statistics.median(apart),
        "members": MEMBERS,
        "largest_difference": max(differences),
    }


def flips(spec: Spec) -> dict[str, Any]:
    """Share of the bits of the code that are others than in fp32, with equal weights and activations."""
    autoencoder, batches = _start(spec).to(spec.device).eval(), _batches(spec)
    exact, ours = (_codes(autoencoder, batches, replace(spec, precision=p)) for p in ("fp32", spec.precision))
    differ = [(one != other).float().mean() for one, other in zip(exact, ours, strict=True)]
    return {"flipped": float(torch.stack(differ).mean()), "found_varying": _varying(exact)}


@torch.no_grad()
def _codes(autoencoder: Autoencoder, batches: list[Tensor], spec: Spec) -> list[Tensor]:
    """The codes of activations, in the spec's precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = spec.precision == "tf32"
    try:
        with autocast(spec):
            return [autoencoder.activate(autoencoder.pre_activations(x)).float() for x in batches]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def facts(spec: Spec) -> dict[str, Any]:
    """What it runs on."""
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if spec.device == "cuda" else None,
    }


def _difference(one: Trained | BaeRayError, other: Trained) -> float:
    assert isinstance(one, Trained), one
    names = [name for name, _ in one.autoencoder.named_parameters()]
    return max(
        float((one.autoencoder.get_parameter(name) - other.autoencoder.get_parameter(name)).detach().abs().max())
        for name in names
    )


def _start(spec: Spec) -> Autoencoder:
    """The weights that both implementations start from."""
    if spec.trained:
        return load_autoencoder(spec.trained)
    config = {
        "bae": BAEConfig(d_in=spec.d, expansion=spec.expansion),
        "relu": ReLUConfig(d_in=spec.d, expansion=spec.expansion),
        "topk": TopKConfig(d_in=spec.d, expansion=spec.expansion, k=K),
    }[spec.architecture]
    autoencoder = build_autoencoder(config)
    generator = torch.Generator().manual_seed(0)
    autoencoder.reset_parameters(generator)
    constant = torch.randperm(autoencoder.d_latent, generator=generator)[round(spec.varying * autoencoder.d_latent) :]
    with torch.no_grad():
        if autoencoder.b_enc is not None:
            autoencoder.b_enc[constant[::2]] = CONSTANT
            autoencoder.b_enc[constant[1::2]] = -CONSTANT
    return autoencoder


def _batches(spec: Spec) -> list[Tensor]:
    if not spec.trained:
        return [random_batch(spec)]
    x = load_file(Path(spec.trained) / ACTIVATIONS)["x"].to(spec.device)
    return [batch for batch in x.split(spec.batch_size) if len(batch) == spec.batch_size]


def _varying(codes: list[Tensor]) -> float:
    """Share of the latents that vary in a batch, averaged over batches."""
    rates = [code.float().mean(-2) for code in codes]
    return statistics.fmean(float(((rate > 0) & (rate < 1)).float().mean()) for rate in rates)


TIMED = {
    "plain": plain,
    "ours": ours,
    "uncaptured": uncaptured,
    "floor": floor,
    "adam": adam,
    "graphed_floor": graphed_floor,
    "peak": peak,
}
WHOLE = {"train": train_on_store, "many": many, "flips": flips, "facts": facts}

if __name__ == "__main__":
    answer(lambda spec: measure(TIMED[spec.side], spec) if spec.side in TIMED else WHOLE[spec.side](spec))
