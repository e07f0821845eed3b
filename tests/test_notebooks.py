"""What every notebook of the series keeps to, read from the files; nothing is executed but the set-up cell."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from crackutils import config
from crackutils.recipes import RECIPES
from tools.badges import project_table, write_badges
from tools.notebooks import find_notebooks, read_parameters, tagged_cells

NOTEBOOKS = sorted(config.NOTEBOOKS.glob("*.ipynb"))
TAGS = {"colab-badge", "colab-setup", "parameters", "nbval-ignore-output"}


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def nb(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def calls(nb: nbformat.NotebookNode, function: str) -> Iterator[ast.Call]:
    """Yield the calls of a function such as run.show; a magic or a shell line would be a SyntaxError."""
    for cell in nb.cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
                yield node


def test_the_series_is_numbered_without_gaps() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == [f"{i:02d}" for i in range(len(NOTEBOOKS))]
    assert list(find_notebooks().values()) == NOTEBOOKS
    for path in NOTEBOOKS:
        needs = nbformat.read(path, as_version=4).metadata.crackutils.needs
        assert all(need in numbers and need < path.name[:2] for need in needs), path.name


def test_is_valid_and_clean(nb: nbformat.NotebookNode) -> None:
    nbformat.validate(nb)
    assert nb.nbformat == 4 and nb.nbformat_minor >= 5
    assert nb.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [c.source for c in code if c.outputs or c.execution_count is not None] == []
    assert {tag for cell in nb.cells for tag in cell.metadata.get("tags", [])} <= TAGS
    assert all(cell.source.strip() for cell in nb.cells)


def test_is_short(nb: nbformat.NotebookNode) -> None:
    code = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    assert len(re.findall(r"^.*\S", code, re.M)) <= 150  # set-up and imports too, exercises' solutions not
    assert max(len(cell.source.splitlines()) for cell in nb.cells if cell.cell_type == "code") <= 25
    text = "\n".join(cell.source for cell in nb.cells[1:] if cell.cell_type == "markdown")
    assert len(re.sub(r"```.*?```", "", text, flags=re.S).split()) <= 1200  # those of solutions too, code not


def test_begins_with_badge_question_setup_parameters_and_threads(path: Path, nb: nbformat.NotebookNode) -> None:
    badge, intro, setup, parameters, start = nb.cells[:5]
    for tag, cell in (("colab-badge", badge), ("colab-setup", setup), ("parameters", parameters)):
        assert tagged_cells(nb, tag) == [cell]
    assert intro.source.startswith(f"# {path.name[:2]} ")
    assert all(word in intro.source for word in ("Question", "Run time", f"results/<profile>/{path.stem}/"))
    # thread counts must stand before NumPy and TensorFlow are there
    assert re.match(r"from crackutils import config\n\nprofile = config\.start\(PROFILE\)\n", start.source)


def test_parameters_are_literals_and_explained(path: Path, nb: nbformat.NotebookNode) -> None:
    values = read_parameters(path)  # refuses everything but NAME = literal
    lines = tagged_cells(nb, "parameters")[0].source.splitlines()
    assert next(iter(values.items())) == ("PROFILE", config.DEFAULT_PROFILE)
    assert [line.split(" = ")[0] for line in lines] == list(values)
    for name, line in zip(values, lines, strict=True):
        explained = "  # " in line or f"`{name}`" in nb.cells[1].source or name.endswith("SEED")
        assert explained, f"{name} needs a comment behind it or a sentence in the introduction"
    offered = lines[0].partition("# ")[2].split(", ")
    assert offered == [name for name in config.PROFILES if name not in ("smoke", "walls")]  # for tests; a target


def test_a_parameter_has_one_default_in_the_whole_series() -> None:
    seen: dict[str, object] = {}
    for path in NOTEBOOKS:
        for name, value in read_parameters(path).items():
            assert name == "RECIPE" or seen.setdefault(name, value) == value, f"{path.name}: {name}"


@pytest.mark.parametrize(("stem", "family"), [("03_transfer_learning", "transfer"), ("04_simple_cnn", "cnn")])
def test_recipe_of_a_training_notebook_belongs_to_it(stem: str, family: str) -> None:
    path = config.NOTEBOOKS / f"{stem}.ipynb"
    nb = nbformat.read(path, as_version=4)
    assert RECIPES[read_parameters(path)["RECIPE"]].family == family
    assert all(recipe.name in nb.cells[1].source for recipe in RECIPES.values() if recipe.family == family)
    (call,) = calls(nb, "choose_recipe")
    given = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
    assert {"RECIPE", "EPOCHS"} | ({"WEIGHTS"} if family == "transfer" else set()) <= given


def test_results_go_into_the_folder_named_after_the_notebook(path: Path, nb: nbformat.NotebookNode) -> None:
    assert next(ast.literal_eval(call.args[0]) for call in calls(nb, "open_run")) == path.stem
    assert len(list(calls(nb, "run.finish"))) == 1
    figures = [ast.unparse(call.args[1]) for call in calls(nb, "run.show")]
    assert figures and len(figures) == len(set(figures))  # none overwrites another


def test_badges_and_setup_cells_name_the_repository() -> None:
    assert write_badges(check=True) == []
    repository = project_table()["repository"]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert f"/github/{repository}/blob/" in cells[0].source and cells[0].source.endswith(f"/{path.name})")
        assert f"github.com/{repository}" in cells[2].source


# Outside world of the set-up cell: nothing is installed, cloned or left; what it would do is told on standard error.
OUTSIDE = """
import os, subprocess, sys, types
before = list(sys.path), os.getcwd(), dict(os.environ)
told = []
subprocess.run = lambda command, **options: told.append(command)
os.chdir = lambda folder: told.append(["cd", folder])
os.path.isdir = lambda folder: False
if {colab}:
    sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), types.ModuleType("google.colab")
exec(compile({source!r}, "setup cell", "exec"), {{}})
for command in told:
    print(*command, file=sys.stderr)
if before != (sys.path, os.getcwd(), dict(os.environ)):
    print("changed", file=sys.stderr)
import crackutils
"""


def run_setup(cwd: Path, colab: bool, installed: bool) -> subprocess.CompletedProcess[str]:
    """Run the set-up cell of notebook 01 in a Python that has, or has not, the package installed."""
    source = nbformat.read(NOTEBOOKS[0], as_version=4).cells[2].source
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if installed:
        env["PYTHONPATH"] = str(config.ROOT)
    flags = [] if installed else ["-S"]  # without site-packages
    command = [sys.executable, *flags, "-c", OUTSIDE.format(colab=colab, source=source)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("colab", [False, True])
def test_setup_does_nothing_where_the_package_is_installed(colab: bool, tmp_path: Path) -> None:
    done = run_setup(tmp_path, colab, installed=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_setup_finds_a_checkout_that_is_not_installed() -> None:
    done = run_setup(config.NOTEBOOKS, colab=False, installed=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "changed\n")  # sys.path


def test_setup_clones_on_colab(tmp_path: Path) -> None:
    project = project_table()
    name = project["repository"].split("/")[1]
    done = run_setup(tmp_path, colab=True, installed=False)
    assert done.stdout == ""
    clone, folder, install, *_ = done.stderr.splitlines()
    assert clone.startswith("git clone") and f"--branch {project['branch']} " in clone
    assert clone.endswith(f"https://github.com/{project['repository']} /content/{name}")
    assert folder == f"cd /content/{name}/notebooks"
    assert "pip install" in install and {"split-folders", "rarfile"} <= set(install.split())
