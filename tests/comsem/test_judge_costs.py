"""What asking costs is never more than was allowed."""

from pathlib import Path

import pytest

from bae_ray.comsem.config import JudgeConfig
from bae_ray.errors import CostLimitError
from tests.comsem.asking import Serve, ask, config, good
from tests.comsem.server import Reply


def test_the_cost_limit_is_never_passed(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: "Yes")
    price = {"input_price": 1000.0, "output_price": 1000.0}
    one = ask(config(serve(lambda *_: "Yes").url, **price), tmp_path / "one")[1].cost
    assert one > 0.1
    limit = 12.0
    answers, usage = ask(config(server.url, **price, max_cost=limit, in_flight=3), tmp_path / "c", 60)
    stopped = [answer for answer in answers if isinstance(answer, CostLimitError)]
    assert stopped
    assert "raise the limit" in str(stopped[0])
    assert 0 < usage.cost <= limit
    assert usage.answered == 60 - len(stopped)
    _, more = ask(config(server.url, **price, max_cost=limit, in_flight=3), tmp_path / "c", 60)
    assert (more.answered, more.from_cache) == (0, usage.answered), "what earlier runs spent counts"
    raised, rest = ask(config(server.url, **price, max_cost=100.0), tmp_path / "c", 60)
    assert len(good(raised)) == 60
    assert rest.answered == len(stopped)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("reply", [
    Reply(body='{"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}'),
    Reply("Yes", hold=True),
    Reply(body="no JSON"),
])  # fmt: skip
def test_a_server_that_does_not_say_what_it_took_cannot_pass_the_limit(reply: Reply, serve: Serve, tmp_path: Path):
    """No usage, no answer in time, an answer that is none: each may have been billed."""
    server = serve(lambda *_: reply)
    price = {"input_price": 1000.0, "output_price": 1000.0}
    settings = config(server.url, **price, max_cost=6.0, in_flight=2, attempts=1).model_copy(update={"timeout_s": 0.5})
    answers, usage = ask(settings, tmp_path / "c", 30)
    assert any(isinstance(answer, CostLimitError) for answer in answers)
    assert 0 < len(server.bodies) < 12
    assert usage.estimated == usage.sent == len(server.bodies)
    assert 0 < usage.cost <= 6.0, "the run's cost says so, too"
    asked = len(server.bodies)
    again, _ = ask(settings, tmp_path / "c", 30)
    assert any(isinstance(answer, CostLimitError) for answer in again)
    assert len(server.bodies) == asked, "what may have been billed counts in later runs"


def test_a_limit_needs_a_price():
    with pytest.raises(ValueError, match="no price"):
        JudgeConfig(max_cost=1.0)
