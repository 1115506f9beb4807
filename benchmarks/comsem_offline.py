"""A judge's prompts in vLLM's own offline batch, with the settings of `bae-ray judge serve`; started by comsem.py."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bae_ray.comsem.answers import CHOICES
from bae_ray.comsem.judge import DECISION_TOKENS, EXPLANATION_TOKENS, TOP_LOGPROBS
from bae_ray.files import write_text
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.application import settings


def main(given: Path, found: Path) -> None:
    """Answer all prompts of one file, first those for explanations, then the decisions; figures go to another file."""
    prompts = json.loads(given.read_text(encoding="utf-8"))
    wanted = settings(JudgeServiceConfig(model=prompts["model"]), float(torch.cuda.is_available()))
    os.environ.update(wanted["runtime_env"]["env_vars"])
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    model = LLM(model=wanted["model_loading_config"]["model_source"], **_engine(wanted["engine_kwargs"]))
    explain = SamplingParams(temperature=0.0, max_tokens=EXPLANATION_TOKENS)
    decide = SamplingParams(
        temperature=0.0,
        max_tokens=DECISION_TOKENS,
        logprobs=TOP_LOGPROBS,
        structured_outputs=StructuredOutputsParams(choice=list(CHOICES)),
    )
    model.chat([prompts["warm_up"]], explain, use_tqdm=False)
    model.chat([prompts["warm_up"]], decide, use_tqdm=False)
    started = time.perf_counter()
    answers = model.chat(prompts["explain"], explain, use_tqdm=False)
    answers += model.chat(prompts["decide"], decide, use_tqdm=False)
    took = time.perf_counter() - started
    computed = sum(len(answer.prompt_token_ids or ()) - (answer.num_cached_tokens or 0) for answer in answers)
    write_text(found, json.dumps({"requests_per_s": len(answers) / took, "computed": computed}))


def _engine(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what only concerns the server."""
    return {name: value for name, value in settings.items() if name != "enable_prompt_tokens_details"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
