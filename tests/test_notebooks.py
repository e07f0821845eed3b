"""What every notebook of the series keeps to, read from the files; nothing is executed but the set-up cell."""

from __future__ import annotations

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
from tools.badges import badges, project_table
from tools.notebooks import discover, parameters
from tools.series import DEFAULT_PROFILE

NOTEBOOKS = sorted(config.NOTEBOOKS.glob("*.ipynb"))
TAGS = {"colab-badge", "colab-setup", "parameters", "nbval-ignore-output"}

# Cells whose output differs between equal runs: progress bars of data that are loaded, and timings. No others.
LOAD = "ds = datasets.load(profile)"
LOAD_LABELS = "ds = datasets.load(profile, LABELS)"
TIMINGS = 'pd.Series(results.read(run.folder)["run_json"]["timings"]).to_frame("seconds, or images per second")'
UNCOMPARED = {
    "01_eda": [LOAD],
    "02_augmentation": [LOAD],
    "03_transfer_learning": [LOAD_LABELS, TIMINGS],
    "04_simple_cnn": [LOAD_LABELS, TIMINGS],
    "05_comparison": [
        LOAD_LABELS,
        "cost = results.costs(runs)",
        'run.show(plots.time_against_accuracy(cost.reset_index().rename(columns={"run": "name"})), "timing_accuracy")',
    ],
    "06_pitfalls": [LOAD],
    "07_data_audit": [
        LOAD,
        "planted = audit.planted_copies(ds, PLANTED)",
        "safe = splits.group(ds, 'photo-safe')",
        "turned = audit.planted_labels(x, labels, safe.ids, seed=SPLIT_SEED)",
        'corrected = datasets.load(profile, "corrected").index["label"].to_numpy() if len(wrong_ones) else labels',
        "quality = audit.quality(ds)",
        'ids = {"random": np.arange(len(labels)), "copy-safe": splits.group(ds).ids, "photo-safe": safe.ids}',
    ],
    "08_cross_dataset": [
        "ds = datasets.load(profile)",
        "everything = results.comparable(results.collect(PROFILE), ds, run.settings['split'], SPLIT_SEED)",
        "kept = cells.photos(profile)",
        "bench = cross_dataset.Bench(ds, manifest, target, kept, weights, engine, folder, run.folder, FEW, SEED, nets)",
        "tuned = cross_dataset.tuning(target)",
        "test = np.flatnonzero(manifest['split'].isin(['val', 'test']))",
        "kinds = cross_dataset.extremes(labels[held], p_net, 3)",
        "from crackutils import features",
        "asked = rng.permutation(np.flatnonzero(manifest['split'] == 'test'))[:CORRUPTED]",
    ],
    "09_inspect_photos": [
        "shots = [synthetic.photo(909, k, 1536, 1152, synthetic.THIN) for k in range(MADE)]",
        "levels = [inspection.at_threshold(shots, odds, t) for t in (0.1, 0.3, 0.5, 0.7, 0.9)]",
        "photos = Path(PHOTOS or run.folder / 'photos')",
        "images = [p.image for p in patches] + [datasets.read_image(ds.folder / name) for name in real['file']]",
        "inspection.panel([photos / name for name in overview['file'][:20]], run.folder / 'panel', folder)",
    ],
}


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def nb(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def tagged(nb: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def code(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def calls(source: str, function: str) -> Iterator[ast.Call]:
    """Yield the calls of a function such as run.show in a cell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            yield node


def test_the_series_is_numbered_without_gaps() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]
    assert list(discover().values()) == NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} == set(UNCOMPARED)
    for path in NOTEBOOKS:
        needs = nbformat.read(path, as_version=4).metadata.crackutils.needs
        assert all(need in numbers and need < path.name[:2] for need in needs), path.name


def test_is_valid_and_clean(nb: nbformat.NotebookNode) -> None:
    nbformat.validate(nb)
    assert nb.nbformat == 4 and nb.nbformat_minor >= 5
    assert nb.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in nb.cells]
    assert len(ids) == len(set(ids))
    assert [c.source for c in code(nb) if c.outputs or c.execution_count is not None] == []
    assert {tag for cell in nb.cells for tag in cell.metadata.get("tags", [])} <= TAGS
    assert [c.source for c in nb.cells if not c.source.strip()] == []


def test_begins_with_badge_question_setup_parameters_and_threads(path: Path, nb: nbformat.NotebookNode) -> None:
    assert [len(tagged(nb, tag)) for tag in ("colab-badge", "colab-setup", "parameters")] == [1, 1, 1]
    first, intro, setup, params, start = nb.cells[:5]
    assert "colab-badge" in first.metadata.tags
    assert intro.source.startswith(f"# {path.name[:2]} ")
    for word in ("Question", "Run time", "Data", "Results"):
        assert word in intro.source, word
    assert f"results/<profile>/{path.stem}/" in intro.source
    assert "colab-setup" in setup.metadata.tags
    assert "parameters" in params.metadata.tags
    # thread counts must stand before NumPy and TensorFlow are there
    begins, heavy = (start.source.find(text) for text in ("config.start(PROFILE)", "import numpy"))
    begins_pandas = start.source.find("import pandas")
    assert 0 <= begins < max(heavy, begins_pandas)
    assert heavy < 0 or begins < heavy
    assert begins_pandas < 0 or begins < begins_pandas


def test_parameters_are_literals_and_explained(path: Path, nb: nbformat.NotebookNode) -> None:
    cell, intro = tagged(nb, "parameters")[0], nb.cells[1].source
    values = parameters(path)  # refuses everything but NAME = literal
    assert next(iter(values)) == "PROFILE" and values["PROFILE"] == DEFAULT_PROFILE
    lines = cell.source.splitlines()
    assert [line.split(" = ")[0] for line in lines] == list(values)
    for name, line in zip(values, lines, strict=True):
        told = "  # " in line or f"`{name}`" in intro or name.endswith("SEED")
        assert told, f"{name} needs a comment behind it or a sentence in the introduction"
    offered = lines[0].partition("# ")[2].split(", ")
    assert offered == [name for name in config.PROFILES if name not in ("smoke", "walls")]  # for tests; a target


def test_a_parameter_has_one_default_in_the_whole_series() -> None:
    seen: dict[str, object] = {}
    for path in NOTEBOOKS:
        for name, value in parameters(path).items():
            if name != "RECIPE":
                assert seen.setdefault(name, value) == value, f"{path.name}: {name}"


@pytest.mark.parametrize(("notebook", "family"), [("03_transfer_learning", "transfer"), ("04_simple_cnn", "cnn")])
def test_recipe_of_a_training_notebook_belongs_to_it(notebook: str, family: str) -> None:
    path = config.NOTEBOOKS / f"{notebook}.ipynb"
    own = RECIPES[parameters(path)["RECIPE"]]
    assert own.family == family
    names = [recipe.name for recipe in RECIPES.values() if recipe.family == family]
    intro = nbformat.read(path, as_version=4).cells[1].source
    assert all(name in intro for name in names)
    (call,) = (c for cell in code(nbformat.read(path, as_version=4)) for c in calls(cell.source, "recipes.recipe"))
    given = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
    assert {"RECIPE", "EPOCHS"} | ({"WEIGHTS"} if family == "transfer" else set()) <= given


def test_results_go_into_the_folder_named_after_the_notebook(path: Path, nb: nbformat.NotebookNode) -> None:
    opened = [call for cell in code(nb) for call in calls(cell.source, "results.open_run")]
    assert [ast.literal_eval(call.args[0]) for call in opened] == [path.stem]
    assert sum(1 for cell in code(nb) for _ in calls(cell.source, "run.finish")) == 1


def test_cells_are_short(nb: nbformat.NotebookNode) -> None:
    for cell in code(nb):
        lines = cell.source.splitlines()
        assert len(lines) <= 25, cell.source
        for node in ast.walk(ast.parse(cell.source)):  # a magic or a shell line is a SyntaxError here
            assert not isinstance(node, ast.ClassDef), cell.source
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 5, cell.source
        assert not lines[-1].endswith(";"), cell.source  # nbval does not honour it
        assert not re.search(r"# *(NBVAL|PYTEST)_", cell.source), "use a tag"


def test_every_figure_is_explained_and_named_once(nb: nbformat.NotebookNode) -> None:
    names = []
    for i, cell in enumerate(nb.cells):
        shown = list(calls(cell.source, "run.show")) if cell.cell_type == "code" else []
        names += [ast.unparse(call.args[1]) for call in shown]
        if shown:
            assert "markdown" in {before.cell_type for before in nb.cells[i - 2 : i]}, cell.source
        if cell.cell_type == "code":
            assert not re.search(r"plt\.show|\.savefig|seaborn|import matplotlib", cell.source), cell.source
    assert names and len(names) == len(set(names))


def test_conclusion_follows_from_the_metrics(nb: nbformat.NotebookNode) -> None:
    headings = [i for i, cell in enumerate(nb.cells) if re.search(r"^## Conclusion$", cell.source, re.M)]
    assert len(headings) == 1
    after = nb.cells[headings[0] :]
    assert after[1].cell_type == "code"
    names = {node.id for node in ast.walk(ast.parse(after[1].source)) if isinstance(node, ast.Name)}
    assert {"metrics", "Markdown"} <= names
    for cell in after:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d", cell.source), "a number in a conclusion must be computed"
            continue
        tree = ast.parse(cell.source)
        specs = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FormattedValue) for n in ast.walk(f)}
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in specs]
        typed = [t for t in texts if isinstance(t, str) and re.search(r"\d\.\d|\d,\d{3}|\d{4}", t)]
        assert typed == [], "a number in a conclusion must be computed"


def test_only_progress_and_timings_are_left_out_of_the_comparison(path: Path, nb: nbformat.NotebookNode) -> None:
    found = tagged(nb, "nbval-ignore-output")
    # an expression that the formatter has spread over lines counts as one line
    first = [ast.unparse(ast.parse(cell.source).body[0]) for cell in found]
    assert first == [ast.unparse(ast.parse(line)) for line in UNCOMPARED[path.stem]]


# ---------------------------------------------------------------- badges and the set-up cell


def test_badges_and_setup_cells_name_the_repository() -> None:
    assert badges(check=True) == []
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
    source = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "colab-setup")[0].source
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
    wanted = {re.split(r"[<>=~]", want)[0] for want in ("split-folders", "rarfile")}
    assert "pip install" in install and wanted <= set(install.split())
