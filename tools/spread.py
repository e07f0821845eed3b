"""Measure how far the numbers of a profile vary with the type of CPU and the seed; `verify` allows this much."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import config, datasets
from crackutils.files import write_atomically
from crackutils.provenance import machine
from tools.plan_series import plan
from tools.reference import ASKED, differences, is_number, photos_by_name, spread_key

_NUMPY, _OPENCV = "X86_V4 AVX512_ICL AVX512_SPR", "AVX512-SKX"
_AVX512 = {"NPY_DISABLE_CPU_FEATURES": _NUMPY, "OPENCV_CPU_DISABLE": _OPENCV}
_AVX2 = {"NPY_DISABLE_CPU_FEATURES": f"X86_V3 {_NUMPY}", "OPENCV_CPU_DISABLE": f"{_OPENCV},AVX2,FP16"}
CPUS = {  # each disables some instructions; the last one also uses other kernels, as on Arm
    "AVX2": _AVX512 | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "SSE4.1": _AVX2 | {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
    "no oneDNN, no XNNPACK": _AVX2 | {"TF_ENABLE_ONEDNN_OPTS": "0", "OPENBLAS_CORETYPE": "Prescott"},
}
SEEDS = (1, 2, 3, 4)  # besides that of the reference
_NO_XNNPACK = """import functools
import ai_edge_litert.interpreter as litert

plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
litert.Interpreter.__init__ = functools.partialmethod(litert.Interpreter.__init__, experimental_op_resolver_type=plain)
"""


def measure_spread(profile: str) -> None:
    """Write `reference/<profile>/spread.json`: how far numbers move, by notebook and `spread_key`.

    cpus: largest difference from the reference over `CPUS`; seeds: standard deviation over five seeds; times: how many
    times as far a number moved on one CPU as on the others, at least 2, as a margin for further CPUs.

    Runs the notebooks of the reference as on each of `CPUS`, and those with a seed also with each of `SEEDS`, into
    `results/spread/`; after a kill, the same call continues. The reference must be of the present code.

    Raises:
        CrackutilsError: there is no reference for this profile, or a notebook failed.
    """
    config.profile(profile)
    base, home = config.REFERENCE / profile, config.results_dir() / "spread" / profile
    runs = sorted(base.glob("*/*/metrics.json"))
    if not runs:
        raise config.CrackutilsError(f"reference/{profile} is empty. Fill it with make reference PROFILE={profile}.")
    which = sorted({run.parts[-3][:2] for run in runs})
    jobs = plan(which, {"PROFILE": profile})
    seeded = sorted(job.notebook.name[:2] for job in jobs if "SEED" in job.defaults)
    moved: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, switches in CPUS.items():
        results = home / name.replace(" ", "-")
        _run(profile, which, results, results / "data", switches, "XNNPACK" in name)
        for run in runs:
            if (other := results / run.relative_to(base.parent)).is_file():
                _note_cpu(moved[run.parts[-3]], name, _read(run), _read(other))
    for seed in SEEDS if seeded else ():
        _run(profile, seeded, home / f"seed-{seed}", config.data_dir(), {}, False, f"SEED={seed}")
    for run in runs:
        others = [home / f"seed-{seed}" / profile / run.parts[-3] / f"{run.parts[-2]}--seed-{seed}" for seed in SEEDS]
        if all((other / "metrics.json").is_file() for other in others):
            _note_seeds(moved[run.parts[-3]], [_read(run), *(_read(other / "metrics.json") for other in others)])
    entries = [entry for note in moved.values() for entry in note.values() if entry]
    times = max([2.0, *(ratio for entry in entries for ratio in _left_out(entry))])
    for entry in entries:
        entry["cpus"] = max(entry["cpus"].values())
    how = {"cpus": CPUS, "seeds": [config.DEFAULT_SEED, *SEEDS], "seeded": seeded, "machine": machine()["cpu"]}
    kinds = {name: dict(sorted(note.items())) for name, note in sorted(moved.items())}
    content = json.dumps({"how": how, "times": times, "moved": kinds})
    rounded = json.loads(content, parse_float=lambda text: float(f"{float(text):.4g}"))
    write_atomically(base / "spread.json", json.dumps(rounded, indent=1) + "\n")
    print(f"reference/{profile}/spread.json: {len(entries)} kinds of numbers move, on one CPU up to {times:.1f} times")


def _note_cpu(note: dict[str, Any], cpu: str, reference: dict[str, Any], here: dict[str, Any]) -> None:
    """Record how far each kind of number moved on a CPU, or None if more than numbers changed."""
    for path, want, have in differences(reference, here):
        key = spread_key(path)
        if not is_number(want) or not is_number(have) or note.get(key, 0) is None:
            note[key] = None
        else:
            entry = note.setdefault(key, {"cpus": dict.fromkeys(CPUS, 0.0), "seeds": 0.0})
            entry["cpus"][cpu] = max(entry["cpus"][cpu], abs(want - have))


def _note_seeds(note: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Record the largest standard deviation over seeds of each kind of number that CPUs move, and other changes."""
    leaves = [dict(_leaves(run)) for run in runs]
    for path in leaves[0]:
        key, values = spread_key(path), [leaf[path] for leaf in leaves if path in leaf]
        if not all(map(is_number, values)):
            if len(set(values)) > 1 and key.split(".")[0] not in ASKED:
                note[key] = None
        elif entry := note.get(key):
            entry["seeds"] = max(entry["seeds"], float(np.std(values)))


def _left_out(entry: dict[str, Any]) -> Iterator[float]:
    """Yield the ratio of a number's largest move to that on the other CPUs, if it exceeds the move by seeds."""
    for name, most in entry["cpus"].items():
        others = max(value for other, value in entry["cpus"].items() if other != name)
        if most > entry["seeds"] and others:
            yield most / others


def _run(
    profile: str, which: list[str], results: Path, data: Path, switches: dict[str, str], plain: bool, *more: str
) -> None:
    """Run notebooks in a separate process, with its own data and results, as on another CPU."""
    data.mkdir(parents=True, exist_ok=True)
    source = config.profile(profile).source
    if "seed" not in datasets.sources()[source] and not datasets.raw_folder(source).is_relative_to(data):
        (data / "raw").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # downloaded images are shared
            (data / "raw" / source).symlink_to(datasets.raw_folder(source))
    places = {"CRACKUTILS_DATA_DIR": str(data), "CRACKUTILS_RESULTS_DIR": str(results)}
    paths = [os.environ.get("PYTHONPATH", "")]
    if plain:
        (results / "site").mkdir(parents=True, exist_ok=True)
        write_atomically(results / "site" / "sitecustomize.py", _NO_XNNPACK)
        paths.insert(0, str(results / "site"))
    print(f"{results.name}:", flush=True)
    environment = os.environ | switches | places | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-m", "tools", "run", *which, f"PROFILE={profile}", *more], env=environment, cwd=config.ROOT
    )
    if done.returncode:
        raise config.CrackutilsError(f"The run of {results.name} failed. See its output above, then run this again.")


def _read(file: Path) -> dict[str, Any]:
    return photos_by_name(json.loads(file.read_text("utf-8")))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield path, value
    for name, part in parts or ():
        yield from _leaves(part, f"{path}[{name}]" if isinstance(value, list) else f"{path}.{name}".lstrip("."))
