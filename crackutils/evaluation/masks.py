"""Judge masks of whole photos by true ones, with intervals."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from crackutils.config import CrackutilsError
from crackutils.files import as_text, progress, sha256
from crackutils.folders import find_pictures
from crackutils.inspection.truth import SCORES, compare_masks, find_masks, read_mask, score_counts, summarize_truth
from crackutils.userfiles.write import refuse_foreign, table_bytes, write_own, writing


def evaluate_masks(
    predicted: str | Path, truth: str | Path, out: str | Path | None = None, force: bool = False
) -> pd.DataFrame:
    """Compare masks with true ones of the same names, print the scores, and return them; `out` is a CSV file for them.

    `truth.read_mask` says what counts as crack. A row per photo holds `truth.score_counts`; three more, called all,
    all_low and all_high, hold those of the sums and their intervals of `score_intervals`. `force` replaces an `out`
    that is the user's. Raises CrackutilsError where a folder or a mask is missing, and for a mask that cannot be used.
    """
    truth = Path(truth)
    if out is not None:
        refuse_foreign(out := Path(out), force)
    if not truth.is_dir():
        raise CrackutilsError(f"{truth} is no folder. Give the folder of the true masks.")
    if not (pictures := find_pictures(truth)[0]):
        raise CrackutilsError(f"{truth} holds no pictures. Give the folder of the true masks.")
    files = {as_text(file.relative_to(truth).as_posix()): file for file in pictures}
    found = find_masks(dict.fromkeys(files), Path(predicted), "true mask", "predicted mask")
    if missing := len(files) - len(found):
        raise CrackutilsError(f"{predicted} lacks {missing:,} of {len(files):,} masks. Add them; black is no crack.")
    counts = {}
    for name in progress(files, "masks", len(files), "photo"):
        true = read_mask(files[name])
        counts[name] = compare_masks(read_mask(found[name], true.shape, False), true)
    table = summarize_truth(counts)
    bounds = score_intervals(pd.DataFrame(list(counts.values())))
    lines = "\n".join(f"{name}\t{sha256(file)}" for name, file in sorted(files.items()))
    print(f"{len(files):,} photos, true masks {hashlib.sha256(lines.encode()).hexdigest()[:12]}")
    print(f"95 % intervals of all, by drawing whole photos\n{bounds.round(3).to_string(na_rep='-')}")
    table = pd.concat([table, bounds.rename_axis("file").reset_index()], ignore_index=True)
    if out is not None:
        with writing(out):
            write_own(out, table_bytes(table.round(4)))
        print(f"-> {out}")
    return table


def score_intervals(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the 95 % intervals of the scores of all photos together, as rows all_low and all_high.

    Percentile bootstrap of whole photos, as in `metrics.group_interval`. `counts` has a row of `compare_masks` per
    photo. With a handful of photos the intervals are too narrow.
    """
    n = len(counts)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 10_000)
    scores = score_counts(pd.DataFrame(drawn @ counts.to_numpy(float), columns=counts.columns))[SCORES]
    return scores.quantile([(1 - 0.95) / 2, (1 + 0.95) / 2]).set_axis(["all_low", "all_high"])
