"""The page of Python names: directives for mkdocstrings, which reads the docstrings."""

import ast
import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

from pydantic import BaseModel

PUBLIC = (
    "bae_ray",
    "bae_ray.client",
    "bae_ray.autoencoders",
    "bae_ray.autoencoders.interop",
    "bae_ray.compression",
    "bae_ray.training.sweep",
    "bae_ray.interventions.editable_model",
    "bae_ray.steering.vectors",
    "bae_ray.steering.edits",
    "bae_ray.steering.generation",
    "bae_ray.steering.steered_model",
    "bae_ray.fidelity.next_token",
)
"""Modules whose public names are described."""


def python() -> str:
    """The public names of the modules, from their docstrings; each once."""
    text = "# Python\n\nWhat programs may rely on. [Configs](configs.md) has the configs that these take.\n\n"
    told: list[Any] = []
    for name in PUBLIC:
        module = import_module(name)
        text += f"## {name}\n\n{(module.__doc__ or '').splitlines()[0]}\n\n"
        for public in _public(module):
            one = getattr(module, public)
            is_class = inspect.isclass(one) and not issubclass(one, BaseModel)
            if (is_class or inspect.isfunction(one)) and one not in told:
                text += f"::: {one.__module__}.{public}\n\n"
                told.append(one)
    return text


def _public(module: ModuleType) -> list[str]:
    """What a module defines, and what it passes on as type checkers understand it: `import x as x` (PEP 484)."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names if alias.asname == alias.name}
    names |= {name for name, one in vars(module).items() if getattr(one, "__module__", None) == module.__name__}
    return sorted(name for name in names if not name.startswith("_"))
