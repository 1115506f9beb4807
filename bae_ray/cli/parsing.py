"""Configs from command lines: options, presets, replayed files; and errors as exit codes."""

import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import tyro
import yaml
from pydantic import ValidationError, create_model

from bae_ray.activations.inputs import INPUTS
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.chatter import DEBUG, debugging, quieten
from bae_ray.cli.command import Command
from bae_ray.config import Config, describe
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.names import nearest
from bae_ray.storage import without_credentials
from bae_ray.system_errors import explain

C = TypeVar("C", bound=Config)


class Choice(NamedTuple):
    """An option that decides which others there are, so that it is read before them."""

    option: re.Pattern[str]
    config_of: Callable[[str], type[Config]]
    """The config that a value stands for. Raises `InvalidInputError` for one that stands for none."""
    common: type[Config]
    """What is in all of them, and kept from one to another."""


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

EXIT_SOME_FAILED = 1
EXIT_INVALID = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""As the shell has it of a process that SIGPIPE ends."""

DEBUG_FLAG = "--debug"


def parse(command: type[C], prog: str, arguments: list[str], default: C | None = None) -> C:
    """A config from command-line arguments; `--config FILE` gives the values that the others then change."""
    if issubclass(command, Command):
        return command.of(parse(command.flags(), prog, arguments, default and default.flat()))
    arguments, _, file = _take_option(arguments, re.compile("config"))
    if file is not None:
        default = _read_config(command, Path(file))
    for choice in CHOICES:
        arguments, path, value = _take_option(arguments, choice.option)
        if value is not None:
            default = _with_choice(default or command.model_construct(), path.split(".")[:-1], choice, value)
    description = (
        f"{command.__doc__}\n\n--config FILE takes the options from a YAML or JSON file, such as the config of an "
        "earlier run; other flags change them. --debug, or BAE_RAY_DEBUG=1, prints the traceback of an error and all "
        "that libraries say."
    )
    parsed = tyro.cli(
        command,
        prog=prog,
        args=arguments,
        default=default,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),  # an architecture's options stand among the others, not behind a word
    )
    config = cast(C, parsed)
    _check_local(config)
    return config


def _check_local(command: Config) -> None:
    """Raise `InvalidInputError` for a URI where a folder or file of this machine is needed: it became a path of one."""
    for name in type(command).model_fields:
        value = getattr(command, name)
        if isinstance(value, Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
            given = without_credentials(str(value).replace(":/", "://", 1))
            raise InvalidInputError(
                f"--{name.replace('_', '-')} is {given}, a URI; expected a path on this machine, which on a cluster "
                "all machines see. Only activation stores may be at URIs: --out of 'bae-ray extract', and --store."
            )


def parse_preset(presets: dict[str, C], prog: str, arguments: list[str], default: str | None = None) -> C:
    """A job's config: the preset that the first argument names, else `default`, with the other arguments' changes."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if not name and default is not None:
        name, arguments = default, [default, *arguments]
    if name in presets:
        return parse(type(presets[name]), f"{prog} {name}", arguments[1:], presets[name])
    if not name and {"-h", "--help"} & set(arguments):
        first = next(iter(presets))
        return parse(type(presets[first]), f"{prog} {first}", arguments, presets[first])
    given = f"preset '{name}' is not known" if name else "no preset is given"
    raise InvalidInputError(f"{given}: begin with one of {', '.join(presets)}.{nearest(name, presets)}")


def run_safely(main: Callable[[], int]) -> int:
    """Call `main`; an error that a user can mend is printed and becomes an exit code.

    With --debug among the arguments of the process, or BAE_RAY_DEBUG=1, its traceback comes first.
    """
    if DEBUG_FLAG in sys.argv:
        sys.argv.remove(DEBUG_FLAG)
        os.environ[DEBUG] = "1"
    quieten()
    try:
        return _run(main)
    except BrokenPipeError as error:
        if not _unread(sys.stdout.fileno()):
            return _refuse(explain(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def report_failures(failures: list[str]) -> int:
    """Print what failed; the exit code that says so."""
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0


def _run(main: Callable[[], int]) -> int:
    try:
        code = main()
        sys.stdout.flush()  # here a pipe that is closed can still be answered
        return code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _refuse(explain(error))
    except BaeRayError as error:
        return _refuse(str(error))
    except ValidationError as error:
        _show_traceback()
        for problem in error.errors():
            field = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: --{field} is {problem['input']!r}: {problem['msg']}.", file=sys.stderr)
        return EXIT_INVALID


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _unread(file: int) -> bool:
    """Whether it is a pipe whose reader, `head` say, has had enough."""
    poll = select.poll()
    poll.register(file, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _refuse(message: str) -> int:
    _show_traceback()
    print(f"error: {message}", file=sys.stderr)
    return EXIT_INVALID


def _show_traceback() -> None:
    if debugging():
        traceback.print_exc()


def _take_option(arguments: list[str], name: re.Pattern[str]) -> tuple[list[str], str, str | None]:
    """The arguments without the option --NAME VALUE, the option's full name, and its value; None where it is not."""
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
    """The config with another kind of config at `path`, with its own defaults; what both have in common is kept."""
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
    """The config in a file of JSON, or of YAML, which JSON is a part of; options left out there may follow as flags."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        required = {name for name, field in command.model_fields.items() if field.is_required()}
        if isinstance(read, dict) and (missing := required - read.keys()):
            # What is there is checked now; the parser asks for what is missing.
            absent: dict[str, Any] = dict.fromkeys(missing, (Any, None))
            checked = create_model(command.__name__, __base__=command, **absent).model_validate(read)
            return command.model_construct(**{name: getattr(checked, name) for name in checked.model_fields_set})
        return command.model_validate(read)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"--config {file} cannot be read: {error}.") from error
    except ValidationError as error:
        raise InvalidInputError(f"--config {file}: {_ended(describe(error, command))}") from error
