"""Keep results of a profile as reference, and compare later results with it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from crackutils import config, datasets
from crackutils.comparison.significance import TESTS
from crackutils.decisions import chosen_metrics
from crackutils.files import sha256, write_atomically
from crackutils.runs import collect_runs, read_predictions, score_parts

TIMED = "timing_"  # figures whose names begin so show timings: they differ from run to run
_STANDARD = re.compile(  # names of the runs that a reference holds
    r"default|(?!default)[a-z0-9]+(-[a-z0-9]+)*(--split-(random|copy-safe|photo-safe))?(--split-seed-\d+)?"
    r"(--labels-corrected)?"
)
PICTURES = {  # held with the reference because README and docs show them
    "metu-half": (
        "03_transfer_learning/mobilenetv2/figures/predicted_against_true.png",
        "05_comparison/default/figures/error_rates.png",
        "07_data_audit/default/figures/mosaic_2.png",
        "08_cross_dataset/mobilenetv2-cells/figures/maps.png",
        "09_inspect_photos/default/figures/photo.png",
    ),
    "sample": (
        "01_eda/default/figures/photos.png",
        "03_transfer_learning/mobilenetv2-linear/figures/worst.png",
    ),
}
Row = tuple[str, str, Any, Any, str]  # run, item, reference, here, verdict


def make_reference(profile: str) -> None:
    """Replace `reference/<profile>/` by the results of the runs whose settings are the defaults.

    Recipe, split, split seed and labels may differ. Of each run it holds metrics.json, run.json, fingerprints of the
    other files, and the pictures that README and docs show.
    """
    runs = [run for run in collect_runs(profile, trained=False) if _STANDARD.fullmatch(run["run"])]
    target = config.REFERENCE / profile
    shutil.rmtree(target, ignore_errors=True)
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
        with Image.open(file) as image:  # 256 colours make a third of the bytes
            home = target / Path(picture).parent.parent
            image.convert("RGB").quantize(256).save(home / file.name, optimize=True)
    print(f"reference/{profile}: {len(runs)} runs")


def verify(profile: str) -> int:
    """Compare results with `reference/<profile>/`, print a table, and return 0 if all is well, else 1.

    With the CPU type, the versions and the weights file that made the reference everything must be equal. With others
    low digits move, so there scores may differ a little (see `is_close`), and fingerprints are not compared. Everywhere
    the metrics must follow from the run's own predictions.csv.

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
    bad = sum(row[-1] == "DIFFERENT" for row in rows)
    print(f"\n{'RED' if bad else 'GREEN'}: {bad} differences in {len(files)} runs")
    return int(bad > 0)


def _compare_run(reference: Path, here: Path) -> list[Row]:
    run = "/".join(reference.parts[-2:])
    if not (here / "metrics.json").exists():
        return [(run, "metrics.json", "present", "not run", "DIFFERENT")]
    want, have = (json.loads((folder / "metrics.json").read_text("utf-8")) for folder in (reference, here))
    compared = [_runs_compared(metrics) for metrics in (want, have)]
    if compared[0] != compared[1]:  # notebook 05 takes in all runs that there are
        return [(run, "runs compared", *map(", ".join, compared), "not compared: other runs")]
    other = _other_circumstances(reference, here)
    if other:  # photos are sorted by length, and two of nearly one length may change places
        want, have = map(_photos_by_name, (want, have))
    found = _differences(want, have)
    if other:
        synthetic = "seed" in datasets.sources()[want["data"]["source"]]
        found = [d for d in found if not is_close(*d, want["data"]["test"]["images"], synthetic)]
    rows: list[Row] = [(run, path, str(w)[:40], str(h)[:40], "DIFFERENT") for path, w, h in found]
    rows = rows or [(run, "metrics.json", "", "", f"close ({other})" if other else "equal")]
    if (here / "predictions.csv").exists():
        table = read_predictions(here)
        follows = score_parts(table) | chosen_metrics(table)
        own = _differences({k: have.get(k) for k in follows}, follows)
        rows += [(run, f"{path} from predictions.csv", w, h, "DIFFERENT") for path, w, h in own]
    return rows if other else rows + _compare_fingerprints(run, reference, here)


def _compare_fingerprints(run: str, reference: Path, here: Path) -> list[Row]:
    want, have = json.loads((reference / "fingerprints.json").read_text("utf-8")), _fingerprints(here)
    rows: list[Row] = [
        (run, name, mark[:8], have.get(name, "missing")[:8], "DIFFERENT")
        for name, mark in want.items()
        if mark != have.get(name)
    ]
    return rows or [(run, f"{len(want)} CSV files and figures", "", "", "equal")]


def _fingerprints(folder: Path) -> dict[str, str]:
    """Return the hashes that equal runs share: of the CSV files, and of the pixels of figures without timings."""
    found = {name: sha256(folder / name) for name in ("predictions.csv", "history.csv") if (folder / name).exists()}
    for file in sorted((folder / "figures").glob("*.png")):
        if not file.name.startswith(TIMED):
            with Image.open(file) as image:
                pixels = repr(image.size).encode() + image.convert("RGB").tobytes()
            found[f"figures/{file.name}"] = hashlib.sha256(pixels).hexdigest()
    return found


def _photos_by_name(metrics: dict[str, Any]) -> dict[str, Any]:
    photos = metrics.get("photos")
    return metrics | {"photos": sorted(photos, key=lambda row: row["file"])} if isinstance(photos, list) else metrics


def _runs_compared(metrics: dict[str, Any]) -> list[str]:
    return [
        *(r["run"] for r in metrics.get("runs", [])),
        *(f"{r['recipe']} {r['split']} {r['split_seed']}" for r in metrics.get("by_split", [])),
        *(f"{r['recipe']} seeds {r['seeds']}" for r in metrics.get("over_seeds", [])),
    ]


def _differences(want: Any, have: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(want, dict) and isinstance(have, dict):
        keys = list(want) + [k for k in have if k not in want]
        return [d for k in keys for d in _differences(want.get(k), have.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [d for i, (w, h) in enumerate(zip(want, have, strict=True)) for d in _differences(w, h, f"{path}[{i}]")]
    return [] if want == have else [(path, want, have)]


def _other_circumstances(reference: Path, here: Path) -> str:
    """Name what keeps two runs from being equal to the bit: hardware, versions, weights; empty if nothing does."""
    a, b = (json.loads((folder / "run.json").read_text("utf-8")) for folder in (reference, here))
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


@dataclass(frozen=True)
class _Rule:
    """How far the numbers of a part of metrics.json may move.

    Attributes:
        share: a float may move so far, or by `of_share` of the reference where that is more.
        of_share: see `share`.
        count: a whole number may move so far, or by `of_count` of the reference where that is more.
        of_count: see `count`.
        of_class: images of one class that a recall or precision may move by, where that is more.
        free: names of values that may be anything, a regular expression.
        fixed: names of values that may not move where the images were downloaded, a regular expression.
    """

    share: float
    of_share: float
    count: float
    of_count: float
    of_class: int = 0
    free: str = ""
    fixed: str = ""


# one validation image may move the first three; an untrained model sits near 0.5, where a low digit moves many images
_ANYTHING = "calibration|decision|judgements|before"
_MEASURED = "share_with_copy|copies|split_report|test_images_with_copy_in_train|check|darkness_left"
_RANKED = "chosen|method|best_run|low|high|gain_low|gain_high"
_RULES = {  # by part of metrics.json, a regular expression
    # notebook 06: tiny models
    "seen_in_training|two_passes|chosen_and_reported|rescaled|one_unit|decayed_to_zero|trainable|batchnorm"
    "|copies_across|axes": _Rule(0.05, 0, 5, 0.05),
    # notebook 07: ranks and ratios of a handful
    "planted_copies|overlaps|overlaps_found|mosaics|photos|relatives_in_training|planted_labels|ranks_of_wrong_labels"
    "|with_corrections|quality|leakage|leakage_by_relative|protocols": _Rule(
        *(0.005, 0.1, 5, 0.1), free="ranks.*|flattery|low|high|near|in_training"
    ),
    # notebook 08: rankings of images unlike those trained on
    "elsewhere|methods|chosen|report|by_measure|adaptation|robustness|stages|last|thresholds|methods_tried_with": _Rule(
        *(0.1, 0, 6, 0.1), free=f"{_RANKED}|penalty", fixed="n|cracked|labels"
    ),
    "home": _Rule(0.01, 0, 6, 0.1, of_class=3, free=_RANKED, fixed="n|cracked|labels"),
    "target": _Rule(0.1, 0, 6, 0.1, fixed=".*"),
    # notebook 09: a handful of photos
    r"made|attention|tiles|photos\[\]": _Rule(0.1, 0.2, 1, 0.2, free="file"),
}
_SCORES = "val|test|training|runs|by_split|over_splits|over_seeds|mcnemar|wrong_by_several|intervals|slices"
_SCORES += "|best_by_validation"
_CHOSEN = "|".join(TESTS) + "|temperature|threshold|low|high|slice|kept|best_epoch|C|against|best_by_validation"


def is_close(path: str, want: Any, have: Any, images: int, synthetic: bool) -> bool:
    """Return whether a value of metrics.json may differ because CPU, versions or weights file do.

    Scores may differ by three images or half a percent, counts by twice that, losses by 0.05 nats; other parts as the
    rules above say.

    Args:
        path: of the value, such as `test.accuracy`.
        want: the value of the reference.
        have: the value here.
        images: number of test images.
        synthetic: whether the images were made by code, so that their hash may differ too, and what is measured on
            them without a model.
    """
    part, last = re.split(r"[.\[]", path)[0], path.rsplit(".", 1)[-1]
    part += "[]" if path.startswith("photos[") else ""  # notebook 09 has rows of that name, notebook 07 values
    if last == "sha256" and part in ("data", "target"):
        return synthetic and None not in (want, have)
    if re.fullmatch(_ANYTHING, part) or path.startswith(("model.start.", "features.")):
        return True
    rule = next((rule for parts, rule in _RULES.items() if re.fullmatch(parts, part)), None)
    if synthetic and re.fullmatch(_MEASURED, part):  # by notebook 01 on images, without a model
        rule = _Rule(0.02, 0, 5, 0.05)
    elif re.fullmatch(_SCORES, part):
        share = max(0.005, 3 / images)
        rule = _Rule(share, 0, 2 * share * images, 0, free=_CHOSEN)
        if last.endswith("loss"):
            rule = _Rule(0.05, 0, 0.05, 0)
    if rule is None:
        return False
    if re.fullmatch(rule.free, last):
        return True
    numbers = isinstance(want, int | float) and isinstance(have, int | float)
    if not numbers or (not synthetic and re.fullmatch(rule.fixed, last)):
        return False
    if isinstance(want, float):
        of_class = rule.of_class * 2 / images if last in ("recall", "precision", "f1") else 0
        return abs(want - have) <= max(rule.share, rule.of_share * abs(want), of_class)
    return abs(want - have) <= max(rule.count, rule.of_count * abs(want))
