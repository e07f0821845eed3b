from crackutils.provenance import code_hash
"""Run the notebooks in order, keep their executed copies, and make one browsable report of them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
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

from crackutils import config
from crackutils.recipes import OWN_BACKBONE, RECIPES, choose_recipe
from tools.notebooks import copies_folder, discover, executed_copies, parameters, read_notebook
from tools.report import report

DEFAULT_PROFILE = "sample"
_SHARED = ("PROFILE", "SPLIT", "SPLIT_SEED", "SEED", "WEIGHTS")  # what a notebook that is merely needed gets as well
_START_UP = 10.0  # seconds before the first cell of a notebook


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
        raise config.CrackutilsError(f"{name}={value} must be {kind}, for example {name}={default}.") from error


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
        raise config.CrackutilsError(f"{config.display_path(config.NOTEBOOKS)} holds no notebook; restore that folder.")
    if "recipes" in which:
        if len(which) > 1:
            raise config.CrackutilsError(
                "run recipes runs its own notebooks; give it alone, and the others in a second call."
            )
        return _plan_recipes(overrides, force)
    if which == ["all"]:
        chosen = list(notebooks)
    else:
        chosen = [
            config.choose("notebook", n.zfill(2) if n.isdigit() else n, [*notebooks, "all", "recipes"]) for n in which
        ]
        chosen = list(notebooks) if "all" in chosen else chosen
    profile = config.profile(overrides.get("PROFILE", DEFAULT_PROFILE))
    overrides = overrides | {"PROFILE": profile.name}

    defaults = {number: parameters(path) for number, path in notebooks.items()}
    known = sorted({name for number in chosen for name in defaults[number]} | {"PROFILE"})
    for name in overrides:
        config.choose("parameter", name, known)
    with_recipe = [number for number in chosen if "RECIPE" in defaults[number]]
    if "RECIPE" in overrides and len(chosen) > 1:
        use = " or ".join(f"make run-{number} RECIPE=..." for number in with_recipe)
        raise config.CrackutilsError(
            f"RECIPE={overrides['RECIPE']} belongs to one notebook; give it to that one alone: {use}."
        )

    jobs: dict[str, Job] = {}

    def add(number: str, trail: tuple[str, ...] = ()) -> None:
        if number in jobs or number in trail:
            return
        path = notebooks[number]
        needs = tuple(read_notebook(path).metadata.get("crackutils", {}).get("needs", ()))
        for need in needs:
            add(config.choose(f"{path.stem} needs notebook", need, notebooks), (*trail, number))
        own = defaults[number]
        take = [n for n in overrides if n in own and (number in chosen or n in _SHARED)]
        values = {name: _coerce(name, overrides[name], own[name]) for name in take}
        jobs[number] = Job(path, needs, own, values, force and number in chosen)

    for number in sorted(chosen):
        add(number)
    for job in jobs.values():
        _check(job.defaults, job.defaults | job.values, profile)
    return list(jobs.values())


def _check(own: dict[str, Any], values: dict[str, Any], profile: config.Profile) -> None:
    """Refuse here what the notebook would refuse after minutes of indexing."""
    if values.get("WEIGHTS"):
        config.choose("WEIGHTS", values["WEIGHTS"], config.WEIGHTS)
    if own.get("RECIPE") in RECIPES:
        family = RECIPES[own["RECIPE"]].family
        choose_recipe(values["RECIPE"], family, profile, values.get("EPOCHS", 0), values.get("WEIGHTS", ""))


def _plan_recipes(overrides: dict[str, str], force: bool) -> list[Job]:
    """Return a job for each recipe that the profile's weights allow, and the comparison; the others are told."""
    defaults = {number: parameters(path) for number, path in discover().items()}
    of_family = {
        RECIPES[own["RECIPE"]].family: number for number, own in defaults.items() if own.get("RECIPE") in RECIPES
    }
    numbers = [*of_family.values(), "05"]
    known = sorted({name for number in numbers for name in defaults.get(number, {})} - {"RECIPE"})
    for name in overrides:
        config.choose("parameter", name, known)

    def mine(number: str) -> dict[str, str]:
        return {name: value for name, value in overrides.items() if name in defaults[number]}

    weights = overrides.get("WEIGHTS") or config.profile(overrides.get("PROFILE", DEFAULT_PROFILE)).weights
    jobs = []
    for recipe in RECIPES.values():
        if weights == "crackutils" and recipe.backbone not in ("", OWN_BACKBONE):
            print(f"left out: {recipe.name}, because WEIGHTS=crackutils exist for {OWN_BACKBONE} only", flush=True)
            continue
        if weights == "random" and recipe.linear:
            print(f"left out: {recipe.name}, because WEIGHTS=random have learnt nothing", flush=True)
            continue
        number = of_family[recipe.family]
        jobs += plan([number], mine(number) | {"RECIPE": recipe.name}, force)
    return jobs + plan(["05"], mine("05"), force)[-1:]


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
    except config.CrackutilsError as error:
        failure = error
    if executed_copies(profile):
        print(f"report: {config.display_path(report(profile))}")
    if failure:
        raise failure


def _settings(profile: config.Profile, changed: dict[str, Any]) -> str:
    return ", ".join([profile.name, *(f"{name}={value}" for name, value in changed.items())])


def _estimates(jobs: list[Job], profile: config.Profile, images: str, count: int) -> list[float]:
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


def _as_the_reference(job: Job, profile: config.Profile, images: int) -> float | None:
    name = (job.defaults | job.values).get("RECIPE", "*")
    kept = config.REFERENCE.glob(f"*/{job.notebook.stem}/{name}/run.json")
    # the largest reference first: start-up weighs least there
    for file in sorted((f for f in kept if "--" not in f.parent.name), key=_images_of, reverse=True):
        timings = json.loads(file.read_text("utf-8"))["timings"]
        metrics = json.loads((file.parent / "metrics.json").read_text("utf-8"))
        more = images / metrics["data"]["images"]
        if "RECIPE" in job.defaults and "recipe" in metrics["settings"]:
            there = sum(stage["epochs"] for stage in metrics["settings"]["recipe"]["stages"])
            here = choose_recipe(
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


def _run_one(job: Job, profile: config.Profile, images: str, label: str, left: float) -> float:
    """Run a job unless it is up to date, and return the seconds that it took, 0 for none."""
    copy = copies_folder(profile) / f"{job.name}.ipynb"
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
    nb.metadata.papermill.update(input_path=config.display_path(job.notebook), output_path=config.display_path(copy))
    nbformat.write(nb, running)
    os.replace(running, copy)
    failed.unlink(missing_ok=True)
    print(f"{f'{label}: done in {_duration(seconds)}':<100}".rstrip(" " if not sys.stdout.isatty() else ""), flush=True)
    return seconds


def _before(job: Job, profile: config.Profile) -> dict[str, Any]:
    """Return what the executed copy of a job says of its run; empty if there is none."""
    copy = copies_folder(profile) / f"{job.name}.ipynb"
    return dict(read_notebook(copy).metadata.get("crackutils", {})) if copy.is_file() else {}


def _done(job: Job, before: dict[str, Any], key: str) -> bool:
    there = all((config.results_dir() / folder / "metrics.json").is_file() for folder in before.get("folders", []))
    return before.get("key") == key and there and not job.force


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def _key(job: Job, profile: config.Profile, images: str) -> str:
    """Hash everything that the outcome of a notebook depends on."""
    state = hashlib.sha256()

    def add(what: str, value: bytes | str) -> None:
        value = value.encode() if isinstance(value, str) else value
        state.update(f"{what}\t{len(value)}\n".encode() + value)

    for cell in read_notebook(job.notebook).cells:
        add(cell.cell_type, cell.source)
    add("parameters", json.dumps(job.defaults | job.values, sort_keys=True, default=str))
    add("images", images)
    if "TARGET" in job.defaults:
        from crackutils.transfer.targets import default_target, load_target

        name = (job.defaults | job.values)["TARGET"] or default_target(profile)
        add("target", f"{name} {load_target(name).sha256}")
    for name in ("PHOTOS", "TILE_LABELS", "MODEL"):
        given = Path(str((job.defaults | job.values).get(name, "")) or os.devnull)
        for file in sorted(f for f in (given, *given.rglob("*")) if f.is_file()):
            state_of = file.stat()
            add(f"{name} {file}", f"{state_of.st_size} {state_of.st_mtime_ns}")
    add("python", platform.python_version())
    add("code", code_hash())
    add(config.LOCK.name, config.LOCK.read_bytes())
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


def _told(error: Exception, job: Job, failed: Path) -> config.CrackutilsError:
    """Return one sentence for a notebook that failed."""
    from papermill.exceptions import PapermillExecutionError

    kept = f"what ran so far is in {config.display_path(failed)}" if failed.exists() else "nothing ran"
    if not isinstance(error, PapermillExecutionError):
        what = str(error).strip().split("\n")[0].rstrip(".")
        if type(error).__name__ == "DeadKernelError":
            what = "its kernel died, mostly for lack of memory"
        return config.CrackutilsError(f"{job.notebook.stem} stopped: {what or type(error).__name__}; {kept}.")
    if list(error.traceback) == [f"{error.ename}: {error.evalue}"]:  # rendered by CrackutilsError, which tells enough
        return config.CrackutilsError(f"{job.notebook.stem}, cell [{error.exec_count}]: {error.evalue}")
    first = next((line.strip() for line in error.source.split("\n") if line.strip()), "")
    what = f"{error.ename}: {error.evalue.strip().split(chr(10))[0][:300]}".rstrip(".")
    return config.CrackutilsError(
        f"{job.notebook.stem} failed in cell [{error.exec_count}] `{first}` with {what}; {kept}."
    )
