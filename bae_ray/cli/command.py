"""Commands: the options of a verb, which may hold those of the library."""

from functools import cache
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import create_model

from bae_ray.config import Config

C = TypeVar("C", bound=Config)
_HELD = object()
Held = Annotated[C, _HELD]
"""A config of the library in a command. Its options are flags of the command, without the field's name before them."""


class Command(Config):
    """The options of a verb: its own, and those of the library's configs that it holds.

    On the command line and in files all of them stand side by side: `flat`.
    """

    @classmethod
    def held(cls) -> dict[str, type[Config]]:
        """The configs that it holds, by field."""
        fields = {name: field for name, field in cls.model_fields.items() if _HELD in field.metadata}
        return {name: cast(type[Config], field.annotation) for name, field in fields.items()}

    @classmethod
    def flags(cls) -> type[Config]:
        """The config whose fields are all options side by side."""
        return _flags(cls)

    @classmethod
    def of(cls, flat: Config) -> Self:
        """The command of the options side by side."""
        held = {name: _part(config, flat) for name, config in cls.held().items()}
        own = {name: getattr(flat, name) for name in cls.model_fields if name not in held}
        return cls(**held, **own)

    def flat(self, **changes: Any) -> Config:
        """The options side by side, some of them changed."""
        held = self.held()
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in held}
        for name, config in held.items():
            values |= {option: getattr(getattr(self, name), option) for option in config.model_fields}
        return self.flags().model_validate(values | changes)

    def record(self, **changes: Any) -> str:
        """The options side by side as the text of a file, which --config takes."""
        return self.flat(**changes).model_dump_json(indent=2) + "\n"


@cache
def _flags(command: type[Command]) -> type[Config]:
    held = command.held()
    own: dict[str, Any] = {
        name: (field.annotation, field) for name, field in command.model_fields.items() if name not in held
    }
    bases: Any = tuple(held.values()) or Config
    made: Any = create_model(command.__name__, __base__=bases, __doc__=command.__doc__, **own)
    return made


def _part(config: type[Config], flat: Config) -> Config:
    return config.model_validate({name: getattr(flat, name) for name in config.model_fields})
