"""The judge of a job: how it is asked, at a given address and where it is started anew each time."""

from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.session import JobJudgeConfig, judge_of

URL = "http://127.0.0.1:8000/v1"


def test_a_given_judge_is_asked_as_it_is_given():
    config = JobJudgeConfig(judge_url=URL, judge_model="gpt-x", attempts=2, input_price=1.0)
    with judge_of(config) as judge:
        assert (judge.judge_url, judge.judge_model, judge.judge_id) == (URL, "gpt-x", None)
        assert (judge.attempts, judge.input_price) == (2, 1.0)


def test_a_started_judge_is_the_same_at_any_port_and_another_one_with_another_model():
    config = JobJudgeConfig(service=JudgeServiceConfig(model="a", name="mine"))
    first, second = (config.asking(f"http://127.0.0.1:{port}/v1") for port in (1, 2))
    assert (first.judge_model, first.judge_url) == ("mine", "http://127.0.0.1:1/v1")
    assert first.judge_id == second.judge_id
    other = JobJudgeConfig(service=JudgeServiceConfig(model="b", name="mine"))
    assert other.asking(first.judge_url).judge_id != first.judge_id
