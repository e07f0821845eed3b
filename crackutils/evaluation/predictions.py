"""Judge a model of any framework by its predictions, as the notebooks judge ours, and write a run of it."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils.comparison.significance import compare_pairwise
from crackutils.comparison.tables import select_comparable
from crackutils.config import CLASSES, DEFAULT_SEED, ROOT, CrackutilsError, display_path
from crackutils.datasets import Dataset
from crackutils.decisions import decision_metrics
from crackutils.files import name_some, sha256
from crackutils.recipes import RECIPES
from crackutils.runs import collect_runs, open_run, read_predictions
from crackutils.splits.make import make_split
from crackutils.userfiles.names import class_of, match_names
from crackutils.userfiles.read import FILES, read_table, refuse_rows

ENTERED = "entered_models"  # stands for the notebook of such a run
BENCHMARK = ROOT / "data" / "benchmark"  # runs that were entered for good, in the folders of their profiles
# not label: it would be the truth
_COLUMNS = {"file": FILES, "p_crack": ("pcrack", "probability"), "split": ("split",)}


def evaluate(
    predictions: str | Path,
    ds: Dataset,
    validation: str | Path | None = None,
    name: str = "",
    split: str = "",
    split_seed: int = DEFAULT_SEED,
    force: bool = False,
) -> dict[str, Any]:
    """Judge predictions for the test images of a split, print the judgement, and return the metrics of the run.

    `predictions` is a table of `read_entry`. Temperature, threshold and review band are chosen on validation images:
    those of the table `validation`, or rows with val in a column split. Without them the threshold stays 0.5 and there
    is no temperature. The run is called `name`, or as the table; its folder is one that notebook 05 reads. McNemar's
    tests compare it with the runs in the results folder and with those in `BENCHMARK`. `split`, empty for that of the
    profile, and `split_seed` are those of `splits.make.make_split`. `force` replaces a run of other predictions.
    Raises CrackutilsError for a table that is not exactly one prediction for each image, for a name that is one of our
    recipes, and for a run of other predictions.
    """
    file = Path(predictions)
    name = re.sub(r"[^A-Za-z0-9.+]+", "-", name or file.stem).strip("-.") or "model"
    if name in {*RECIPES, "default"}:
        raise CrackutilsError(f"{name} is the name of a run of this package. Give another --name.")
    run = open_run(ENTERED, ds.profile, split=split, split_seed=split_seed)
    del run.settings["seed"]  # of a training that we do not know
    run.name = run.name.replace("default", name, 1)
    run.folder = run.folder.with_name(run.name)
    manifest = make_split(ds, run.settings["split"], split_seed)
    where = f"PROFILE={ds.profile.name} SPLIT={run.settings['split']} SPLIT_SEED={split_seed}"
    tables = [read_entry(file, manifest, "test", where)]
    if validation is not None:
        tables.append(read_entry(Path(validation), manifest, "val", where))
    table = pd.concat(tables, ignore_index=True)
    twice = table["file"][table["file"].duplicated()]
    refuse_rows(file, len(table), twice, "the image is in --validation too", "List each once")
    table = manifest[["file"]].merge(table, on="file")  # in the order of our runs
    if not force and (run.folder / "predictions.csv").is_file() and not read_predictions(run.folder).equals(table):
        why = f"{display_path(run.folder)} holds other predictions"
        raise CrackutilsError(f"{why}. Give another --name, or replace them with --force.")
    (run.folder / "run.json").unlink(missing_ok=True)  # without it a run counts as unfinished
    found = run.write_predictions(table) | decision_metrics(table, ds, manifest)
    found["entered"] = {"file": file.name, "sha256": sha256(file)}
    metrics = run.finish(ds, manifest, found, {})
    runs: dict[str, dict[str, Any]] = {}
    for base in (BENCHMARK / ds.profile.name, None):  # one's own runs win
        with contextlib.suppress(CrackutilsError):  # there is none
            runs |= {one["run"]: one for one in collect_runs(ds.profile.name, base=base)}
    others = select_comparable(list(runs.values()), ds, run.settings["split"], split_seed)
    _report(metrics, compare_pairwise(others, run.name))
    print(f"-> {display_path(run.folder)}; make run-05 PROFILE={ds.profile.name} shows it beside the others")
    return metrics


def read_entry(file: Path, manifest: pd.DataFrame, part: str, where: str) -> pd.DataFrame:
    """Return predictions for all images of `part` (test or val) of a split, as `runs.read_predictions` does.

    The table has a row per image: file, named as in `manifest`, with or without folders where that is clear; p_crack, a
    probability in [0, 1] or a class (see `names.class_of`); and, for test, optionally split (test or val), for a table
    with the validation images too. How it was read is printed. Raises CrackutilsError, with `where` for the split, for
    another table, another number, an image of another part, one that is there twice, and one that is missing.
    """
    table = read_table(file, _COLUMNS, ("split",))
    print(f"{file.name}: {table.attrs['read']}")
    total, given, text = len(table), table["file"], table["p_crack"].str.strip()
    classes = [class_of(cell) for cell in text]
    if total and None not in classes:
        print(f"note: {file.name} holds classes, no probabilities, so calibration, threshold and AUROC mean little.")
        text = pd.Series(classes, table.index).astype(str)
    p, pairs = pd.to_numeric(text.str.replace(",", "."), errors="coerce"), given + ": " + text
    refuse_rows(file, total, pairs[p.isna()], "p_crack is no number", "Write one for each image")
    remedy = "They look like logits: apply the sigmoid" if (p < 0).any() and (p > 1).any() else "Write probabilities"
    refuse_rows(file, total, pairs[(p < 0) | (p > 1)], "p_crack is outside [0, 1]", remedy)
    table["file"] = _match_images(given.tolist(), manifest["file"])
    table["split"] = table["split"].str.strip().str.lower() if "split" in table else part
    parts = ("val", "test") if part == "test" else (part,)
    others = (given + ": " + table["split"])[~table["split"].isin(parts)]
    refuse_rows(file, total, others, f"the split is not {' or '.join(parts)}", "Leave these rows out")
    actual = table["file"].map(manifest.set_index("file")["split"]).fillna("unknown or ambiguous")
    others = (given + ": " + actual)[actual != table["split"]]
    what, remedy = " or ".join(table["split"].unique()), "Name them as crackutils splits does, or give their profile"
    refuse_rows(file, total, others, f"the image is not in {what} of {where}", remedy)
    refuse_rows(file, total, given[table["file"].duplicated()], "the image stood in a row before", "List each once")
    wanted = manifest.loc[manifest["split"].isin({part, *table["split"]}), ["file", "split", "label"]]
    if len(missing := wanted["file"][~wanted["file"].isin(table["file"])]):
        what = f"{len(missing):,} of the {len(wanted):,} images in {' and '.join(sorted({*wanted['split']}))}"
        raise CrackutilsError(f"{file} lacks {what} of {where} ({name_some(missing)}). Add them.")
    return wanted.merge(table[["file"]].assign(p_crack=p.astype(np.float32)), on="file")


def _match_images(names: list[str], files: pd.Series) -> list[str]:
    """Return names as the index spells them, where they mean one image.

    They may have folders above them, and lack that of the class, or all.
    """
    found, rest = match_names(names, files), [name.strip().replace("\\", "/") for name in names]
    whole, known = [any(part in CLASSES for part in name.split("/")) for name in rest], set(files)
    bare = not any("/" in name for name in rest)
    last = files.str.rpartition("/")[2] if bare else files.str.partition("/")[2]
    short = dict(zip(last[~last.duplicated(keep=False)], files[~last.duplicated(keep=False)], strict=True))
    while open_ := [k for k, name in enumerate(found) if name not in known and rest[k]]:
        for k, name in zip(open_, match_names([rest[k] for k in open_], known | set(short)), strict=True):
            found[k], rest[k] = name if whole[k] else short.get(name, name), rest[k].partition("/")[2]
    return found


def _report(metrics: dict[str, Any], tests: pd.DataFrame) -> None:
    """Print the judgement of a run."""
    test, data, calibration, chosen = (metrics[name] for name in ("test", "data", "calibration", "decision"))
    settings, interval = metrics["settings"], metrics["intervals"]
    print(f"\n{metrics['run']}: {settings['profile']}, {settings['split']} split, data {data['sha256'][:12]}")
    bounds = {"images": interval["wilson"], "groups": interval.get("groups")}
    text = ", ".join(f"{low:.4f} to {high:.4f} by {by}" for by, (low, high) in bounds.items() if bounds[by])
    kinds = f"{test['fn']:,} missed cracks, {test['fp']:,} false alarms"
    print(f"errors at 0.5: {test['errors']:,} of {test['n']:,} test images ({kinds})")
    print(f"error rate {interval['error_rate']:.4f}, 95 % interval {text}")
    scores = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision", "loss", "brier", "ece")
    print(pd.Series({name: test[name] for name in scores}, dtype=float).to_frame("test").T.round(4).to_string())
    if "val" not in metrics:
        print("no predictions for validation images: the threshold is 0.5, and no temperature is fitted")
    elif t := calibration["temperature"]:
        after = f"loss {calibration['loss']:.4f}, brier {calibration['brier']:.4f}, ece {calibration['ece']:.4f}"
        print(f"temperature {t:.2f}, from {metrics['val']['n']:,} validation images: {after}")
    else:
        print("no temperature: validation images without a single error do not determine it")
    if chosen["threshold"] is not None:
        kinds = f"{chosen['fn']:,} missed cracks, {chosen['fp']:,} false alarms"
        recall = f"recall {chosen['recall_wanted']} on validation images"
        print(f"threshold {chosen['threshold']:.4g} ({recall}): {kinds}")
    print(f"\nslices, the weakest first\n{pd.DataFrame(metrics['slices']).round(4).to_string(index=False)}")
    if len(tests):
        columns = ["a", "b", "only_a_wrong", "only_b_wrong", "p_value", "p_holm", "verdict"]
        print(f"\nexact McNemar tests against the other runs, Holm-corrected\n{tests[columns].to_string(index=False)}")
    else:
        print(f"\nno other run to test against: make run-03 PROFILE={settings['profile']} makes one")
