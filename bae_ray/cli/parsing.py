"""Configs from command lines: options, presets, and files of options."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import tyro
import yaml
from pydantic import ValidationError, create_model

from bae_ray.activations.config import INPUTS
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.cli.command import Command
from bae_ray.cli.common_options import HELP
from bae_ray.config import Config, describe
from bae_ray.errors import InvalidInputError
from bae_ray.locations import without_credentials
from bae_ray.names import nearest

C = TypeVar("C", bound=Config)


class Choice(NamedTuple):
    """An option that decides which other options there are. It is read before them."""

    option: re.Pattern[str]
    config_of: Callable[[str], type[Config]]
    """The config that a value of the option stands for. Raises `InvalidInputError` for an unknown value."""
    common: type[Config]
    """The fields that all of these configs have. Their values are kept when the choice changes."""


def _input_config(kind: str) -> type[Config]:
    if kind not in INPUTS:
        raise InvalidInputError(f"kind of input '{kind}' is not known; expected one of {', '.join(INPUTS)}.")
    return INPUTS[kind]


CHOICES = (
    Choice(
        re.compile(r"([\w-]+\.)*autoencoder\.architecture"),
        lambda name: find_architecture(name).config,
        ArchitectureConfig,
    ),
    Choice(re.compile(r"([\w-]+\.)*input\.kind"), _input_config, Config),
)


def parse(command: type[C], prog: str, arguments: list[str], default: C | None = None) -> C:
    """A config from command-line arguments. `--config FILE` gives values, which the other arguments may change."""
    if issubclass(command, Command):
        given = default.flat() if isinstance(default, Command) else None
        return command.of(parse(command.flags(), prog, arguments, given))
    arguments, _, file = take_option(arguments, re.compile("config"))
    if file is not None:
        default = _read_config(command, Path(file))
    for choice in CHOICES:
        arguments, path, value = take_option(arguments, choice.option)
        if value is not None:
            default = _with_choice(default or command.model_construct(), path.split(".")[:-1], choice, value)
    description = (
        f"{command.__doc__}\n\n--config FILE takes options from a YAML or JSON file, such as the config of an earlier "
        f"run; other flags override them. {HELP}"
    )
    parsed = tyro.cli(
        command,
        prog=prog,
        args=arguments,
        default=default,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),  # the options of an architecture are ordinary options
    )
    config = cast(C, parsed)
    _check_local(config)
    return config


def _check_local(command: Config) -> None:
    """Raise `InvalidInputError` for a URI where a local path is needed, of which the parser has made a path."""
    for name in type(command).model_fields:
        value = getattr(command, name)
        if isinstance(value, Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
            given = without_credentials(str(value).replace(":/", "://", 1))
            raise InvalidInputError(
                f"--{name.replace('_', '-')} is {given}, a URI; expected a path on this machine (on a cluster: a "
                "path that all machines see). docs/storage.md says what may be at a URI."
            )


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def take_option(arguments: list[str], name: re.Pattern[str]) -> tuple[list[str], str, str | None]:
    """The arguments without the option --NAME VALUE, its full name, and its value, which is None if it is not given."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not option.startswith("--") or not name.fullmatch(option[2:]):
            continue
        if equals:
            return arguments[:i] + arguments[i + 1 :], option[2:], value
        if i + 1 == len(arguments):
            raise InvalidInputError(f"{option} needs a value.")
        return arguments[:i] + arguments[i + 2 :], option[2:], arguments[i + 1]
    return arguments, "", None


def _with_choice(config: C, path: list[str], choice: Choice, chosen: str) -> C:
    """The config with the chosen kind of config at `path`. Values of the common fields are kept."""
    field = path[0]
    if field not in type(config).model_fields:
        hint = nearest(field, type(config).model_fields)
        raise InvalidInputError(f"{field} is not an option here.{hint} --help lists the options.")
    value = getattr(config, field)
    if len(path) > 1:
        changed = _with_choice(value, path[1:], choice, chosen)
    else:
        common = {key: kept for key, kept in value.model_dump().items() if key in choice.common.model_fields}
        changed = choice.config_of(chosen).model_validate(common)
    return config.model_copy(update={field: changed})


def _read_config(command: type[C], file: Path) -> C:
    """The config in a YAML or JSON file. Options that the file leaves out may be given as flags."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        required = {name for name, field in command.model_fields.items() if field.is_required()}
        if isinstance(read, dict) and (missing := required - read.keys()):
            # What is given is checked here. The parser asks for what is missing.
            absent: dict[str, Any] = dict.fromkeys(missing, (Any, None))
            checked = create_model(command.__name__, __base__=command, **absent).model_validate(read)
            return command.model_construct(**{name: getattr(checked, name) for name in checked.model_fields_set})
        return command.model_validate(read)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"--config {file} cannot be read: {error}.") from error
    except ValidationError as error:
        raise InvalidInputError(f"--config {file}: {_ended(describe(error, command))}") from error
