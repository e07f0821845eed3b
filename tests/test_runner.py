"""The runner on toy notebooks: parameters, what is up to date, failures, the report. Few tests start kernels."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from crackutils import config
from crackutils.recipes import RECIPES, Stage
from tools.notebooks import parameters
from tools.report import report
from tools.series import Job, _duration, _estimates, _execute, _key, plan, run

PARAMETERS = """\
PROFILE = "sample"
COUNT: int = 3  # how many
RATIO = 0.5
FLAG = False
NAMES = ["a"]
TITLE = ""
SEED = 1
"""
V3 = "chernxi-mobilenetv3small"  # a recipe that our own weights are not for
# what results.Run.finish does, without pandas
FINISH = """\
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["CRACKUTILS_RESULTS_DIR"], PROFILE, "{name}", "default")
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps([COUNT, RATIO, FLAG, NAMES, TITLE, SEED]))
with open(os.environ["CRACKUTILS_RUN_NOTE"], "a") as note:
    print(folder, file=note)
"""


def images(sha256: str, count: int = 100) -> SimpleNamespace:
    return SimpleNamespace(sha256=sha256, index=range(count))


def write(name: str, *sources: str, needs: tuple[str, ...] = (), parameters: str = PARAMETERS) -> Path:
    """Write a toy notebook into config.NOTEBOOKS: heading, parameters, then the cells."""
    cells = [new_markdown_cell(f"# {name[:2]} The *{name[3:]}* one"), new_code_cell(parameters)]
    cells[1].metadata.tags = ["parameters"]
    cells += [new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    metadata |= {"crackutils": {"needs": list(needs), "summary": ""}}
    path = config.NOTEBOOKS / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A series of two toy notebooks, the second of which needs the first, and a third that has a recipe."""
    monkeypatch.setattr(config, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(config, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(datasets, "load", lambda profile: images(f"images of {profile.name}"))
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    config.NOTEBOOKS.mkdir()
    config.LOCK.write_text("numpy==1\n")
    write("01_first", FINISH.format(name="01_first"), 'print("COUNT is", COUNT)')
    write("02_second", FINISH.format(name="02_second"), needs=("01",))
    write("03_third", FINISH.format(name="03_third"), parameters=PARAMETERS + 'RECIPE = "mobilenetv2"\nEXTRA = None\n')
    return tmp_path


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace papermill by a stand-in that runs nothing; the list tells which copies it was asked for."""
    names: list[str] = []

    def execute(job: Job, running: Path, show: Any) -> nbformat.NotebookNode:
        names.append(job.name)
        folder = config.results_dir() / job.values.get("PROFILE", "sample") / job.notebook.stem / "default"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(str(job.defaults | job.values))
        Path(os.environ["CRACKUTILS_RUN_NOTE"]).write_text(f"{folder}\n")
        nb = nbformat.read(job.notebook, as_version=4)
        nb.metadata.papermill = {}
        nbformat.write(nb, running)
        return nb

    monkeypatch.setattr(runner, "_execute", execute)
    return names


def copies() -> list[str]:
    return sorted(path.name for path in (config.results_dir() / "sample" / "notebooks").iterdir())


# ---------------------------------------------------------------- what is to be run


@pytest.mark.parametrize(
    ("which", "values", "says"),
    [
        (["04"], {}, "notebook=04 is unknown"),
        (["first"], {}, "notebook=first is unknown"),
        (["all"], {"PROFILE": "smaple"}, "did you mean sample?"),
        (["01"], {"CONUT": "4"}, "parameter=CONUT is unknown (did you mean COUNT?)"),
        (["01"], {"RECIPE": "mobilenetv2"}, "parameter=RECIPE is unknown"),
        (["01"], {"COUNT": "many"}, "COUNT=many must be a whole number, for example COUNT=3"),
        (["01"], {"COUNT": "2.5"}, "whole number"),
        (["01"], {"RATIO": "half"}, "RATIO=half must be a number"),
        (["01"], {"RATIO": "nan"}, "RATIO=nan must be a number"),
        (["01"], {"FLAG": "maybe"}, "True or False"),
        (["01"], {"NAMES": "('a',)"}, "must be a list"),
        (["all"], {"RECIPE": "mobilenetv2"}, "give it to that one alone: make run-03 RECIPE="),
        (["01", "03"], {"RECIPE": "mobilenetv2"}, "belongs to one notebook"),
        (["03"], {"RECIPE": "simple-cnn"}, "choose one of: mobilenetv2"),
        (["03"], {"RECIPE": V3}, f"RECIPE={V3} needs WEIGHTS=imagenet or random here"),
        (["recipes", "03"], {}, "give it alone"),
        (["01", "recipes"], {}, "give it alone"),
    ],
)
def test_refuses(
    which: list[str], values: dict[str, str], says: str, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", None)  # before minutes of indexing
    with pytest.raises(config.CrackutilsError) as told:
        run(which, values)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert executed == [] and not config.results_dir().exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("EPOCHS = -1\nWEIGHTS = ''", "EPOCHS=-1 must be 0"),
        ("EPOCHS = 0\nWEIGHTS = 'imagnet'", "did you mean imagenet?"),
    ],
)
def test_values_that_a_recipe_cannot_take_are_refused_at_once(values: str, says: str) -> None:
    write("06_more", "1", parameters=f"RECIPE = 'mobilenetv2'\n{values}")
    with pytest.raises(config.CrackutilsError) as told:
        plan(["06"], {})
    assert says in str(told.value)


def test_refuses_parameters_that_are_no_literals() -> None:
    write("01_first", parameters='PROFILE = "sample"\nCOUNT = len("abc")')
    with pytest.raises(config.CrackutilsError, match=r"01_first\.ipynb: the cell tagged parameters may hold only"):
        plan(["02"], {})
    (config.NOTEBOOKS / "01_first.ipynb").write_text("{")
    with pytest.raises(config.CrackutilsError, match="not a readable notebook"):
        plan(["02"], {})


def test_values_take_the_type_of_the_notebooks_own() -> None:
    words = {"COUNT": "7", "RATIO": "2", "FLAG": "1", "NAMES": "['b', 'c']", "TITLE": "007", "EXTRA": "x"}
    (job,) = plan(["3"], words)
    assert job.values == words | {"COUNT": 7, "RATIO": 2.0, "FLAG": True, "NAMES": ["b", "c"], "PROFILE": "sample"}
    assert type(job.values["RATIO"]) is float
    assert job.defaults["COUNT"] == 3
    assert set(job.changed) == set(words)
    # what equals the notebook's own value makes no other copy
    assert plan(["01"], {"COUNT": "3"})[0].name == "01_first"
    assert plan(["01"], {"COUNT": "4", "SEED": "2"})[0].name == "01_first--COUNT-4--SEED-2"
    names = {plan(["01"], {"TITLE": title})[0].name for title in ("a/b", "a b", "a_b", "../x")}
    assert len(names) == 4 and not any(re.search(r"[/ ]", name) for name in names)


def test_needed_notebooks_come_first_and_share_only_what_concerns_all() -> None:
    first, second = plan(["02"], {"COUNT": "9", "SEED": "5", "PROFILE": "smoke"}, force=True)
    assert (first.notebook.stem, second.notebook.stem) == ("01_first", "02_second")
    assert first.values == {"SEED": 5, "PROFILE": "smoke"}
    assert second.values == {"SEED": 5, "PROFILE": "smoke", "COUNT": 9}
    assert (first.force, second.force) == (False, True)
    assert [job.notebook.stem for job in plan(["all"], {})] == ["01_first", "02_second", "03_third"]
    assert [job.notebook.stem for job in plan(["3", "01"], {})] == ["01_first", "03_third"]


# ---------------------------------------------------------------- all recipes


@pytest.fixture
def series(home: Path) -> None:
    """A toy series with what the real one has: a notebook for each family, and a comparison that needs both."""
    (config.NOTEBOOKS / "03_third.ipynb").unlink()
    transfer = PARAMETERS + 'RECIPE = "mobilenetv2"\nEPOCHS = 0\nWEIGHTS = ""\n'
    write("03_transfer", FINISH.format(name="03_transfer"), parameters=transfer)
    write("04_cnn", FINISH.format(name="04_cnn"), parameters=PARAMETERS + 'RECIPE = "simple-cnn"\nEPOCHS = 0\n')
    write("05_comparison", FINISH.format(name="05_comparison"), needs=("03", "04"))


def planned(**values: str) -> list[tuple[str, str | None]]:
    return [(job.notebook.stem, job.values.get("RECIPE")) for job in plan(["recipes"], values)]


def test_every_recipe_runs_once_in_its_notebook_and_the_comparison_last(
    series: None, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks = {"transfer": "03_transfer", "cnn": "04_cnn"}
    wanted = [(notebooks[recipe.family], name) for name, recipe in RECIPES.items()]
    assert planned(PROFILE="metu-half") == [*wanted, ("05_comparison", None)]
    assert capsys.readouterr().out == ""
    jobs = plan(["recipes"], {"PROFILE": "metu-half", "EPOCHS": "2", "SEED": "5"}, force=True)
    assert all(job.force and job.values["SEED"] == 5 and job.values["PROFILE"] == "metu-half" for job in jobs)
    assert [job.values.get("EPOCHS") for job in jobs] == [2] * len(RECIPES) + [None]
    assert len({job.name for job in jobs}) == len(RECIPES) + 1
    # those that the notebooks have themselves are the runs of make run-all
    assert {"03_transfer", "04_cnn", "05_comparison"} < {job.name for job in plan(["recipes"], {})}


@pytest.mark.parametrize("values", [{}, {"PROFILE": "sample"}, {"PROFILE": "metu-half", "WEIGHTS": "crackutils"}])
def test_a_recipe_without_weights_is_left_out_and_that_is_told(
    values: dict[str, str], series: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [name for _, name in planned(**values)]
    assert found == [*(name for name in RECIPES if name != V3), None]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"left out: {V3}, because WEIGHTS=crackutils exist for mobilenetv2 only"


def test_random_weights_leave_out_what_only_reads_features(series: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = [name for _, name in planned(PROFILE="sample", WEIGHTS="random")]
    assert found == [*(name for name, recipe in RECIPES.items() if not recipe.linear), None]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "left out: mobilenetv2-linear, because WEIGHTS=random have learnt nothing"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"RECIPE": "mobilenetv2"}, "parameter=RECIPE is unknown"),
        ({"EPOCH": "3"}, "did you mean EPOCHS?"),
        ({"EXTRA": "3"}, "parameter=EXTRA is unknown"),
        ({"EPOCHS": "few"}, "EPOCHS=few must be a whole number"),
        ({"WEIGHTS": "crackutilss"}, "did you mean crackutils?"),  # leaves nothing out
        ({"PROFILE": "smaple"}, "did you mean sample?"),
    ],
)
def test_all_recipes_refuse_what_none_of_their_notebooks_takes(
    values: dict[str, str], says: str, series: None, executed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(config.CrackutilsError) as told:
        run(["recipes"], values)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert executed == [] and capsys.readouterr().out == ""


# ---------------------------------------------------------------- how long it will take


def refer(profile: str, run: str, images: int, seconds: float, epochs: tuple[int, ...] = ()) -> None:
    """Write what the estimates read of a reference run."""
    folder = config.REFERENCE / profile / run
    folder.mkdir(parents=True)
    family = "transfer" if "transfer" in run else "cnn"
    settings = {"recipe": {"family": family, "stages": [{"epochs": n} for n in epochs]}} if epochs else {}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "data": {"images": images}}))
    (folder / "run.json").write_text(json.dumps({"timings": {"notebook_seconds": seconds}}))


def estimates(which: list[str], count: int = 100, **values: str) -> list[float]:
    profile = config.profile(values.get("PROFILE", "sample"))
    return _estimates(plan(which, values), profile, f"images of {profile.name}", count)


def test_the_last_run_is_the_best_estimate_and_what_is_up_to_date_takes_no_time(executed: list[str]) -> None:
    refer("metu-half", "01_first/default", 100, 500)
    run(["01"], {})
    assert estimates(["01"]) == [0]
    copy = config.results_dir() / "sample" / "notebooks" / "01_first.ipynb"
    nb = nbformat.read(copy, as_version=4)
    nb.metadata.crackutils.seconds = 42.5
    nbformat.write(nb, copy)
    assert estimates(["01"]) == [0]
    config.LOCK.write_text("numpy==2\n")
    assert estimates(["01"]) == [42.5]
    assert estimates(["01"], TITLE="another copy") == [510]


def test_without_a_last_run_the_largest_reference_counts_by_images() -> None:
    refer("sample", "01_first/default", 200, 7)
    refer("metu-half", "01_first/default", 400, 100)
    assert estimates(["01"]) == [10 + 100 * 100 / 400]  # start-up does not grow with the images
    assert estimates(["01"], count=1200) == [10 + 300]
    assert estimates(["01", "03"]) == [35, 35]  # nothing is known of the third: as long as the others
    assert estimates(["03"]) == [0]


def test_a_recipe_counts_by_its_epochs_too(series: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own = dataclasses.replace(RECIPES["mobilenetv2"], stages=(Stage("head", 2, 1e-3), Stage("fine-tune", 2, 1e-4)))
    monkeypatch.setitem(RECIPES, "mobilenetv2", own)
    refer("metu-half", "03_transfer/mobilenetv2", 100, 80, epochs=(2, 2))
    refer("metu-half", f"03_transfer/{V3}", 100, 300, epochs=(1, 1, 1))
    refer("metu-half", "04_cnn/chernxi-cnn-120", 100, 1400, epochs=(14,))
    assert estimates(["03"]) == [90]
    assert estimates(["03"], PROFILE="metu-mini") == [10 + 160]  # twice the epochs
    assert estimates(["03"], EPOCHS="1") == [10 + 40]
    assert estimates(["03"], count=50, EPOCHS="1") == [10 + 20]
    assert estimates(["03"], RECIPE=V3, PROFILE="metu") == [310]
    assert estimates(["04"], RECIPE="chernxi-cnn-120", EPOCHS="7") == [710]
    found = dict(
        zip([name for _, name in planned(PROFILE="metu")], estimates(["recipes"], PROFILE="metu"), strict=True)
    )
    assert (found["mobilenetv2"], found[V3], found["chernxi-cnn-120"]) == (90, 310, 1410)
    assert {name: seconds for name, seconds in found.items() if seconds != (90 + 310 + 1410) / 3}.keys() == {
        "mobilenetv2",
        V3,
        "chernxi-cnn-120",
    }


def test_the_time_left_follows_the_speed_of_this_machine(
    executed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, execute = [0.0], _execute

    def slow(*args: Any) -> nbformat.NotebookNode:
        clock[0] += 55  # half of what the reference says
        return execute(*args)

    def left() -> list[str]:
        return re.findall(r"^(\[.+?\]).*: running.*?(?:, about (.*) left in all)?$", capsys.readouterr().out, re.M)

    monkeypatch.setattr(runner, "_execute", slow)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for run in ("01_first/default", "02_second/default", "03_third/mobilenetv2"):
        refer("metu-half", run, 100, 100)
    run(["all"], {})
    assert left() == [("[1/3]", "5 min 30 s"), ("[2/3]", "1 min 50 s"), ("[3/3]", "55 s")]
    run(["01", "03"], {})
    assert left() == []
    run(["01"], {"TITLE": "alone"})
    assert left() == [("[1/1]", "")]  # one notebook has cells to count


@pytest.mark.parametrize(
    ("seconds", "says"), [(0.4, "0 s"), (99.4, "99 s"), (99.6, "1 min 40 s"), (119.7, "2 min 0 s"), (330, "5 min 30 s")]
)
def test_durations(seconds: float, says: str) -> None:
    assert _duration(seconds) == says


# ---------------------------------------------------------------- what is up to date


def change_lock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.LOCK.write_text("numpy==2\n")


def change_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("01_first", FINISH.format(name="01_first"), 'print("COUNT was", COUNT)')


def change_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        "01_first",
        FINISH.format(name="01_first"),
        'print("COUNT is", COUNT)',
        parameters=PARAMETERS.replace("SEED = 1", "SEED = 2"),
    )


def change_package(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "package" / "models.py"
    file.write_text(file.read_text("utf-8") + "\n# changed\n", "utf-8")


def change_images(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", lambda profile: images("other images"))


def change_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "weights").mkdir()
    (home / "weights" / "mobilenetv2.h5").write_bytes(b"weights")
    monkeypatch.setenv("CRACKUTILS_WEIGHTS_DIR", str(home / "weights"))


def change_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.platform, "python_version", lambda: "3.11.0")


def lose_results(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(home / "results" / "sample" / "01_first")


def lose_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "results" / "sample" / "notebooks" / "01_first.ipynb").unlink()


def save_in_jupyter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep outputs, counts and metadata in the notebook, as JupyterLab does: nothing that a result depends on."""
    path = config.NOTEBOOKS / "01_first.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].execution_count = 5
    nb.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nb.metadata.language_info = {"name": "python"}
    nbformat.write(nb, path)


def run_with_a_parameter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["01"], {"TITLE": "another"})


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (change_lock, True),
        (change_source, True),
        (change_default, True),
        (change_package, True),
        (change_images, True),
        (change_weights, True),
        (change_python, True),
        (lose_results, True),
        (lose_copy, True),
        (save_in_jupyter, False),
        (run_with_a_parameter, False),
    ],
)
def test_runs_again_only_after(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    again: bool,
    home: Path,
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(Path(runner.__file__).parent, home / "package", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(runner, "__file__", str(home / "package" / "runner.py"))
    run(["01"], {})
    run(["01"], {})
    assert executed == ["01_first"]
    assert "[1/1] 01_first (sample): up to date" in capsys.readouterr().out
    change(home, monkeypatch)
    executed.clear()
    run(["01"], {})
    assert executed == ["01_first"] * again


def test_parameters_make_copies_of_their_own(executed: list[str]) -> None:
    run(["01"], {})
    run(["01"], {"COUNT": "5"})
    run(["01"], {"COUNT": "5"})
    assert executed == ["01_first", "01_first--COUNT-5"]
    assert copies() == ["01_first--COUNT-5.ipynb", "01_first.ipynb"]


def test_force_concerns_the_named_notebooks(executed: list[str]) -> None:
    run(["02"], {})
    assert executed == ["01_first", "02_second"]
    executed.clear()
    run(["02"], {}, force=True)
    assert executed == ["02_second"]


def test_a_notebook_follows_what_it_needs(executed: list[str]) -> None:
    run(["all"], {})
    assert executed == ["01_first", "02_second", "03_third"]
    executed.clear()
    # the first gives other metrics, so the second is stale, and the third, which needs nothing, is not
    (config.results_dir() / "sample" / "01_first" / "default" / "metrics.json").write_text("other")
    run(["all"], {})
    assert executed == ["02_second"]


def test_profiles_do_not_mix(executed: list[str]) -> None:
    run(["01"], {})
    run(["01"], {"PROFILE": "smoke"})
    run(["01"], {"PROFILE": "sample"})
    assert executed == ["01_first", "01_first"]
    assert (config.results_dir() / "smoke" / "report" / "index.html").is_file()


def test_interrupting_leaves_nothing_half_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job: Job, running: Path, show: Any) -> None:
        running.write_text("half a notebook")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_execute", interrupted)
    environment = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        run(["01"], {})
    assert copies() == []
    assert dict(os.environ) == environment


# ---------------------------------------------------------------- with real kernels


def test_runs_notebooks_with_their_parameters(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "ROOT", home)  # copies tell paths inside the project without its own place
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("CRACKUTILS_FORCE", "1")
    told = 'print("COUNT is", COUNT)\nprint("backend", os.environ["MPLBACKEND"], os.environ.get("CRACKUTILS_FORCE"))\n'
    told += f"print({str(config.NOTEBOOKS)!r} == os.getcwd(), {sys.executable!r} == sys.executable)"
    write("01_first", FINISH.format(name="01_first"), told)
    environment = dict(os.environ)
    run(["02"], {"COUNT": "5", "SEED": "8"})
    assert dict(os.environ) == environment
    out = capsys.readouterr().out
    assert re.search(
        r"^\[1/2\] 01_first \(sample, SEED=8\): running.*\n\[1/2\] .* done in \d+ s\n\[2/2\] 02_second \(sample, ",
        out,
        re.M,
    )
    assert "report: results/sample/report/index.html\n" in out
    assert copies() == ["01_first--SEED-8.ipynb", "02_second--COUNT-5--SEED-8.ipynb"]
    base = config.results_dir() / "sample"
    assert (base / "01_first" / "default" / "metrics.json").read_text() == '[3, 0.5, false, ["a"], "", 8]'
    assert (base / "02_second" / "default" / "metrics.json").read_text() == '[5, 0.5, false, ["a"], "", 8]'
    nb = nbformat.read(base / "notebooks" / "01_first--SEED-8.ipynb", as_version=4)
    (text,) = [output.text for cell in nb.cells for output in cell.get("outputs", [])]
    count, backend, where = text.splitlines()
    assert (count, where) == ("COUNT is 3", "True True")
    assert backend.startswith("backend module://matplotlib_inline") and backend.endswith("None")
    assert nb.metadata.crackutils.folders == ["sample/01_first/default"]
    nb.cells[-1].source = ""  # holds the folder because of this very test
    assert str(home) not in nbformat.writes(nb)
    run(["02"], {"COUNT": "5", "SEED": "8"})
    assert capsys.readouterr().out.count("up to date") == 2


SENTENCE = "PROFILE=sample needs more images; run make data."


def test_a_failure_is_told_in_one_sentence_and_its_outputs_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = config.results_dir() / "sample"
    failed, begin = runs / "notebooks" / "02_second.failed.ipynb", 'print("so far", "so good")'

    def fail(source: str) -> str:
        write("02_second", begin, source, FINISH.format(name="02_second"))
        with pytest.raises(config.CrackutilsError) as told:
            run(["02"], {})
        assert copies() == ["02_second.failed.ipynb"]
        assert "\n" not in str(told.value)
        return str(told.value)

    sentence = fail("\n# comment\ntotal = [1, 2][\n    COUNT]")
    assert re.match(
        r"02_second failed in cell \[\d+\] `# comment` with IndexError: list index out of range; ", sentence
    )
    assert sentence.endswith(f"what ran so far is in {failed}.")
    texts = [str(output) for cell in nbformat.read(failed, as_version=4).cells for output in cell.get("outputs", [])]
    assert any("so far so good" in text for text in texts) and any("IndexError" in text for text in texts)

    told = fail(f"from crackutils.config import CrackutilsError\nraise CrackutilsError({SENTENCE!r})")
    assert re.fullmatch(rf"02_second, cell \[\d+\]: {re.escape(SENTENCE)}", told)

    assert "its kernel died" in fail("import os\nos._exit(3)")
    assert not (runs / "report").exists()

    write("02_second", begin, FINISH.format(name="02_second"))
    run(["02"], {})
    assert copies() == ["02_second.ipynb"]
    assert (runs / "report" / "index.html").is_file()


# ---------------------------------------------------------------- report


class Page(HTMLParser):
    """Collects what a page shows and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif tag in ("script", "link", "img", "iframe", "source", "object", "embed"):
            self.loads += [values[name] for name in ("src", "href", "data") if values.get(name)]


def test_report_shows_every_copy_and_loads_nothing_from_elsewhere(executed: list[str]) -> None:
    with pytest.raises(config.CrackutilsError, match="make run-all PROFILE=sample"):
        report(config.profile("sample"))
    run(["all"], {})
    run(["01"], {"COUNT": "4", "TITLE": "<b>&"})
    folder = config.results_dir() / "sample" / "notebooks"
    nb = nbformat.read(folder / "01_first.ipynb", as_version=4)
    picture = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}
    nb.cells[2].outputs = [
        nbformat.v4.new_output("display_data", picture),
        nbformat.v4.new_output("display_data", {"text/markdown": "A sum: $a+b$"}),
    ]
    hidden = new_markdown_cell("open in the cloud")
    hidden.metadata.tags = ["colab-badge"]
    nb.cells.insert(0, hidden)
    nbformat.write(nb, folder / "01_first.ipynb")
    (folder / "02_second.failed.ipynb").write_text("{}")
    index = report(config.profile("sample"))
    assert index == config.results_dir() / "sample" / "report" / "index.html"

    page = Page(index.read_text("utf-8"))
    wanted = sorted(Path(name).with_suffix(".html").name for name in copies() if "failed" not in name)
    assert len(wanted) == 4 and sorted(page.links) == wanted
    assert sorted(path.name for path in index.parent.iterdir()) == sorted([*wanted, "index.html"])
    assert "<b>&" not in index.read_text(
        "utf-8"
    ) and "01 The first one (COUNT=4, TITLE=&lt;b&gt;&amp;)" in index.read_text("utf-8")
    for path in index.parent.iterdir():
        text = path.read_text("utf-8")
        loads = [load for load in Page(text).loads if not load.startswith("data:") and load not in wanted]
        assert loads == [], path.name
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//|fetch\(|import\(|\.src\s*=", text), path.name
    first = (index.parent / "01_first.html").read_text("utf-8")
    assert "iVBORw0KGgo=" in first and "open in the cloud" not in first

    (folder / "03_third.ipynb").unlink()
    report(config.profile("sample"))
    assert not (index.parent / "03_third.html").exists()
    assert "03_third" not in index.read_text("utf-8")


def test_a_notebook_runs_again_when_its_target_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:

    images, asked = {"walls": "a", "own": "b"}, []

    def target(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(sha256=images[name])

    monkeypatch.setattr(datasets, "target", target)
    path = Path(__file__).parent.parent / "notebooks" / "08_cross_dataset.ipynb"

    def key(**values: str) -> str:
        job = Job(path, (), parameters(path), values, False)
        return _key(job, config.profile("sample"), "images")

    first = key()
    assert key() == first and asked == ["walls", "walls"]
    assert key(TARGET="own") != first
    images["walls"] = "c"
    assert key() != first


def test_a_notebook_runs_again_when_photos_or_labels_have_changed(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "notebooks" / "09_inspect_photos.ipynb"
    photos, labels = tmp_path / "photos", tmp_path / "labels.csv"
    photos.mkdir()
    labels.write_text("photo,row,col,crack\n")

    def key(**values: str) -> str:
        job = Job(path, (), parameters(path), values, False)
        return _key(job, config.profile("sample"), "images")

    asked = {"PHOTOS": str(photos), "TILE_LABELS": str(labels)}
    first = key(**asked)
    assert key(**asked) == first != key()
    (photos / "new.jpg").write_bytes(b"new")
    second = key(**asked)
    labels.write_text("photo,row,col,crack\na.jpg,0,0,1\n")
    assert len({first, second, key(**asked)}) == 3
