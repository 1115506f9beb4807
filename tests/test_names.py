"""Fields may be written as their flags are, and for an unknown one the nearest are named, wherever fields are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bae_ray.config import describe
from bae_ray.errors import InvalidInputError
from bae_ray.names import nearest
from bae_ray.training.axes import parse_axis, parse_condition, parse_range
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig

FIELDS = [f"training.{name}" for name in TrainingConfig.model_fields]


@given(st.sampled_from(FIELDS), st.booleans())
def test_a_field_may_be_written_as_its_flag_is(field: str, dashes: bool):
    flag = ("--" if dashes else "") + field.replace("_", "-")
    assert parse_axis(f"{flag}=1,2") == parse_axis(f"{field}=1,2")
    assert parse_condition(f"{flag}=1") == {field: [1]}
    assert parse_range(f"{flag}=1..2").field == field


@given(st.sampled_from(FIELDS), st.data())
def test_a_field_with_a_slip_is_told_the_right_one(field: str, data: st.DataObject):
    section, _, name = field.partition(".")
    if len(name) < 6:
        return
    at = data.draw(st.integers(1, len(name) - 1))
    slip = f"{section}.{name[:at]}{name[at + 1 :]}"
    if slip not in FIELDS:
        with pytest.raises(InvalidInputError, match=rf"Did you mean .*\b{field.replace('.', chr(92) + '.')}\b"):
            parse_axis(f"{slip}=1")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layer": [0]}, "layer is [0]: Extra inputs are not permitted. Did you mean layers?"),
        ({"training": {"entropy_wieght": 1}}, "Did you mean entropy_weight"),
        ({"autoencoder": {"architecture": "topk", "expansio": 2}}, "Did you mean expansion"),
        ({"search": {"sampels": 3}}, "Did you mean samples"),
    ],
)
def test_a_config_names_the_nearest_field(config: dict[str, object], said: str):
    with pytest.raises(ValidationError) as error:
        SweepConfig.model_validate(config)
    assert said in describe(error.value, SweepConfig)


def test_what_is_near_nothing_is_told_nothing():
    assert nearest("colour", ["layers", "axes"]) == ""


@pytest.mark.usefixtures("ray_cluster")
def test_verbs_and_files_name_the_nearest(bae_ray, tmp_path):
    assert "Did you mean extract" in bae_ray("exract")[2]
    (tmp_path / "grid.yaml").write_text("trainign: {lr: 1}")
    assert "Did you mean training" in bae_ray("sweep", "--config", tmp_path / "grid.yaml")[2]
