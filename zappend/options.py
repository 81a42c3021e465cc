"""Options that several commands have."""

from __future__ import annotations

import json
from typing import Any

import rich_click as click

__all__ = [
    "append_dim",
    "assigned",
    "configs",
    "durability",
    "editing",
    "group",
    "if_exists",
    "keep_undo",
    "lock_timeout",
    "no_progress",
    "on_overflow",
    "slice_size",
    "storage_options",
    "target",
    "threads",
    "traceback",
]


def _json_object(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        options = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}") from None
    if not isinstance(options, dict):
        raise click.BadParameter('it must be an object, such as {"anon": true}')
    return options


storage_options = click.option(
    "--storage-options", callback=_json_object, metavar="JSON", help="Options of the target's file system."
)
configs = click.option(
    "-c", "--config", "configs", multiple=True, metavar="FILE", help="Settings in JSON, YAML or TOML; many."
)
assigned = click.option(
    "--set", "assigned", multiple=True, metavar="NAME=VALUE", help="A setting, such as fixed_dims.x=2048; many."
)
target = click.option("-t", "--target", metavar="TARGET", help="The cube.  [default: target_dir]")
group = click.option(
    "--group", metavar="PATH", help="Where in the target the cube lies.  [default: the target is the cube]"
)
append_dim = click.option("--append-dim", metavar="NAME", help="Dimension along which the cube grows.  [default: time]")
if_exists = click.option(
    "--if-exists", type=click.Choice(["error", "skip", "replace"]), help="For slices already in.  [default: error]"
)
slice_size = click.option(
    "--slice-size",
    type=click.Choice(["chunk", "aligned", "any"]),
    help="Labels of a slice: one chunk, whole chunks, or any number.  [default: chunk]",
)
on_overflow = click.option(
    "--on-overflow",
    type=click.Choice(["error", "clip", "mask"]),
    help="For numbers that the cube's type or packing cannot hold.  [default: error]",
)
threads = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that encode and write.")
lock_timeout = click.option(
    "--lock-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for another writer."
)
durability = click.option(
    "--durability",
    type=click.Choice(["full", "process"]),
    help="Survive a power cut, or only a kill.  [default: full]",
)
keep_undo = click.option(
    "--keep-undo",
    type=click.IntRange(min=0),
    metavar="N",
    help="Undo logs that stay, for 'zappend undo'.  [default: 0]",
)
no_progress = click.option("--no-progress", is_flag=True, help="No progress bar.")
traceback = click.option("--traceback", is_flag=True, help="Show where in the program an error came from.")


def editing(command: Any) -> Any:
    """Give a command the options of all that edit a cube."""
    options = (
        configs,
        assigned,
        storage_options,
        group,
        append_dim,
        threads,
        lock_timeout,
        durability,
        keep_undo,
        click.option("--dry-run", is_flag=True, default=None, help="Check everything, tell the cost, change nothing."),
        traceback,
        click.option("-v", "--verbose", is_flag=True, help="Tell more."),
    )
    for option in reversed(options):
        command = option(command)
    return command
