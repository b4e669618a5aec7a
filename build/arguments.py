"""Options of a command line that are the fields of a dataclass, declared once.

    @app.command()
    @spread_options
    def plan(options: BuildOptions) -> None: ...        # --model, --dataset, …: the fields of BuildOptions

A field's annotation is `Annotated[type, typer.Option(help=…)]`; its default is the option's. An option with
a parser is a string on the command line, whatever the field's type.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any, get_type_hints


def spread_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """The command with a keyword for each field of the dataclasses that it takes."""
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        parameters += [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.default is MISSING else field.default,
                annotation=_as_typed(hints[field.name]),
            )
            for field in fields(parameter.annotation)
        ]

    @functools.wraps(command)
    def spread(**given: Any) -> int | None:
        values = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        return command(**values, **given)

    del spread.__wrapped__  # its signature would be taken instead
    spread.__signature__ = inspect.Signature(parameters)
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


def _as_typed(annotation: Any) -> Any:
    (option,) = annotation.__metadata__
    return annotation if option.parser is None else Annotated[str | None, option]
