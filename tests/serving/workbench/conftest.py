"""A small sweep of a small language model, features with hostile names, and `bae-ray serve --workbench` of them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, ScoringConfig
from bae_ray.comsem.name_and_score import comsem
from bae_ray.report.feature_browser import publish_cards
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig
from tests.comsem.server import JudgeServer, Reply, is_judgement, perfect
from tests.serving.command import Command, serving
from tests.serving.support import KEY
from tests.serving.workbench.browsing import Browser, browsing

HOSTILE = "<img src=x onerror=\"document.title='gone'\"> & words"
MODEL = "tiny <b>model</b>"
TRAINING = {"epochs": 6, "batch_size": 32, "lr": 3e-3}


class Registry(NamedTuple):
    """The registry, and what the tests need of it."""

    folder: Path
    named: str
    """The run whose features have names."""
    feature: int
    """One of these."""
    failed: str
    """A run that diverged."""


def hostile(body: dict[str, Any], times: int) -> Reply:
    """A judge that knows what is right of its own test, and names all features alike."""
    return perfect(body, times) if is_judgement(body) else Reply(HOSTILE)


@pytest.fixture(scope="session")
def workbench_registry(
    ray_cluster: None, tiny_causal_model: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Registry:
    """Sweeps in one folder: two layers, positions and weights; all tokens of a layer; and a run that diverges."""
    from bae_ray.activations.extract import extract

    folder = tmp_path_factory.mktemp("workbench")
    model = folder / MODEL.replace("/", "")
    shutil.copytree(tiny_causal_model, model)
    common: dict[str, Any] = {
        "model": str(model), "corpus": str(tiny_corpus), "layers": (1, 3), "gpus_per_worker": 0, "workers": 1,
    }  # fmt: skip
    grid = extract(ExtractConfig(positions=(2, 7), **common), folder / "grid", "inline")
    tokens = extract(ExtractConfig(positions=("all",), **common), folder / "tokens", "inline")
    runs = folder / "runs"
    weights = ("training.entropy_weight=1e-4,3e-2",)
    many = SweepConfig(axes=weights, training=TrainingConfig(**TRAINING), gpus_per_trial=0, tensorboard=False)
    sweep(many, grid, runs, executor="inline")
    one = many.model_copy(update={"axes": (), "layers": (1,)})
    (named,) = sweep(one, tokens, runs, executor="inline").finished
    diverging = many.model_copy(update={"axes": ("training.lr=1e30",), "layers": (3,), "positions": (7,)})
    outcome = sweep(diverging, grid, runs, executor="inline")
    assert not outcome.finished
    with JudgeServer(hostile) as judge:
        config = ComSemConfig(
            judge_url=judge.url, autoencoders=(str(runs / named),), store=str(folder / "tokens"), tokenizer=str(model),
            examples=ExamplesConfig(k=1, n_interpret=3, n_test=3, top=4), scoring=ScoringConfig(random_features=4),
        )  # fmt: skip
        comsem(config, folder / "comsem")
    publish_cards(folder / "comsem", {named: runs / named})
    (failed,) = (file.parent.name for file in runs.glob("*/failure.json"))
    table = json.loads((folder / "comsem" / "summary.json").read_text())
    assert table["methods"]
    return Registry(runs, named, _named_feature(runs / named), failed)


def _named_feature(run: Path) -> int:
    from bae_ray.report.published_cards import read_cards

    cards, _ = read_cards(run)
    return next(index for index, card in cards.items() if card["explanation"] == HOSTILE)


@pytest.fixture(scope="session")
def workbench(workbench_registry: Registry) -> Iterator[Command]:
    """The service as a user starts it, with a key."""
    model = workbench_registry.folder.parent / MODEL.replace("/", "")
    options = ("--workbench", "--texts.models", model.name, model)
    with serving(workbench_registry.folder, *options) as command:
        yield command


@pytest.fixture
def browser(workbench: Command) -> Iterator[Browser]:
    """Chromium, at that service with its key. Of one test: Playwright's event loop runs until it is closed."""
    with browsing(workbench.url, KEY) as opened:
        yield opened
