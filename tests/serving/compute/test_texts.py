"""The language models behind texts/encode, without a service: one of each for all layers, and bounded work."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from bae_ray.errors import InvalidInputError, NoHeadError, OutOfMemoryError
from bae_ray.feature_model import FeatureModel
from bae_ray.serving.compute import language_models as models_module
from bae_ray.serving.compute import texts as texts_module
from bae_ray.serving.compute.interface import Steering, TooLongError, TooManyTokensError
from bae_ray.serving.compute.texts import Texts
from bae_ray.serving.config import ServiceConfig, TextsConfig
from bae_ray.serving.registry.entry import EncoderOrigin
from bae_ray.serving.time_limits import SlowError
from tests.activations.odd_models import GROUPED, save_random
from tests.serving.support import LIMITS, make_encoder, until

TEXTS = ["w1 w2 w3", "w59", "w7 w8 w9 w10"]


def origin(model: str, layer: int, site: str = "residual") -> EncoderOrigin:
    return EncoderOrigin(model=model, layer=layer, site=site, position="all")


@pytest.fixture
def models(tiny_model: Path, tmp_path: Path) -> Texts:
    names = {name: str(tiny_model) for name in ("one", "two", "three")}
    return Texts(ServiceConfig(registry=tmp_path, limits=LIMITS, texts=TextsConfig(models=names)))


def test_one_model_serves_encoders_of_all_layers_and_sites(
    models: Texts, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = []

    def load(*arguments: object):
        loaded.append(arguments)
        return load_model(*arguments)  # pyright: ignore[reportArgumentType]

    load_model = models_module.load_model
    monkeypatch.setattr(models_module, "load_model", load)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model)
    kept: dict[str, torch.Tensor] = {}
    model.layers[1].mlp.register_forward_hook(lambda _m, _i, output: kept.update(mlp_out=output))
    for layer, site in [(1, "residual"), (3, "residual"), (1, "mlp_out"), (0, "residual"), (2, "residual")] * 2:
        found = models._compute(origin("one", layer, site), TEXTS, 100)
        wanted = []
        for text in TEXTS:
            with torch.no_grad():
                states = model(tokenizer(text, return_tensors="pt")["input_ids"], output_hidden_states=True)
            wanted.append(states.hidden_states[layer][0] if site == "residual" else kept["mlp_out"][0])
        assert np.allclose(found.x, torch.cat(wanted).numpy(), atol=1e-5), (layer, site)
    assert len(loaded) == 1
    for name in ("two", "three"):
        models._compute(origin(name, 1), TEXTS, 100)
    assert len(models._models._kept) == models_module.MODELS_KEPT
    assert "one" not in models._models._kept, "the one asked for least recently went"


def test_texts_that_are_too_long_alone_or_together_are_refused_before_the_model_runs(
    models: Texts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(models, "_vectors", lambda *_: pytest.fail("the model ran"))
    one = origin("one", 1)
    with pytest.raises(TooManyTokensError, match=r"8 tokens; the answer may be of 7"):
        models._compute(one, TEXTS, 7)
    with pytest.raises(TooLongError):
        models._compute(one, ["w1 " * (LIMITS.max_tokens + 1)], 1000)
    for layer, site in ((4, "residual"), (-1, "residual"), (1, "nowhere")):
        with pytest.raises(InvalidInputError, match="has no"):
            models._compute(origin("one", layer, site), TEXTS, 100)


def test_what_nobody_waits_for_ends_with_the_batch_that_is_computed(models: Texts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(texts_module, "BATCH_TOKENS", 1)
    asked = []
    found = models._compute(origin("one", 1), TEXTS, 100, lambda: len(asked) == 1 or asked.append(0))  # pyright: ignore[reportArgumentType]
    assert len(found.x) == 4, "of the longest text alone"


def test_too_little_memory_is_said_as_such(models: Texts, monkeypatch: pytest.MonkeyPatch):
    def compute(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models, "_compute", compute)
    with pytest.raises(OutOfMemoryError):
        asyncio.run(models.activations(origin("one", 1), TEXTS, 100))


def test_a_model_that_does_not_load_holds_up_no_other(models: Texts, monkeypatch: pytest.MonkeyPatch):
    """As in a network folder that is gone; the load goes on, and what it made is used."""
    go, loads, load_model = threading.Event(), [], models_module.load_model
    slow = ["one"]

    def load(*given: Any) -> Any:
        loads.append(slow[:])
        if slow:
            slow.pop()
            go.wait(30)
        return load_model(*given)

    monkeypatch.setattr(models_module, "load_model", load)
    monkeypatch.setattr(models._models._time_limit, "_limit_s", 0.5)

    def ask(name: str) -> int:
        return len(asyncio.run(models.activations(origin(name, 1), TEXTS, 100)).x)

    for message in ("takes more than", "has not ended"):
        with pytest.raises(SlowError, match=message):
            ask("one")
    models._models._time_limit._limit_s = 30
    assert ask("two") == 8
    go.set()
    assert until(lambda: quiet(ask, "one")) == 8
    assert len(loads) == 2


def quiet(ask: Callable[[str], int], name: str) -> int:
    with suppress(SlowError):
        return ask(name)
    return 0


def test_a_model_whose_vectors_an_extraction_refuses_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = save_random(tiny_model, tmp_path / "model", "llama", **GROUPED, is_causal=False)
    texts = Texts(ServiceConfig(registry=tmp_path, limits=LIMITS, texts=TextsConfig(models={"ahead": str(folder)})))
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="tokens see those after them"):
            texts._compute(origin("ahead", 2), TEXTS, 100)
        monkeypatch.setattr(models_module, "probe_loaded", lambda *_: pytest.fail("it was probed again"))


def steering(new: int = 3) -> Steering:
    return Steering({}, {1: 0.0}, "last", new, 0.0, 0)


@pytest.fixture
def writers(tiny_causal_model: Path, tiny_model: Path, tmp_path: Path) -> Texts:
    """A replica with four models, of which one has no head, and an encoder."""
    make_encoder(tmp_path / "one")
    names = dict.fromkeys(("one", "two", "three"), str(tiny_causal_model)) | {"headless": str(tiny_model)}
    return Texts(ServiceConfig(registry=tmp_path, limits=LIMITS, texts=TextsConfig(models=names)))


def key(writers: Texts) -> str:
    writers._encoders._registry.look()
    entry = writers._encoders._registry.find("one")
    assert entry is not None
    return entry.key


def test_a_model_that_writes_is_not_dropped_and_no_further_one_is_loaded(writers: Texts):
    async def main() -> None:
        first, second = (writers.steer(origin(name, 2), key(writers), "w1 w2", steering()) for name in ("one", "two"))
        await anext(first)
        await anext(second)
        third = writers.steer(origin("three", 2), key(writers), "w1 w2", steering())
        with pytest.raises(OutOfMemoryError, match="write texts now"):
            await anext(third)
        with pytest.raises(OutOfMemoryError, match="write texts now"):
            await writers.activations(origin("three", 2), ["w1"], 100)
        await first.aclose()
        assert [part async for part in writers.steer(origin("three", 2), key(writers), "w1 w2", steering())]
        assert set(writers._models._kept) == {"two", "three"}
        assert [part async for part in second], "the other one goes on"

    asyncio.run(main())


def test_only_that_there_is_no_head_is_remembered(writers: Texts, monkeypatch: pytest.MonkeyPatch):
    """A disk that fails, or memory that is short for a moment, refuses no model for ever, nor names its folder."""
    real, broken = (
        models_module.EditableModel,
        [OSError(5, "input/output error"), RuntimeError("can't allocate memory")],
    )

    def load(*given: Any) -> Any:
        if broken:
            cause = broken.pop(0)
            raise InvalidInputError(f"model '{given[0].name}' cannot be loaded: {cause}") from cause
        return real(*given)

    monkeypatch.setattr(models_module, "EditableModel", load)

    async def ask(name: str) -> list[Any]:
        return [part async for part in writers.steer(origin(name, 2), key(writers), "w1 w2", steering())]

    with pytest.raises(InvalidInputError, match="model 'one' cannot be loaded"):
        asyncio.run(ask("one"))
    with pytest.raises(OutOfMemoryError):
        asyncio.run(ask("one"))
    assert asyncio.run(ask("one"))
    for _ in range(2):
        with pytest.raises(NoHeadError, match="model 'headless' has no language-model head"):
            asyncio.run(ask("headless"))


def test_a_fidelity_that_nobody_waits_for_ends_with_its_text(writers: Texts, monkeypatch: pytest.MonkeyPatch):
    texts, measured = ["w1 w2 w3"] * 50, []
    real = FeatureModel.fidelity

    def fidelity(*given: Any) -> Any:
        measured.append(given)
        return real(*given)

    monkeypatch.setattr(FeatureModel, "fidelity", fidelity)

    async def main() -> None:
        asked = asyncio.ensure_future(writers.fidelity(origin("one", 2), key(writers), texts, True))
        while not measured:
            await asyncio.sleep(0.01)
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert 1 <= len(measured) < len(texts)
    assert not writers._models._users.total()
