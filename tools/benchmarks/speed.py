"""Speed of our recipe against a published recipe, on the same images in one run.

    python -m tools.benchmarks.speed [--images 2000 8000 20000] [--parts race scoring precision]     (make bench)

Needs the images of PROFILE=metu-half and ImageNet weights (CRACKUTILS_WEIGHTS_DIR). Index and split are made before
and shared; all images are read once before the timing, so that no contender waits for the disk. Then every contender
runs in its own process: the published recipe as its author runs it (image_dataset_from_directory, prefetch, batches
of 32, augmentation in the model, five epochs), ours cold (neither features nor a converted network cached) and warm,
ours with other resolutions and engines. Scoring is compared with Keras's `predict`, and with decoding and the network
alone. Writes speed.json, speed.png and the tables of docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from crackutils import config, provenance
from crackutils.comparison.significance import mcnemar
from crackutils.files import progress, write_atomically
from crackutils.metrics import EPS
from tools.benchmarks.contenders import first_images
from tools.notebooks import replace_marked

OUT, PAGE = Path(__file__).with_suffix(".json"), config.ROOT / "docs" / "speed.md"
SCORED = 3000  # images of the measures of scoring
OURS = {  # name: size in pixels, engine; the first is the recipe mobilenetv2-linear
    "ours": (160, "litert"),
    "224 px": (224, "litert"),
    "128 px": (128, "litert"),
    "96 px": (96, "litert"),
    "160 px, tensorflow": (160, "tensorflow"),
    "160 px, openvino": (160, "openvino"),
    "160 px, openvino-bf16": (160, "openvino-bf16"),
    "128 px, openvino-bf16": (128, "openvino-bf16"),
    "96 px, openvino-bf16": (96, "openvino-bf16"),
}
PARTS = ("race", "scoring", "precision")
CNNS = ("simple-cnn", "chernxi-cnn-120", "chernxi-cnn-80", "marzed7-cnn-256")


def ask(name: str, *arguments: Any, data: Path | None = None) -> dict[str, Any]:
    """Run one of `contenders` in its own process, with its own data folder, and return its report."""
    command = [sys.executable, "-m", "tools.benchmarks.contenders", name, *map(str, arguments)]
    began = time.time()
    env = dict(os.environ) | {"CRACKUTILS_BENCH_BEGAN": str(began)}
    env |= {"CRACKUTILS_DATA_DIR": str(data), "CRACKUTILS_RESULTS_DIR": str(data / "results")} if data else {}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False, cwd=config.ROOT)
    wall, what = time.time() - began, f"{name} {' '.join(map(str, arguments))}"
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stdout[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if "left_out" in found:
        if "openvino" not in what:  # openvino is optional, all else is required
            raise SystemExit(found["left_out"])
        print(f"{what} left out: {found['left_out']}", flush=True)
        return {}
    spent = ", ".join(f"{k} {v:.1f} s" for k, v in found["seconds"].items())
    print(f"{what}: {wall:.1f} s ({spent}), {found['peak_gb']:.2f} GB", flush=True)
    return found | {"wall": wall}


def fresh(folder: Path) -> Path:
    """Create a data folder that shares images, index and splits with the real one, and has no cache."""
    folder.mkdir()
    for name in ("raw", "index", "splits"):
        os.symlink(config.data_dir() / name, folder / name)
    return folder


def link_images(ds: Any, parts: Any, folder: Path) -> Path:
    """Link images into a folder per part of `parts`, with a folder per class, for Keras."""
    for file, part in zip(ds.index["file"], parts, strict=True):
        link = folder / part / file
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink((ds.folder / file).resolve(), link)
    return folder


def without_import(run: dict[str, Any]) -> float:
    """Return the seconds from the start of the process to the test metrics, without the import of TensorFlow."""
    return sum(seconds for name, seconds in run["seconds"].items() if name != "import")


def race(counts: list[int], folder: Path) -> list[dict[str, Any]]:
    """Run the published recipe and ours on `counts` images each."""
    rows = []
    for count in counts:
        ds, manifest = first_images(count)
        truth = manifest.query("split == 'test'").set_index("file")["label"]
        theirs = ask("published", link_images(ds, manifest["split"], folder / f"links-{count}"))
        runs = {"published": theirs}
        for name in OURS if count == max(counts) else ["ours"]:
            data = fresh(folder / "-".join(map(str, (count, *OURS[name]))))
            runs[name] = ask("ours", count, *OURS[name], data=data)
            if name == "ours":
                runs["ours, again"] = ask("ours", count, *OURS[name], data=data)
            shutil.rmtree(data / "cache", ignore_errors=True)
        runs = {name: run for name, run in runs.items() if run}
        compared = validation(manifest, {name: run["p_val"] for name, run in runs.items() if name in OURS})
        for name, run in runs.items():
            p, p_theirs = (np.array([r["p_test"][file] for file in truth.index]) for r in (run, theirs))
            rows.append(
                {
                    "run": name,
                    "images": len(manifest),
                    "seconds": {k: round(v, 2) for k, v in run["seconds"].items()},
                    "total": round(without_import(run), 2),
                    "ratio": round(without_import(theirs) / without_import(run), 2),
                    "peak_gb": run["peak_gb"],
                    "errors": int(((p >= 0.5) != truth).sum()),
                    "tested": len(truth),
                    "p_value": mcnemar(truth, p_theirs, p)["p_value"],
                    "val": compared.get(name),
                }
            )
    return rows


def validation(manifest: pd.DataFrame, found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the validation loss of each run, and its difference from the lowest, with standard error.

    The error is that of the mean of paired differences per image.
    """
    truth = manifest.query("split == 'val'").set_index("file")["label"]
    p = pd.DataFrame(found).loc[truth.index]
    losses = -np.log(p.where(truth == 1, 1 - p, axis=0).clip(lower=EPS))
    above = losses.sub(losses[losses.mean().idxmin()], axis=0)
    table = {"loss": losses.mean(), "above": above.mean(), "standard_error": above.std(ddof=0) / len(above) ** 0.5}
    return pd.DataFrame(table).round(5).to_dict("index")


def cheapest(rows: list[dict[str, Any]]) -> str:
    """Return our fastest run on the most images with a validation loss within two standard errors of the lowest."""
    most = max(row["images"] for row in rows)
    rows = [row for row in rows if row["images"] == most and row["run"] in OURS]
    good = [row for row in rows if row["val"]["above"] <= 2 * row["val"]["standard_error"]]
    return min(good, key=lambda row: row["total"])["run"]


def scoring(folder: Path) -> dict[str, float]:
    """Measure decoding, the network, both together and Keras's `predict`, in images per second, one after the other."""
    ds, _ = first_images(SCORED)
    arguments = {"decode": [SCORED], "network": [SCORED, "litert"], "stream": [SCORED, "litert"]}
    arguments["predict"] = [link_images(ds, ["scored"] * len(ds.index), folder) / "scored"]
    found = {}
    for name in arguments:
        run = ask(name, *arguments[name])
        found[name] = round(run["images"] / run["seconds"][name], 1)
    bound = 1 / (1 / found["decode"] + 1 / found["network"])
    ratios = {"of_bound": round(found["stream"] / bound, 3), "to_predict": round(found["stream"] / found["predict"], 3)}
    return found | {"bound": round(bound, 1)} | ratios


def precision(folder: Path) -> dict[str, dict[str, float]]:
    """Return the training speed of the CNNs by precision, in images per second (medians of three), and the ratio."""
    data, found = fresh(folder / "precision"), {}
    for name in CNNS:
        speeds: dict[str, list[float]] = {p: [] for p in config.PRECISIONS}
        for p in 3 * config.PRECISIONS:  # in turn, because the machine's speed drifts
            run = ask("train_cnn", name, p, data=data)
            speeds[p].append(run["images"] / run["seconds"]["train_cnn"])
        slow, fast = map(statistics.median, speeds.values())
        found[name] = dict(zip(config.PRECISIONS, (round(slow, 1), round(fast, 1)), strict=True))
        found[name]["ratio"] = round(fast / slow, 2)
    return found


def speed_tables(found: dict[str, Any]) -> str:
    """Return what was measured as Markdown: the race, our variants, scoring and the CNNs' precision."""
    runs, shown, variants = {(row["images"], row["run"]): SimpleNamespace(**row) for row in found["race"]}, [], []
    counts = sorted({count for count, _ in runs})
    most = counts[-1]
    for count in counts:
        theirs, first, again = (runs[count, name] for name in ("published", "ours", "ours, again"))
        errors = [f"{r.errors} error{'s' * (r.errors != 1)} of {r.tested:,}" for r in (theirs, first)]
        fast = (
            f"{first.total:.1f} s, **{first.ratio:.1f} times** as fast, {errors[1]} (McNemar p = {first.p_value:.2g})"
        )
        row = {"Images": f"{count:,}", "As published": f"{theirs.total:.0f} s, {errors[0]}", "Ours, first time": fast}
        shown.append(row | {"Ours, features cached": f"{again.total:.1f} s, {again.ratio:.0f} times"})
    for name in [name for name in OURS if (most, name) in runs]:
        r = runs[most, name]
        above = "{above:.4f} ± {standard_error:.4f}".format(**r.val) if r.val["above"] else "lowest"
        row = {"Variant": "160 px, the recipe" if name == "ours" else name, "Seconds": f"{r.total:.0f}"}
        row |= {"Times as fast": f"{r.ratio:.1f}", "Validation loss": f"{r.val['loss']:.4f}", "Above the lowest": above}
        row |= {"Errors": f"{r.errors} of {r.tested:,}", "McNemar p": f"{r.p_value:.2g}"}
        variants.append(row | {"Peak memory": f"{r.peak_gb:.2f} GB"})
    chosen, theirs = runs[most, found["chosen"]], runs[most, "published"]
    scored, cnns = found["scoring"], found["precision"].items()
    parts = [
        _markdown(shown),
        "*Images of metu-half, errors on test images. Seconds from the start of a process to the test metrics, without"
        " TensorFlow's import, all in one run on 2 cores; ratios are to the published recipe.*",
        _markdown(variants),
        f"*Linear heads on {most:,} images of metu-half, measured as above; ± is the standard error of the paired"
        " difference.*",
        "The fastest variant with a validation loss less than two standard errors above the lowest is"
        f" *{found['chosen']}*. It is {chosen.ratio:.1f} times as fast as the published recipe, with {chosen.errors}"
        f" errors of {chosen.tested:,} against {theirs.errors}.",
        f"**Scoring** reaches {scored['of_bound']:.2f} of the speed that decoding and network allow one after the"
        f" other, and {scored['to_predict']:.1f} times that of Keras's `predict`.",
        "**bfloat16** in training (notebook 04, `PRECISION=bfloat16`): times as fast as float32, "
        + ", ".join(f"`{name}` {cnn['ratio']:.1f}" for name, cnn in cnns)
        + ".",
    ]
    wrapped = (text if text[0] == "|" else textwrap.fill(text, 128, break_on_hyphens=False) for text in parts)
    return "\n\n".join(wrapped)


def _markdown(rows: list[dict[str, str]]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def plot_race(rows: list[dict[str, Any]]) -> Any:
    """Show the seconds of the published recipe and ours by number of images, with the errors."""
    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    table = pd.DataFrame(rows)
    lines = {"published": ("as published", "o-", "#d55e00"), "ours": ("ours, first time", "s--", "#0173b2")}
    lines |= {"ours, again": ("ours, features cached", "^:", "#029e73")}
    for name, (label, style, colour) in lines.items():
        part = table[table["run"] == name]
        ax.plot(part["images"], part["total"], style, color=colour, label=label)
        for row in part.itertuples():
            text = f"x{row.ratio:.0f}" if name == "ours, again" else f"{row.errors} error{'s' * (row.errors != 1)}"
            place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            ax.annotate(text, (row.images, row.total), **place)
    ax.set(xscale="log", yscale="log", ylabel="seconds to the test metrics")
    ax.set_xlabel("images: training, validation and test")
    ticks = sorted(set(table["images"]))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.margins(0.12, 0.15)
    ax.legend()
    return figure


def main() -> None:
    """Measure the requested parts; the others keep their earlier results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 8000, 20000], metavar="N")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    given = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("make bench reads memory from /proc, so it needs Linux.")
    content = json.loads(OUT.read_text("utf-8")) if set(given.parts) < set(PARTS) else {}
    try:
        ds, manifest = first_images(max(given.images))
    except config.CrackutilsError as error:
        raise SystemExit(f"error: {error}") from None
    for file in progress(manifest["file"], "reading all images once", len(manifest), "file"):
        (ds.folder / file).read_bytes()
    with tempfile.TemporaryDirectory(prefix="crackutils-speed-") as scratch:
        if "race" in given.parts:
            content["race"] = race(sorted(given.images), Path(scratch))
            content["chosen"] = cheapest(content["race"])
        for measure in (scoring, precision):
            if measure.__name__ in given.parts:
                content[measure.__name__] = measure(Path(scratch))
    content |= {"versions": provenance.versions(), "machine": provenance.machine()}
    write_atomically(OUT, json.dumps(content, indent=1) + "\n")
    write_atomically(PAGE, replace_marked(PAGE.read_text("utf-8"), "speed", speed_tables(content)))
    plot_race(content["race"]).savefig(OUT.with_suffix(".png"), dpi=100, bbox_inches="tight")
    print(f"chosen by validation: {content['chosen']}; all numbers: {config.display_path(OUT)}")


if __name__ == "__main__":
    main()
