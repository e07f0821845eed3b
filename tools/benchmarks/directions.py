"""Train on METU or on SDNET2018's walls, with published or cleaned labels, and test on both.

    python -m tools.benchmarks.directions CLEANED [PROFILE]

CLEANED is a table of other labels for the tiles of `make data SOURCE=sdnet`, with the columns file and crack_cleaned,
such as those of the building-inspection-toolkit.
PROFILE is of METU, by default metu-half. The model is a linear head on frozen MobileNetV2 features (160 px). Writes
directions.json, and the table in docs/transfer.md from it.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crackutils import config, datasets
from crackutils.config import DEFAULT_SEED, CrackutilsError
from crackutils.files import write_atomically
from crackutils.inference.features import frozen_features
from crackutils.linear import fit_linear_head
from crackutils.splits.make import make_split
from crackutils.transfer.evaluation import auroc_gain, score_ranking
from crackutils.transfer.targets import load_target, photo_of_image
from tools.notebooks import replace_marked

OUT, PAGE = Path(__file__).with_suffix(".json"), config.ROOT / "docs" / "transfer.md"
FOLDS = 3  # of SDNET2018's photos: each is tested by a head that has seen none of its tiles
_SIZE, _ITERATIONS = 160, 1000


def measure_directions(cleaned: Path, profile: config.Profile) -> dict[str, Any]:
    """Return a row per training and test set, and what cleaned training labels gain; CrackutilsError without tiles."""
    metu, walls = datasets.load(profile), load_target("sdnet")
    part = make_split(metu, "copy-safe", DEFAULT_SEED).set_index("file").loc[metu.index["file"]]
    names = walls.index["file"].str.split("/").str[-1]
    other = names.map(pd.read_csv(cleaned).set_index("file")["crack_cleaned"])
    if other.isna().any():
        raise CrackutilsError(f"{cleaned} lacks {names[other.isna()].iloc[0]}. Give labels of all tiles.")
    x, tiles = (
        frozen_features(ds, np.arange(len(ds.index)), "mobilenetv2", _SIZE, "imagenet").x for ds in (metu, walls)
    )
    y, split, group = metu.index["label"].to_numpy(), part["split"].to_numpy(), part["group"].to_numpy()
    labels = {"published": walls.index["label"].to_numpy(), "cleaned": other.to_numpy(int)}
    train, val, test = (split == name for name in ("train", "val", "test"))
    photo = photo_of_image(walls)
    fold = np.random.default_rng(DEFAULT_SEED).permutation(len(np.unique(photo))) % FOLDS
    fold = fold[np.searchsorted(np.unique(photo), photo)]

    head = fit_linear_head(x[train], y[train], x[val], y[val], _ITERATIONS)
    scores = {"METU": (x[test] @ head.weights, tiles @ head.weights)}
    for kind, own in labels.items():
        away, home = np.zeros(test.sum()), np.zeros(len(own))
        for k in range(FOLDS):
            rest = np.unique(photo[fold != k])
            chooses = np.isin(photo, rest[::4])  # photos that choose the penalty
            fits = (fold != k) & ~chooses
            head = fit_linear_head(tiles[fits], own[fits], tiles[chooses], own[chooses], _ITERATIONS)
            home[fold == k] = tiles[fold == k] @ head.weights + head.bias
            away += (x[test] @ head.weights + head.bias) / FOLDS
        scores[f"SDNET2018, {kind} labels"] = (away, home)
    tests = {"METU": (y[test], group[test], 0)}
    tests |= {f"SDNET2018, {kind} labels": (own, photo, 1) for kind, own in labels.items()}
    rows = [
        {"trained": name, "tested": on} | score_ranking(truth, both[which], groups)
        for name, both in scores.items()
        for on, (truth, groups, which) in tests.items()
    ]
    one, two = (scores[f"SDNET2018, {kind} labels"][1] for kind in ("cleaned", "published"))
    gain = auroc_gain(labels["cleaned"], one, two, photo)
    changed = int((labels["published"] != labels["cleaned"]).sum())
    facts = {"profile": profile.name, "images": metu.sha256, "tiles": walls.sha256, "photos": len(np.unique(photo))}
    return facts | {"changed_labels": changed, "rows": rows, "gain_of_cleaned_training_labels": gain}


def directions_table(found: dict[str, Any]) -> str:
    """Return `measure_directions` as Markdown, with a caption."""
    sets, table = list(dict.fromkeys(row["tested"] for row in found["rows"])), []
    cells = {(row["trained"], row["tested"]): row for row in found["rows"]}
    for name in sets:
        row = {"Trained on": name}
        for on in sets:
            cell = cells[name, on]
            row[f"Tested on {on}"] = "{auroc:.3f} ({low:.3f}-{high:.3f}); {average_precision:.3f}".format(**cell)
        table.append(row)
    gain = "{gain:+.3f} ({gain_low:+.3f} to {gain_high:+.3f})".format(**found["gain_of_cleaned_training_labels"])
    count = cells[sets[0], sets[1]]["n"]
    caption = (
        "*A linear head on frozen features: AUROC with its 95 % interval, from drawing whole photos or groups; then"
        f" average precision. METU: the copy-safe test of `{found['profile']}`. SDNET2018: {count:,} tiles of"
        f" {found['photos']} photos, each scored by a head that saw no tile of its photo; METU's images, by the mean of"
        f" the {FOLDS} heads. Cleaned labels differ in {found['changed_labels']:,} tiles; training with them changes"
        f" the AUROC by cleaned labels by {gain}.*"
    )
    text = textwrap.fill(caption, 130, break_on_hyphens=False)
    return f"{pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)}\n\n{text}"


def main(words: list[str]) -> None:
    """Measure, and write directions.json and the table."""
    if not words:
        raise SystemExit("usage: python -m tools.benchmarks.directions CLEANED [PROFILE]")
    profile = config.start(words[1] if len(words) > 1 else "metu-half")
    found = measure_directions(Path(words[0]), profile)
    write_atomically(OUT, json.dumps(found, indent=1) + "\n")
    write_atomically(PAGE, replace_marked(PAGE.read_text("utf-8"), "directions", directions_table(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
