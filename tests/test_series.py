"""The series on toy notebooks: parameters, what is up to date, failures, the site. Few tests start kernels."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from crackutils import config, datasets
from crackutils.comparison.needed import run_needed
from crackutils.provenance import code_hash
from crackutils.recipes import RECIPES
from crackutils.stages import Stage
from tools.notebooks import read_parameters
from tools.plan_series import plan
from tools.run_series import estimate_seconds, format_seconds, run
from tools.site import _prepare, _relink, write_site

Patch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]
ROOT = config.ROOT
PARAMETERS = (
    'PROFILE = "sample"\nCOUNT: int = 3  # how many\nRATIO = 0.5\nFLAG = False\nNAMES = ["a"]\nTITLE = ""\nSEED = 1\n'
)
V3 = "chernxi-mobilenetv3small"  # a recipe that our own weights are not for
FINISH = """\
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["CRACKUTILS_RESULTS_DIR"], PROFILE, "{name}", "default")
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps([COUNT, RATIO, FLAG, NAMES, TITLE, SEED]))
(folder / "run.json").write_text("{{}}")
print(folder, file=open(os.environ["CRACKUTILS_RUN_NOTE"], "a"))
"""


def write(name: str, *sources: str, needs: tuple[str, ...] = (), parameters: str = PARAMETERS) -> None:
    cells = [new_markdown_cell(f"# {name[:2]} The *{name[3:]}* one")]
    cells += [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources or (FINISH.format(name=name),)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "crackutils": {"needs": list(needs), "summary": ""}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), config.NOTEBOOKS / f"{name}.ipynb")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    for name in ("NOTEBOOKS", "LOCK", "REFERENCE"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr("tools.run_series.code_hash", lambda: "code")
    use_images(monkeypatch)
    monkeypatch.delenv("CRACKUTILS_WEIGHTS_DIR", raising=False)
    config.NOTEBOOKS.mkdir()
    config.LOCK.write_text("numpy==1\n")
    write("01_first")
    write("02_second", needs=("01",))
    write("03_third", parameters=PARAMETERS + 'RECIPE = "mobilenetv2"\nEXTRA = None\n')
    return tmp_path


def use_images(patch: Patch, sha256: str = "images", target: str = "target", photo: int = 1) -> None:
    """Let every profile, and every target, have images of this hash, but only after they were prepared."""
    cuts = pd.DataFrame({"photo": [photo]})
    ready = {}
    patch.setattr("tools.run_series.prepare", lambda profile: ready.update({profile.name: range(100)}))
    load = lambda name, known: SimpleNamespace(sha256=f"{known} of {name}", index=ready[name], cuts=cuts)  # noqa: E731
    patch.setattr("crackutils.datasets.load", lambda profile: load(profile.name, sha256))
    patch.setattr("tools.run_series.load_target", lambda name: load(name, target))


def use_data(home: Path, patch: Patch) -> Path:
    patch.setenv("CRACKUTILS_DATA_DIR", str(home / "data"))
    (folder := datasets.raw_folder("sample")).mkdir(parents=True)
    return folder


@pytest.fixture
def executed(monkeypatch: Patch) -> list[str]:
    """Replace papermill by a stand-in that runs nothing; the list holds the notebooks that it was asked for."""
    names: list[str] = []

    def execute(notebook: Path, out: Path, parameters: dict[str, Any], *_: Any) -> Any:
        names.append(notebook.stem + "".join(f" {k}={v}" for k, v in parameters.items() if k != "PROFILE"))
        run = "--".join(["default", *(f"count-{parameters[name]}" for name in parameters if name == "COUNT")])
        home = config.results_dir() / (folder := f"{parameters['PROFILE']}/{notebook.stem}/{run}")
        home.mkdir(parents=True, exist_ok=True)
        (home / "metrics.json").write_text(str(read_parameters(notebook) | parameters))
        for name in ("run.json", "predictions.csv"):
            (home / name).write_text("")
        nb = nbformat.read(notebook, as_version=4)
        nb.metadata.papermill = {}
        nbformat.write(nb, out)
        return nb, [folder]

    monkeypatch.setattr("tools.run_series.execute_notebook", execute)
    return names


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(config.CrackutilsError) as told:
        call(*arguments)
    assert "\n" not in str(told.value)
    return str(told.value)


def copies() -> list[str]:
    return sorted(os.listdir(config.results_dir() / "sample" / "notebooks"))


@pytest.mark.parametrize(  # what the real series refuses is tested in test_project.py
    ("which", "values", "says"),
    [
        (["01"], {"COUNT": "2.5"}, "COUNT=2.5 must be a whole number, for example COUNT=3"),
        (["01"], {"RATIO": "half"}, "RATIO=half must be a number"),
        (["01"], {"RATIO": "nan"}, "RATIO=nan must be a number"),
        (["01"], {"FLAG": "maybe"}, "True or False"),
        (["01"], {"NAMES": "('a',)"}, "must be a list"),
        (["01", "03"], {"RECIPE": "mobilenetv2"}, "Run only that one: make run-03 RECIPE="),
        (["03"], {"EPOCHS": "-1"}, "EPOCHS=-1 is negative"),
        (["01"], {"COUNT": "-1"}, "COUNT=-1 is negative"),
        (["05"], {"SEED": "-1"}, "SEED=-1 is negative"),
        (["05"], {"THRESHOLD": "2"}, "THRESHOLD=2.0 is no probability"),
        (["05"], {"THRESHOLD": "-0.1"}, "THRESHOLD=-0.1 is no probability"),
        (["05"], {"PHOTO": "no/such.jpg"}, "PHOTO=no/such.jpg does not exist"),
        (["03"], {"LABELS": "corrected"}, "parameter=LABELS is unknown"),
        (["03"], {"WEIGHTS": "imagnet"}, "did you mean imagenet?"),
        (["01", "recipes"], {}, "Give it alone"),
        (["recipes"], {"EXTRA": "3"}, "parameter=EXTRA is unknown"),
        (["recipes"], {"EPOCHS": "few"}, "EPOCHS=few must be a whole number"),
        (["recipes"], {"WEIGHTS": "crackutilss"}, "did you mean crackutils?"),  # leaves nothing out
        (["recipes"], {"PROFILE": "smaple"}, "did you mean sample?"),
    ],
)
def test_refuses(which: Any, values: Any, says: str, executed: Any, monkeypatch: Patch, capsys: Capture) -> None:
    write_series()
    monkeypatch.setattr("crackutils.datasets.load", None)  # before minutes of indexing
    assert says in refused(run, which, values)
    assert executed == [] and not config.results_dir().exists() and capsys.readouterr().out == ""


def test_plan_takes_the_types_and_the_needs_of_the_notebooks() -> None:
    words = {"COUNT": "7", "RATIO": "2", "FLAG": "1", "NAMES": "['b', 'c']", "TITLE": "007", "EXTRA": "x"}
    (job,) = plan(["3"], words)
    assert job.given == words | {"COUNT": 7, "RATIO": 2.0, "FLAG": True, "NAMES": ["b", "c"], "PROFILE": "sample"}
    assert type(job.given["RATIO"]) is float and job.defaults["COUNT"] == 3 and set(job.changed) == set(words)
    assert plan(["01"], {"COUNT": "3"})[0].name == "01_first"  # equal to the notebook's own value
    assert plan(["01"], {"COUNT": "4", "SEED": "2"})[0].name == "01_first--COUNT-4--SEED-2"
    names = {plan(["01"], {"TITLE": title})[0].name for title in ("a/b", "a b", "a_b", "../x")}
    assert len(names) == 4 and not any(re.search(r"[/ ]", name) for name in names)
    first, second = plan(["02"], {"COUNT": "9", "SEED": "5", "PROFILE": "smoke"}, force=True)
    common = {"SEED": 5, "PROFILE": "smoke"}
    assert (first.notebook.stem, first.given, first.force) == ("01_first", common, False)
    assert (second.notebook.stem, second.given, second.force) == ("02_second", common | {"COUNT": 9}, True)
    write("04_fourth", parameters=PARAMETERS + 'WEIGHTS = ""\n')  # known to one: the others do without
    jobs = {job.notebook.stem: job.given for job in plan(["all"], {"WEIGHTS": "crackutils"})}
    assert [name for name, given in jobs.items() if "WEIGHTS" in given] == ["04_fourth"]
    assert plan(["01"], {"WEIGHTS": "crackutils"})[0].name == "01_first"
    assert "WEIGHTS=random is unknown" in refused(plan, ["04"], {"WEIGHTS": "random"})  # it has no recipe
    (config.NOTEBOOKS / "04_fourth.ipynb").unlink()
    assert "parameter=WEIGHTS is unknown" in refused(plan, ["01"], {"WEIGHTS": "crackutils"})
    assert [job.notebook.stem for job in plan(["all"], {})] == ["01_first", "02_second", "03_third"]
    assert [job.notebook.stem for job in plan(["3", "01"], {})] == ["01_first", "03_third"]
    write("01_first", parameters='PROFILE = "sample"\nCOUNT = len("abc")')
    assert "01_first.ipynb: the cell tagged parameters may hold only" in refused(plan, ["02"], {})
    (config.NOTEBOOKS / "01_first.ipynb").write_text("{")
    assert "not a readable notebook" in refused(plan, ["02"], {})


def write_series() -> None:
    (config.NOTEBOOKS / "03_third.ipynb").unlink()
    write("03_transfer", parameters=PARAMETERS + 'RECIPE = "mobilenetv2"\nEPOCHS = 0\nWEIGHTS = ""\n')
    write("04_cnn", parameters=PARAMETERS + 'RECIPE = "simple-cnn"\nEPOCHS = 0\n')
    own = PARAMETERS + 'LABELS = "given"\nTHRESHOLD = 0.5\nPHOTO = ""\n'
    write("05_comparison", needs=("03", "04"), parameters=own)


def test_notebooks_that_are_needed_take_what_they_know_and_paths_are_those_of_the_project(
    monkeypatch: Patch, home: Path, executed: list[str], capsys: Capture
) -> None:
    write_series()
    write("04_cnn", parameters=PARAMETERS + 'LABELS = "given"\n')
    jobs = plan(["05"], {"LABELS": "corrected", "WEIGHTS": "random"})
    assert [sorted(job.given) for job in jobs] == [["PROFILE", "WEIGHTS"]] + [["LABELS", "PROFILE"]] * 2
    assert capsys.readouterr().out == ""
    write("06_without")
    plan(["06"], {"WEIGHTS": "random"})
    assert capsys.readouterr().out == "note: WEIGHTS=random has no effect on 06.\n"
    monkeypatch.setattr(config, "ROOT", home)
    monkeypatch.setenv("HOME", str(home))
    (photo := home / "wall.jpg").write_bytes(b"1")
    for name in ("wall.jpg", "~/wall.jpg", str(photo)):
        run(["05"], {"PHOTO": name})
    assert [name for name in executed if "PHOTO" in name] == [f"05_comparison PHOTO={photo}"]
    photo.write_bytes(b"other")
    run(["05"], {"PHOTO": "wall.jpg"})
    assert [name for name in executed if "PHOTO" in name] == [f"05_comparison PHOTO={photo}"] * 2


def test_every_recipe_runs_once_in_its_notebook_and_the_comparison_last(capsys: Capture) -> None:
    write_series()
    wanted = [({"transfer": "03_transfer", "cnn": "04_cnn"}[r.family], name) for name, r in RECIPES.items()]
    jobs = plan(["recipes"], {"PROFILE": "metu-half", "EPOCHS": "2", "SEED": "5"}, force=True)
    assert [(job.notebook.stem, job.given.get("RECIPE")) for job in jobs] == [*wanted, ("05_comparison", None)]
    assert capsys.readouterr().out == ""
    assert all(job.force and job.given["SEED"] == 5 and job.given["PROFILE"] == "metu-half" for job in jobs)
    assert [job.given.get("EPOCHS") for job in jobs] == [None if r.linear else 2 for r in RECIPES.values()] + [None]
    write("03_transfer", parameters=PARAMETERS + 'RECIPE = "mobilenetv2-linear"\nEPOCHS = 0\nWEIGHTS = ""\n')
    assert [job.given.get("EPOCHS") for job in plan(["03", "04"], {"EPOCHS": "2"})] == [None, 2]
    assert len({job.name for job in jobs}) == len(RECIPES) + 1
    assert {"03_transfer", "04_cnn", "05_comparison"} < {job.name for job in plan(["recipes"], {})}  # as in run-all
    capsys.readouterr()
    ours, random = "WEIGHTS=crackutils exist for mobilenetv2 only", "it needs pretrained weights"
    for left_out, why, *values in (
        (V3, ours),
        (V3, ours, ("PROFILE", "metu-half"), ("WEIGHTS", "crackutils")),
        ("mobilenetv2-linear", random, ("PROFILE", "sample"), ("WEIGHTS", "random")),
    ):
        names = [job.given.get("RECIPE") for job in plan(["recipes"], dict(values))]
        assert names == [*(name for name in RECIPES if name != left_out), None]
        assert capsys.readouterr().out == f"left out: {left_out}, because {why}\n"


def refer(profile: str, run: str, images: int, seconds: float, epochs: tuple[int, ...] = ()) -> None:
    (folder := config.REFERENCE / profile / run).mkdir(parents=True)
    family = "transfer" if "transfer" in run else "cnn"
    settings = {"recipe": {"family": family, "stages": [{"epochs": n} for n in epochs]}} if epochs else {}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "data": {"images": images}}))
    (folder / "run.json").write_text(json.dumps({"timings": {"notebook_seconds": seconds}}))


def put(run: str, facts: dict[str, Any]) -> None:
    file = config.REFERENCE / run / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def estimates(*which: str, count: int = 100, **values: str) -> list[float]:
    profile = config.profile(values.get("PROFILE", "sample"))
    return estimate_seconds(plan(list(which), values), profile, f"images of {profile.name}", count)


def test_the_last_run_is_the_best_estimate_then_the_reference_of_that_size(executed: Any, capsys: Capture) -> None:
    refer("sdnet", "01_first/default", 20, 7)
    refer("metu-half", "01_first/default", 400, 100)
    assert estimates("01") == [10 + 100 * 100 / 400]  # start-up does not grow with the images
    assert estimates("01", count=1200) == [10 + 300] and estimates("03") == [0]
    assert estimates("01", "03") == [35, 35]  # nothing is known of the third: as long as the others
    run(["01"], {})
    run(["01"], {})
    assert "[1/1] 01_first (sample): up to date" in capsys.readouterr().out
    copy = config.results_dir() / "sample" / "notebooks" / "01_first.ipynb"
    nb = nbformat.read(copy, as_version=4)
    nb.metadata.crackutils.seconds = 42.5
    nbformat.write(nb, copy)
    assert estimates("01") == [0]
    config.LOCK.write_text("numpy==2\n")
    assert estimates("01") == [42.5] and estimates("01", TITLE="another copy") == [35]


def test_a_recipe_counts_by_its_epochs_too(monkeypatch: Patch) -> None:
    write_series()
    own = dataclasses.replace(RECIPES["mobilenetv2"], stages=(Stage("head", 2, 1e-3), Stage("fine-tune", 2, 1e-4)))
    monkeypatch.setitem(RECIPES, "mobilenetv2", own)
    refer("metu-half", "03_transfer/mobilenetv2", 100, 80, epochs=(2, 2))
    refer("metu-half", f"03_transfer/{V3}", 100, 300, epochs=(1, 1, 1))
    refer("metu-half", "04_cnn/chernxi-cnn-120", 100, 1400, epochs=(14,))
    assert estimates("03") == [90] and estimates("03", PROFILE="metu-mini") == [10 + 160]  # twice the epochs
    assert estimates("03", EPOCHS="1") == [10 + 40] and estimates("03", count=50, EPOCHS="1") == [10 + 20]
    assert estimates("03", RECIPE=V3, PROFILE="metu") == [310]
    assert estimates("04", RECIPE="chernxi-cnn-120", EPOCHS="7", PROFILE="metu") == [710]
    known = {"mobilenetv2": 90, V3: 310, "chernxi-cnn-120": 1410}
    assert estimates("recipes", PROFILE="metu") == [known.get(name, 1810 / 3) for name in [*RECIPES, None]]
    refer("sdnet", "01_first/default", 50, 30)
    for facts, seconds in (({"stages": [{"steps": 50}]}, 10 + 30 * 4), ({"made": [{}] * 2}, 10 + 30 * 3)):
        put("sdnet/01_first/default", facts)  # training steps and photos, of which metu-mini takes 200 and 6
        assert estimates("01", count=10**5, PROFILE="metu-mini") == [seconds]
    same_work = {"settings": {"profile": "metu-mini"}}  # 06 takes a part of the images
    put("sdnet/01_first/default", same_work)
    assert estimates("01", count=10**5, PROFILE="metu-mini") == [10 + 30]


def test_the_time_left_follows_this_machine(executed: list[str], monkeypatch: Patch, capsys: Capture) -> None:
    clock = itertools.accumulate(itertools.repeat(55.0))  # seconds at each look: half of what the reference says

    def left() -> list[tuple[str, str]]:
        return re.findall(r"^(\[.+?\]).*: running.*?(?:, about (.*) left in all)?$", capsys.readouterr().out, re.M)

    monkeypatch.setattr("tools.run_series.time", SimpleNamespace(monotonic=lambda: next(clock)))
    for name in ("01_first/default", "02_second/default", "03_third/mobilenetv2"):
        refer("metu-half", name, 100, 100)
    run(["all"], {})
    assert left() == [("[1/3]", "5 min 30 s"), ("[2/3]", "1 min 50 s"), ("[3/3]", "55 s")]
    run(["01", "03"], {})
    assert left() == []
    run(["01"], {"TITLE": "alone"})
    assert left() == [("[1/1]", "")]  # one notebook has cells to count
    assert [format_seconds(s) for s in (0.4, 99.4, 99.6, 119.7)] == ["0 s", "99 s", "1 min 40 s", "2 min 0 s"]


def save_in_jupyter(home: Path, monkeypatch: Patch) -> None:
    """Keep outputs, counts and metadata in the notebook, as JupyterLab does: nothing that a result depends on."""
    nb = nbformat.read(path := config.NOTEBOOKS / "01_first.ipynb", as_version=4)
    nb.cells[1].execution_count, nb.metadata.language_info = 5, {"name": "python"}
    nb.cells[2].outputs = [new_output("stream", text="seen")]
    nbformat.write(nb, path)


def forget(copy: Path) -> None:
    """Leave what earlier versions wrote, which did not know the results."""
    nb = nbformat.read(copy, as_version=4)
    nb.metadata.crackutils.pop("results")
    nbformat.write(nb, copy)


def first(name: str) -> Path:
    return config.results_dir() / "sample" / "01_first" / "default" / name


HARMLESS = ("saved in Jupyter", "a run of its own")  # after the other changes, the notebook runs again
CHANGES: dict[str, Callable[[Path, Patch], Any]] = {
    "lock": lambda home, patch: config.LOCK.write_text("numpy==2\n"),
    "source": lambda home, patch: write("01_first", FINISH.format(name="01_first"), "print(COUNT)"),
    "default": lambda home, patch: write("01_first", parameters=PARAMETERS.replace("SEED = 1", "SEED = 2")),
    "images": lambda home, patch: use_images(patch, sha256="others"),
    "photos of images": lambda home, patch: use_data(home, patch).joinpath("patches.csv").write_text("file,photo\n"),
    "target": lambda home, patch: use_images(patch, target="others"),
    "photos of the target": lambda home, patch: use_images(patch, photo=2),
    "given split": lambda home, patch: use_data(home, patch).joinpath("given_split.csv").write_text("file,split\n"),
    "photos": lambda home, patch: (home / "photos" / "new.jpg").write_bytes(b"new"),
    "labels": lambda home, patch: (home / "labels.csv").write_text("photo,row,col,crack\na.jpg,0,0,1\n"),
    "weights": lambda home, patch: patch.setenv("CRACKUTILS_WEIGHTS_DIR", str(config.NOTEBOOKS)),
    "python": lambda home, patch: patch.setattr("platform.python_version", lambda: "3.11.0"),
    "results": lambda home, patch: shutil.rmtree(home / "results" / "sample" / "01_first"),
    "copy": lambda home, patch: (home / "results" / "sample" / "notebooks" / "01_first.ipynb").unlink(),
    "broken copy": lambda home, patch: (home / "results" / "sample" / "notebooks" / "01_first.ipynb").write_text("{"),
    "older copy": lambda home, patch: forget(home / "results" / "sample" / "notebooks" / "01_first.ipynb"),
    "begun": lambda home, patch: first("run.json").unlink(),
    "predictions": lambda home, patch: first("predictions.csv").unlink(),
    "saved in Jupyter": save_in_jupyter,
    "a run of its own": lambda home, patch: run(["01"], {"COUNT": "4"}),
    "another run in its folder": lambda home, patch: run(["01"], {"TITLE": "another"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_runs_again_only_after(change: str, home: Path, executed: list[str], monkeypatch: Patch) -> None:
    (home / "photos").mkdir()
    (home / "labels.csv").write_text("photo,row,col,crack\n")
    given = {"TARGET": "", "PHOTOS": str(home / "photos"), "TILE_LABELS": str(home / "labels.csv"), "MODEL": ""}
    write("01_first", parameters=PARAMETERS + "".join(f"{name} = {value!r}\n" for name, value in given.items()))
    run(["01"], {})
    run(["01"], {})
    assert executed == ["01_first"]
    CHANGES[change](home, monkeypatch)
    executed.clear()
    run(["01"], {})
    assert executed == ["01_first"] * (change not in HARMLESS)
    real = [read_parameters(path) for path in (ROOT / "notebooks").glob("0[89]_*.ipynb")]
    assert set(given) <= set().union(*real)  # the names that the real notebooks use


def test_a_change_in_any_room_makes_a_notebook_stale(home: Path, executed: list[str], monkeypatch: Patch) -> None:
    shutil.copytree(config.PACKAGE, home / "package", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(config, "PACKAGE", home / "package")
    monkeypatch.setattr("tools.run_series.code_hash", code_hash)
    folders = {file.parent for file in (home / "package").rglob("*.py")}
    kinds = [list((home / "package").rglob(f"*.{kind}")) for kind in ("j2", "npz", "toml", "json")]
    monkeypatch.setattr(config, "AUDIT", shutil.copytree(config.AUDIT, home / "audit"))
    kinds.append([home / "audit" / f"metu_{name}.csv" for name in ("labels", "reads")])
    assert len(folders) > 8 and all(kinds)
    run(["01"], {})
    for file in [*(next(folder.glob("[a-z]*.py")) for folder in folders), *itertools.chain(*kinds)]:
        with open(file, "ab") as handle:
            handle.write(b"\n")
        executed.clear()
        run(["01"], {})
        assert executed == ["01_first"], file


def test_parameters_and_profiles_make_copies_and_staleness_concerns_those_that_need_it(executed: list[str]) -> None:
    for _ in range(2):
        run(["01"], {})
        run(["01"], {"COUNT": "5"})
        run(["01"], {"PROFILE": "smoke"})
    assert executed == ["01_first", "01_first COUNT=5", "01_first"]
    assert copies() == ["01_first--COUNT-5.ipynb", "01_first.ipynb"]
    executed.clear()
    run(["all"], {})
    run(["02"], {}, force=True)
    assert executed == ["02_second", "03_third", "02_second"]  # force concerns the named notebook alone
    executed.clear()
    run(["all"], {})
    assert executed == []  # the second does not read what the third wrote after it
    run(["01"], {"COUNT": "4"})
    executed.clear()
    run(["all"], {})
    assert executed == ["02_second"]  # which needs the first; the third needs nothing


def test_runs_notebooks_with_their_parameters(home: Path, monkeypatch: Patch, capsys: Capture) -> None:
    def interrupted(notebook: str, out: str, **_: Any) -> None:
        Path(out).write_text("half a notebook")
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "ROOT", home)  # copies tell paths inside the project without its own place
    for name, value in (("PYTHONPATH", str(ROOT)), ("MPLBACKEND", "agg"), ("CRACKUTILS_FORCE", "1")):
        monkeypatch.setenv(name, value)
    told = 'print("COUNT is", COUNT)\nprint("backend", os.environ["MPLBACKEND"], os.environ.get("CRACKUTILS_FORCE"))\n'
    told += f"print({str(config.NOTEBOOKS)!r} == os.getcwd(), {sys.executable!r} == sys.executable)"
    write("01_first", FINISH.format(name="01_first"), told)
    environment = dict(os.environ)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("papermill.execute_notebook", interrupted)
        run(["01"], {})
    assert copies() == [] and dict(os.environ) == environment and capsys.readouterr().out
    run(["02"], {"COUNT": "5", "SEED": "8"})
    assert dict(os.environ) == environment
    out = capsys.readouterr().out
    begin = r"^\[1/2\] 01_first \(sample, SEED=8\): running.*\n\[1/2\] .* done in \d+ s\n\[2/2\] 02_second \(sample, "
    assert re.search(begin, out, re.M) and "notebooks: results/sample/notebooks; make docs PROFILE=sample " in out
    assert copies() == ["01_first--SEED-8.ipynb", "02_second--COUNT-5--SEED-8.ipynb"]
    base = config.results_dir() / "sample"
    for name, count in (("01_first", 3), ("02_second", 5)):
        assert json.loads((base / name / "default/metrics.json").read_text()) == [count, 0.5, False, ["a"], "", 8]
    nb = nbformat.read(base / "notebooks" / "01_first--SEED-8.ipynb", as_version=4)
    (text,) = [output.text for cell in nb.cells for output in cell.get("outputs", [])]
    assert re.fullmatch(r"COUNT is 3\nbackend module://matplotlib_inline.* None\nTrue True\n", text)
    assert nb.metadata.crackutils.folders == ["sample/01_first/default"]
    nb.cells[-1].source = ""  # holds the folder because of this very test
    assert str(home) not in nbformat.writes(nb)
    run(["02"], {"COUNT": "5", "SEED": "8"})
    assert capsys.readouterr().out.count("up to date") == 2


def test_a_failure_is_told_in_one_line_and_its_outputs_are_kept() -> None:
    runs = config.results_dir() / "sample"
    failed, begin = runs / "notebooks" / "02_second.failed.ipynb", 'print("so far", "so good")'

    def fail(source: str) -> str:
        write("02_second", begin, source, FINISH.format(name="02_second"))
        return refused(run, ["02"], {})

    told = fail("\n# comment\ntotal = [1, 2][\n    COUNT]")
    assert re.match(r"02_second failed in cell \[\d+\] `# comment` with IndexError: list index out of range\. ", told)
    assert told.endswith(f"What ran so far is in {failed}.")
    assert copies() == ["02_second.failed.ipynb"]
    texts = [str(output) for cell in nbformat.read(failed, as_version=4).cells for output in cell.get("outputs", [])]
    assert any("so far so good" in text for text in texts) and any("IndexError" in text for text in texts)
    told = fail("from crackutils.config import CrackutilsError as Error\nraise Error('Too few images. Run make data.')")
    assert re.fullmatch(r"02_second, cell \[\d+\]: Too few images\. Run make data\.", told)
    assert "its kernel died" in fail("import os\nos._exit(3)")
    write("02_second", begin)
    run(["02"], {})
    assert copies() == ["02_second.ipynb"]


def test_a_notebook_that_is_opened_alone_runs_those_that_it_needs(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("crackutils.comparison.needed.NEEDED", ("01_first", "02_second"))
    home, smoke = config.results_dir() / "smoke", config.profile("smoke")
    (home / "02_second" / "other").mkdir(parents=True)
    (home / "02_second" / "other" / "metrics.json").write_text("{}")
    monkeypatch.setenv("CRACKUTILS_RUN_NOTE", os.devnull)
    run_needed(smoke, {"PROFILE": "sample", "SEED": 8, "UNKNOWN": 1})
    assert json.loads((home / "01_first" / "default" / "metrics.json").read_text())[-1] == 8
    assert capsys.readouterr().out == "Notebook 01 has not run on smoke yet. It runs now, once.\n"
    run_needed(smoke, {})
    assert capsys.readouterr().out == ""
    write("01_first", "raise ValueError('no images')")
    shutil.rmtree(home / "01_first")
    assert refused(run_needed, smoke, {}) == "01_first stopped: ValueError: no images. Run it by itself."


def test_a_run_that_was_killed_does_not_count_and_foreign_parameters_stay_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr("crackutils.comparison.needed.NEEDED", ("01_first",))
    monkeypatch.setenv("CRACKUTILS_RUN_NOTE", os.devnull)
    write("01_first", "assert 'UNKNOWN' not in globals()", FINISH.format(name="01_first"))
    runs = config.results_dir() / "smoke" / "01_first"
    (runs / "killed" / "checkpoints").mkdir(parents=True)
    run_needed(config.profile("smoke"), {"UNKNOWN": 1})
    assert (runs / "default" / "metrics.json").is_file()


def test_parts_of_a_page() -> None:
    start = new_code_cell("from crackutils import config")
    bar = [new_output("stream", name="stdout", text=text) for text in ("\rcopies: 0%", "\rcopies: 9%", "\n", "\nend\n")]
    bar.append(new_output("display_data", {"text/html": "<pre></pre>", "text/plain": ""}))
    nb = new_notebook(cells=[new_code_cell("install()", metadata={"tags": ["colab-setup"]}), start])
    nb.cells.append(new_code_cell("1", outputs=bar))
    _prepare(nb, "notebooks/01_first.ipynb", set())
    assert [cell.source for cell in nb.cells] == [start.source, "1"]
    assert [cell.metadata.get("tags") for cell in nb.cells] == [["hide-input"], None]
    assert [out.text for out in nb.cells[1].outputs] == ["end\n"]
    text, _ = _relink("[a](../tests) [b](../crackutils/cli.py#L9)", "notebooks/01_first.ipynb", set())
    assert re.fullmatch(r"\[a\]\(https:\S+/tree/main/tests\) \[b\]\(https:\S+/blob/main/crackutils/cli\.py#L9\)", text)


def test_the_site_shows_every_copy_and_loads_nothing_from_elsewhere(executed: list[str], monkeypatch: Patch) -> None:
    monkeypatch.setattr("tools.site.MODULES", {"Scores": ("metrics",)})  # all of them take long
    assert "make run-all PROFILE=sample" in refused(write_site, config.profile("sample"))
    run(["all"], {})
    run(["01"], {"COUNT": "4", "TITLE": "<b>&"})
    folder = config.results_dir() / "sample" / "notebooks"
    nb = nbformat.read(folder / "01_first.ipynb", as_version=4)
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    about = {"image/png": {"width": 3, "alt": "Figure dot: A grey dot"}}
    nb.cells[2].outputs = [new_output("display_data", {"image/png": dot}, metadata=about)]
    nb.cells.insert(0, new_code_cell("install()", metadata={"tags": ["colab-setup"]}))
    badge = new_markdown_cell("[![Colab](https://c/b.svg)](https://c/x)", metadata={"tags": ["colab-badge"]})
    nb.cells.insert(0, badge)
    nb.cells.append(new_markdown_cell("[the package](../crackutils/metrics.py), [guide](../docs/running.md)"))
    nb.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"bar": {}}, "version_major": 2}}
    nbformat.write(nb, folder / "01_first.ipynb")
    (folder / "02_second.failed.ipynb").write_text("{}")
    index = write_site(config.profile("sample"))
    assert index == folder.parent / "site" / "index.html"
    written = {path.relative_to(index.parent).as_posix(): path for path in index.parent.rglob("*.html")}
    pages = {name: path.read_text("utf-8") for name, path in written.items()}
    shown = {f"notebooks/{Path(name).stem}.html" for name in copies() if "failed" not in name}
    assert len(shown) == 4 and {name for name in pages if name.startswith("notebooks/")} == shown
    assert re.search(r"01 The.*first.* one.*COUNT=4,.*TITLE=&lt;b&gt;&amp;", pages["index.html"])
    for name, text in pages.items():
        tags = " ".join(re.findall(r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*>", text))
        loads = re.findall(r"""\b(?:src|href|data)\s*=\s*["']?([^"'\s>]+)""", tags)
        assert [load for load in loads if re.match("(https?:)?//", load)] == [], name
        inside = [link for link in re.findall(r'<a [^>]*href="([^"#]+)', text) if ":" not in link]
        assert [link for link in inside if not (index.parent / name).parent.joinpath(link).exists()] == [], name
        assert [tag for tag in re.findall(r"<img\b[^>]*>", text) if not re.search(r'alt="[^"]+"', tag)] == [], name
    first, scores = pages["notebooks/01_first.html"], pages["api/metrics.html"]
    assert re.search(r'<img alt="Figure dot: A grey dot" [^>]*width="3"', first) and 'href="https://c/x"' in first
    assert "/blob/main/crackutils/metrics.py" in first and 'href="../docs/running.html"' in first
    assert 'id="crackutils.metrics.wilson"' in scores
    (folder / "03_third.ipynb").unlink()
    write_site(config.profile("sample"))
    assert "03_third" not in index.read_text("utf-8") and not (index.parent / "notebooks" / "03_third.html").exists()
