"""Placing a model: on one device, or its blocks divided among several."""

from collections.abc import Sequence

import torch
from accelerate import dispatch_model
from torch import nn
from transformers import PreTrainedModel

from bae_ray.activations.parts import find_blocks


def place(model: PreTrainedModel, devices: Sequence[str]) -> PreTrainedModel:
    """The model in evaluation mode on a device, or with its blocks on several, in order; inputs go to the first one.

    All weights must first fit into this machine's memory.
    """
    model.eval()
    if len(devices) == 1:
        nn.Module.to(model, devices[0])
    else:
        dispatch_model(model, {**device_map(model, devices)}, torch.device(devices[0]), force_hooks=True)
    return model


def device_map(model: PreTrainedModel, devices: Sequence[str]) -> dict[str, str]:
    """The device of each part by its name: as many blocks on each, and what is outside of them on the first."""
    blocks = find_blocks(model)
    of_block = {id(block): devices[i * len(devices) // len(blocks)] for i, block in enumerate(blocks)}
    found: dict[str, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        """A part without blocks gets a device; for a part with blocks, its own parts get one."""
        if id(module) in of_block:
            found[name] = of_block[id(module)]
        elif not any(id(inner) in of_block for inner in module.modules()):
            found[name] = devices[0]
        else:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            found.update({f"{name}.{tensor}".lstrip("."): devices[0] for tensor, _ in own})
            for child, inner in module.named_children():
                visit(inner, f"{name}.{child}".lstrip("."))

    visit(model, "")
    return found
