"""The judge: a language model in vLLM behind Ray Serve, asked like OpenAI's chat completions.

vLLM keeps the keys and values of prompts' beginnings (prefix caching): the judge's prompts begin alike. No
`from __future__ import annotations` here: Ray reads the builder's annotation to make the config of what `serve deploy`
gives it.
"""

import importlib.util
import logging
import os
from typing import Any

from ray.serve import Application

from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.cluster import check_fits, connect, total
from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import DRAIN_S, JudgeServiceConfig

LOG_LEVEL = "ERROR"
QUIET = {"logging_config": {"log_level": LOG_LEVEL, "enable_access_log": False}}
"""The logs of replicas come to the terminal of whoever starts them."""

SOME_OF_A_RESOURCE = 0.001
"""Of a resource that only says where to be."""
REPLICAS = "bae_ray.serving.judge.replicas"
JUDGES = "judge"
"""The custom resource of nodes that have vLLM, in a cluster where not all have it."""
HEALTH_TIMEOUT_S = 120
"""On a busy CPU a replica that computes answers late, and is not to be taken for a dead one."""


def build(config: JudgeServiceConfig) -> Application:
    """The application of a config, for `serve.run` and as `import_path` of `serve deploy`.

    Raises `InvalidInputError` for what cannot start: vLLM is not installed, the model is not there or no chat model,
    or the machine is too small.
    """
    require_vllm()
    connect()
    gpus = min(1.0, total("GPU")) if config.num_gpus is None else config.num_gpus
    check_fits("the judge", config.num_cpus, gpus)
    config = located(config)
    wanted = settings(config, gpus)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", LOG_LEVEL)  # read when it is imported
    logging.getLogger("ray.serve").setLevel(LOG_LEVEL)
    from ray.serve.llm import build_openai_app

    logging.getLogger("httpx").setLevel(LOG_LEVEL)  # the import has given the root logger a handler

    # Passes requests on: one replica, without a CPU of its own, which a small machine has not got.
    where = {config.node_resource: SOME_OF_A_RESOURCE} if config.node_resource else {}
    ingress = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0, "resources": where}}
    return build_openai_app(
        {
            "llm_configs": [{**wanted, "server_cls": f"{REPLICAS}:JudgeServer"}],
            "ingress_cls_config": {"ingress_cls": f"{REPLICAS}:JudgeIngress"},
            "ingress_deployment_config": {**ingress, **QUIET},
        }
    )


def located(config: JudgeServiceConfig) -> JudgeServiceConfig:
    """The config with the resource of the nodes that its replicas go to, where the cluster has such nodes."""
    if config.node_resource is not None or not total(JUDGES):
        return config
    return config.model_copy(update={"node_resource": JUDGES})


def settings(config: JudgeServiceConfig, gpus: float) -> dict[str, Any]:
    """The fields of Ray's `LLMConfig` for a judge with so many GPUs a replica; without any it computes on the CPU."""
    if gpus > 1 and gpus != int(gpus):
        raise InvalidInputError(f"num_gpus is {gpus:g}: expected a whole number, or a fraction of one.")
    source = find_model(config.model)
    if not load_tokenizer(source).chat_template:
        raise InvalidInputError(
            f"model '{config.model}' has no chat template, so it cannot be asked. Give an instruct model."
        )
    engine: dict[str, Any] = {
        "dtype": config.precision,
        "max_model_len": min(config.max_tokens, source.max_positions or config.max_tokens),
        "max_num_seqs": config.max_sequences,
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,  # prefix hits, in the answers' usage
    }
    variables = {"VLLM_LOGGING_LEVEL": LOG_LEVEL}
    if source.revision is not None:
        engine["revision"] = source.revision
    if gpus:
        each = min(gpus, 1.0)
        engine["tensor_parallel_size"] = max(1, int(gpus))
        engine["gpu_memory_utilization"] = round(0.9 * each, 3)
        bundles = [{"CPU": config.num_cpus / engine["tensor_parallel_size"], "GPU": each}]
        bundles *= engine["tensor_parallel_size"]
    else:
        engine["enforce_eager"] = True  # compiling takes minutes that a small model does not earn back
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
        bundles = [{"CPU": config.num_cpus}]
    if config.node_resource is not None:
        bundles = [{**bundle, config.node_resource: SOME_OF_A_RESOURCE} for bundle in bundles]
    return {
        "model_loading_config": {"model_id": config.called, "model_source": source.path},
        "engine_kwargs": engine,
        "placement_group_config": {"bundles": bundles},
        "deployment_config": {
            "num_replicas": config.replicas,
            "max_ongoing_requests": 4 * config.max_sequences,
            "ray_actor_options": {"num_cpus": 0},  # all that it takes is in its bundles
            "health_check_timeout_s": HEALTH_TIMEOUT_S,
            "graceful_shutdown_timeout_s": DRAIN_S,
            **QUIET,
        },
        "runtime_env": {"env_vars": variables},
        "log_engine_metrics": False,
    }


def require_vllm() -> None:
    """Raise `InvalidInputError` where vLLM, or what Ray needs beside it, is not installed."""
    missing = [name for name in ("vllm", "jsonref") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInputError(
            f"a local judge needs vLLM, and {', '.join(missing)} is not installed. `make judge` installs it and "
            "starts one; or give the address of another server with --judge-url."
        )
