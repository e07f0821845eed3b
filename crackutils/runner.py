"""Run the notebooks in order, keep their executed copies, and make one browsable report of them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import html
import json
import logging
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from crackutils import config, recipes
from crackutils.config import CrackutilsError, Profile, choose

DEFAULT_PROFILE = "sample"
_SHARED = ("PROFILE", "SPLIT", "SPLIT_SEED", "SEED", "WEIGHTS")  # what a notebook that is merely needed gets as well
_START_UP = 10.0  # seconds before the first cell of a notebook
_COLAB_TAGS = ("colab-badge", "colab-setup")


@dataclass(frozen=True)
class Job:
    """One notebook with the values it runs with.

    Attributes:
        notebook: path of the notebook.
        needs: numbers of the notebooks that must have run before.
        defaults: its own parameters.
        values: the parameters that it gets; a subset of the names in `defaults`.
        force: whether it runs even if it is up to date.
    """

    notebook: Path
    needs: tuple[str, ...]
    defaults: dict[str, Any]
    values: dict[str, Any]
    force: bool

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters besides PROFILE that differ from the notebook's own, in order of name."""
        names = sorted(n for n in self.values if n != "PROFILE" and self.values[n] != self.defaults[n])
        return {name: self.values[name] for name in names}

    @property
    def name(self) -> str:
        """File name of the executed copy, without its ending."""
        return self.notebook.stem + "".join(f"--{n}-{_for_file_name(v)}" for n, v in self.changed.items())


# ---------------------------------------------------------------- notebooks and their parameters


def discover() -> dict[str, Path]:
    """Return the notebooks of the series by number, "01" first."""
    return {path.name[:2]: path for path in sorted(config.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


def parameters(path: Path) -> dict[str, Any]:
    """Return the parameters of a notebook with its own values, from the cell tagged "parameters".

    Raises:
        CrackutilsError: that cell holds something other than assignments of literals.
    """
    found: dict[str, Any] = {}
    for cell in _tagged(_read(path), "parameters"):
        try:
            for line in ast.parse(cell.source).body:
                target = line.targets[0] if isinstance(line, ast.Assign) else line.target
                found[target.id] = ast.literal_eval(line.value)
        except (AttributeError, SyntaxError, ValueError) as error:
            raise CrackutilsError(
                f"{config.shown(path)}: the cell tagged parameters may hold only lines of the form NAME = literal."
            ) from error
    return found


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise CrackutilsError(f"{config.shown(path)} is not a readable notebook; restore it.") from error


def _tagged(nb: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def _title(nb: nbformat.NotebookNode, otherwise: str) -> str:
    """Return the first Markdown heading as plain text."""
    for cell in nb.cells:
        found = re.search(r"^#+ +(.+?) *#*$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if found:
            return re.sub(r"[*_`]", "", found[1])
    return otherwise


def _coerce(name: str, value: Any, default: Any) -> Any:
    """Turn what the user wrote into the type of the notebook's own value."""
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if isinstance(default, (int, float)):
            number = type(default)(value)
            if not math.isfinite(number):
                raise ValueError
            return number
        found = ast.literal_eval(value)
        if type(found) is not type(default):
            raise ValueError
        return found
    except (KeyError, ValueError, SyntaxError) as error:
        kinds = {bool: "True or False", int: "a whole number", float: "a number"}
        kind = kinds.get(type(default), f"a {type(default).__name__}")
        raise CrackutilsError(f"{name}={value} must be {kind}, for example {name}={default}.") from error


def _for_file_name(value: Any) -> str:
    text = str(value)
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", text)[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def plan(which: list[str], overrides: dict[str, str], force: bool = False) -> list[Job]:
    """Return the notebooks to run, in order, each with its parameters; needed ones come before those that need them.

    Args:
        which: ["all"], numbers such as "03", or ["recipes"]: every recipe once, then the comparison.
        overrides: values by parameter name, as the user wrote them.
        force: run the notebooks named in `which` even where they are up to date.

    Raises:
        CrackutilsError: an unknown notebook, profile or parameter, or a value of the wrong type.
    """
    notebooks = discover()
    if not notebooks:
        raise CrackutilsError(f"{config.shown(config.NOTEBOOKS)} holds no notebook; restore that folder.")
    if "recipes" in which:
        if len(which) > 1:
            raise CrackutilsError("run recipes runs its own notebooks; give it alone, and the others in a second call.")
        return _plan_recipes(overrides, force)
    if which == ["all"]:
        chosen = list(notebooks)
    else:
        chosen = [choose("notebook", n.zfill(2) if n.isdigit() else n, [*notebooks, "all", "recipes"]) for n in which]
        chosen = list(notebooks) if "all" in chosen else chosen
    profile = config.profile(overrides.get("PROFILE", DEFAULT_PROFILE))
    overrides = overrides | {"PROFILE": profile.name}

    defaults = {number: parameters(path) for number, path in notebooks.items()}
    known = sorted({name for number in chosen for name in defaults[number]} | {"PROFILE"})
    for name in overrides:
        choose("parameter", name, known)
    with_recipe = [number for number in chosen if "RECIPE" in defaults[number]]
    if "RECIPE" in overrides and len(chosen) > 1:
        use = " or ".join(f"make run-{number} RECIPE=..." for number in with_recipe)
        raise CrackutilsError(
            f"RECIPE={overrides['RECIPE']} belongs to one notebook; give it to that one alone: {use}."
        )

    jobs: dict[str, Job] = {}

    def add(number: str, trail: tuple[str, ...] = ()) -> None:
        if number in jobs or number in trail:
            return
        path = notebooks[number]
        needs = tuple(_read(path).metadata.get("crackutils", {}).get("needs", ()))
        for need in needs:
            add(choose(f"{path.stem} needs notebook", need, notebooks), (*trail, number))
        own = defaults[number]
        take = [n for n in overrides if n in own and (number in chosen or n in _SHARED)]
        values = {name: _coerce(name, overrides[name], own[name]) for name in take}
        jobs[number] = Job(path, needs, own, values, force and number in chosen)

    for number in sorted(chosen):
        add(number)
    for job in jobs.values():
        _check(job.defaults, job.defaults | job.values, profile)
    return list(jobs.values())


def _check(own: dict[str, Any], values: dict[str, Any], profile: Profile) -> None:
    """Refuse here what the notebook would refuse after minutes of indexing."""
    if values.get("WEIGHTS"):
        choose("WEIGHTS", values["WEIGHTS"], config.WEIGHTS)
    if own.get("RECIPE") in recipes.RECIPES:
        family = recipes.RECIPES[own["RECIPE"]].family
        recipes.recipe(values["RECIPE"], family, profile, values.get("EPOCHS", 0), values.get("WEIGHTS", ""))


def _plan_recipes(overrides: dict[str, str], force: bool) -> list[Job]:
    """Return a job for each recipe that the profile's weights allow, and the comparison; the others are told."""
    defaults = {number: parameters(path) for number, path in discover().items()}
    of_family = {
        recipes.RECIPES[own["RECIPE"]].family: number
        for number, own in defaults.items()
        if own.get("RECIPE") in recipes.RECIPES
    }
    numbers = [*of_family.values(), "05"]
    known = sorted({name for number in numbers for name in defaults.get(number, {})} - {"RECIPE"})
    for name in overrides:
        choose("parameter", name, known)

    def mine(number: str) -> dict[str, str]:
        return {name: value for name, value in overrides.items() if name in defaults[number]}

    weights = overrides.get("WEIGHTS") or config.profile(overrides.get("PROFILE", DEFAULT_PROFILE)).weights
    jobs = []
    for recipe in recipes.RECIPES.values():
        if weights == "crackutils" and recipe.backbone not in ("", recipes.OWN_BACKBONE):
            print(
                f"left out: {recipe.name}, because WEIGHTS=crackutils exist for {recipes.OWN_BACKBONE} only", flush=True
            )
            continue
        if weights == "random" and recipe.linear:
            print(f"left out: {recipe.name}, because WEIGHTS=random have learnt nothing", flush=True)
            continue
        number = of_family[recipe.family]
        jobs += plan([number], mine(number) | {"RECIPE": recipe.name}, force)
    return jobs + plan(["05"], mine("05"), force)[-1:]


# ---------------------------------------------------------------- running


def run(which: list[str], overrides: dict[str, str], force: bool = False) -> None:
    """Run notebooks that are not up to date, in order, and build the report; `plan` explains the arguments.

    Executed copies go to `results/<profile>/notebooks/`; that of a notebook that failed is kept as `*.failed.ipynb`.

    Raises:
        CrackutilsError: what `plan` refuses, missing images, or a notebook that failed.
    """
    from crackutils import datasets

    jobs = plan(which, overrides, force)
    profile = config.profile(overrides.get("PROFILE", DEFAULT_PROFILE))
    ds = datasets.load(profile)
    failure = None
    spent = expected = 0.0
    guesses = _estimates(jobs, profile, ds.sha256, len(ds.index))
    try:
        for i, job in enumerate(jobs, 1):
            # what has run tells how fast this machine is
            left = sum(guesses[i - 1 :]) * (spent / expected if expected else 1)
            label = f"[{i}/{len(jobs)}] {job.notebook.stem} ({_settings(profile, job.changed)})"
            seconds = _run_one(job, profile, ds.sha256, label, left if len(jobs) > 1 else 0)
            if seconds and guesses[i - 1]:
                spent, expected = spent + seconds, expected + guesses[i - 1]
    except CrackutilsError as error:
        failure = error
    if _copies(profile):
        print(f"report: {config.shown(report(profile))}")
    if failure:
        raise failure


def _settings(profile: Profile, changed: dict[str, Any]) -> str:
    return ", ".join([profile.name, *(f"{name}={value}" for name, value in changed.items())])


def _estimates(jobs: list[Job], profile: Profile, images: str, count: int) -> list[float]:
    """Return about how many seconds each job will take, 0 for those that are up to date.

    From its own last run; else from the reference run of its recipe, by the number of images and epochs; else the mean
    of the others, or 0 where nothing is known.
    """
    found: list[float | None] = []
    for job in jobs:
        before = _before(job, profile)
        if _done(job, before, _key(job, profile, images)):
            found.append(0.0)
        else:
            found.append(before.get("seconds") or _as_the_reference(job, profile, count))
    known = [seconds for seconds in found if seconds]
    return [(sum(known) / len(known) if known else 0.0) if seconds is None else seconds for seconds in found]


def _as_the_reference(job: Job, profile: Profile, images: int) -> float | None:
    name = (job.defaults | job.values).get("RECIPE", "*")
    kept = config.REFERENCE.glob(f"*/{job.notebook.stem}/{name}/run.json")
    # the largest reference first: start-up weighs least there
    for file in sorted((f for f in kept if "--" not in f.parent.name), key=_images_of, reverse=True):
        timings = json.loads(file.read_text("utf-8"))["timings"]
        metrics = json.loads((file.parent / "metrics.json").read_text("utf-8"))
        more = images / metrics["data"]["images"]
        if "RECIPE" in job.defaults and "recipe" in metrics["settings"]:
            there = sum(stage["epochs"] for stage in metrics["settings"]["recipe"]["stages"])
            here = recipes.recipe(
                name,
                metrics["settings"]["recipe"]["family"],
                profile,
                int(job.values.get("EPOCHS", 0)),
                "imagenet",
            )
            more *= sum(stage.epochs for stage in here.stages) / there
        return _START_UP + timings["notebook_seconds"] * more
    return None


def _images_of(run: Path) -> int:
    return json.loads((run.parent / "metrics.json").read_text("utf-8"))["data"]["images"]


def _run_one(job: Job, profile: Profile, images: str, label: str, left: float) -> float:
    """Run a job unless it is up to date, and return the seconds that it took, 0 for none."""
    copy = _copies_folder(profile) / f"{job.name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    before, key = _before(job, profile), _key(job, profile, images)
    if _done(job, before, key):
        print(f"{label}: up to date", flush=True)
        return 0.0
    last = f", last time {_duration(before['seconds'])}" if "seconds" in before else ""
    last += f", about {_duration(left)} left in all" if left else ""
    print(f"{label}: running{last}", flush=True)
    began = time.monotonic()

    def show(cell: int, cells: int) -> None:
        line = f"{label}: cell {cell} of {cells}, {_duration(time.monotonic() - began)}"
        print(f"\r{line:<100}", end="\r", flush=True)

    running, failed = copy.with_name(f".running-{copy.name}"), copy.with_name(f"{job.name}.failed.ipynb")
    with tempfile.TemporaryDirectory(prefix="crackutils-") as scratch:
        note = Path(scratch) / "runs.txt"
        try:
            with _environment(_kernel_environment(Path(scratch), note, job.force)):
                nb = _execute(job, running, show if sys.stdout.isatty() else None)
        except KeyboardInterrupt:
            running.unlink(missing_ok=True)
            raise
        except Exception as error:
            if running.exists():
                os.replace(running, failed)
            raise _told(error, job, failed) from error
        lines = note.read_text("utf-8").splitlines() if note.exists() else []
    seconds = time.monotonic() - began
    folders = sorted({Path(os.path.relpath(line, config.results_dir())).as_posix() for line in lines if line})
    nb.metadata["crackutils"] = dict(nb.metadata.get("crackutils", {})) | {
        "key": key,
        "seconds": round(seconds, 1),
        "folders": folders,
        "changed": job.changed,
    }
    # papermill writes absolute paths, which say where somebody's home is
    nb.metadata.papermill.update(input_path=config.shown(job.notebook), output_path=config.shown(copy))
    nbformat.write(nb, running)
    os.replace(running, copy)
    failed.unlink(missing_ok=True)
    print(f"{f'{label}: done in {_duration(seconds)}':<100}".rstrip(" " if not sys.stdout.isatty() else ""), flush=True)
    return seconds


def _before(job: Job, profile: Profile) -> dict[str, Any]:
    """Return what the executed copy of a job says of its run; empty if there is none."""
    copy = _copies_folder(profile) / f"{job.name}.ipynb"
    return dict(_read(copy).metadata.get("crackutils", {})) if copy.is_file() else {}


def _done(job: Job, before: dict[str, Any], key: str) -> bool:
    there = all((config.results_dir() / folder / "metrics.json").is_file() for folder in before.get("folders", []))
    return before.get("key") == key and there and not job.force


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def _key(job: Job, profile: Profile, images: str) -> str:
    """Hash everything that the outcome of a notebook depends on."""
    state = hashlib.sha256()

    def add(what: str, value: bytes | str) -> None:
        value = value.encode() if isinstance(value, str) else value
        state.update(f"{what}\t{len(value)}\n".encode() + value)

    for cell in _read(job.notebook).cells:
        add(cell.cell_type, cell.source)
    add("parameters", json.dumps(job.defaults | job.values, sort_keys=True, default=str))
    add("images", images)
    if "TARGET" in job.defaults:
        from crackutils import datasets

        name = (job.defaults | job.values)["TARGET"] or datasets.usual_target(profile)
        add("target", f"{name} {datasets.target(name).sha256}")
    for name in ("PHOTOS", "TILE_LABELS", "MODEL"):
        given = Path(str((job.defaults | job.values).get(name, "")) or os.devnull)
        for file in sorted(f for f in (given, *given.rglob("*")) if f.is_file()):
            state_of = file.stat()
            add(f"{name} {file}", f"{state_of.st_size} {state_of.st_mtime_ns}")
    add("python", platform.python_version())
    for file in (
        *sorted(Path(__file__).parent.glob("*.py")),
        *sorted(Path(__file__).parent.glob("backbone/*.npz")),
        config.LOCK,
    ):
        add(file.name, file.read_bytes())
    weights = os.environ.get("CRACKUTILS_WEIGHTS_DIR")
    for file in sorted(Path(weights).glob("*")) if weights else ():
        add(f"weights {file.name}", str(file.stat().st_size))
    if job.needs:
        home = config.results_dir() / profile.name
        for file in sorted(home.glob("*/*/metrics.json")):
            if file.parts[-3] != job.notebook.stem:
                add(file.relative_to(home).as_posix(), file.read_bytes())
    return state.hexdigest()


def _kernel_environment(scratch: Path, note: Path, force: bool) -> dict[str, str | None]:
    """Environment of the kernel; the kernel is this very Python, whatever kernels and settings the user has besides."""
    from ipykernel.kernelspec import get_kernel_dict

    spec = scratch / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    quiet = ["--IPKernelApp.log_level=50"]  # it warns on the terminal that it talks to this machine unencrypted
    spec.write_text(json.dumps(get_kernel_dict(extra_arguments=quiet)), "utf-8")

    def before(value: Path, name: str) -> str:
        return os.pathsep.join([str(value), *filter(None, [os.environ.get(name)])])

    return {
        "JUPYTER_PATH": before(scratch, "JUPYTER_PATH"),  # comes first of all places where kernels are looked for
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(scratch / "ipython"),  # no start-up files of the user
        "PYTHONPATH": before(config.ROOT, "PYTHONPATH"),
        "MPLBACKEND": None,  # a backend set for scripts would leave the copies without figures
        "CRACKUTILS_RUN_NOTE": str(note),
        "CRACKUTILS_FORCE": "1" if force else None,
    }


@contextlib.contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables for the block; None removes one."""
    saved = {name: os.environ.get(name) for name in values}

    def put(those: dict[str, str | None]) -> None:
        for name, value in those.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(saved)


def _execute(job: Job, running: Path, show: Callable[[int, int], None] | None) -> nbformat.NotebookNode:
    """Run a notebook into the file `running`, calling `show` with the number of each cell and of all."""
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            begin = nb_man.cell_start

            def cell_start(cell: Any, cell_index: int = 0, **more: Any) -> None:
                if show:
                    show(cell_index + 1, len(nb_man.nb.cells))
                begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("crackutils", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # on Ctrl-C it would print a traceback of the dying kernel

    def literal(path: Path) -> str:  # papermill formats paths with the parameters
        return str(path).replace("{", "{{").replace("}", "}}")

    return papermill.execute_notebook(
        literal(job.notebook),
        literal(running),
        parameters=job.values,
        engine_name="crackutils",
        kernel_name="python3",
        language="python",
        cwd=str(config.NOTEBOOKS),
        progress_bar=False,
        log_output=False,
        execution_timeout=None,
    )


def _told(error: Exception, job: Job, failed: Path) -> CrackutilsError:
    """Return one sentence for a notebook that failed."""
    from papermill.exceptions import PapermillExecutionError

    kept = f"what ran so far is in {config.shown(failed)}" if failed.exists() else "nothing ran"
    if not isinstance(error, PapermillExecutionError):
        what = str(error).strip().split("\n")[0].rstrip(".")
        if type(error).__name__ == "DeadKernelError":
            what = "its kernel died, mostly for lack of memory"
        return CrackutilsError(f"{job.notebook.stem} stopped: {what or type(error).__name__}; {kept}.")
    if list(error.traceback) == [f"{error.ename}: {error.evalue}"]:  # rendered by CrackutilsError, which tells enough
        return CrackutilsError(f"{job.notebook.stem}, cell [{error.exec_count}]: {error.evalue}")
    first = next((line.strip() for line in error.source.split("\n") if line.strip()), "")
    what = f"{error.ename}: {error.evalue.strip().split(chr(10))[0][:300]}".rstrip(".")
    return CrackutilsError(f"{job.notebook.stem} failed in cell [{error.exec_count}] `{first}` with {what}; {kept}.")


# ---------------------------------------------------------------- report


def _copies_folder(profile: Profile) -> Path:
    return config.results_dir() / profile.name / "notebooks"


def _copies(profile: Profile) -> list[Path]:
    """Return the executed copies that are complete."""
    files = sorted(_copies_folder(profile).glob("*.ipynb"))
    return [path for path in files if not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")]


def report(profile: Profile) -> Path:
    """Turn the executed copies of a profile into HTML with a common index; nothing in it needs a network.

    Returns:
        `results/<profile>/report/index.html`.

    Raises:
        CrackutilsError: no notebook has been run with this profile.
    """
    copies = _copies(profile)
    if not copies:
        raise CrackutilsError(
            f"PROFILE={profile.name} has no executed notebook yet; run make run-all PROFILE={profile.name} first."
        )
    home = config.results_dir() / profile.name / "report"
    entries = []
    for copy in copies:
        nb, page = _read(copy), home / f"{copy.stem}.html"
        title = _title(nb, copy.stem)
        changed = nb.metadata.get("crackutils", {}).get("changed", {})
        title += f" ({', '.join(f'{name}={value}' for name, value in changed.items())})" if changed else ""
        if not page.is_file() or page.stat().st_mtime < max(copy.stat().st_mtime, Path(__file__).stat().st_mtime):
            config.write_atomically(page, _page(nb, f"{title} - {profile.name}"))
        ended = str(nb.metadata.get("papermill", {}).get("end_time") or "")
        entries.append((page.name, title, ended[:16].replace("T", " ") + " UTC" if ended else ""))
    for page in home.glob("*.html"):
        if page.name not in {"index.html", *(name for name, _, _ in entries)}:
            page.unlink()  # its notebook was renamed or removed
    index = home / "index.html"
    config.write_atomically(index, _index(profile, entries))
    return index


def _page(nb: nbformat.NotebookNode, title: str) -> str:
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    # the stock template loads require.js, MathJax and Mermaid from the network
    blocks = ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
    empty = "".join("{%% block %s %%}{%% endblock %%}" % block for block in blocks)  # noqa: UP031
    exporter = HTMLExporter(
        template_name="lab",
        template_file="crackutils.html.j2",
        extra_loaders=[DictLoader({"crackutils.html.j2": "{% extends 'lab/index.html.j2' %}" + empty})],
        embed_images=True,
    )
    nb.cells = [c for c in nb.cells if not set(_COLAB_TAGS) & set(c.metadata.get("tags", []))]
    return exporter.from_notebook_node(nb, {"metadata": {"name": title, "path": str(config.NOTEBOOKS)}})[0]


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Concrete cracks - report of profile {profile}</title>
<style>
:root {{ color-scheme: light; --line: #d0d7de; --ink: #1f2328; --soft: #59636e; --blue: #0a58ca; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; height: 100vh; overflow: hidden; display: grid; grid-template-columns: 19rem 1fr; color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }}
header {{ overflow: auto; padding: 1rem; background: #f6f8fa; border-right: 1px solid var(--line); }}
h1 {{ margin: 0; font-size: 1.15rem; }}
p {{ margin: .25rem 0 1rem; color: var(--soft); font-size: .875rem; }}
ul {{ margin: 0; padding: 0; list-style: none; }}
a {{ display: block; padding: .5rem .75rem; border-left: 3px solid transparent;
  color: inherit; text-decoration: none; }}
a:hover {{ background: #eaeef2; }}
a:focus-visible {{ outline: 2px solid var(--blue); outline-offset: -2px; }}
a[aria-current] {{ border-left-color: var(--blue); background: #fff; font-weight: 600; }}
a small {{ display: block; color: var(--soft); font-weight: 400; }}
main {{ min-height: 0; }}
iframe {{ display: block; width: 100%; height: 100%; border: 0; background: #fff; }}
@media (max-width: 48rem) {{
  body {{ grid-template: auto 1fr / 1fr; }}
  header {{ max-height: 35vh; padding: .75rem; border-right: 0; border-bottom: 1px solid var(--line); }}
}}
</style>
</head>
<body>
<header>
<h1>Concrete cracks</h1>
<p>Profile {profile}: {about}</p>
<nav aria-label="Notebooks"><ul>
{links}
</ul></nav>
</header>
<main><iframe name="page" title="Selected notebook" src="{first}"></iframe></main>
<script>
const links = [...document.querySelectorAll("nav a")];
function mark(link) {{
  links.forEach(other => other.removeAttribute("aria-current"));
  link.setAttribute("aria-current", "page");
  document.querySelector("iframe").title = link.firstChild.textContent;
}}
links.forEach(link => link.addEventListener("click", () => {{
  mark(link);
  location.replace("#" + link.getAttribute("href"));
}}));
const wanted = links.find(link => "#" + link.getAttribute("href") === location.hash);
if (wanted) wanted.click(); else mark(links[0]);
</script>
</body>
</html>
"""


def _index(profile: Profile, entries: list[tuple[str, str, str]]) -> str:
    links = [
        f'<li><a href="{html.escape(name)}" target="page">{html.escape(title)}<small>{when}</small></a></li>'
        for name, title, when in entries
    ]
    return _INDEX.format(
        profile=html.escape(profile.name),
        about=html.escape(profile.title),
        links="\n".join(links),
        first=html.escape(entries[0][0]),
    )


# ---------------------------------------------------------------- badges

_SETUP_CELL = """\
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("crackutils") is None:
    root = os.path.abspath("..")
    if "google.colab" in sys.modules:
        root, url = "/content/{name}", "https://github.com/{repository}"
        if not os.path.isdir(root):
            subprocess.run(["git", "clone", "-q", "--depth", "1", "--branch", "{branch}", url, root], check=True)
        os.chdir(f"{{root}}/notebooks")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*pip, "split-folders", "rarfile", "ai-edge-litert"], check=True)
        subprocess.run([*pip, "cleanlab", "cleanvision", "imagehash"], check=True)
    sys.path.insert(0, root)"""
_BEGIN, _END = "<!-- notebooks:begin -->", "<!-- notebooks:end -->"


def badge(notebook: Path) -> str:
    """Return the Markdown of the "Open in Colab" badge of a notebook, from the repository named in pyproject.toml."""
    project = config.project()
    place = f"{project['repository']}/blob/{project['branch']}/notebooks/{notebook.name}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})](https://colab.research.google.com/github/{place})"


def badges(check: bool = False) -> list[str]:
    """Write the repository's name into the notebooks' badges and Colab set-up cells and into README's table.

    Args:
        check: change nothing, only tell.

    Returns:
        The files that have changed, or with `check` would.

    Raises:
        CrackutilsError: a notebook has no cell tagged colab-badge or colab-setup, or README has no place for the table.
    """
    project = config.project()
    name = project["repository"].split("/")[-1]
    setup = _SETUP_CELL.format(name=name, repository=project["repository"], branch=project["branch"])
    new: dict[Path, str] = {}
    rows = ["| Notebook | What it shows | |", "|---|---|---|"]
    for path in discover().values():
        nb = _read(path)
        for tag, wanted in zip(_COLAB_TAGS, (badge(path), setup), strict=True):
            cells = _tagged(nb, tag)
            if len(cells) != 1:
                raise CrackutilsError(
                    f"{config.shown(path)} must have exactly one cell tagged {tag}, not {len(cells)}."
                )
            if cells[0].source != wanted:
                cells[0].source = wanted
                new[path] = nbformat.writes(nb).rstrip("\n") + "\n"
        summary = nb.metadata.get("crackutils", {}).get("summary", "")
        title = re.sub(r"^\d+\W+", "", _title(nb, path.stem))
        cells = [f"[{path.name[:2]} {title}](notebooks/{path.name})", summary, badge(path)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    readme = config.ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise CrackutilsError(f"README.md must hold the lines {_BEGIN} and {_END} once each; put them back.")
    table = "\n".join([_BEGIN, *rows, _END])
    wanted = text[: text.index(_BEGIN)] + table + text[text.index(_END) + len(_END) :]
    if wanted != text:
        new[readme] = wanted
    if not check:
        for path, content in new.items():
            config.write_atomically(path, content)
    return [config.shown(path) for path in new]
