"""Command lines of deploy/ and examples/, read by the parsers of what they call, without running it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import click

from bae_ray.cli.job import parse_preset
from bae_ray.cli.parsing import parse
from bae_ray.cli.verb_job import config_of
from bae_ray.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/bash
{ printf '%s\\0' "$(basename "$0")" "$@"; printf '\\n\\0'; } >> "$RECORDED"
eval "${THEN:-}"
"""
"""Writes its name and arguments down, and does what the variable THEN says."""


def read(words: list[str]) -> bool:
    """Whether it is a command of this project or of Ray. Raises what its parser does where it is wrong."""
    name, *rest = words
    if name == "bae-ray":
        if rest == ["--version"]:
            return True
        verb = next((verb for verb in VERBS if rest[: len(verb.split())] == verb.split()), None)
        assert verb, f"no verb of bae-ray: {words}"
        options = rest[len(verb.split()) :]
        if verb == "job" and "--help" not in options:
            config_of(options)
        else:
            parse(VERBS[verb].load()[0], name, VERBS[verb].named(options))
        return True
    if name == "python" and rest and "jobs/" in rest[0]:
        experiment = runpy.run_path(str(ROOT / "jobs" / Path(rest[0]).name))["EXPERIMENT"]
        parse_preset(experiment.presets, rest[0], rest[1:])
        return True
    if name in ("ray", "serve"):
        if name == "ray":
            from ray.scripts.scripts import cli as group
        else:
            from ray.serve.scripts import cli as group
        _resolve(group, rest)
        return True
    return False


def _resolve(group: click.Group, words: list[str]) -> None:
    """Read the arguments of a sub-command as click does."""
    context = group.make_context(group.name, [*words], resilient_parsing=True)
    _, command, rest = group.resolve_command(context, [*words])
    assert command
    if isinstance(command, click.Group):
        _resolve(command, rest)
    else:
        command.make_context(command.name, rest)


def recorded(
    script: Path, arguments: list[str], tools: list[str], folder: Path, variables: dict[str, str], cwd: Path = ROOT
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run a script beside tools that only write down how they were called; what it said, and the calls."""
    tools_folder = folder / "tools"
    tools_folder.mkdir(parents=True, exist_ok=True)
    for tool in tools:
        (tools_folder / tool).write_text(RECORDER)
        (tools_folder / tool).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    path = os.pathsep.join([str(tools_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "RECORDED": str(calls), **variables}
    done = subprocess.run(
        ["bash", str(script), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    lines = calls.read_text().split("\n\0")[:-1]
    return done, [line.split("\0")[:-1] for line in lines]
