"""The reference: pages made of what the package is made of, whenever the site is built."""

import json
import runpy
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from http_routes import http_routes
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from option_tables import Option, cell, held_config, options, spelled, table, written
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from python_names import python

from bae_ray.activations.config import INPUTS
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.cli.common_options import HELP
from bae_ray.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
HEAD = ["option", "value", "default", ""]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    experiments = {file.stem: runpy.run_path(str(file)) for file in sorted((ROOT / "jobs").glob("*.py"))}
    pages = {
        "command-line": command_line(),
        "jobs": jobs(experiments),
        "configs": configs(experiments),
        "python": python(),
        "http-routes": http_routes(json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def command_line() -> str:
    """A section for each verb, with all of its options."""
    text = f"# Command line\n\n{HELP}\n\n`--config FILE` takes the options of a verb from a YAML or JSON file.\n\n"
    text += table(
        ["verb", ""], [[f"[{name}](#bae-ray-{_slug(name)})", cell(verb.summary)] for name, verb in VERBS.items()]
    )
    for name, verb in VERBS.items():
        command, _ = verb.load()
        given = list(options(command.flags()))
        required = " ".join(f"{option.flag} ..." for option in given if option.default is PydanticUndefined)
        usage = " ".join(part for part in (f"bae-ray {name}", required, "[options]") if part)
        if verb.takes_job:
            usage = f"bae-ray {name} JOB [the job's options] {required} [options]".replace("  ", " ")
        text += f"## bae-ray {name}\n\n{command.__doc__}\n\n```text\n{usage}\n```\n\n" + _tables(given)
    return text


def _tables(given: list[Option]) -> str:
    """A table of the options of each config, with what it is about before it."""
    text = ""
    for path, rows in groupby(given, lambda option: option.path[:-1]):
        if path:
            section = ".".join(path).replace("_", "-")
            text += f"Options of `--{section}.`\n\n"
        text += table(HEAD, [_row(option) for option in rows])
        if path and path[-1] == "autoencoder":
            text += "Another architecture has [options of its own](configs.md#architectures).\n\n"
        if path and path[-1] == "input":
            text += "Another kind of input has [options of its own](configs.md#kinds-of-input).\n\n"
    return text


def _row(option: Option) -> list[str]:
    names = "<br>".join(f"`{name}`" for name in option.flag.split(", "))
    return [names, option.values, written(option.default), cell(option.text)]


def jobs(experiments: Mapping[str, Mapping[str, Any]]) -> str:
    """A section for each script of jobs/, with what its presets set."""
    text = (
        "# Experiments\n\nA script of `jobs/` is an experiment of the paper: `python jobs/NAME.py PRESET [options]`. "
        "Options are the fields of its config, with those of the configs in it: `--sweep.training.epochs 60`. "
        "[Configs](configs.md) describes them. `--help` lists all of them with the preset's values.\n\n"
    )
    for name, module in experiments.items():
        presets = module["EXPERIMENT"].presets
        about, _, more = str(module["__doc__"]).strip().partition("\n\n")
        text += f"## {name}\n\n{about}\n\n{_dedented(more)}\n\n"
        text += f"Config: {_link(type(presets['laptop']))}.\n\n"
        values = {preset: {o.path: o for o in options(type(one), one)} for preset, one in presets.items()}
        text += _presets(values)
    return text


def _presets(values: Mapping[str, Mapping[tuple[str, ...], Option]]) -> str:
    rows = []
    for path in dict.fromkeys(path for preset in values.values() for path in preset):
        found = [preset[path].default if path in preset else None for preset in values.values()]
        example = next(preset[path] for preset in values.values() if path in preset)
        usual = example.section.model_fields[path[-1]].get_default(call_default_factory=True)
        if any(value != usual for value in found):
            rows.append([f"`{example.flag.split(',')[0]}`", *map(written, found)])
    return "What its presets set otherwise than the defaults (-: nothing):\n\n" + table(["option", *values], rows)


def _dedented(text: str) -> str:
    """Commands of a docstring, which are indented there, as blocks."""
    parts = text.split("\n\n")
    return "\n\n".join(
        "```text\n" + "\n".join(line.removeprefix("    ") for line in part.splitlines()) + "\n```"
        if part.startswith("    ") else part
        for part in parts
    )  # fmt: skip


def configs(experiments: Mapping[str, Mapping[str, Any]]) -> str:
    """Each config once, as one writes it in Python and in files."""
    commands = [verb.load()[0] for verb in VERBS.values()]
    tops = [held for command in commands for held in command.held().values()]
    tops += [type(module["EXPERIMENT"].presets["laptop"]) for module in experiments.values()]
    in_flags = {option.section for command in commands for option in options(command.flags())}
    found = {*tops, *(option.section for top in tops for option in options(top)), *in_flags}
    found -= {command.flags() for command in commands}
    found -= {*(one.config for one in ARCHITECTURES.values()), *INPUTS.values()}
    text = (
        "# Configs\n\nThe same fields are options of the command line (`training.lr` is `--training.lr`), keys of the "
        "YAML and JSON files that `--config` takes, and arguments in Python. They cannot be changed once made. "
        "A field that is `-` by default is left out.\n\n"
    )
    text += "## Architectures\n\n"
    text += "".join(_config(f"{one.name}: {one.config.__name__}", one.config) for one in ARCHITECTURES.values())
    text += "## Kinds of input\n\n"
    text += "".join(_config(f"{kind}: {one.__name__}", one) for kind, one in INPUTS.items())
    text += "## Others\n\n"
    return text + "".join(_config(one.__name__, one) for one in sorted(found, key=lambda one: one.__name__))


def _config(title: str, config: type[BaseModel]) -> str:
    rows = []
    for name, field in config.model_fields.items():
        value = field.get_default(call_default_factory=True)
        held = type(value) if isinstance(value, BaseModel) else held_config(field.annotation)
        kind = _link(held) if held else spelled(field.annotation)
        default = "its defaults" if isinstance(value, BaseModel) else written(value)
        rows.append([f"`{name}`", kind, default, cell(field.description or "")])
    about = f"{config.__doc__ or ''}\n\nIn `{config.__module__}`."
    return f"### {title}\n\n{about}\n\n" + table(["field", "value", "default", ""], rows)


def _link(config: type[BaseModel]) -> str:
    before: dict[type[BaseModel], str] = {one.config: f"{one.name}-" for one in ARCHITECTURES.values()}
    before |= {one: f"{kind}-" for kind, one in INPUTS.items()}
    return f"[{config.__name__}](configs.md#{before.get(config, '')}{config.__name__.lower()})"


def _slug(verb: str) -> str:
    return verb.replace(" ", "-")
