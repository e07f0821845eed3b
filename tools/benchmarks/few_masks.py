"""Adapt a detector to a site with few masks, and score it on other photos of the site.

    python -m tools.benchmarks.few_masks UNMASKED TRAIN VALIDATION [DRAWS]

UNMASKED is a detector that has seen no mask of the site, as `make train-detector` leaves it in data/cache/detector/.
TRAIN and VALIDATION are folders with images/ and masks/, of the UAV-Based Crack Detection Dataset (CC0). Each draw
takes other photos of TRAIN. Goes on after a kill. Writes few_masks.json, and the table in docs/whole-photos.md from it.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, training
from crackutils.adaptation.masks import SHARES, STEPS, train_on_masks
from crackutils.config import DEFAULT_SEED
from crackutils.files import write_atomically
from crackutils.inspection.tiling import load_detector
from crackutils.synthetic.store import Photos
from tools.benchmarks.detector import mask_of, measure_masked
from tools.detector import read_masked
from tools.notebooks import replace_marked

OUT, PAGE = Path(__file__).with_suffix(".json"), config.ROOT / "docs" / "whole-photos.md"
COUNTS = (9, 19, 38)  # 5, 10 and 20 % of the training photos
STUDY = "https://github.com/jakki-Guan/ground-to-uav-crack-segmentation"
PUBLISHED = {0: 0.386, 9: 0.507, 19: 0.542, 38: 0.569}  # its IoU on the test part
_SCORES = ("iou", "line_precision", "line_recall", "line_f1")


def measure(model: Path, train: Path, validation: Path, draws: int) -> None:
    """Train and score, one draw of each number after the other; write each result as it is there."""
    photos, home = read_masked(train), config.data_dir() / "cache" / "few-masks"
    rows = json.loads(OUT.read_text("utf-8"))["rows"] if OUT.is_file() else []
    plans = [(0, 0), *((count, draw) for draw in range(draws) for count in COUNTS)]
    for count, draw in plans:
        if any((row["masks"], row["draw"]) == (count, draw) for row in rows):
            continue
        run = model
        if count:
            some = np.random.default_rng([DEFAULT_SEED, count, draw]).permutation(len(photos.images))[:count]
            part = Photos([photos.images[k] for k in some], [photos.targets[k] for k in some], photos.anchors[some])
            trained, run = train_on_masks(part, model, home / f"{count}-{draw}"), home / "run"
            training.save(trained, run, "")
            for name in ("metrics.json", "run.json"):
                shutil.copyfile(model / name, run / name)
        found = measure_masked(mask_of(load_detector(run), 0.5), validation)
        rows.append({"masks": count, "draw": draw} | {name: found[name] for name in _SCORES})
        facts = {"steps": STEPS, "shares": SHARES, "photos": found["photos"], "seed": DEFAULT_SEED}
        write_atomically(OUT, json.dumps(facts | {"rows": rows}, indent=1) + "\n")
        print(json.dumps(rows[-1]), flush=True)


def masks_table(found: dict[str, Any]) -> str:
    """Return what `measure` wrote as Markdown, with a caption."""
    table, rows = pd.DataFrame(found["rows"]), []
    for count, part in table.groupby("masks"):
        row = {"Masks": count, "Draws": len(part)}
        for name, title in zip(_SCORES, ("IoU", "Precision of lines", "Recall of lines", "F1 of lines"), strict=True):
            low, high = (f"{value:.3f}" for value in (part[name].min(), part[name].max()))
            row[title] = f"{part[name].mean():.3f}" + (f" ({low}-{high})" if low != high else "")
        rows.append(row | {"Published IoU": f"{PUBLISHED[count]:.3f}"})
    caption = (
        f"*{found['photos']} drone photos that were not trained on: mean over draws of other training photos, with the"
        f" lowest and the highest. Start: the network trained on synthetic photos and METU's labels; {found['steps']}"
        f" batches of 12 crops. Published: [another study]({STUDY}), on the test part, from other training data.*"
    )
    caption = textwrap.fill(caption, 130, break_on_hyphens=False, break_long_words=False)
    return f"{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n\n{caption}"


def main(words: list[str]) -> None:
    """Measure, and write the table."""
    if len(words) not in (3, 4):
        raise SystemExit("usage: python -m tools.benchmarks.few_masks UNMASKED TRAIN VALIDATION [DRAWS]")
    config.start(config.DEFAULT_PROFILE)
    measure(*map(Path, words[:3]), int(words[3]) if len(words) > 3 else 5)
    found = json.loads(OUT.read_text("utf-8"))
    write_atomically(PAGE, replace_marked(PAGE.read_text("utf-8"), "few-masks", masks_table(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
