"""The judge: a language model in vLLM behind Ray Serve, asked like OpenAI's chat completions.

No `from __future__ import annotations` here: Ray reads the builder's annotation to make the config of what `serve
deploy` gives it.
"""

from typing import TYPE_CHECKING

from bae_ray.serving.config import JudgeServiceConfig

if TYPE_CHECKING:
    from ray.serve import Application


def build(config: JudgeServiceConfig) -> "Application":
    """The judge's application, as `import_path` of `serve deploy`. Raises what `application.build` does."""
    from bae_ray.serving.judge import application  # here, so that configs are read without Ray

    return application.build(config)
