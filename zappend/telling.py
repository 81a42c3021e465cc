"""What a command prints: errors, each in one line with its exit code; how far it is; what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import rich_click as click

from zappend.errors import ZappendError
from zappend.logs import log_to_stderr
from zappend.redaction import redacted
from zappend.signals import exit_code_of, interrupting

if TYPE_CHECKING:
    from rich.progress import Progress

    from zappend.api import AppendResult, Cut, Settlement, Undone

__all__ = ["progress", "reported", "tell_appended", "tell_cut", "tell_settled", "tell_undone"]


@contextlib.contextmanager
def reported(traceback: bool, verbose: bool) -> Iterator[None]:
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
def progress(slices: tuple[str, ...] | Iterator[str], *, show: bool) -> Iterator[Any]:
    """Show on a terminal how far the run is through `slices`; the block gets them."""
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


def tell_appended(result: AppendResult, done: str = "appended") -> None:
    """Print how many slices went in; of a dry run each one, with all keys that would be written."""
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


def tell_cut(cut: Cut) -> None:
    """Print how many labels were deleted, and what that took."""
    would = "would be " if cut.dry_run else ""
    click.echo(
        f"{cut.labels} label{'' if cut.labels == 1 else 's'} {would}deleted, {cut.size} {would}left: "
        f"{cut.moved} chunks moved, {cut.chunks} written again ({cut.bytes} bytes), {cut.removed} removed."
    )


def tell_settled(target: str, settlement: Settlement, dry_run: bool) -> None:
    """Print what a rollback did, or would do."""
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


def tell_undone(target: str, undone: Undone) -> None:
    """Print what an undo did, or would do."""
    if undone.dry_run:
        for key in undone.written:
            click.echo(f"would restore {key}")
        for key in undone.removed:
            click.echo(f"would remove {key}")
    click.echo(f"{target}: {undone}.")
