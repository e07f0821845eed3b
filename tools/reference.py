"""Run folders, what is written into them, and how they are compared, kept as reference and shown in the README."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils import config, datasets
from crackutils.compare import TESTS, chosen_metrics
from crackutils.files import sha256, write_atomically
from crackutils.runs import collect_runs, read_predictions, score_parts

TIMED = "timing_"  # figures whose names begin so show timings: they differ from run to run
_USUAL = re.compile(
    r"default|(?!default)[a-z0-9]+(-[a-z0-9]+)*(--split-(random|copy-safe|photo-safe))?(--split-seed-\d+)?"
    r"(--labels-corrected)?"
)  # runs that a reference keeps
_AUDITED = (  # what notebook 07 measures
    *("planted_copies", "overlaps", "overlaps_found", "mosaics", "photos", "relatives_in_training", "planted_labels"),
    *("ranks_of_wrong_labels", "with_corrections", "quality", "leakage", "leakage_by_relative", "protocols"),
)
_PITFALLS = (  # what notebook 06 measures, on tiny models
    *("seen_in_training", "two_passes", "chosen_and_reported", "rescaled", "one_unit", "decayed_to_zero"),
    *("trainable", "batchnorm", "copies_across", "axes"),
)
_ELSEWHERE = (  # what notebook 08 measures
    *("target", "elsewhere", "methods", "chosen", "report", "home", "by_measure", "adaptation", "robustness"),
    *("stages", "last", "thresholds", "methods_tried_with"),
)
_INSPECTED = ("made", "attention", "photos", "tiles", "thresholds")  # what notebook 09 measures
_PICTURES = {  # kept with the reference because the README shows them
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


def _fingerprints(folder: Path) -> dict[str, str]:
    """Return the hashes that equal runs share: of the CSV files, and of the pixels of figures without timings."""
    from PIL import Image

    found = {name: sha256(folder / name) for name in ("predictions.csv", "history.csv") if (folder / name).exists()}
    for file in sorted((folder / "figures").glob("*.png")):
        if not file.name.startswith(TIMED):
            with Image.open(file) as image:
                found[f"figures/{file.name}"] = hashlib.sha256(
                    repr(image.size).encode() + image.convert("RGB").tobytes()
                ).hexdigest()
    return found


def make_reference(profile: str) -> None:
    """Replace `reference/<profile>/` by the results of the runs whose settings are the defaults.

    Recipe, split and split seed may differ, but not those of notebooks that train nothing.

    Kept of each run are metrics.json, run.json, fingerprints of the other files, and the pictures for the README.
    """
    from PIL import Image

    runs = [run for run in collect_runs(profile, trained=False) if _USUAL.fullmatch(run["run"])]
    target = config.REFERENCE / profile
    shutil.rmtree(target, ignore_errors=True)
    for run in runs:
        home = target / run["notebook"] / run["run"]
        home.mkdir(parents=True)
        for name in ("metrics.json", "run.json"):
            shutil.copyfile(run["folder"] / name, home / name)
        write_atomically(home / "fingerprints.json", json.dumps(_fingerprints(run["folder"]), indent=1) + "\n")
    for picture in _PICTURES.get(profile, ()):
        file = config.results_dir() / profile / picture
        if not file.exists():
            print(f"reference/{profile}: README shows {picture}, which is not there; run its notebook, then this again")
        else:
            with Image.open(file) as image:  # 256 colours make a third of the bytes
                home = target / Path(picture).parent.parent
                image.convert("RGB").quantize(256).save(home / file.name, optimize=True)
    print(f"reference/{profile}: {len(runs)} runs kept")


def _differences(want: Any, have: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(want, dict) and isinstance(have, dict):
        keys = list(want) + [k for k in have if k not in want]
        return [d for k in keys for d in _differences(want.get(k), have.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [d for i, (w, h) in enumerate(zip(want, have, strict=True)) for d in _differences(w, h, f"{path}[{i}]")]
    return [] if want == have else [(path, want, have)]


def verify(profile: str) -> int:
    """Compare results with `reference/<profile>/`, print a table, and return 0 if all is well, else 1.

    With the type of CPU, the versions and the weights file that made the reference everything must be equal. With
    others low digits move, so there scores may differ a little (see `_close`), and fingerprints are not compared.
    Everywhere the metrics must follow from the run's own predictions.csv.

    Raises:
        CrackutilsError: there is no reference for this profile.
    """
    config.profile(profile)
    base = config.REFERENCE / profile
    kept = sorted(base.glob("*/*/metrics.json"))
    if not kept:
        raise config.CrackutilsError(
            f"reference/{profile} is empty; fill it with make run-all and make reference, PROFILE={profile}."
        )
    table = []
    for file in kept:
        here = config.results_dir() / profile / file.parent.relative_to(base)
        run = "/".join(file.parts[-3:-1])
        if not (here / "metrics.json").exists():
            table.append((run, "metrics.json", "present", "not run", "DIFFERENT"))
            continue
        other = _other_circumstances(file.parent, here)
        want, have = json.loads(file.read_text("utf-8")), json.loads((here / "metrics.json").read_text("utf-8"))
        compared = [
            [r["run"] for r in metrics.get("runs", [])]
            + [f"{r['recipe']} {r['split']} {r['split_seed']}" for r in metrics.get("by_split", [])]
            + [f"{r['recipe']} seeds {r['seeds']}" for r in metrics.get("over_seeds", [])]
            for metrics in (want, have)
        ]
        if compared[0] != compared[1]:  # notebook 05 takes in all runs that there are
            table.append((run, "runs compared", *map(", ".join, compared), "not compared: other runs"))
            continue
        found = _differences(want, have)
        if other:
            made = "seed" in datasets.sources()[want["data"]["source"]]  # then even the images differ in low bits
            found = [d for d in found if not _close(d, want["data"]["test"]["images"], made)]
        for path, w, h in found:
            table.append((run, path, str(w)[:40], str(h)[:40], "DIFFERENT"))
        if not found:
            table.append((run, "metrics.json", "", "", f"close ({other})" if other else "equal"))
        if (here / "predictions.csv").exists():
            table_here = read_predictions(here)
            follows = score_parts(table_here) | chosen_metrics(table_here)
            own = _differences({k: have.get(k) for k in follows}, follows)
            for path, w, h in own:
                table.append((run, f"{path} from predictions.csv", w, h, "DIFFERENT"))
        marks, mine = json.loads((file.parent / "fingerprints.json").read_text("utf-8")), _fingerprints(here)
        off = [name for name in marks if marks[name] != mine.get(name)] if not other else []
        for name in off:
            table.append((run, name, marks[name][:8], (mine.get(name) or "missing")[:8], "DIFFERENT"))
        if not other and not off:
            table.append((run, f"{len(marks)} CSV files and figures", "", "", "equal"))
    print(pd.DataFrame(table, columns=["run", "item", "reference", "here", "verdict"]).to_string(index=False))
    bad = sum(row[-1] == "DIFFERENT" for row in table)
    print(f"\n{'RED' if bad else 'GREEN'}: {bad} differences in {len(kept)} runs")
    return int(bad > 0)


def _other_circumstances(reference: Path, here: Path) -> str:
    """Say what keeps two runs from being equal to the bit: hardware, versions, weights; empty if nothing does."""
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


def _close(difference: tuple[str, Any, Any], images: int, made: bool) -> bool:
    """Whether a difference may come from other circumstances: in shares three images or half a percent, in counts twice
    that, in losses 0.05 nats. Of images made by code the hash may differ as well, and what is measured on them without
    a model: counts by five or five percent, shares by 0.02.
    """
    path, want, have = difference
    part, last = re.split(r"[.\[]", path)[0], path.rsplit(".", 1)[-1]
    if made and path == "data.sha256":
        return True
    measured = ("share_with_copy", "copies", "split_report", "test_images_with_copy_in_train", "check", "darkness_left")
    if made and part in measured and isinstance(want, int | float) and isinstance(have, int | float):
        return abs(want - have) <= (0.02 if isinstance(want, float) else max(5, 0.05 * want))
    if part in ("calibration", "decision", "judgements"):
        return True  # one validation image may decide where they lie
    if part == "before" or path.startswith(("model.start.", "features.")):
        return True  # an untrained model sits near 0.5, where a low digit moves many images
    if part in _AUDITED:  # ranks and ratios of a handful
        if last.startswith("ranks") or last in ("flattery", "low", "high", "near", "in_training"):
            return True
        numbers = isinstance(want, int | float) and isinstance(have, int | float)
        loose = max(0.005, 0.1 * abs(want)) if numbers else 0
        return numbers and abs(want - have) <= (loose if isinstance(want, float) else max(5, 0.1 * want))
    if part in _ELSEWHERE:  # rankings of images that are not like those trained on
        if last in ("chosen", "method", "best_run", "low", "high", "gain_low", "gain_high"):
            return True
        if path == "target.sha256":
            return want is not None and have is not None and made
        numbers = isinstance(want, int | float) and isinstance(have, int | float)
        if not numbers or (not made and (part == "target" or last in ("n", "cracked", "labels"))):
            return False
        small = 0.01 if part == "home" else 0.1
        return abs(want - have) <= (small if isinstance(want, float) else max(6, 0.1 * want))
    if part in _INSPECTED:  # of a handful of photos
        if not isinstance(want, int | float) or not isinstance(have, int | float):
            return last == "file"  # their order
        return abs(want - have) <= max(0.1, 0.2 * abs(want))
    if part in _PITFALLS and isinstance(want, int | float) and isinstance(have, int | float):
        return abs(want - have) <= (0.05 if isinstance(want, float) else max(5, 0.05 * want))
    told = ("val", "test", "training", "runs", "by_split", "over_splits", "mcnemar", "wrong_by_several")
    told += ("intervals", "slices", "over_seeds")
    if part not in (*told, "best_by_validation"):
        return False
    chosen_ones = ("temperature", "threshold", "low", "high", "slice", "kept", "best_epoch", "C", "against")
    if last in (*TESTS, *chosen_ones, "best_by_validation"):
        return True
    if not isinstance(want, int | float) or not isinstance(have, int | float):
        return False
    if last.endswith("loss"):
        return abs(want - have) <= 0.05
    share = max(0.005, 3 / images)
    return abs(want - have) <= (share if isinstance(want, float) else share * images * 2)
