"""Does a test notice, whatever rule of the protocol is broken? Each fault of `mutations` is planted, and looked for.

The package is copied, the fault planted in the copy, and the tests that must notice it are run against that:

    pytest -m campaign tests/test_mutations.py

takes some minutes. The quick tests see to it that the list is as the code is.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "zappend"
CONFIGURATION = TESTS.parent / "pyproject.toml"
OTHER_PACKAGE = 99
"""Exit code of the tests when it is not the copy that they would test."""

ALL_TESTS = tuple(dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests))

RUN = f"""
import importlib, os, sys
import pytest

module = importlib.import_module(sys.argv[1])
sys.exit(pytest.main(sys.argv[3:]) if os.path.samefile(module.__file__, sys.argv[2]) else {OTHER_PACKAGE})
"""

each_mutation = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))


@each_mutation
def test_mutation_fits(mutation: Mutation) -> None:
    text = (PACKAGE / "txn" / f"{mutation.file}.py").read_text()
    assert text.count(mutation.old) == 1, f"the text to be replaced is there {text.count(mutation.old)} times"
    assert mutation.new != mutation.old
    ast.parse(text.replace(mutation.old, mutation.new))
    assert mutation.breaks.endswith(".")
    assert mutation.tests


def test_there_are_enough_mutations() -> None:
    names = Counter(mutation.name for mutation in MUTATIONS)
    assert max(names.values()) == 1
    assert len(names) >= 60
    assert len({mutation.file for mutation in MUTATIONS}) >= 12
    print(f"{len(names)} mutations of {len({mutation.file for mutation in MUTATIONS})} modules")


def test_tests_are_there() -> None:
    done = run_tests(PACKAGE.parent, "zappend.txn.store", ALL_TESTS, "--collect-only")
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])


def run_tests(
    folder: Path, module: str, tests: tuple[str, ...], *more: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `tests` against the package in `folder`, of which `module` must be what is imported."""
    file = folder.joinpath(*module.split(".")).with_suffix(".py")
    # On one processor, since -x ends in another way on several.
    options = ["-c", str(CONFIGURATION), "-o", "addopts=", "-m", "not campaign", "-x", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-c", RUN, module, str(file), *options, *more, *(f"{TESTS}/{test}" for test in tests)],
        cwd=folder,  # which Python puts in front of the path, too
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.campaign
@each_mutation
def test_mutation_is_noticed(tmp_path: Path, mutation: Mutation) -> None:
    shutil.copytree(PACKAGE, tmp_path / "zappend", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "zappend" / "txn" / f"{mutation.file}.py"
    text = file.read_text()
    assert text.count(mutation.old) == 1
    file.write_text(text.replace(mutation.old, mutation.new))
    done = run_tests(tmp_path, f"zappend.txn.{mutation.file}", mutation.tests)
    assert done.returncode == 1, f"not noticed: {mutation.breaks}\n{done.stdout}{done.stderr}"
    summary = done.stdout.splitlines()[-1]
    assert " failed" in summary, done.stdout
    print(summary)


@pytest.mark.campaign
def test_without_mutation_all_is_well(tmp_path: Path) -> None:
    """A test that fails in the copy for another reason would seem to notice everything."""
    shutil.copytree(PACKAGE, tmp_path / "zappend", ignore=shutil.ignore_patterns("__pycache__"))
    done = run_tests(tmp_path, "zappend.txn.store", ALL_TESTS, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
