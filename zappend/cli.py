"""The command line: parse, call one function of `zappend.api`, one line an error, the exit code.

Numpy, xarray and zarr are imported only by commands that need them, so help and version come at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click

from zappend.errors import UsageError, ZappendError
from zappend.logs import log_to_stderr
from zappend.redaction import redacted
from zappend.signals import exit_code_of, interrupting
from zappend.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

    from zappend.api import AppendResult, Cut, Settlement

__all__ = ["main"]


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zappend")
def cli() -> None:
    """Grow datacubes in plain Zarr by slices, all or nothing."""


@cli.command()
@click.option("-t", "--target", metavar="TARGET", help="The cube: made if it is not there.  [default: target_dir]")
@configs
@assigned
@storage_options
@click.option("--group", metavar="PATH", help="Where in the target the cube lies.  [default: the target is the cube]")
@click.option("--append-dim", metavar="NAME", help="Dimension along which the cube grows.  [default: time]")
@click.option(
    "--append-step", metavar="STEP|+|-|any", help="Expected from label to label: 1D, 12h, P1M, 0.5, +, - or any."
)
@click.option("--zarr-format", type=click.Choice(["2", "3"]), help="Format of a new cube.  [default: 2]")
@click.option(
    "--if-exists", type=click.Choice(["error", "skip", "replace"]), help="For slices already in.  [default: error]"
)
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
@click.option(
    "--on-overflow",
    type=click.Choice(["error", "clip", "mask"]),
    help="For numbers that the cube's type or packing cannot hold.  [default: error]",
)
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
@click.option(
    "--slice-size",
    type=click.Choice(["chunk", "aligned", "any"]),
    help="Labels of a slice: one chunk, whole chunks, or any number.  [default: chunk]",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that encode and write.")
@click.option("--lock-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for another writer.")
@click.option(
    "--durability",
    type=click.Choice(["full", "process"]),
    help="Survive a power cut, or only a kill.  [default: full]",
)
@click.option(
    "--locking",
    type=click.Choice(["safe", "unsafe"]),
    help="Write also where nothing can tell whether there is another writer.  [default: safe]",
)
@click.option("--force-new", is_flag=True, default=None, help="Replace the cube by one that begins with these slices.")
@click.option("--dry-run", is_flag=True, default=None, help="Check everything, write nothing.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.option("--traceback", is_flag=True, help="Show where in the program an error came from.")
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
    with _reported(traceback, verbose):
        from zappend import api
        from zappend.config import ConfigItem, assignment, load_settings
        from zappend.listing import listed

        all_configs: list[ConfigItem] = [*configs, *map(assignment, assigned)]
        given = listed(slices, lambda: load_settings(all_configs, **settings))
        with _progress(given, show=not no_progress and not verbose and sys.stderr.isatty()) as items:
            result = getattr(api, operation)(target, items, all_configs, **settings)
        _tell_appended(result, {"append": "appended", "insert": "inserted", "replace": "replaced"}[operation])


def _editing(command: Any) -> Any:
    """Give a command the options of all that edit a cube."""
    options = (
        configs,
        assigned,
        storage_options,
        click.option("--group", metavar="PATH", help="Where in the target the cube lies.  [default: it is the cube]"),
        click.option("--append-dim", metavar="NAME", help="Dimension along which the cube grows.  [default: time]"),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that encode and write."),
        click.option(
            "--lock-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for another writer."
        ),
        click.option(
            "--durability",
            type=click.Choice(["full", "process"]),
            help="Survive a power cut, or only a kill.  [default: full]",
        ),
        click.option("--dry-run", is_flag=True, default=None, help="Check everything, tell the cost, change nothing."),
        click.option("--traceback", is_flag=True, help="Show where in the program an error came from."),
        click.option("-v", "--verbose", is_flag=True, help="Tell more."),
    )
    for option in reversed(options):
        command = option(command)
    return command


_target = click.option("-t", "--target", metavar="TARGET", help="The cube.  [default: target_dir]")
_slice_size = click.option(
    "--slice-size",
    type=click.Choice(["chunk", "aligned", "any"]),
    help="Labels of a slice: one chunk, whole chunks, or any number.  [default: chunk]",
)
_on_overflow = click.option(
    "--on-overflow",
    type=click.Choice(["error", "clip", "mask"]),
    help="For numbers that the cube's type or packing cannot hold.  [default: error]",
)


@cli.command()
@_target
@click.option("--append-step", metavar="STEP|+|-|any", help="Expected from label to label of a slice.")
@click.option(
    "--if-exists", type=click.Choice(["error", "skip", "replace"]), help="For slices already in.  [default: error]"
)
@_slice_size
@_on_overflow
@_editing
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.argument("slices", nargs=-1, required=True)
def insert(**given: Any) -> None:
    """Put SLICES where they belong among the labels of a cube, in the order given, each one all or nothing."""
    _run_slices("insert", **given)


@cli.command()
@_target
@_on_overflow
@_editing
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.argument("slices", nargs=-1, required=True)
def replace(**given: Any) -> None:
    """Write SLICES over what the cube has under their labels, in the order given, each one all or nothing."""
    _run_slices("replace", **given)


@cli.command()
@click.option("--labels", multiple=True, metavar="LABEL", help="A label; of times a date is the whole day; many.")
@click.option("--where", metavar="FIRST/LAST", help="An interval of labels, both ends in; .. for an open end.")
@click.option("--index", multiple=True, metavar="N|N:M", help="Places, from the end if negative; many.")
@_editing
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
    with _reported(traceback, verbose):
        from zappend.api import delete
        from zappend.config import assignment

        _tell_cut(
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
@_editing
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
    with _reported(traceback, verbose):
        from zappend.api import keep
        from zappend.config import assignment

        _tell_cut(keep(target, last, [*configs, *map(assignment, assigned)], **settings))


@cli.command()
@click.option("-t", "--target", "named", metavar="TARGET", help="The same as the argument.")
@configs
@storage_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be restored and removed.")
@click.option("--break-lock", is_flag=True, help="Take a writer of whom it cannot be proved that it is dead for dead.")
@click.option("--lock-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait for a live writer.")
@click.option(
    "--locking",
    type=click.Choice(["safe", "unsafe"]),
    help="Settle also where nothing can tell whether there is a writer.  [default: safe]",
)
@click.option("--traceback", is_flag=True, help="Show where in the program an error came from.")
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
    with _reported(traceback, verbose=False):
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
            _tell_settled(place, settled, dry_run)


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
@configs
@assigned
@click.option("--defaults", is_flag=True, help="Show settings that are not set, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--traceback", is_flag=True, help="Show where in the program an error came from.")
def show(configs: tuple[str, ...], assigned: tuple[str, ...], defaults: bool, as_json: bool, traceback: bool) -> None:
    """Print the settings that come of all files, and where each comes from; what may be secret is hidden."""
    with _reported(traceback, verbose=False):
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
@click.option("--traceback", is_flag=True, help="Show where in the program an error came from.")
def demo(keep: str | None, zarr_format: str, traceback: bool) -> None:
    """Build a cube from NetCDF slices, kill an append half-way, roll back, show the cube."""
    with _reported(traceback, verbose=False):
        from zappend.demo import run

        run(click.echo, keep, int(zarr_format))


@contextlib.contextmanager
def _reported(traceback: bool, verbose: bool) -> Iterator[None]:
    """Turn errors into one line each and their exit code."""
    log_to_stderr("INFO" if verbose else "WARNING", "%(levelname)s: %(message)s")
    try:
        with interrupting():
            yield
    except ZappendError as error:
        _fail(error, error.exit_code, traceback)
    except (OSError, MemoryError) as error:
        _fail(error, 1, traceback)
    except KeyboardInterrupt as error:
        _fail(error, exit_code_of(error), traceback)


def _fail(error: BaseException, code: int, traceback: bool) -> None:
    if traceback:
        raise error
    text = "interrupted" if type(error) is KeyboardInterrupt else " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, ZappendError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    with contextlib.suppress(OSError):  # the terminal may be gone
        click.echo(redacted(f"Error: {text or type(error).__name__}{notes}"), err=True)
    raise SystemExit(code)


@contextlib.contextmanager
def _progress(slices: tuple[str, ...] | Iterator[str], *, show: bool) -> Iterator[Any]:
    if not show:
        yield slices
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        if isinstance(slices, tuple):
            yield _Tracked(slices, progress)
        else:
            yield progress.track(slices, description="Appending")


class _Tracked(tuple[str, ...]):
    """Slices that a progress bar goes along with; still a tuple, in which the next one can be seen."""

    _progress: Progress

    def __new__(cls, slices: tuple[str, ...], progress: Progress) -> _Tracked:
        self = super().__new__(cls, slices)
        self._progress = progress
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._progress.track(self[:], description="Appending"))


def _tell_appended(result: AppendResult, done: str = "appended") -> None:
    if result.dry_run:
        if any(one.replaces for one in result.slices):
            click.echo("The cube that is there would be removed, with all in its folder.")
        for one in result.slices:
            click.echo(str(one))
            for key, size in one.keys.items():
                click.echo(f"  would write {key}, {size} bytes")
        if result.slices:
            click.echo(f"Checked of {'each' if len(result.slices) > 1 else 'the'} slice: {'; '.join(result.checks)}.")
    skipped = len(result.slices) - int(result)
    would = " would be" if result.dry_run else ""
    click.echo(
        f"{int(result)} slice{'' if result == 1 else 's'}{would} {done}."
        + (f" {skipped} skipped: in the cube already." if skipped else "")
    )


def _tell_cut(cut: Cut) -> None:
    would = "would be " if cut.dry_run else ""
    click.echo(
        f"{cut.labels} label{'' if cut.labels == 1 else 's'} {would}deleted, {cut.size} {would}left: "
        f"{cut.moved} chunks moved, {cut.chunks} written again ({cut.bytes} bytes), {cut.removed} removed."
    )


def _tell_settled(target: str, settlement: Settlement, dry_run: bool) -> None:
    if settlement.outcome == "clean":
        click.echo(f"{target}: nothing to roll back.")
        return
    if dry_run:
        for key in settlement.written:
            click.echo(f"would {'restore' if settlement.outcome == 'rolled back' else 'write'} {key}")
        for key in settlement.removed:
            click.echo(f"would remove {key}")
    counts = f"{len(settlement.written)} keys written, {len(settlement.removed)} removed"
    click.echo(f"{target}: {'would be ' if dry_run else ''}{settlement.outcome}; {counts}.")


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
