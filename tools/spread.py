"""Measure how far the numbers of a profile move on other types of CPU and with other seeds: what `verify` allows."""

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
from tools.reference import differences, is_number, photos_by_name, spread_key

_NUMPY, _OPENCV = "X86_V4 AVX512_ICL AVX512_SPR", "AVX512-SKX"
_AVX512 = {"NPY_DISABLE_CPU_FEATURES": _NUMPY, "OPENCV_CPU_DISABLE": _OPENCV}
_AVX2 = {"NPY_DISABLE_CPU_FEATURES": f"X86_V3 {_NUMPY}", "OPENCV_CPU_DISABLE": f"{_OPENCV},AVX2,FP16"}
CPUS = {  # each forbids the libraries some instructions; the last one also takes other kernels, as Arm does
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


def measure_spread(profile: str, which: list[str]) -> None:
    """Write `reference/<profile>/spread.json`: how far numbers move, by notebook and by name.

    Runs the notebooks `which` as on each of `CPUS`, and those that have a seed with each of `SEEDS`, into
    `results/spread/`; after a kill the same call goes on. Compared is with the reference, which must be of this code.

    Raises:
        CrackutilsError: a notebook failed.
    """
    base, home = config.REFERENCE / profile, config.results_dir() / "spread" / profile
    jobs = plan(which, {"PROFILE": profile})
    seeded = [job.notebook.name[:2] for job in jobs if "SEED" in job.defaults]
    found: dict[str, Any] = defaultdict(dict)
    for name, switches in CPUS.items():
        results = home / name.replace(" ", "-")
        _run(profile, which, results, results / "data", switches, "XNNPACK" in name)
        for run in sorted(base.glob("*/*/metrics.json")):
            note = found[run.parts[-3]]
            for path, want, have in differences(*map(_read, (run, results / run.relative_to(base.parent)))):
                key = spread_key(path)
                if not is_number(want) or not is_number(have) or note.get(key, 0) is None:
                    note[key] = None
                else:
                    entry = note.setdefault(key, {"cpus": 0, "seeds": 0})
                    entry["cpus"] = max(entry["cpus"], abs(want - have))
    for seed in SEEDS if seeded else ():
        _run(profile, seeded, home / f"seed-{seed}", config.data_dir(), {}, False, f"SEED={seed}")
    for run in sorted(base.glob("*/*/metrics.json")):
        others = [home / f"seed-{seed}" / profile / run.parts[-3] / f"{run.parts[-2]}--seed-{seed}" for seed in SEEDS]
        if all((other / "metrics.json").is_file() for other in others):
            leaves = [dict(_leaves(_read(file))) for file in (run, *(other / "metrics.json" for other in others))]
            for path, entry in ((path, found[run.parts[-3]].get(spread_key(path))) for path in leaves[0]):
                values = [leaf[path] for leaf in leaves if path in leaf]
                if entry and all(map(is_number, values)):
                    entry["seeds"] = max(entry["seeds"], float(np.std(values)))
    how = {"cpus": CPUS, "seeds": [config.DEFAULT_SEED, *SEEDS], "seeded": seeded, "machine": machine()["cpu"]}
    bounds = {name: dict(sorted(note.items())) for name, note in sorted(found.items())}
    rounded = json.loads(json.dumps(bounds), parse_float=lambda text: float(f"{float(text):.4g}"))
    write_atomically(base / "spread.json", json.dumps({"how": how, "moved": rounded}, indent=1) + "\n")
    print(f"reference/{profile}/spread.json: {sum(map(len, bounds.values()))} kinds of numbers move")


def _run(
    profile: str, which: list[str], results: Path, data: Path, switches: dict[str, str], plain: bool, *more: str
) -> None:
    """Run notebooks in a process of its own, with other data and results, as on another CPU."""
    data.mkdir(parents=True, exist_ok=True)
    source = config.profile(profile).source
    if "seed" not in datasets.sources()[source] and not datasets.raw_folder(source).is_relative_to(data):
        (data / "raw").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # downloaded images are the same everywhere
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
        raise config.CrackutilsError(f"The run of {results.name} failed. Its output is above; run this again.")


def _read(file: Path) -> dict[str, Any]:
    return photos_by_name(json.loads(file.read_text("utf-8")))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield path, value
    for name, part in parts or ():
        yield from _leaves(part, f"{path}[{name}]" if isinstance(value, list) else f"{path}.{name}".lstrip("."))
