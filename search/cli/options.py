"""The options of commands: those of a search, as the driver declares them, those of a cluster, and all others."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from search.cli.command import reporting_errors
from search.driver.options import RunOptions, default_of, option_of
from search.jobs.settings import Setting


def _typed(name: str) -> Any:
    """An option of a search in the form that Typer takes."""
    option = option_of(name)
    return typer.Option(option.flag, metavar=option.metavar, envvar=option.envvar, help=option.help)


StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="The name of a study. Default: the latest one.")
]
Runs = Annotated[Path, _typed("runs")]
Storage = Annotated[str | None, _typed("storage")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")]
SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="A space file, such as spaces/hybrid.yaml.")]
MoreData = Annotated[list[Path] | None, typer.Argument(metavar="--data TEXT", hidden=True)]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        help="Measure the speed for some seconds and propose a search that fits, such as 6m or 18:00.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAME,...|all", help="Columns of the table. Default: those that fit."),
]


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `options` of a command by these options of a search; it receives a RunOptions.

    `--data` takes several words, as in `--data a b c`. A value that is not valid is refused before the command begins.
    Typer builds the command line from the signature of a function.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            with reporting_errors():
                asked = _asked({name: given.pop(name) for name in (*names, MORE) if name in given})
            command(options=asked, **given)

        return _with_parameters(called, command, "options", _parameters(names))

    return decorated


def takes_settings(settings: Mapping[str, Setting]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `settings` of a command by an option for each of these; it receives those given."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            asked = {name: given.pop(name) for name in settings}
            command(settings={name: value for name, value in asked.items() if value is not None}, **given)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = []
        for name, how in settings.items():
            option = typer.Option(how.flag, metavar=how.metavar, help=how.help)
            parameters.append(
                inspect.Parameter(name, kind, default=None, annotation=Annotated[how.type | None, option])
            )
        return _with_parameters(called, command, "settings", parameters)

    return decorated


def _with_parameters(
    called: Callable[..., None], command: Callable[..., None], name: str, parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """Give `called` the signature of `command`, with these parameters in place of the one with that name."""
    hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]
    found: list[inspect.Parameter] = []
    for parameter in own:
        found += parameters if parameter.name == name else [parameter]
    called.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]  # which Typer reads
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
    return called


MORE = "more_data"


def _parameters(names: tuple[str, ...]) -> list[inspect.Parameter]:
    """The parameters of a function that Typer reads, for these options of a search."""
    hints = get_type_hints(RunOptions)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = [inspect.Parameter(MORE, kind, default=None, annotation=MoreData)] if "data" in names else []
    for name in names:
        hint, default = hints[name], default_of(name)
        if get_origin(hint) is tuple:
            several: Any = str if option_of(name).is_listed else types.GenericAlias(list, get_args(hint)[:1])
            hint = several | None
            default = None
        found.append(inspect.Parameter(name, kind, default=default, annotation=Annotated[hint, _typed(name)]))
    return found


def _asked(given: dict[str, Any]) -> RunOptions:
    """The options as given. Raises ValueError for a second space, and for a value that is not valid."""
    more = given.pop(MORE, None) or ()
    spaces = [path for path in more if path.suffix in (".yaml", ".yml")]  # click does not say what came before --data
    if more and (spaces or not given["data"]):
        raise ValueError(
            f"unexpected {str([*spaces, *more][0])!r}; one space is searched at a time, text follows --data"
        )
    for name, value in given.items():
        if option_of(name).is_listed:
            given[name] = () if value is None else tuple(word.strip() for word in value.split(","))
        elif value is None or isinstance(value, list):
            given[name] = default_of(name) if value is None else tuple(value)
    if "data" in given:
        given["data"] = (*given["data"], *more)  # --data a b c, as well as --data a --data b
    options = RunOptions(space=None, **given)
    options.check()
    return options
