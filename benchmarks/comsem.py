"""ComSem: examples collected per second, and how busy the pipeline keeps its judge.

1. Collecting examples of 8,192 features against a plain sort of every token's magnitudes in Python, the released code's
   way: from the same magnitudes; and from activations of 2,048 dimensions, encoded by a BAE in a batch on both sides.
2. Requests per second that the pipeline (`score_features`) gets out of `bae-ray judge serve`, over HTTP, against vLLM's
   own offline batch of the same prompts with the same settings, before and after it, each in a new process; and against
   requests sent one at a time.
3. Prompt tokens that the judge computed against those sent to it (prefix caching).
4. Features named and scored per hour: n_I = 5, n_T = 8, and as many judgements for the chance level.

    python benchmarks/comsem.py [--features 24] [--model smollm2-135m] [--no-judge]
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from services import started

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.config import ExamplesConfig, JudgeConfig
from bae_ray.comsem.examples import Collected, collect
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_check import check_prompts, labelled_pairs
from bae_ray.comsem.judge_prompts import Message, interpret_prompt, judge_prompt
from bae_ray.comsem.scoring import FeatureScore, Task, score_features
from bae_ray.files import write_text

OUT = Path("runs/benchmarks/comsem.json")
D, FEATURES, K = 2048, 8192, 10
TOKENS, BATCH, SORTED_TOKENS = 8192, 1024, 64
IN_FLIGHT = JudgeConfig().in_flight
ALONE = 24
"""Requests sent one at a time."""


def main(features: int = 24, model: str = "smollm2-135m", judge: bool = True) -> None:
    """Measure, print a table, and write all figures to runs/benchmarks/comsem.json.

    Args:
        features: Features that the judge names and scores.
        model: The judge.
        judge: Measure parts 2 to 4, too.
    """
    torch.manual_seed(0)
    figures: dict[str, Any] = {"collection": _collection()}
    if judge:
        figures["judge"] = _judge(features, model)
    _show(figures)
    write_text(OUT, json.dumps(figures, indent=2) + "\n")
    print(f"All figures: {OUT}")


def _collection() -> list[dict[str, Any]]:
    autoencoder = build_autoencoder(BAEConfig(d_in=D, d_latent=FEATURES)).eval()
    autoencoder.prior.copy_(torch.rand(FEATURES))
    x, config = torch.randn(TOKENS, D), ExamplesConfig(k=K)
    magnitudes = [autoencoder.magnitudes(batch) for batch in x.split(BATCH)]
    few = SORTED_TOKENS

    def collected() -> Collected:
        found = Collected.empty(FEATURES, config)
        for i, batch in enumerate(magnitudes):
            found.add(batch, i * BATCH, config)
        return found

    with torch.no_grad():
        selection = {
            "from": "magnitudes",
            "ours": TOKENS / _best(collected),
            "plain": few / _best(lambda: _sorted(magnitudes[0][:few])),
        }
        whole = {
            "from": "activations",
            "ours": TOKENS / _best(lambda: collect(autoencoder, Rows([x]), config)),
            "plain": few / _best(lambda: _sorted(autoencoder.magnitudes(x[:few]))),
            "encode": TOKENS / _best(lambda: [autoencoder.encode(batch) for batch in x.split(BATCH)]),
        }
    return [selection, whole]


def _sorted(magnitudes: torch.Tensor) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for token, row in enumerate(magnitudes.tolist()):
        for feature in sorted(range(len(row)), key=lambda i: row[i], reverse=True)[:K]:
            found.setdefault(feature, []).append(token)
    return found


def _best(call: Callable[[], object], times: int = 5) -> float:
    """Seconds, at best, after a warm-up."""
    call()
    took = []
    for _ in range(times):
        started_at = time.perf_counter()
        call()
        took.append(time.perf_counter() - started_at)
    return min(took)


def _tasks(n: int) -> list[Task]:
    """Features of labelled examples drawn at random."""
    generator = np.random.default_rng(0)
    pool = [pair.example for pair in labelled_pairs()]
    config = ExamplesConfig()
    size = config.n_interpret + 2 * config.n_test
    drawn = [[pool[i] for i in generator.choice(len(pool), size, replace=False)] for _ in range(n)]
    first, second = config.n_interpret, config.n_interpret + config.n_test
    return [Task(i, those[:first], those[first:second], 0, those[second:]) for i, those in enumerate(drawn)]


def _judge(n: int, model: str) -> dict[str, float]:
    tasks = _tasks(n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(["judge", "serve", "--model", model], OUT.with_name("comsem-judge.log")) as url:
            figures, scores = asyncio.run(_served(f"{url}/v1", tasks, folder / "judge.sqlite"))
        explain = [interpret_prompt(task.interpret) for task in tasks]
        decide = [
            judge_prompt(example, score.explanation)
            for task, score in zip(tasks, scores, strict=True)
            if score.explanation
            for example in (*task.test, *task.others)
        ]
        offline = [_offline(model, explain, decide, folder) for _ in range(2)]
    figures["offline"] = float(np.mean([run["requests_per_s"] for run in offline]))
    figures["offline_computed"] = float(np.mean([run["computed"] for run in offline]))
    figures["offline_runs"] = [run["requests_per_s"] for run in offline]  # pyright: ignore[reportArgumentType]
    return figures


async def _served(url: str, tasks: list[Task], cache: Path) -> tuple[dict[str, Any], list[FeatureScore]]:
    with AnswerCache(cache) as answers:
        async with Judge(JudgeConfig(judge_url=url), answers) as judge:
            await judge.explain(_warm_up())
            await judge.decide(_warm_up())
            before, started_at = judge.usage, time.perf_counter()
            scores = await score_features(judge, tasks, 1, None, IN_FLIGHT)
            took, after = time.perf_counter() - started_at, judge.usage
            started_at = time.perf_counter()
            for prompt in check_prompts()[:ALONE]:
                await judge.decide(prompt)
            alone = ALONE / (time.perf_counter() - started_at)
    requests = after.answered - before.answered
    sent = after.prompt_tokens - before.prompt_tokens
    computed = sent - (after.prefix_tokens - before.prefix_tokens)
    return {
        "in_flight": IN_FLIGHT,
        "requests": requests,
        "retried": after.retried,
        "pipeline": requests / took,
        "alone": alone,
        "sent": sent,
        "computed": computed,
        "features_per_hour": 3600 * len(tasks) / took,
    }, scores


def _warm_up() -> list[Message]:
    """The shared instructions, once, as any longer run has them."""
    return check_prompts()[-1]


def _offline(model: str, explain: list[list[Message]], decide: list[list[Message]], folder: Path) -> dict[str, float]:
    given, found = folder / "prompts.json", folder / "offline.json"
    write_text(given, json.dumps({"model": model, "warm_up": _warm_up(), "explain": explain, "decide": decide}))
    script = Path(__file__).with_name("comsem_offline.py")
    with open(OUT.with_name("comsem-offline.log"), "w", encoding="utf-8") as log:
        subprocess.run([sys.executable, script, given, found], stdout=log, stderr=log, check=True)  # noqa: S603
    return json.loads(found.read_text(encoding="utf-8"))


def _show(figures: dict[str, Any]) -> None:
    table = Table("collecting examples, tokens/s", "ours", "Python sort", "ratio", "encoding alone")
    for row in figures["collection"]:
        table.add_row(
            f"from {row['from']}", f"{row['ours']:,.0f}", f"{row['plain']:,.0f}", f"{row['ours'] / row['plain']:.0f}",
            f"{row['encode']:,.0f}" if "encode" in row else "",
        )  # fmt: skip
    Console().print(table)
    if judge := figures.get("judge"):
        table = Table("judge", "")
        table.add_row(f"pipeline, {judge['in_flight']} in flight", f"{judge['pipeline']:.2f} requests/s")
        table.add_row("vLLM's offline batch", f"{judge['offline']:.2f} requests/s")
        table.add_row("pipeline / offline batch", f"{judge['pipeline'] / judge['offline']:.2f}")
        table.add_row("one at a time", f"{judge['alone']:.2f} requests/s")
        table.add_row("pipeline / one at a time", f"{judge['pipeline'] / judge['alone']:.1f}")
        share = f"{judge['computed']:,} of {judge['sent']:,} ({judge['computed'] / judge['sent']:.3f})"
        table.add_row("prompt tokens computed", share)
        table.add_row("features per hour", f"{judge['features_per_hour']:,.0f}")
        Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
