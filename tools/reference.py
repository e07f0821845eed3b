"""Store results of a profile as reference, and compare later results with it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from crackutils import config, datasets
from crackutils.decisions import chosen_metrics
from crackutils.evaluation.predictions import ENTERED
from crackutils.files import sha256, write_atomically
from crackutils.runs import collect_runs, read_predictions, score_parts
from tools.notebooks import read_parameters

TIMED = "timing_"  # figures whose names begin so show timings: they differ from run to run
_STANDARD = re.compile(  # names of runs in a reference
    r"default|(?!default)[a-z0-9]+(-[a-z0-9]+)*(--split-(random|copy-safe|photo-safe))?(--split-seed-\d+)?"
    r"(--labels-corrected)?"
)
PICTURES = {  # stored with the reference because README and docs show them
    "metu-half": (
        "03_transfer_learning/mobilenetv2/figures/predicted_against_true.png",
        "05_comparison/default/figures/error_rates.png",
        "07_data_audit/default/figures/mosaic_2.png",
        "08_cross_dataset/mobilenetv2-cells/figures/maps.png",
    ),
    "sample": (
        "01_eda/default/figures/photos.png",
        "03_transfer_learning/mobilenetv2-linear/figures/worst.png",
    ),
}
_NOT_RUN = "not run"
_OTHER_VERSION = "the reference is of version"
Row = tuple[str, str, Any, Any, str]  # run, item, reference, here, verdict


def make_reference(profile: str) -> None:
    """Replace `reference/<profile>/` by the results of the runs with default settings.

    Recipe, split, split seed and labels may differ. It holds metrics.json and run.json of each run, fingerprints of its
    other files, and the pictures that README and docs show.
    """
    runs = [run for run in collect_runs(profile, trained=False) if run["notebook"] != ENTERED]
    runs = [run for run in runs if _STANDARD.fullmatch(run["run"])]
    target = config.REFERENCE / profile
    for old in target.glob("*/"):  # spread.json remains
        shutil.rmtree(old)
    for run in runs:
        home = target / run["notebook"] / run["run"]
        home.mkdir(parents=True)
        for name in ("metrics.json", "run.json"):
            shutil.copyfile(run["folder"] / name, home / name)
        write_atomically(home / "fingerprints.json", json.dumps(_fingerprints(run["folder"]), indent=1) + "\n")
    for picture in PICTURES.get(profile, ()):
        file = config.results_dir() / profile / picture
        if not file.exists():
            print(f"reference/{profile}: the docs show {picture}, which is missing; run its notebook, then this again")
            continue
        with Image.open(file) as image:  # pages show it at 800 pixels; 256 colours make a third of the bytes
            home, small = target / Path(picture).parent.parent, image.convert("RGB")
            small.thumbnail((1200, 1200))
            small.quantize(256).save(home / file.name, optimize=True)
    print(f"reference/{profile}: {len(runs)} runs")


def verify(profile: str) -> int:
    """Compare results with `reference/<profile>/`, print a table, and return 0 if all is well, else 1.

    With the CPU type, versions and weights file of the reference, everything must be equal. With others, rounding
    differs: numbers may differ as far as `tools.spread` has measured, and fingerprints are not compared. In all cases,
    the metrics must follow from the run's own predictions.csv. A run that `run all` does not make may be missing.

    Raises:
        CrackutilsError: there is no reference for this profile.
    """
    config.profile(profile)
    base = config.REFERENCE / profile
    files = sorted(base.glob("*/*/metrics.json"))
    if not files:
        raise config.CrackutilsError(
            f"reference/{profile} is empty. Fill it with make run-all and make reference, PROFILE={profile}."
        )
    results = config.results_dir() / profile
    rows = [row for file in files for row in _compare_run(file.parent, results / file.parent.relative_to(base))]
    print(pd.DataFrame(rows, columns=["run", "item", "reference", "here", "verdict"]).to_string(index=False))
    lacking = sum(row[-1] == _NOT_RUN for row in rows)
    bad = sum(row[-1] == "DIFFERENT" for row in rows)
    old = sum(row[-1].startswith(_OTHER_VERSION) for row in rows)
    more = f"; {old} from references of another version" if old else ""
    more += f"; {lacking} further runs of the reference were not run" if lacking else ""
    print(f"\n{'RED' if bad else 'GREEN'}: {bad} differences in {len(files) - lacking} runs{more}")
    return int(bad > 0)


def _is_default(run: Path) -> bool:
    """Return whether `run all` makes a run: no setting is in its name, and the recipe is that of its notebook."""
    recipe = read_parameters(config.NOTEBOOKS / f"{run.parent.name}.ipynb").get("RECIPE")
    return "--" not in run.name and recipe in (None, run.name)


def _compare_run(reference: Path, here: Path) -> list[Row]:
    run = "/".join(reference.parts[-2:])
    if not here.exists() and not _is_default(reference):
        return [(run, "metrics.json", "present", "", _NOT_RUN)]
    for name, without in (("metrics.json", "not run"), ("run.json", "not finished")):
        if not (here / name).exists():
            return [(run, name, "present", without, "DIFFERENT")]
    want, have = (json.loads((folder / "metrics.json").read_text("utf-8")) for folder in (reference, here))
    compared = [_runs_compared(metrics) for metrics in (want, have)]
    if compared[0] != compared[1]:  # notebook 05 compares all existing runs
        return [(run, "runs compared", *map(", ".join, compared), "not compared: other runs")]
    other = _other_circumstances(reference, here)
    if other:  # photos are sorted by length, and photos of nearly equal length may swap
        want, have = map(photos_by_name, (want, have))
    found = differences(want, have)
    if other:
        synthetic = "seed" in datasets.sources()[want["data"]["source"]]
        bounds = read_spread(want["settings"]["profile"], want["notebook"])
        found = [d for d in found if not is_close(bounds, *d, synthetic)]
    # another version of the package may give other numbers on purpose
    made_by, mine = (_facts(folder)["versions"].get("crackutils") for folder in (reference, here))
    verdict = "DIFFERENT" if made_by == mine else f"{_OTHER_VERSION} {made_by}"
    rows: list[Row] = [(run, path, str(w)[:40], str(h)[:40], verdict) for path, w, h in found]
    rows = rows or [(run, "metrics.json", "", "", f"close ({other})" if other else "equal")]
    if (here / "predictions.csv").exists():
        table = read_predictions(here)
        follows = score_parts(table) | chosen_metrics(table)
        own = differences({k: have.get(k) for k in follows}, follows)
        rows += [(run, f"{path} from predictions.csv", w, h, "DIFFERENT") for path, w, h in own]
    return rows + _compare_fingerprints(run, reference, here, not other)


def _compare_fingerprints(run: str, reference: Path, here: Path, equal: bool) -> list[Row]:
    """Compare files; if they cannot be equal, only predictions.csv must be there, from which the metrics follow."""
    want, have = json.loads((reference / "fingerprints.json").read_text("utf-8")), _fingerprints(here)
    rows: list[Row] = [
        (run, name, mark[:8], have.get(name, "missing")[:8], "DIFFERENT")
        for name, mark in want.items()
        if (mark != have.get(name) if equal else name == "predictions.csv" and name not in have)
    ]
    return rows or [(run, f"{len(want)} CSV files and figures", "", "", "equal")] * equal


def _fingerprints(folder: Path) -> dict[str, str]:
    """Return hashes that are equal for equal runs: of CSV files, and of the pixels of figures without timings."""
    found = {name: sha256(folder / name) for name in ("predictions.csv", "history.csv") if (folder / name).exists()}
    for file in sorted((folder / "figures").glob("*.png")):
        if not file.name.startswith(TIMED):
            with Image.open(file) as image:
                pixels = repr(image.size).encode() + image.convert("RGB").tobytes()
            found[f"figures/{file.name}"] = hashlib.sha256(pixels).hexdigest()
    return found


def photos_by_name(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics with the photos of notebook 09 sorted by name instead of length."""
    photos = metrics.get("photos")
    return metrics | {"photos": sorted(photos, key=lambda row: row["file"])} if isinstance(photos, list) else metrics


def _runs_compared(metrics: dict[str, Any]) -> list[str]:
    return [
        *(r["run"] for r in metrics.get("runs", [])),
        *(f"{r['recipe']} {r['split']} {r['split_seed']}" for r in metrics.get("by_split", [])),
        *(f"{r['recipe']} seeds {r['seeds']}" for r in metrics.get("over_seeds", [])),
    ]


def differences(want: Any, have: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return path, reference and value here of each value that differs; None stands for a missing one."""
    if isinstance(want, dict) and isinstance(have, dict):
        keys = list(want) + [k for k in have if k not in want]
        return [d for k in keys for d in differences(want.get(k), have.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [d for i, (w, h) in enumerate(zip(want, have, strict=True)) for d in differences(w, h, f"{path}[{i}]")]
    return [] if want == have else [(path, want, have)]


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text("utf-8"))


def _other_circumstances(reference: Path, here: Path) -> str:
    """Return why two runs cannot be equal bit by bit (hardware, versions, weights); empty if they can."""
    a, b = map(_facts, (reference, here))
    starts = (json.loads((folder / "metrics.json").read_text("utf-8")).get("model", {}) for folder in (reference, here))
    found = []
    if (a["machine"]["cpu"], a["machine"].get("gpu")) != (b["machine"]["cpu"], b["machine"].get("gpu")):
        found.append("another type of CPU or GPU")
    both = (a["versions"].keys() & b["versions"].keys()) - {"python"}
    if any(a["versions"][name] != b["versions"][name] for name in both):
        found.append("other versions")
    if len({model.get("start", {}).get("sha256", "") for model in starts}) > 1:
        found.append("another weights file")
    return ", ".join(found)


# ---------------------------------------------------------------- what other circumstances may change

ASKED = ("schema", "notebook", "run", "settings", "data", "model")  # parts that describe the request
_FIXED = r"(data|target)\.sha256|.*\.(n|images|positive|cracked|labels|groups)"  # determined by downloaded images


def spread_key(path: str) -> str:
    """Return the kind of number at a path in metrics.json: its part and its name, without indices."""
    parts = re.sub(r"\[\d+\]", "", path).split(".")
    return ".".join(dict.fromkeys([parts[0], parts[-1]]))


def read_spread(profile: str, notebook: str) -> dict[str, float | None]:
    """Return how far the numbers of a notebook may differ, from the measurement of `tools.spread`.

    By `spread_key`; for kinds that did not move, by name, with the largest bound of any number of that name. None
    allows any value. If the notebook was not measured on this profile, the values of a profile with images of the same
    source count, else those of the sample.
    """
    source = config.profile(profile).source
    same = [p.name for p in config.PROFILES.values() if p.source == source and p.name != profile]
    for name in (profile, *same, config.DEFAULT_PROFILE):
        file = config.REFERENCE / name / "spread.json"
        content = json.loads(file.read_text("utf-8")) if file.is_file() else {"times": 0, "moved": {}}
        if notebook in content["moved"]:
            break
    bounds = {
        where: {k: most and max(content["times"] * most["cpus"], most["seeds"]) * 1.001 for k, most in kinds.items()}
        for where, kinds in content["moved"].items()  # four digits are stored
    }
    by_name: dict[str, float | None] = {}
    for key, bound in ((key, bound) for kinds in bounds.values() for key, bound in kinds.items()):
        before = by_name.setdefault(name := f".{key.rpartition('.')[2]}", bound)
        by_name[name] = bound if before is None else before if bound is None else max(before, bound)
    return by_name | bounds.get(notebook, {})


def is_close(bounds: dict[str, float | None], path: str, want: Any, have: Any, synthetic: bool) -> bool:
    """Return whether a difference in metrics.json is allowed if CPU, versions or weights file differ.

    Args:
        bounds: how far numbers of this notebook may differ, from `read_spread`.
        path: of the value, such as `test.accuracy`.
        want: the value of the reference.
        have: the value here.
        synthetic: whether the images are synthetic, so that they may differ too.
    """
    if path.startswith(("model.start.", "features.")):
        return True
    key = spread_key(path)
    if key not in bounds and key.split(".")[0] not in ASKED:
        key = f".{key.rpartition('.')[2]}"
    if key not in bounds or (not synthetic and re.fullmatch(_FIXED, path)):
        return False
    bound = bounds[key]
    return bound is None or (is_number(want) and is_number(have) and abs(want - have) <= bound)


def is_number(value: Any) -> bool:
    """Return whether a value of metrics.json is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
