from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = yaml.safe_load((Path(__file__).parents[1] / "cluster.yaml").read_text())


def test_rays_own_validator_accepts_it():
    config = prepare_config(CLUSTER)
    validate_config(config)
    assert config["cluster_name"] == "bae-ray"


def test_head_has_no_work_and_workers_have_gpus():
    head, worker = (CLUSTER["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert head["resources"]["CPU"] == 0
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= CLUSTER["max_workers"]
