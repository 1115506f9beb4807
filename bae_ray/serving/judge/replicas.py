"""Ray's classes of the judge's replicas, made to listen only where Ray itself listens."""

from typing import Any

from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import OpenAiIngress

from bae_ray.serving.ray_serve.deployment import listen_like_ray


class JudgeServer(LLMServer):
    """Holds the model."""

    async def __init__(self, *given: Any, **named: Any) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        listen_like_ray()
        await super().__init__(*given, **named)  # pyright: ignore[reportGeneralTypeIssues]


class JudgeIngress(OpenAiIngress):
    """Speaks HTTP."""

    def __init__(self, *given: Any, **named: Any) -> None:
        listen_like_ray()
        super().__init__(*given, **named)
