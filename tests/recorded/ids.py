"""Ids of runs: a run is found again under its id for ever, so no change of the code may change one."""

import json
from pathlib import Path
from typing import Any

from tests.recorded import made
from tests.recorded.places import (
    ARCHITECTURES,
    ActivationStore,
    SweepConfig,
    expand,
    experiment,
    plan_grid,
    widest_runs,
)

ONWARDS = {"architecture": "transcoder", "target_site": "residual", "target_layer_offset": 1}
SWEEPS: dict[str, dict[str, Any]] = {
    "all cells": {},
    "chosen cells": {"layers": (1,), "positions": (2, "last"), "sites": ("mlp_out",)},
    "axes that multiply": {"axes": ("training.lr=1e-3,3e-3", "training.entropy_weight=0,1e-7,0.5"), "layers": (0,)},
    "axes that go together": {"axes": ("training.lr=1e-3,3e-3 training.batch_size=256,512",), "layers": (0,)},
    "axes as a mapping": {"axes": {"autoencoder.expansion": [1, 2], "training.normalize": "none"}, "layers": (0,)},
    "axes of lists": {"axes": ('autoencoder.d_latent=[null, 12]', "training.grad_clip=[1, 1.5]"), "layers": (0,)},
    "architectures": {
        "autoencoder": ONWARDS,
        "axes": (f"autoencoder.architecture={','.join(ARCHITECTURES)}",),
        "skip_illegal": True,
    },
    "excluded": {
        "axes": ("training.lr=1e-3,3e-3", "autoencoder.architecture=bae,topk"),
        "exclude": ("layer=0 training.lr=3e-3", "autoencoder.architecture=topk site=mlp_out", "position=last,2"),
    },
    "excluded by mapping": {"axes": ("training.lr=1e-3,3e-3",), "exclude": {"layer": [0, 1], "training.lr": 3e-3}},
    "seeds": {"seeds": (0, 1, 7), "layers": (0,), "positions": (2,)},
    "bits per feature": {"axes": ("autoencoder.bits_per_feature=1,2,4 autoencoder.expansion=4,8,16",), "layers": (0,)},
    "illegal runs left out": {"axes": ("autoencoder.bits_per_feature=1,3,5",), "skip_illegal": True},
    "execution changes nothing": {
        "layers": (0,), "cpus_per_trial": 2, "gpus_per_trial": 0.25, "packed": 1, "retries": 0, "tensorboard": False,
    },
    "every field of the training": {
        "layers": (0,), "positions": (2,),
        "training": {
            "epochs": 7, "batch_size": 32, "lr": 1e-3, "beta1": 0.5, "beta2": 0.75, "lr_warmup": 0.25, "lr_decay": 0.5,
            "grad_clip": 1, "reconstruction": "sum", "entropy_form": "printed", "entropy_weight": 1, "l1_weight": 0.5,
            "covariance_weight": 2, "l1_reduction": "mean", "l0_weight": 0.25, "entropy_warmup": 3, "l1_warmup": 2,
            "covariance_warmup": 1, "l0_warmup": 4, "warmup_unit": "epochs", "val_fraction": 0.5, "normalize": "none",
            "decoder_norm": "unit", "revive_every": 2, "patience": 3, "precision": "bf16", "compile": True,
            "log": "step", "seed": 5,
        },
    },
}  # fmt: skip
RANGES = ("training.lr=log:1e-4..1e-2", "autoencoder.expansion=1..4", "training.epochs=5..50")
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    # What store each preset is planned over; widths do not matter.
    "layer_position_entropy": {
        "demo": {"layers": (0, 5, 10, 20, 30), "positions": (1, 2, 4, 8, 16, 32)},
        "matched": {"layers": (0, 10, 20, 30), "positions": (1, 4, 16, 32)},
        "paper": {"layers": range(17), "positions": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023)},
    },
    "synthetic_entropy": {
        "cpu": {"layers": (0,), "positions": (0,), "sites": [f"rank-{r}" for r in (1, 2, 4, 8, 16, 32)]},
        "paper": {"layers": (0,), "positions": (0,), "sites": [f"rank-{1 << i}" for i in range(10)]},
    },
    "lm_random_tokens": {
        "cpu": {"layers": (20,), "positions": ("last",)},
        "paper": {"layers": (12,), "positions": ("last",)},
    },
    "icl_entropy": {
        "cpu": {"layers": (0, 5, 10, 15, 20, 25, 30), "positions": ("last",)},
        "paper": {"layers": range(0, 17, 2), "positions": ("last",)},
    },
    "compression": {
        "laptop": {"layers": (5, 20), "positions": ("all",)},
        "paper": {"layers": (5, 9, 11, 14), "positions": ("all",)},
    },
    "comsem_table": {
        "cpu": {"layers": (10,), "positions": ("all",)},
        "paper": {"layers": (4, 5, 8, 9, 10, 11, 13, 14), "positions": ("all",), "sites": ("residual", "mlp_in")},
        "paper_3b": {"layers": (19, 20), "positions": ("all",), "sites": ("residual", "mlp_in")},
    },
    "steering": {
        "laptop": {"layers": (10,), "positions": ("all",)},
        "paper": {"layers": (5, 9, 11, 14), "positions": ("all",)},
    },
    "more_bit": {
        "cpu": {"layers": (10, 20), "positions": ("all",)},
        "paper": {"layers": (5, 9, 11, 14), "positions": ("all",)},
    },
    "feature_shape": {
        "laptop": {"layers": (10,), "positions": ("all",)},
        "paper": {"layers": (14,), "positions": ("all",)},
    },
}


def ids(folder: Path) -> dict[str, Any]:
    """Ids of grids over a store; of each architecture also a whole config, which says why where an id has changed."""
    made.manifest_only(folder, (0, 1, 2), (2, 9, "last"), ("residual", "mlp_out"))
    store = ActivationStore.open(folder)
    found: dict[str, Any] = {}
    for name, fields in SWEEPS.items():
        grid = plan_grid(SweepConfig.model_validate(fields), store)
        illegal = [[str(run.cell), *map(str, run.settings)] for run in grid.illegal]
        found[name] = {"runs": [run.id for run in grid.runs], "illegal": illegal}
    for architecture in ARCHITECTURES:
        config = {"architecture": architecture, **(ONWARDS if architecture == "transcoder" else {})}
        fields = {"autoencoder": config, "layers": (0,), "positions": (2,), "sites": ("residual",)}
        (run,) = expand(SweepConfig.model_validate(fields), store)
        found[f"architecture {architecture}"] = {run.id: json.loads(run.model_dump_json())}
    searched = {"search": {"samples": 3, "ranges": RANGES, "scheduler": "asha"}}
    found["widest of a search"] = [run.id for run in widest_runs(SweepConfig.model_validate(searched), store)]
    return found


def experiments(folder: Path) -> dict[str, Any]:
    """Presets of the experiments, every field of them resolved, and the ids of their runs."""
    found: dict[str, Any] = {}
    for name, presets in JOBS.items():
        chosen = experiment(name)
        for preset, cells in presets.items():
            job = chosen.preset(preset)
            store = ActivationStore.open(made.manifest_only(folder / f"{name}-{preset}", d=128, **cells))
            runs = [run.id for run in chosen.grid(job, store)]
            found[f"{name} {preset}"] = {"config": json.loads(job.model_dump_json()), "runs": runs}
    return found
