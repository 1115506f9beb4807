"""The judge: `make judge`'s command with a real vLLM on the CPU, and what it refuses to start with."""

import asyncio
import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from inspect import get_annotations
from pathlib import Path

import httpx
import openai
import pytest
import torch
import yaml

from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import read_decision
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_check import check_prompts
from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.application import build, settings
from bae_ray.serving.ray_serve.ports import free_port

START_S = 400


@pytest.fixture(scope="module")
def judge_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of `bae-ray judge serve` with the bundled model; told to stop, it does and says so."""
    port = free_port()
    log = tmp_path_factory.mktemp("judge") / "log"
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", "judge", "serve", "--port", str(port)]
    with open(log, "w") as file:
        service = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "RAY_ADDRESS": "local"})
    end = time.monotonic() + START_S
    try:
        while "Ctrl-C ends it." not in log.read_text():
            assert service.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        assert f"--judge-url http://127.0.0.1:{port}/v1 --judge-model smollm2-135m" in log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
        assert "stopping" in log.read_text()
    finally:
        service.kill()
        service.wait()


@pytest.mark.judge
@pytest.mark.timeout(900)
def test_decisions_are_yes_or_no_with_the_models_own_probabilities(judge_url: str, tmp_path: Path):
    """The oracle: transformers' logits of the same prompts, in float32."""
    from transformers import AutoModelForCausalLM

    prompts = check_prompts()[:24:6]

    async def ask() -> tuple[list[Answer], int, int]:
        with AnswerCache(tmp_path / "judge.sqlite") as cache:
            async with Judge(JudgeConfig(judge_url=judge_url), cache) as judge:
                answers = [await judge.decide(prompts[0])]  # the others find its prefix computed
                answers += await asyncio.gather(*(judge.decide(prompt) for prompt in prompts[1:]))
                return answers, judge.usage.prefix_tokens, judge.usage.prompt_tokens

    answers, prefix, sent = asyncio.run(ask())
    source = find_model("smollm2-135m")
    tokenizer = load_tokenizer(source)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.text in ("Yes", "No")
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(str(text), return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        p_yes = read_decision(answer).p_yes
        assert math.log(p_yes / (1 - p_yes)) == pytest.approx(float(logits[yes] - logits[no]), abs=0.3)
        assert (p_yes > 0.5) == (answer.text == "Yes") or abs(p_yes - 0.5) < 0.05
    assert prefix > 0.5 * sent  # the shared instructions are computed once


@pytest.mark.judge
@pytest.mark.timeout(900)
def test_any_client_of_openais_api_can_ask(judge_url: str):
    with openai.OpenAI(base_url=judge_url, api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["smollm2-135m"]
        messages = [{"role": "user", "content": "Name a colour."}]
        answer = client.chat.completions.create(model="smollm2-135m", messages=messages, max_tokens=8)  # pyright: ignore[reportArgumentType]
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert 1 <= answer.usage.completion_tokens <= 8
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="another", messages=messages)  # pyright: ignore[reportArgumentType]
    too_long = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "word " * 5000}]}
    assert httpx.post(f"{judge_url}/chat/completions", json=too_long, timeout=60).status_code == 400


def test_what_is_unsafe_or_cannot_start_is_refused(bae_ray, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    code, _, err = bae_ray("judge", "serve", "--host", "0.0.0.0", "--port", free_port())
    assert (code, "--unprotected" in err) == (2, True)
    config = JudgeServiceConfig(model=str(tiny_model))
    with pytest.raises(InvalidInputError, match="has no chat template"):
        settings(config, 0)
    with pytest.raises(InvalidInputError, match=r"num_gpus is 1\.5"):
        settings(JudgeServiceConfig(), 1.5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else name)
    with pytest.raises(InvalidInputError, match=r"vllm is not installed\. `make judge`"):
        build(config)


@pytest.mark.parametrize(
    ("gpus", "bundles", "parallel"),
    [(0.25, [{"CPU": 4, "GPU": 0.25}], 1), (1, [{"CPU": 4, "GPU": 1}], 1), (2, [{"CPU": 2, "GPU": 1}] * 2, 2)],
)
def test_a_judge_takes_its_share_of_gpus(gpus: float, bundles: list[dict[str, float]], parallel: int):
    wanted = settings(JudgeServiceConfig(num_cpus=4), gpus)
    assert wanted["placement_group_config"]["bundles"] == bundles
    assert wanted["engine_kwargs"]["tensor_parallel_size"] == parallel
    assert wanted["engine_kwargs"]["gpu_memory_utilization"] == pytest.approx(0.9 * min(gpus, 1))
    assert "enforce_eager" not in wanted["engine_kwargs"]


def test_the_deployed_file_has_known_settings():
    config = yaml.safe_load((Path(__file__).parents[3] / "serve" / "judge.yaml").read_text())
    (application,) = config["applications"]
    module, name = application["import_path"].split(":")
    assert get_annotations(getattr(import_module(module), name))["config"] is JudgeServiceConfig
    assert JudgeServiceConfig.model_validate(application["args"]).num_gpus == 2
