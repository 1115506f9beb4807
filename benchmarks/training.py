"""Seconds and peak memory of a training step: ours, a plain implementation, other packages, and the floors beneath.

Everything is measured in one run. The plain implementation (benchmarks/training_plain.py) is the paper's objective as
one writes it down: linear layers, a dense covariance, autograd throughout, torch's default Adam. The floors are a
step's five matrix products alone, and these with the fused Adam step. On a CPU each measurement is a process of its
own, so that peak memory is its own; the sides take turns, and each figure is the median over the turns. Other packages
run in virtual environments of their own, made on first use.

On a GPU ours is a CUDA graph of the step. A table of its own has it beside the step that is not captured, and both
floors at once as one graph.

    python benchmarks/training.py [--parts steps graph flips trained peers many] [--steps 20] [--store runs/demo/store]
                                  [--no-peers] [--markdown]
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import tyro
from peers import environment
from rich.console import Console
from rich.progress import Progress
from training_tables import CAPTURED, COMPARED, FLIPPED, Result, Section, captured, compared, flipped, machine, ms

PEERS = {"sae-lens": "sae-lens==6.54.12", "dictionary-learning": "dictionary-learning==0.1.0"}
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
MANY = {"d": 128, "batch_size": 4096, "steps": 5}  # `steps` of epochs, `batch_size` activations in all
CAPTURED_SHAPES: list[Result] = [
    {"d": 576, "expansion": 2, "precision": "tf32"},
    {"d": 2048, "precision": "tf32"},
    {"d": 2048, "precision": "bf16"},
    {"d": 2048, "precision": "bf16", "batch_size": 4096},
    {"d": 576, "precision": "tf32", "members": 8},
    {"d": 576, "expansion": 2, "precision": "tf32", "members": 32},
]
REDUCED = {"cpu": ("bf16",), "cuda": ("tf32", "bf16")}
"""Precisions below fp32: tf32 has no effect on a CPU."""
Part = Literal["steps", "graph", "flips", "trained", "peers", "many"]
DEMO_STORE = Path("runs/demo/store")
TABLE_WIDTH = 130
FOLDER = Path(__file__).parent


class Bench:
    """Runs measurements in processes of their own and keeps all answers."""

    def __init__(self, common: Result, repeats: int, progress: Progress) -> None:
        self.common, self.repeats = common, repeats
        self.pythons: dict[str, Path] = {}
        self.answers: list[Result] = []
        self._progress = progress

    def once(self, **spec: Any) -> Result:
        """The answer to one spec."""
        return self._run([{**self.common, **spec}])[0]

    def in_turns(self, what: str, specs: list[Result]) -> list[Result]:
        """Each spec's median answer; the sides take turns. On a GPU, neighbours of one package share a process."""
        specs = [{**self.common, **spec} for spec in specs]
        answers: list[list[Result]] = [[] for _ in specs]
        alone = self.common["device"] == "cpu"
        processes = [
            [number for number, _ in group]
            for _, group in itertools.groupby(
                enumerate(specs), key=lambda item: item[0] if alone else item[1]["side"] in PEERS and item[1]["side"]
            )
        ]
        task = self._progress.add_task(what, total=self.repeats * len(specs))
        for _ in range(self.repeats):
            for numbers in processes:
                for number, answer in zip(numbers, self._run([specs[n] for n in numbers]), strict=True):
                    answers[number].append(answer)
                    self._progress.advance(task)
        merged = [_merge(turns) for turns in answers]
        self.answers += merged
        return merged

    def _run(self, specs: list[Result]) -> list[Result]:
        python = self.pythons.get(specs[0]["side"])
        script = FOLDER / ("training_peers.py" if python else "training_sides.py")
        threads = str(self.common["threads"])
        done = subprocess.run(  # noqa: S603 - fixed commands
            [str(python or sys.executable), str(script), json.dumps(specs)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "WANDB_MODE": "disabled"},
        )
        if done.returncode:
            sys.exit(f"{script.name} failed on {json.dumps(specs)}:\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def main(
    out: Path = Path("runs/benchmarks/training.json"),
    store: Path | None = None,
    sizes: tuple[int, ...] = (576, 2048),
    peer_sizes: tuple[int, ...] = (576,),
    varying: tuple[float, ...] = (1.0, 0.2, 0.05),
    steps: int = 20,
    repeats: int = 3,
    budget_s: float = 4.0,
    threads: int = os.cpu_count() or 1,
    quick: bool = False,
    parts: tuple[Part, ...] = get_args(Part),
    peers: bool = True,
    markdown: bool = False,
) -> None:
    """Measure all sides and print the tables.

    Args:
        out: File for all figures.
        store: Activation store to train on before a comparison on real activations; the demo's if it is there.
        sizes: Widths of the activations.
        peer_sizes: The same for the comparison with other packages.
        varying: Shares of the latents that vary in the batch.
        steps: Most steps timed per turn.
        repeats: Turns.
        budget_s: Seconds of steps per turn; three steps are timed in any case.
        threads: Threads of each side.
        quick: Tiny sizes, to see whether everything runs.
        parts: Tables to make; `graph` is of a GPU.
        peers: Measure other packages; installs them on first use.
        markdown: Print Markdown in place of tables.
    """
    if quick:
        sizes, peer_sizes, varying, steps, repeats, budget_s = (64,), (64,), (1.0, 0.2), 3, 1, 0.5
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        device = "cuda" if _has_cuda() else "cpu"
        common = {"device": device, "threads": threads, "steps": steps, "budget_s": budget_s}
        bench = Bench(common, repeats, progress)
        facts = {**bench.once(side="facts"), "load": os.getloadavg()[0]}
        sections = _synthetic(bench, sizes, varying, quick) if "steps" in parts else []
        if "graph" in parts and device == "cuda":
            sections.append(_captured(bench))
        if "flips" in parts:
            sections.append(_flipped(bench, sizes, store or (DEMO_STORE if DEMO_STORE.exists() else None)))
        if "trained" in parts:
            sections.append(_trained(bench, store or (DEMO_STORE if DEMO_STORE.exists() else None), quick))
        if "peers" in parts and peers:
            sections.append(_peers(bench, peer_sizes))
        if "many" in parts:
            sections.append(_many(bench, quick))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": facts, "measurements": bench.answers}, indent=2) + "\n", encoding="utf-8")
    for section in sections:
        if markdown:
            print(section.markdown())
        else:
            Console(width=max(Console().width, TABLE_WIDTH)).print(section.rich())
    print(machine(facts))
    print(f"All figures: {out}", file=sys.stderr)


def _synthetic(bench: Bench, sizes: tuple[int, ...], varying: tuple[float, ...], quick: bool) -> list[Section]:
    """Random activations, with the share of varying latents set by biases."""
    device = bench.common["device"]
    sections = []
    for precision in ("fp32", "tf32", "bf16") if device == "cuda" else ("fp32",):
        rows = []
        size = _peak_size(bench, quick)
        peak = bench.in_turns(f"peak, {precision}", [{"side": "peak", "d": size, "precision": precision}])[0]
        for d in sizes:
            sides = [{"side": side} for side in ("floor", "adam")]
            sides += [{"side": side, "varying": share} for share in varying for side in ("plain", "ours")]
            specs = [{**side, "d": d, "precision": precision} for side in sides]
            floor, adam, *pairs = bench.in_turns(f"d = {d}, {precision}", specs)
            rows += [
                compared(f"{d}, {ours['found_varying']:.1%}", floor, adam, plain, ours, peak)
                for plain, ours in zip(pairs[::2], pairs[1::2], strict=True)
            ]
        title = (
            f"A step of a binary autoencoder, batches of 512, 4 d latents, {precision}. Peak: a matrix product of "
            f"{size} x {size}, {peak['flop'] / peak['s'] / 1e9:,.0f} GFLOP/s."
        )
        sections.append(Section(title, COMPARED, rows))
    return sections


def _captured(bench: Bench) -> Section:
    """On a GPU, steps as one graph each, beside those that are not and the graphed floor."""
    sides: list[Result] = [{"side": "graphed_floor"}]
    sides += [{"side": "ours", "varying": share} for share in (0.05, 0.2, 1.0)]
    sides += [{"side": "uncaptured", "varying": 0.2}]
    specs = [{**shape, **side} for shape in CAPTURED_SHAPES for side in sides]
    answers = bench.in_turns("steps as one graph", specs)
    rows = [captured(answers[start : start + len(sides)]) for start in range(0, len(answers), len(sides))]
    title = "A step of binary autoencoders as a CUDA graph; floor: its five matrix products and Adam as one graph"
    return Section(title, CAPTURED, rows)


def _flipped(bench: Bench, sizes: tuple[int, ...], store: Path | None) -> Section:
    """Bits of the code that a lower precision gives otherwise: with random weights, and after a training."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        codes: dict[str, Result] = {f"{d}, random weights": {"d": d} for d in sizes}
        if store is not None:
            trained = bench.once(side="train", store=str(store.absolute()), trained=folder)
            shape = {key: trained[key] for key in ("d", "expansion", "batch_size")}
            codes[f"{trained['d']}, after a training"] = {**shape, "trained": folder}
        for what, spec in codes.items():
            for precision in REDUCED[bench.common["device"]]:
                answer = bench.once(side="flips", precision=precision, **spec)
                bench.answers.append(answer)
                rows.append(flipped(what, answer))
    title = "Bits of the code that are others than in fp32, with equal weights and activations"
    return Section(title, FLIPPED, rows)


def _trained(bench: Bench, store: Path | None, quick: bool) -> Section:
    """From weights that were trained on a store, on its activations."""
    if store is None:
        title = f"After a training: left out, there is no store at {DEMO_STORE} (made by 'make demo'); see --store."
        return Section(title, COMPARED, [])
    size = _peak_size(bench, quick)
    with tempfile.TemporaryDirectory() as folder:
        trained = bench.once(side="train", store=str(store.absolute()), trained=folder)
        shape = {key: trained[key] for key in ("d", "expansion", "batch_size")}
        specs: list[Result] = [{"side": side, **shape} for side in ("floor", "adam")]
        specs += [{"side": side, **shape, "trained": folder} for side in ("plain", "ours")]
        peak, floor, adam, plain, ours = bench.in_turns("after a training", [{"side": "peak", "d": size}, *specs])
    title = (
        f"After a training with the demo's settings ({trained['s']:.0f} s) on layer 10, position 16 of {store}, "
        f"{shape['expansion']} d latents, its batches of {shape['batch_size']} activations"
    )
    row = compared(f"{shape['d']}, {ours['found_varying']:.1%}", floor, adam, plain, ours, peak)
    return Section(title, COMPARED, [row])


def _peers(bench: Bench, sizes: tuple[int, ...]) -> Section:
    """Sparse autoencoders, ours and other packages'."""
    missing = []
    for name, requirement in PEERS.items():
        try:
            bench.pythons[name] = environment(name, [requirement])
        except subprocess.CalledProcessError:
            missing.append(name)
    rows = []
    for d, architecture in itertools.product(sizes, ("relu", "topk")):
        shared = {"d": d, "architecture": architecture}
        sides = {
            "ours": {"side": "ours"},
            "ours, clipped, unit dictionary": {"side": "ours", "constrained": True},
            **{name: {"side": name} for name in bench.pythons},
        }
        measured = bench.in_turns(f"{architecture}, d = {d}", [{**shared, **side} for side in sides.values()])
        rows += [
            (
                f"{'ReLU, L1' if architecture == 'relu' else 'top-k, k = 15'}, d = {d}: {name}",
                ms(answer),
                f"{answer['s'] / measured[0]['s']:.2f}",
            )
            for name, answer in zip(sides, measured, strict=True)
        ]
    title = f"A step of a sparse autoencoder, batches of 512, 4 d latents, fp32; {', '.join(PEERS.values())}"
    if missing:
        title += f". Could not be installed: {', '.join(missing)}"
    return Section(title, ("", "ms (MiB)", "time / ours"), rows)


def _many(bench: Bench, quick: bool) -> Section:
    """Autoencoders trained as one against one after another."""
    answer = bench.once(side="many", **(MANY | {"d": 16, "batch_size": 256, "steps": 2} if quick else MANY))
    bench.answers.append(answer)
    row = (
        f"{answer['members']} members, d = {answer['d']}",
        f"{answer['together_s']:.2f}",
        f"{answer['apart_s']:.2f}",
        f"{answer['apart_s'] / answer['together_s']:.2f}",
        f"{answer['largest_difference']:.1e}",
    )
    title = (
        f"Whole trainings: train_many against train one after another, {answer['batch_size']} activations, 4 d "
        f"latents, {answer['steps']} epochs, batches of 512"
    )
    return Section(title, ("", "together s", "apart s", "apart / together", "largest difference of weights"), [row])


def _peak_size(bench: Bench, quick: bool) -> int:
    return 256 if quick else PEAK_SIZE[bench.common["device"]]


def _merge(turns: list[Result]) -> Result:
    """The medians over a spec's turns."""
    merged = dict(turns[0])
    for key in ("s", "peak_mib"):
        merged[key] = median(turn[key] for turn in turns)
        merged[f"{key}_by_turn"] = [turn[key] for turn in turns]
    return merged


def _has_cuda() -> bool:
    # Asked in another process: torch, imported here, would count as memory of the processes that this one starts.
    probe = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()[-1] == "True"


if __name__ == "__main__":
    tyro.cli(main)
