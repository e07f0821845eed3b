"""Run the series: execute notebooks that are not up to date, and print the remaining time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

from crackutils import config, datasets
from crackutils.evaluation.predictions import ENTERED
from crackutils.files import lock_file, sha256
from crackutils.provenance import code_hash
from crackutils.recipes import choose_recipe
from crackutils.sources.fetch import prepare
from crackutils.splits.make import GIVEN
from crackutils.transfer.targets import default_target, load_target
from tools.notebooks import copies_folder, read_notebook
from tools.plan_series import Job, plan
from tools.run_notebook import describe_failure, execute_notebook

_START_UP = 10.0  # seconds before the first cell of a notebook


def run(which: list[str], overrides: dict[str, str], force: bool = False) -> None:
    """Run notebooks that are not up to date, in order; `plan` explains the arguments.

    Executed copies go to `results/<profile>/notebooks/`; a notebook that failed leaves `*.failed.ipynb`.

    Raises:
        CrackutilsError: errors of `plan`, missing images, a notebook that failed, or another process that runs the
            same profile.
    """
    jobs = plan(which, overrides, force)
    profile = config.profile(overrides.get("PROFILE", config.DEFAULT_PROFILE))
    home = config.results_dir() / profile.name
    home.parent.mkdir(parents=True, exist_ok=True)
    busy = f"Another process runs PROFILE={profile.name}. Wait for it, or set another CRACKUTILS_RESULTS_DIR."
    with lock_file(home.with_name(f".{profile.name}.lock"), busy):
        _run_jobs(jobs, profile)


def _run_jobs(jobs: list[Job], profile: config.Profile) -> None:
    prepare(profile)
    ds = datasets.load(profile)
    spent = expected = 0.0
    guesses = estimate_seconds(jobs, profile, ds.sha256, len(ds.index))
    for i, job in enumerate(jobs, 1):
        # finished jobs show the speed of this machine
        left = sum(guesses[i - 1 :]) * (spent / expected if expected else 1)
        settings = ", ".join([profile.name, *(f"{name}={value}" for name, value in job.changed.items())])
        label = f"[{i}/{len(jobs)}] {job.notebook.stem} ({settings})"
        seconds = _run_job(job, profile, ds.sha256, label, left if len(jobs) > 1 else 0)
        if seconds and guesses[i - 1]:
            spent, expected = spent + seconds, expected + guesses[i - 1]
    folder = config.display_path(copies_folder(profile))
    print(f"executed notebooks: {folder}; make docs PROFILE={profile.name} turns them into pages")


def estimate_seconds(jobs: list[Job], profile: config.Profile, images: str, count: int) -> list[float]:
    """Return estimates of the seconds that jobs take, 0 for those that are up to date.

    The source is the job's last run; else the reference run of its recipe, scaled by the number of images, epochs,
    steps or photos; else the mean of the others, or 0 if nothing is known.

    Args:
        jobs: from `plan`.
        profile: the profile of the images.
        images: hash of these images.
        count: their number.
    """
    known: list[float | None] = []
    for job in jobs:
        before = _last_run(job, profile)
        if _is_done(job, before, hash_inputs(job, profile, images)):
            known.append(0.0)
        else:
            known.append(before.get("seconds") or _reference_seconds(job, profile, count))
    others = [seconds for seconds in known if seconds]
    return [(sum(others) / len(others) if others else 0.0) if seconds is None else seconds for seconds in known]


def _reference_seconds(job: Job, profile: config.Profile, count: int) -> float | None:
    name = job.values.get("RECIPE", "*")
    found = []
    for file in config.REFERENCE.glob(f"*/{job.notebook.stem}/{name}/run.json"):
        if "--" not in file.parent.name:
            metrics = json.loads((file.parent / "metrics.json").read_text("utf-8"))
            found.append((metrics, json.loads(file.read_text("utf-8"))["timings"]["notebook_seconds"]))
    if not found:
        return None
    # the profile itself, else the one with the most similar number of images
    own = [run for run in found if run[0]["settings"].get("profile") == profile.name]
    metrics, seconds = min(own or found, key=lambda run: abs(math.log(max(count, 1) / run[0]["data"]["images"])))
    seconds *= 1 if own else _times_the_work(metrics, profile, count)
    recipe = metrics["settings"].get("recipe")
    if "RECIPE" in job.defaults and recipe:
        here = choose_recipe(name, recipe["family"], profile, job.values.get("EPOCHS", 0), "imagenet")
        seconds *= sum(s.epochs for s in here.stages) / sum(s["epochs"] for s in recipe["stages"])
    return _START_UP + seconds


def _times_the_work(metrics: dict[str, Any], profile: config.Profile, count: int) -> float:
    """Return the work as a multiple of that in another profile's run: in photos for 09, in training steps for 08."""
    if "made" in metrics:
        return profile.budget.photos / len(metrics["made"])
    if "steps" in metrics.get("stages", [{}])[0]:
        return profile.cells[0] / metrics["stages"][0]["steps"]
    return count / metrics["data"]["images"]


def _run_job(job: Job, profile: config.Profile, images: str, label: str, left: float) -> float:
    """Run a job unless it is up to date, and return its seconds, 0 if it was not run."""
    copy = copies_folder(profile) / f"{job.name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    before, key = _last_run(job, profile), hash_inputs(job, profile, images)
    if _is_done(job, before, key):
        print(f"{label}: up to date", flush=True)
        return 0.0
    last = f", last time {format_seconds(before['seconds'])}" if "seconds" in before else ""
    last += f", about {format_seconds(left)} left in all" if left else ""
    print(f"{label}: running{last}", flush=True)
    began, terminal = time.monotonic(), sys.stdout.isatty()

    def show(cell: int, cells: int) -> None:
        line = f"{label}: cell {cell} of {cells}, {format_seconds(time.monotonic() - began)}"
        print(f"\r{line:<100}", end="\r", flush=True)

    running, failed = copy.with_name(f".running-{copy.name}"), copy.with_name(f"{job.name}.failed.ipynb")
    try:
        nb, folders = execute_notebook(job.notebook, running, job.given, job.force, show if terminal else None)
    except KeyboardInterrupt:
        running.unlink(missing_ok=True)
        raise
    except Exception as error:
        kept = "Nothing ran."
        if running.exists():
            os.replace(running, failed)
            kept = f"What ran so far is in {config.display_path(failed)}."
        raise describe_failure(error, job.notebook, kept) from error
    seconds = time.monotonic() - began
    facts = {"key": key, "seconds": round(seconds, 1), "folders": folders, "changed": job.changed}
    facts["results"] = _hash_results(folders)
    nb.metadata["crackutils"] = dict(nb.metadata.get("crackutils", {})) | facts
    # papermill writes absolute paths, which contain the user's home
    nb.metadata.papermill.update(input_path=config.display_path(job.notebook), output_path=config.display_path(copy))
    nbformat.write(nb, running)
    os.replace(running, copy)
    failed.unlink(missing_ok=True)
    done = f"{label}: done in {format_seconds(seconds)}"
    print(f"{done:<100}" if terminal else done, flush=True)  # overwrites the line of the last cell
    return seconds


def _last_run(job: Job, profile: config.Profile) -> dict[str, Any]:
    """Return the facts of a job's last run from its executed copy; empty if there is none that can be read."""
    copy = copies_folder(profile) / f"{job.name}.ipynb"
    with contextlib.suppress(config.CrackutilsError):
        return dict(read_notebook(copy).metadata.get("crackutils", {})) if copy.is_file() else {}
    return {}


def _is_done(job: Job, before: dict[str, Any], key: str) -> bool:
    # other parameters or code may since have written into the same folders
    results = before.get("results")
    same = before.get("key") == key and results and results == _hash_results(before.get("folders", []))
    return bool(same) and not job.force


def _hash_results(folders: list[str]) -> str:
    """Return a hash of the metrics and predictions in folders of runs; empty if one of the runs is not finished."""
    homes = [config.results_dir() / folder for folder in folders]
    if not all((home / name).is_file() for home in homes for name in ("metrics.json", "run.json")):
        return ""
    files = [home / name for home in homes for name in ("metrics.json", "predictions.csv")]
    found = {f"{file.parent.name} {file.name}": sha256(file) for file in files if file.is_file()}
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def format_seconds(seconds: float) -> str:
    """Return a duration as text: 99 s, 1 min 40 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def hash_inputs(job: Job, profile: config.Profile, images: str) -> str:
    """Hash everything that the result of a notebook depends on.

    Args:
        job: the notebook and its parameters.
        profile: the profile with the results of the notebooks that it needs.
        images: hash of the profile's images.
    """
    state = hashlib.sha256()

    def add(what: str, value: bytes | str) -> None:
        value = value.encode() if isinstance(value, str) else value
        state.update(f"{what}\t{len(value)}\n".encode() + value)

    for cell in read_notebook(job.notebook).cells:
        add(cell.cell_type, cell.source)
    add("parameters", json.dumps(job.values, sort_keys=True, default=str))
    add("images", images)
    if "TARGET" in job.defaults:
        name = job.values["TARGET"] or default_target(profile)
        if name in config.PROFILES:
            prepare(config.PROFILES[name])
        target = load_target(name)
        add("target", f"{name} {target.sha256} {target.cuts['photo'].tolist()}")
    for name in ("PHOTO", "PHOTOS", "TILE_LABELS", "MODEL"):
        given = Path(str(job.values.get(name, "")) or os.devnull)
        for file in sorted(f for f in (given, *given.rglob("*")) if f.is_file()):
            stat = file.stat()
            add(f"{name} {file}", f"{stat.st_size} {stat.st_mtime_ns}")
    for name in ("patches.csv", GIVEN):
        if (table := datasets.raw_folder(profile.source) / name).is_file():
            add(name, table.read_bytes())
    add("python", platform.python_version())
    add("code", code_hash())
    add(config.LOCK.name, config.LOCK.read_bytes())
    weights = os.environ.get("CRACKUTILS_WEIGHTS_DIR") or os.devnull
    homes = (Path(weights).expanduser(), config.ROOT / weights)  # as `models.find_weights` looks for them
    for file in sorted({file for home in homes for file in home.glob("*")}):
        add(f"weights {file.name}", f"{file.stat().st_size} {file.stat().st_mtime_ns}")
    home = config.results_dir() / profile.name
    folders = [f"{number}_*" for number in job.needs] + [ENTERED] * (job.notebook.stem == "05_comparison")
    for file in sorted(file for folder in folders for file in home.glob(f"{folder}/*/metrics.json")):
        add(file.relative_to(home).as_posix(), file.read_bytes())
    return state.hexdigest()
