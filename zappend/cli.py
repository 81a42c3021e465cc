"""The command line: parse, call one function of `zappend.api`, one line an error, the exit code.

Numpy, xarray and zarr are imported only by commands that need them, so help and version come at once.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import rich_click as click

from zappend import options
from zappend.errors import UsageError
from zappend.redaction import redacted
from zappend.signals import exit_code_of
from zappend.telling import progress, reported, tell_appended, tell_cut, tell_settled, tell_undone
from zappend.version import __version__

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zappend")
def cli() -> None:
    """Grow datacubes in plain Zarr by slices, all or nothing."""


@cli.command()
@click.option("-t", "--target", metavar="TARGET", help="The cube: made if it is not there.  [default: target_dir]")
@options.configs
@options.assigned
@options.storage_options
@options.group
@options.append_dim
@click.option(
    "--append-step", metavar="STEP|+|-|any", help="Expected from label to label: 1D, 12h, P1M, 0.5, +, - or any."
)
@click.option("--zarr-format", type=click.Choice(["2", "3"]), help="Format of a new cube.  [default: 2]")
@options.if_exists
@click.option(
    "--if-earlier",
    type=click.Choice(["error", "insert"]),
    help="For slices that do not come after the last label.  [default: error]",
)
@click.option("--keep-last", metavar="N|DURATION", help="Delete labels that are not among the last N, or older: 30d.")
@click.option("--included-variables", multiple=True, metavar="PATTERN", help="Variables to take.  [default: all]")
@click.option("--excluded-variables", multiple=True, metavar="PATTERN", help="Variables to leave.  [default: none]")
@click.option(
    "--missing-variables",
    type=click.Choice(["refuse", "fill"]),
    help="For slices that lack a variable of the cube.  [default: refuse]",
)
@options.on_overflow
@click.option(
    "--write-empty-chunks/--no-write-empty-chunks",
    default=None,
    help="Write chunks that hold only the fill value.  [default: write]",
)
@click.option("--checksum", is_flag=True, default=None, help="Chunks of a new cube carry a checksum, in format 3.")
@click.option(
    "--attrs-update-mode",
    type=click.Choice(["keep", "replace", "update", "ignore"]),
    help="What becomes of the cube's attributes.  [default: keep]",
)
@options.slice_size
@options.threads
@options.lock_timeout
@options.durability
@options.keep_undo
@click.option(
    "--locking",
    type=click.Choice(["safe", "unsafe"]),
    help="Write also where nothing can tell whether there is another writer.  [default: safe]",
)
@click.option("--force-new", is_flag=True, default=None, help="Replace the cube by one that begins with these slices.")
@click.option("--dry-run", is_flag=True, default=None, help="Check everything, write nothing.")
@options.no_progress
@options.traceback
@click.option("-v", "--verbose", is_flag=True, help="Tell of each slice.")
@click.argument("slices", nargs=-1, required=True)
def append(
    zarr_format: str | None, included_variables: tuple[str, ...], excluded_variables: tuple[str, ...], **given: Any
) -> None:
    """Append SLICES to a cube, in the order given, each one all or nothing.

    Slices are NetCDF files and Zarr groups: paths, URLs, quoted patterns of these such as 'in/**/*.nc', @LIST for those
    that a file lists, one a line, and - for those that standard input lists.
    """
    _run_slices(
        "append",
        zarr_format=zarr_format and int(zarr_format),
        included_variables=list(included_variables) or None,
        excluded_variables=list(excluded_variables) or None,
        **given,
    )


def _run_slices(
    operation: Literal["append", "insert", "replace"],
    *,
    target: str | None,
    slices: tuple[str, ...],
    configs: tuple[str, ...],
    assigned: tuple[str, ...],
    no_progress: bool,
    traceback: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    with reported(traceback, verbose):
        from zappend import api
        from zappend.config import ConfigItem, assignment, load_settings
        from zappend.listing import listed

        all_configs: list[ConfigItem] = [*configs, *map(assignment, assigned)]
        given = listed(slices, lambda: load_settings(all_configs, **settings))
        with progress(given, show=not no_progress and not verbose and sys.stderr.isatty()) as items:
            result = getattr(api, operation)(target, items, all_configs, **settings)
        tell_appended(result, {"append": "appended", "insert": "inserted", "replace": "replaced"}[operation])


@cli.command()
@options.target
@click.option("--append-step", metavar="STEP|+|-|any", help="Expected from label to label of a slice.")
@options.if_exists
@options.slice_size
@options.on_overflow
@options.editing
@options.no_progress
@click.argument("slices", nargs=-1, required=True)
def insert(**given: Any) -> None:
    """Put SLICES where they belong among the labels of a cube, in the order given, each one all or nothing."""
    _run_slices("insert", **given)


@cli.command()
@options.target
@options.on_overflow
@options.editing
@options.no_progress
@click.argument("slices", nargs=-1, required=True)
def replace(**given: Any) -> None:
    """Write SLICES over what the cube has under their labels, in the order given, each one all or nothing."""
    _run_slices("replace", **given)


@cli.command()
@click.option("--labels", multiple=True, metavar="LABEL", help="A label; of times a date is the whole day; many.")
@click.option("--where", metavar="FIRST/LAST", help="An interval of labels, both ends in; .. for an open end.")
@click.option("--index", multiple=True, metavar="N|N:M", help="Places, from the end if negative; many.")
@options.editing
@click.argument("target")
def delete(
    target: str,
    labels: tuple[str, ...],
    where: str | None,
    index: tuple[str, ...],
    configs: tuple[str, ...],
    assigned: tuple[str, ...],
    traceback: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Delete labels of the cube at TARGET, with all that belongs to them, all or nothing."""
    with reported(traceback, verbose):
        from zappend.api import delete
        from zappend.config import assignment

        tell_cut(
            delete(
                target,
                labels=list(labels) or None,
                where=where,
                index=list(index) or None,
                config=[*configs, *map(assignment, assigned)],
                **settings,
            )
        )


@cli.command()
@click.option("--last", required=True, metavar="N|DURATION", help="How many labels stay, or how old they may be: 30d.")
@options.editing
@click.argument("target")
def keep(
    target: str,
    last: str,
    configs: tuple[str, ...],
    assigned: tuple[str, ...],
    traceback: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Delete all labels of the cube at TARGET but the last ones, all or nothing."""
    with reported(traceback, verbose):
        from zappend.api import keep
        from zappend.config import assignment

        tell_cut(keep(target, last, [*configs, *map(assignment, assigned)], **settings))


@cli.command()
@click.option("-t", "--target", "named", metavar="TARGET", help="The same as the argument.")
@options.configs
@options.storage_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be restored and removed.")
@click.option("--break-lock", is_flag=True, help="Take a writer of whom it cannot be proved that it is dead for dead.")
@click.option("--lock-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for a live writer.")
@click.option(
    "--locking",
    type=click.Choice(["safe", "unsafe"]),
    help="Settle also where nothing can tell whether there is a writer.  [default: safe]",
)
@options.traceback
@click.argument("target", required=False)
def rollback(
    target: str | None,
    named: str | None,
    configs: tuple[str, ...],
    dry_run: bool,
    break_lock: bool,
    traceback: bool,
    **settings: Any,
) -> None:
    """Settle what a killed writer left at TARGET, or at target_dir: afterwards it is the old cube or the new one."""
    with reported(traceback, verbose=False):
        from zappend.config import load_settings
        from zappend.txn.context import rollback
        from zappend.txn.target import open_target

        if target is not None and named is not None:
            raise UsageError("the target is given twice, as an argument and by --target; give it once")
        checked = load_settings(configs, **settings)
        place = named if target is None else target
        place = checked.target_dir if place is None else place
        if place is None:
            raise UsageError("no target: give TARGET, or a configuration that sets target_dir")
        how: dict[str, Any] = {"storage_options": checked.storage_options, "locking": checked.locking}
        settled = rollback(place, dry_run=dry_run, break_lock=break_lock, lock_timeout=checked.lock_timeout, **how)
        if settled.outcome == "clean" and next(iter(open_target(place, **how).children()), None) is None:
            click.echo(f"there is no cube at {redacted(place)}, and nothing to roll back.")
        else:
            tell_settled(place, settled, dry_run)


@cli.command()
@click.option(
    "-n", "n", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many commits."
)
@options.configs
@options.storage_options
@options.lock_timeout
@options.durability
@click.option("--dry-run", is_flag=True, help="Only tell what would be restored and removed.")
@click.option(
    "--locking",
    type=click.Choice(["safe", "unsafe"]),
    help="Write also where nothing can tell whether there is another writer.  [default: safe]",
)
@options.traceback
@click.argument("target", required=False)
def undo(target: str | None, n: int, configs: tuple[str, ...], dry_run: bool, traceback: bool, **settings: Any) -> None:
    """Take the last commits to TARGET, or to target_dir, back, if they kept their undo logs: see --keep-undo."""
    with reported(traceback, verbose=False):
        from zappend.config import load_settings
        from zappend.txn.undo import undo

        checked = load_settings(configs, **settings)
        place = checked.target_dir if target is None else target
        if place is None:
            raise UsageError("no target: give TARGET, or a configuration that sets target_dir")
        undone = undo(
            place,
            n,
            storage_options=checked.storage_options,
            dry_run=dry_run,
            durability=checked.durability,
            lock_timeout=checked.lock_timeout,
            locking=checked.locking,
        )
        tell_undone(redacted(place), undone)


@cli.group()
def config() -> None:
    """Settings: all there are, and those that come of several files."""


@config.command()
@click.option("--markdown", is_flag=True, help="The reference page instead.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema of configuration files, for editors."""
    from zappend.schema import json_schema, reference_page

    click.echo(reference_page() if markdown else json.dumps(json_schema(), indent=2), nl=not markdown)


@config.command()
@options.configs
@options.assigned
@click.option("--defaults", is_flag=True, help="Show settings that are not set, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.traceback
def show(configs: tuple[str, ...], assigned: tuple[str, ...], defaults: bool, as_json: bool, traceback: bool) -> None:
    """Print the settings that come of all files, and where each comes from; what may be secret is hidden."""
    with reported(traceback, verbose=False):
        from zappend.config import assignment, layers_of, load_settings
        from zappend.origins import as_text, check_together, show_settings

        layers = layers_of([*configs, *map(assignment, assigned)])
        check_together(load_settings(layers))
        shown = show_settings(layers, defaults=defaults)
        if as_json:
            named = {name: {"value": value, "origin": origin} for name, (value, origin) in shown.items()}
            click.echo(json.dumps(named, indent=2, default=str))
        elif shown:
            click.echo(as_text(shown))
        else:
            click.echo("No setting is given; give files by -c, or --defaults to see what holds without.", err=True)


@cli.command()
@click.option("--keep", metavar="FOLDER", help="Keep slices and cube in this new folder.")
@click.option(
    "--zarr-format", type=click.Choice(["2", "3"]), default="2", show_default=True, help="Format of the cube."
)
@options.traceback
def demo(keep: str | None, zarr_format: str, traceback: bool) -> None:
    """Build a cube from NetCDF slices, kill an append half-way, roll back, show the cube."""
    with reported(traceback, verbose=False):
        from zappend.demo import run

        run(click.echo, keep, int(zarr_format))


def main() -> None:
    """Run the command line; a wrong one gets one line, too."""
    try:
        code = cli(sys.argv[1:] or ["--help"], prog_name="zappend", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        click.echo(f"Error: {error.format_message().rstrip('.')}{hint}", err=True)
        code = error.exit_code
    except click.Abort as error:
        code = exit_code_of(error.__cause__)
    raise SystemExit(code)
