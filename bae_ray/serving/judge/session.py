"""The judge of a job: one at a given address, or one that runs on the job's own Ray while the job needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from bae_ray.comsem.config import AskingConfig, JudgeConfig
from bae_ray.serving.config import DRAIN_S, JudgeServiceConfig


class JobJudgeConfig(AskingConfig):
    """The judge of a job."""

    judge_url: str | None = None
    """Address of the judge's API, on any server with OpenAI's chat completions API. None: the job starts a judge on its
    own Ray, and ends it when all is asked."""
    service: JudgeServiceConfig = JudgeServiceConfig()
    """The judge that the job starts."""

    def asking(self, url: str) -> JudgeConfig:
        """The settings for asking the judge at this address."""
        asking = self.model_dump(exclude={"judge_url", "service"})
        if self.judge_url is None:
            asking["judge_model"] = self.service.called
            # Its port changes with every start, its answers do not.
            asking["judge_id"] = self.judge_id or f"{self.service.model} in {self.service.precision}, started by jobs"
        return JudgeConfig(**asking, judge_url=url)


@contextmanager
def judge_of(config: JobJudgeConfig) -> Iterator[JudgeConfig]:
    """The settings for asking a job's judge, which runs meanwhile.

    Raises `InvalidInputError` if it cannot be started.
    """
    if config.judge_url is not None:
        yield config.asking(config.judge_url)
        return
    from bae_ray.serving.judge.application import build
    from bae_ray.serving.ray_serve.lifecycle import hosted
    from bae_ray.serving.ray_serve.ports import LOOPBACK, free_port

    with hosted(build(config.service), "judge", LOOPBACK, free_port(), None, DRAIN_S) as url:
        yield config.asking(f"{url}/v1")
