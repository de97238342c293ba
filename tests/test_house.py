"""The house: what is public is documented, what the README shows runs, and importing is quick."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.") if "__main__" not in m.name)


def public(module):
    for name, member in vars(module).items():
        if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__ and callable(member):
            yield name, member
            if inspect.isclass(member):
                for attribute, value in vars(member).items():
                    function = getattr(value, "fget", None) or getattr(value, "__func__", value)
                    if not attribute.startswith("_") and inspect.isfunction(function):
                        yield f"{name}.{attribute}", function


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented_and_annotated(name):
    module = importlib.import_module(name)

    assert module.__doc__
    for member_name, member in public(module):
        assert inspect.getdoc(member), f"{name}.{member_name} has no docstring"
        if inspect.isfunction(member):
            hints = set(inspect.signature(member).parameters) - {"self", "cls"}
            missing = hints - set(member.__annotations__)
            assert not missing, f"{name}.{member_name}: {missing} are not annotated"


def test_heavy_packages_are_not_imported_with_the_package():
    code = "import sys, pipeline, pipeline.config; print(*sys.modules)"

    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())

    assert not loaded & {
        "tiled",
        "databroker",
        "bluesky",
        "ophyd",
        "pandas",
        "xarray",
        "dask",
        "zmq",
        "scipy",
        "streamz",
    }


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """In order, in one session, as a reader would type it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 3
    code = "\n".join(blocks)

    monkeypatch.setenv("BLUESKY_PIPELINE_CATALOG_LINGER", "1")
    (tmp_path / "configs").symlink_to(ROOT / "configs")

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_readme_exist():
    from pipeline.cli import main

    commands = set(re.findall(r"^bluesky-pipeline ([\w-]+)", (ROOT / "README.md").read_text(), re.M))
    assert commands >= {"demo", "run", "check", "replay", "verify", "show", "store", "export", "find", "lineage"}
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0


def test_the_shelf_in_the_readme_is_what_the_docstrings_tell():
    from pipeline.reductions.shelf import markdown

    readme = (ROOT / "README.md").read_text()

    table = readme.partition("reductions markdown -->\n")[2].partition("\n<!-- end")[0]
    assert table == markdown(), "make it anew: python -m pipeline.reductions markdown"
    assert all(row.rstrip("| ").endswith(("`", "emits")) for row in table.splitlines()[2:])
