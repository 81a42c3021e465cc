"""Settings: one schema, read from files, assignments and keywords; what is wrong is told by file, name and choice."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cubes
import msgspec
import pytest
import yaml
from commands import run
from s3server import BUCKET, S3Server
from zarr.storage import MemoryStore, WrapperStore

import zappend
from zappend.config import load_settings
from zappend.errors import SliceError, TargetError, UsageError
from zappend.schema import json_schema, reference_page
from zappend.settings import ALIASES, Settings, VariableSettings

ROOT = Path(__file__).parent.parent

SECRET = "s3cr3t-0f-n0b0dy"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Files, assignments and keywords.


def test_later_configurations_win_name_by_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "threads: 1\nvariables: {sst: {encoding: {dtype: int16, chunks: [1, 2]}}}\n")
    second = write(
        tmp_path / "b.toml", "[variables.sst.encoding]\nchunks = [3]\n[variables.ice.encoding]\ndtype = 'u1'\n"
    )
    third = write(tmp_path / "c.json", '{"lock_timeout": 3}')
    mapping = {"variables": {"sst": {"encoding": {"fill_value": -1}}}}
    settings = load_settings([first, second, third, mapping], threads=2, lock_timeout=None)
    assert (settings.threads, settings.lock_timeout) == (2, 3)
    sst = settings.variables["sst"].encoding
    assert (sst.dtype, sst.chunks, sst.fill_value) == ("int16", [3], -1)
    assert settings.variables["ice"].encoding.dtype == "u1"
    assert mapping == {"variables": {"sst": {"encoding": {"fill_value": -1}}}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "threads: ${N}\ntarget_dir: '${N}/cube'\nfixed_dims: {x: ${N}}\ngroup: $${N} $N $NO 1$$\n"),
        ("a.json", '{"threads": 7, "target_dir": "${N}/cube", "fixed_dims": {"x": 7}, "group": "$${N} $N $NO 1$$"}'),
        ("a.toml", 'threads = 7\ntarget_dir = "${N}/cube"\ngroup = "$${N} $N $NO 1$$"\nfixed_dims = {x = 7}'),
    ],
)
def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    monkeypatch.setenv("N", "7")
    settings = load_settings(path)
    assert (settings.threads, settings.target_dir, settings.fixed_dims, settings.group) == (
        7,
        "7/cube",
        {"x": 7},
        "${N} 7 $NO 1$",
    )
    monkeypatch.delenv("N")
    with pytest.raises(UsageError, match=rf"{name}: the environment has no variable 'N'; set it, or write"):
        load_settings(path)


def test_what_stands_in_the_environment_is_a_value_and_no_syntax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.yaml", "target_storage_options: {key: ${KEY}}\n")
    for value in ("a: {b", "}, anon: true, x: {", "'\"", "# no comment", "${KEY}"):
        monkeypatch.setenv("KEY", value)
        assert load_settings(path).storage_options == {"key": value}


@pytest.mark.parametrize(
    ("assigned", "found"),
    [
        ("fixed_dims.x=7", ("fixed_dims", {"x": 7})),
        ("append_step=1D", ("append_step", "1D")),
        ("attrs.title=a=b", ("attrs", {"title": "a=b"})),
        ('attrs."long.name"=[1, "2"]', ("attrs", {"long.name": [1, "2"]})),
        ("slice_polling={timeout: 5}", ("slice_polling", {"interval": 2.0, "timeout": 5.0})),
        ("max_memory=", ("max_memory", None)),
    ],
)
def test_assignments(assigned: str, found: tuple[str, Any]) -> None:
    from zappend.config import assignment

    name, value = found
    assert msgspec.to_builtins(load_settings([assignment(assigned)]))[name] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "threads"], "--set threads: write it as name=value"),
        (["--set", "a..b=3"], "--set a..b: between two dots there is no name"),
        (["--set", "zzz=3"], "--set: unknown setting 'zzz'; 'zappend config schema' lists all that there are"),
        (
            ["--set", "fixed_dims.x=a"],
            "setting fixed_dims.x must be a whole number of at least 0, not 'a' (text)",
        ),
        (["--set", "=3"], "write it as name=value"),
        (["--set", "thread=3"], "--set: unknown setting 'thread'; did you mean 'threads'?"),
        (["--set", "threads=[1"], "--set threads: the value cannot be read as YAML: "),
        (["--set", "variables.a.encoding.dtyp=f4"], "variables.a.encoding: unknown name 'dtyp'; did you mean 'dtype'?"),
        (["--set", "variables.a.attr.x=f4"], "variables.a: unknown name 'attr'; did you mean 'attrs'?"),
        (["--set", "slice_polling.timeot=1"], "slice_polling: unknown name 'timeot'; did you mean 'timeout'?"),
        (["--set", "expand_dims.patern=1"], "expand_dims: unknown name 'patern'; did you mean 'pattern'?"),
        (["--set", "profiling.key=[]"], "profiling: unknown name 'key'; did you mean 'keys'?"),
        (["--set", "profiling.log_level=LOUD"], "setting profiling.log_level must be CRITICAL, ERROR, "),
        (["-c", "none.yaml"], "configuration none.yaml cannot be read: No such file or directory"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], message: str) -> None:
    for command in (["config", "show"], ["append", "-t", "cube", "slice.nc"]):
        outcome = run(*command, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "a: [1"), ("a.json", "{"), ("a.toml", "a = "), ("b.yaml", "[1]")]
)
def test_files_that_cannot_be_understood(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name} (cannot be understood|must hold names)"):
        load_settings(write(tmp_path / name, text))


ALL_WRONG = """\
apend_dim: t
zzz: 1
fixed_dims: {lat: '3', lon: 4}
append_step: 1X
max_memory: lots
expand_dims: {pattern: '('}
variables: {"a.b": {encoding: {dtype: int17, scale_factor: [1]}}}
included_variables: [a, null]
"""

ALL_TOLD = (
    "unknown setting 'apend_dim'; did you mean 'append_dim'?",
    "unknown setting 'zzz'; 'zappend config schema' lists all that there are",
    "setting fixed_dims.lat must be a whole number of at least 0, not '3' (text)",
    'setting variables."a.b".encoding.scale_factor must be a number, not a list',
    "setting included_variables[1] must be text, not null",
    "setting append_step must be a number, a duration such as '1D'",
    "setting max_memory: 'lots' is no number of bytes",
    "setting expand_dims.pattern: '(' is no regular expression",
    "setting variables.a.b.encoding.dtype: 'int17' is no type that can be stored",
)


@pytest.mark.parametrize("command", [("config", "show"), ("append", "-t", "cube", "slice.nc")])
def test_all_that_is_wrong_in_a_file_is_told_in_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.yaml", ALL_WRONG)
    outcome = run(*command, "-c", path)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith(f"Error: {path}: unknown")
    for told in ALL_TOLD:
        assert told in outcome.err
    assert outcome.err.count(";") == len(ALL_TOLD) - 1 + 2  # and both hints


def test_what_the_environment_has_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    names = ("threads", "if_exists", "append_step", "max_memory", "fixed_dims", "slice_polling", "included_variables")
    path = write(tmp_path / "a.yaml", "".join(f"{name}: ${{TOKEN}}\n" for name in names))
    outcome = run("config", "show", "-c", path)
    assert (outcome.code, SECRET in outcome.err) == (2, False)
    assert "setting threads must be a whole number of at least 1, not what '${TOKEN}' stands for" in outcome.err
    assert all(name in outcome.err for name in names)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.yaml", "threads: 1\nattrs: {a: 1}\nthreads: 2\n", "'threads' stands there twice, first in line 1"),
        ("a.yaml", "attrs:\n  a: 1\n  'a': 2\n", "'a' stands there twice, first in line 2, and again in line 3"),
        ("a.json", '{"attrs": {"a": 1, "a": 1}}', "'a' stands there twice"),
        ("a.toml", "threads = 1\nthreads = 2", "Cannot overwrite a value"),
    ],
)
def test_a_name_that_stands_there_twice(tmp_path: Path, name: str, text: str, where: str) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be understood: .*{where}"):
        load_settings(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("{a: [{b: &b {<<: &c {x: 1, y: 1}, x: 2}}], d: {<<: *b, y: 3}}", {"x": 2, "y": 3}),
        (
            "{a: &a {one: 1, two: 1}, b: &b {two: 2, three: 2}, d: {three: 3, <<: [*a, *b]}}",
            {"one": 1, "two": 1, "three": 3},
        ),
        ("{a: &a {b: &b {one: 1}, <<: *b}, d: {<<: *a, b: 2}}", {"b": 2, "one": 1}),
    ],
)
def test_names_that_are_merged_may_stand_there_again(tmp_path: Path, text: str, merged: dict[str, int]) -> None:
    assert load_settings(write(tmp_path / "a.yaml", f"extra: {text}\n")).extra["d"] == merged


@pytest.mark.parametrize("text", ["{<<: 1}", "{<<: [{a: 1}, 2]}", "{<<: [[{a: 1}]]}"])
def test_only_mappings_are_merged(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"a.yaml cannot be understood: << merges a mapping .*, not a s\w+ in line 1"):
        load_settings(write(tmp_path / "a.yaml", f"extra: {text}\n"))


def test_a_value_that_is_no_yaml_is_shown_quoted() -> None:
    outcome = run("config", "show", "--set", "attrs.x={{ ds.time[-1] }}")
    assert outcome.code == 2
    quoted = outcome.err.rpartition("quote it: ")[2].strip()
    assert quoted == """--set 'attrs.x="{{ ds.time[-1] }}"'"""
    shown = run("config", "show", "--json", *shlex.split(quoted))
    assert json.loads(shown.out)["attrs.x"]["value"] == "{{ ds.time[-1] }}"
    secret = run("config", "show", "--set", f"storage_options.x={{[{SECRET}")
    assert (secret.code, SECRET in secret.err) == (2, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("permit_eval: true\nattrs: {x: '{{ 1 }'}\n", "setting attrs.x: '{{ 1 }' opens an expression that '}}' does"),
        ("expand_dims: {coord: a, pattern: b}\n", "setting expand_dims: give one of coord, attribute and pattern"),
        (
            "variables: {a: {encoding: {compressor: null, compressors: null}}}\n",
            "variables.a.encoding: 'compressor' and 'compressors' are one setting",
        ),
    ],
)
def test_config_show_checks_what_it_can(tmp_path: Path, text: str, message: str) -> None:
    outcome = run("config", "show", "-c", write(tmp_path / "a.yaml", text))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_config_show_without_settings_says_so() -> None:
    outcome = run("config", "show")
    assert (outcome.code, outcome.out) == (0, "")
    assert "No setting is given" in outcome.err
    assert run("config", "show", "--json").out == "{}\n"


@pytest.mark.parametrize("config", [3, [3], object()])
def test_what_is_no_configuration(config: Any) -> None:
    with pytest.raises(UsageError, match="a configuration must be a file or a mapping, not"):
        load_settings(config)


# The schema.


def settings_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Iterate over the dotted names of all settings of a part of the schema."""
    for name, hint in get_type_hints(value).items():
        inner = next(
            (one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, msgspec.Struct)), None
        )
        if inner is None:
            yield ".".join((*path, name))
        else:
            yield from settings_of(inner, (*path, name))


ALL_SETTINGS = {
    *settings_of(Settings),
    *settings_of(VariableSettings, ("variables",)),
    "slice_polling",
    "expand_dims",
    "profiling",
    *ALIASES,
}


def test_the_json_schema_has_and_describes_every_setting(tmp_path: Path) -> None:
    outcome = run("config", "schema")
    schema = json.loads(outcome.out)
    assert (outcome.code, schema) == (0, json_schema())
    assert set(schema["$defs"]["Settings"]["properties"]) == {*Settings.__struct_fields__, *ALIASES}
    for part in schema["$defs"].values():
        assert part["additionalProperties"] is False
        assert all(len(one["description"]) > 10 for one in part["properties"].values())


def test_the_reference_page_is_that_of_the_schema() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == reference_page() == run("config", "schema", "--markdown").out
    for name in ALL_SETTINGS:
        assert f"`{name.rpartition('.')[2]}`" in reference_page()


def marked(mark: str) -> set[str]:
    """Return what tests are marked with ``pytest.mark.<mark>(…)``."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == mark:
                found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def test_each_setting_has_a_test_of_its_effect() -> None:
    assert marked("effect") == ALL_SETTINGS


WRONG: dict[str, tuple[Any, str]] = {
    "version": (2, "setting version must be 1, not 2"),
    "target_dir": (3, "must be text, not 3 (a number)"),
    "storage_options": ("anon", "must be names and values, not text"),
    "target_storage_options": ("anon", "setting storage_options must be names and values, not text"),
    "group": ("../up", "setting group: "),
    "zarr_format": (4, "must be 2 or 3, not 4"),
    "zarr_version": (1, "setting zarr_format must be 2 or 3, not 1"),
    "consolidated": ("maybe", "must be auto, true or false, not 'maybe' (text)"),
    "force_new": ("yes", "must be true or false, not 'yes' (text)"),
    "append_dim": ("", "setting append_dim must be text that is not empty, not ''"),
    "append_step": ("often", "append_step must be a number, a duration"),
    "expand_dims": ("yes", "must be true, false or names and values, not 'yes' (text)"),
    "expand_dims.coord": (3, "setting expand_dims.coord must be text, not 3 (a number)"),
    "expand_dims.attribute": (3, "setting expand_dims.attribute must be text, not 3 (a number)"),
    "expand_dims.pattern": ("(", "expand_dims.pattern"),
    "expand_dims.format": (3, "setting expand_dims.format must be text, not 3 (a number)"),
    "fixed_dims": ({"x": "7"}, "setting fixed_dims.x must be a whole number of at least 0, not '7' (text)"),
    "if_exists": ("keep", "must be error, skip or replace, not 'keep'"),
    "if_earlier": ("append", "must be error or insert, not 'append'"),
    "keep_last": ("all", "the labels to keep must be a number of labels, at least 1, or a duration such as '30d'"),
    "keep_undo": (-1, "setting keep_undo must be a whole number of at least 0, not -1"),
    "included_variables": (["none"], "it has no variable 'none', which included_variables names"),
    "excluded_variables": ("sst", "must be a list of text, not 'sst' (text)"),
    "missing_variables": ("drop", "must be refuse or fill, not 'drop'"),
    "variables.dims": ("time", "setting variables.a.dims must be a list of text, not 'time' (text)"),
    "variables.attrs": (["x"], "setting variables.a.attrs must be names and values, not a list"),
    "variables.encoding.dtype": ("f5", "variables.a.encoding.dtype: 'f5' is no type that can be stored"),
    "variables.encoding.chunks": ([1, 2, 3, 4], "variables.a.encoding.chunks: [1, 2, 3, 4] has 4 sizes"),
    "variables.encoding.shards": ([1, 2, 3], "shards"),
    "variables.encoding.compressors": ({"name": "none"}, "none"),
    "variables.encoding.compressor": ({"id": "none"}, "none"),
    "variables.encoding.filters": ([{"id": "none"}], "none"),
    "variables.encoding.serializer": ({"name": "bytes"}, "serializer"),
    "variables.encoding.fill_value": ("many", "variables.a.encoding.fill_value: 'many' is no value of"),
    "variables.encoding.scale_factor": (0, "variables.a.encoding.scale_factor: it must be a number other than zero"),
    "variables.encoding.add_offset": ("1", "variables.a.encoding.add_offset must be a number, not '1' (text)"),
    "variables.encoding.units": (3, "variables.a.encoding.units must be text, not 3"),
    "variables.encoding.calendar": (3, "variables.a.encoding.calendar must be text, not 3"),
    "variables.encoding.dimension_separator": ("-", "must be . or /, not '-'"),
    "variables.encoding.chunk_key_encoding": ({"name": "v3"}, "chunk_key_encoding"),
    "on_overflow": ("wrap", "must be error, clip or mask, not 'wrap'"),
    "write_empty_chunks": ("no", "must be true or false, not 'no' (text)"),
    "checksum": (True, "setting checksum: Zarr format 2 has none"),
    "attrs": (["title"], "must be names and values, not a list"),
    "attrs_update_mode": ("merge", "must be keep, replace, update or ignore, not 'merge'"),
    "permit_eval": ("yes", "must be true or false, not 'yes' (text)"),
    "slice_size": ("all", "must be chunk, aligned or any, not 'all'"),
    "slice_source": ("no.such.name", "no.such"),
    "slice_source_kwargs": ([1], "must be names and values, not a list"),
    "slice_engine": (3, "must be text, not 3 (a number)"),
    "slice_storage_options": ("anon", "must be names and values, not text"),
    "open_kwargs": (["group"], "must be names and values, not a list"),
    "slice_polling": ("yes", "must be true, false or names and values, not 'yes' (text)"),
    "slice_polling.interval": (-1, "setting slice_polling.interval must be a number of at least 0, not -1"),
    "slice_polling.timeout": (-1, "setting slice_polling.timeout must be a number of at least 0, not -1"),
    "slice_missing_chunks": ("wait", "must be refuse or fill, not 'wait'"),
    "threads": (0, "setting threads must be a whole number of at least 1, not 0"),
    "max_memory": ("much", "max_memory"),
    "persist_mem_slices": ("yes", "must be true or false, not 'yes' (text)"),
    "temp_dir": (3, "must be text, not 3 (a number)"),
    "temp_storage_options": ("anon", "must be names and values, not text"),
    "lock_timeout": (-1, "setting lock_timeout must be a number of at least 0, not -1"),
    "locking": ("none", "must be safe or unsafe, not 'none'"),
    "durability": ("none", "must be full or process, not 'none'"),
    "dry_run": ("maybe", "must be true or false, not 'maybe' (text)"),
    "disable_rollback": (3, "must be true or false, not 3 (a number)"),
    "extra": ([1], "must be names and values, not a list"),
    "logging": (
        "LOUD",
        "must be true, false, CRITICAL, ERROR, WARNING, INFO, DEBUG, NOTSET or names and values, not 'LOUD'",
    ),
    "profiling": (3, "setting profiling must be true, false, text or names and values, not 3"),
    "profiling.enabled": (3, "setting profiling.enabled must be true or false, not 3 (a number)"),
    "profiling.path": ("no/such/folder/p.txt", "setting profiling: no/such/folder/p.txt cannot be written: No such"),
    "profiling.log_level": ("loud", "DEBUG or NOTSET, not 'loud'"),
    "profiling.keys": (["size"], "setting profiling.keys[0] must be calls, cumulative, "),
    "profiling.restrictions": (["("], "setting profiling.restrictions: '(' is no pattern"),
}
"""A value that is refused, of each setting, and what the refusal says."""


@pytest.mark.parametrize("name", sorted({*ALL_SETTINGS, *WRONG}))
def test_each_setting_refuses_what_it_cannot_mean(name: str) -> None:
    value, message = WRONG[name]
    path = name.split(".")
    if path[0] == "variables":
        path.insert(1, "a")
    for part in reversed(path):
        value = {part: value}
    target: dict[str, bytes] = {}
    with pytest.raises((UsageError, SliceError), match=re.escape(message)):
        zappend.append(target, cubes.small(0), value)
    assert target == {}


# What comes of it all.


def test_config_show_tells_origins(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "threads: 1\nattrs: {title: t, more: 1}\nslice_polling: true\n")
    second = write(tmp_path / "b.yaml", "attrs: {more: {deep: 2}}\nslice_polling: {timeout: 3}\nfixed_dims: {}\n")
    outcome = run("config", "show", "-c", first, "-c", second, "--set", "threads=2", "--json")
    assert {name: (one["value"], one["origin"]) for name, one in json.loads(outcome.out).items()} == {
        "threads": (2, "--set"),
        "attrs.title": ("t", str(first)),
        "attrs.more.deep": (2, str(second)),
        "slice_polling.timeout": (3, str(second)),
        "fixed_dims": ({}, str(second)),
    }
    text = run("config", "show", "-c", first, "-c", second).out
    assert yaml.safe_load(text)["attrs.title"] == "t"
    assert f"# {second}" in text
    everything = json.loads(run("config", "show", "-c", first, "--defaults", "--json").out)
    assert {name.partition(".")[0] for name in everything} == set(Settings.__struct_fields__)
    assert everything["append_dim"] == {"value": "time", "origin": "default"}


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    config = {
        "target_dir": f"s3://me:{SECRET}@bucket/cube.zarr",
        "target_storage_options": {
            "key": SECRET,
            "client_kwargs": {"any": [SECRET]},
            "anon": False,
            "from": "${TOKEN}",
        },
        "slice_storage_options": {"account": SECRET},
        "temp_storage_options": {"username": SECRET},
        "slice_source_kwargs": {"api_key": SECRET, "plain": "shown", "from": "${TOKEN}"},
        "extra": {"deep": {"password": SECRET}, "urls": [f"https://u:{SECRET}@host/"]},
    }
    path = write(tmp_path / "a.json", json.dumps(config))
    for arguments in ([], ["--json"], ["--defaults"]):
        outcome = run("config", "show", "-c", path, *arguments)
        assert outcome.code == 0
        assert SECRET not in outcome.out + outcome.err
        assert "shown" in outcome.out
        assert "${TOKEN}" in outcome.out


@pytest.mark.parametrize(
    "text",
    [
        f"target_storage_options: {{key: {SECRET}\nthreads: 1\n",
        f"target_storage_options: {SECRET}\n",
        f"target_storage_options: {{key: [{SECRET}}}\n",
        f"target_storage_options:\n  key: {SECRET}\n bad: 1\n",
        f"slice_storage_options: ['{SECRET}']\n",
        f"variables: {{a: {{encoding: {{dtype: f4, key: {SECRET}}}}}}}\n",
        f"slice_source_kwargs: {SECRET}\n",
        f"extra: [{SECRET}]\n",
        f"target_dir: ['s3://me:{SECRET}@bucket']\n",
        f"if_exists: 's3://me:{SECRET}@bucket'\n",
    ],
)
def test_errors_of_configurations_do_not_show_secrets(tmp_path: Path, text: str) -> None:
    for name in ("a.yaml", "a.json", "a.toml"):
        outcome = run("config", "show", "-c", write(tmp_path / name, text))
        assert outcome.code == 2
        assert SECRET not in outcome.out + outcome.err


def test_secrets_are_in_no_lock_and_no_log() -> None:
    with S3Server() as server:
        options = {**server.storage_options(), "key": f"key-{SECRET}", "secret": SECRET}
        with zappend.transaction(f"s3://{BUCKET}/cube.zarr", storage_options=options) as txn:
            txn["a/0"] = b"value"
            txn[".zgroup"] = b"{}"
            written = server.objects()
    place = {key: value for key, value in written.items() if key.startswith("cube.zarr.zappend/")}
    assert place
    assert "cube.zarr/a/0" in written
    assert not [key for key, value in written.items() if SECRET.encode() in key.encode() + value]


# Single settings, that belong to nothing else.


@pytest.mark.effect("version")
def test_version() -> None:
    assert zappend.append({}, cubes.small(0), version=1) == 1


@pytest.mark.effect("disable_rollback")
def test_disable_rollback_warns_and_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(zappend.ZappendError):
        zappend.append(target, cubes.small(0), disable_rollback=True)
    assert target == before
    assert "disable_rollback has no effect" in caplog.text


@pytest.mark.effect("dry_run")
def test_a_dry_run_prints_the_plan(tmp_path: Path) -> None:
    """What it says would be written is what is written."""
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2)])
    outcome = run(
        "append", "-t", tmp_path / "cube", "--dry-run", "--append-step", "1D", "--set", "fixed_dims.x=4", *paths
    )
    assert outcome.code == 0
    assert not (tmp_path / "cube").exists()
    assert not (tmp_path / "cube.zappend").exists()
    assert f"{paths[0]}: at 0:2, " in outcome.out
    assert "the cube begins with it" in outcome.out
    assert "labels of time follow by append_step 1D" in outcome.out
    result = zappend.append(tmp_path / "cube", paths, dry_run=True)
    zappend.append(tmp_path / "cube", paths)
    there = {
        path.relative_to(tmp_path / "cube").as_posix(): path.stat().st_size
        for path in (tmp_path / "cube").rglob("*")
        if path.is_file()
    }
    assert {**result.slices[0].keys, **result.slices[1].keys} == there


@pytest.mark.effect("durability")
def test_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    zappend.append(tmp_path / "a", cubes.small(0), durability="process")
    assert not synced
    zappend.append(tmp_path / "b", cubes.small(0))
    files = sum(path.is_file() for path in (tmp_path / "b").rglob("*"))
    assert len(synced) > files


@pytest.mark.effect("zarr_format", "zarr_version")
@pytest.mark.parametrize("name", ["zarr_format", "zarr_version"])
def test_formats(name: str) -> None:
    for number, document in ((2, ".zgroup"), (3, "zarr.json")):
        target: dict[str, bytes] = {}
        zappend.append(target, cubes.small(0), {name: number})
        assert document in target
        with pytest.raises(UsageError, match=f"the target has Zarr format {number}, and zarr_format is {5 - number}"):
            zappend.append(target, cubes.small(2), {name: 5 - number})
    with pytest.raises(UsageError, match="'zarr_version' and 'zarr_format' are one setting"):
        zappend.append({}, cubes.small(0), {"zarr_version": 2}, zarr_version=2, zarr_format=2)


@pytest.mark.effect("locking")
def test_locking() -> None:
    class NoLocks(WrapperStore[MemoryStore]):
        """A store of which nothing is known."""

    target = NoLocks(MemoryStore({}))
    with pytest.raises(TargetError, match="locking='unsafe'"):
        zappend.append(target, cubes.small(0))
    assert zappend.append(target, cubes.small(0), locking="unsafe") == 1


class Host:
    """A program that logs by itself, in which zappend is called."""

    def __init__(self, path: Path) -> None:
        self.logger = logging.getLogger("host.of.zappend")
        self.handler = logging.FileHandler(path, mode="w")
        self.logger.addHandler(self.handler)

    def close(self) -> None:
        self.logger.removeHandler(self.handler)
        self.handler.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    of_zappend = logging.getLogger("zappend")
    before = of_zappend.handlers[:], of_zappend.level, of_zappend.propagate
    host = Host(tmp_path / "host.log")
    yield host
    host.close()
    for handler in set(of_zappend.handlers).difference(before[0]):
        handler.close()
    of_zappend.handlers[:], of_zappend.level, of_zappend.propagate = before


@pytest.mark.effect("logging")
@pytest.mark.parametrize("form", [True, "INFO", "mapping"])
def test_logging_lets_the_host_alone(tmp_path: Path, host: Host, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    if form == "mapping":
        form = {
            "version": 1,
            "disable_existing_loggers": True,
            "formatters": {"short": {"format": "%(levelname)s|%(message)s"}},
            "handlers": {
                "file": {"class": "logging.FileHandler", "filename": str(tmp_path / "z.log"), "formatter": "short"}
            },
            "loggers": {"zappend": {"level": "INFO", "handlers": ["file"]}},
        }
    for _ in range(2):
        zappend.append({}, cubes.small(0), logging=form)
    host.logger.warning("still here")
    assert (tmp_path / "host.log").read_text() == "still here\n"
    assert not host.logger.disabled
    text = (tmp_path / "z.log").read_text() if isinstance(form, dict) else err.getvalue()
    assert text.count("slice 0: at 0:2") == 2
    assert ("INFO|slice 0" in text) == isinstance(form, dict)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("LOUD", "setting logging must be true, false, CRITICAL, .* not 'LOUD'"),
        (3, "setting logging must be true, .* not 3"),
        ({"version": 1, "handlers": {"h": {"class": "no.such"}}}, "setting logging: handler 'h'"),
        ({"version": 1, "loggers": {"zappend": {"level": "LOUD"}}}, "setting logging: .*LOUD"),
    ],
)
def test_logging_refused(host: Host, value: Any, message: str) -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=message):
        zappend.append(target, cubes.small(0), logging=value)
    assert target == {}


@pytest.mark.effect(
    "profiling",
    "profiling.enabled",
    "profiling.path",
    "profiling.log_level",
    "profiling.keys",
    "profiling.restrictions",
)
def test_profiling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "zappend")
    path = tmp_path / "profile.txt"
    zappend.append({}, cubes.small(0), profiling=str(path))
    assert "Ordered by: internal time" in path.read_text()
    assert path.read_text() in caplog.text
    caplog.clear()
    zappend.append(
        {},
        cubes.small(0),
        profiling={"path": str(path), "log_level": "NOTSET", "keys": ["ncalls", "name"], "restrictions": [5, "a"]},
    )
    assert "Ordered by: call count, function name" in path.read_text()
    assert "due to restriction <5>" in path.read_text()
    assert "Ordered by" not in caplog.text
    path.unlink()
    zappend.append({}, cubes.small(0), profiling={"path": str(path), "enabled": False})
    assert not path.exists()
    zappend.append({}, cubes.small(0), profiling={"log_level": "DEBUG"})
    assert [one.levelname for one in caplog.records if "Ordered by" in one.message] == ["DEBUG"]
    zappend.append({}, cubes.small(0), profiling=True)
    assert [one.levelname for one in caplog.records if "Ordered by" in one.message] == ["DEBUG", "INFO"]
