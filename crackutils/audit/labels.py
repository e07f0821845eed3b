"""Find doubtful labels with out-of-fold models, measure the search with flipped labels, find images of poor quality."""

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.files import progress
from crackutils.linear import ENDED, class_weights, fit_linear_head
from crackutils.metrics import wilson
from crackutils.splits.make import PARTS, pack_groups

_READ_TO = 10_000  # highest number of the METU files from which images were drawn to be read


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = config.DEFAULT_SEED) -> pd.DataFrame:
    """Return out-of-fold crack probabilities of every image, in ten folds of whole groups.

    Features x are float32 (n, dimensions), labels y (0 or 1) and groups int (n,); the seed draws the folds. A row per
    image, a column per model: strict and loose (linear heads, C = 0.001 and 0.1), neighbours (share of cracks among the
    ten nearest images). Raises CrackutilsError if the images outside one fold are all of one class.
    """
    fold = pack_groups(y, groups, 10, seed)
    found = pd.DataFrame(np.nan, index=range(len(y)), columns=["strict", "loose", "neighbours"])
    for k in progress(np.unique(fold), "folds", unit="fold"):
        away, here = fold != k, fold == k
        if len(np.unique(y[away])) < 2:
            raise config.CrackutilsError("The images outside one fold are all of one class. Use a larger PROFILE.")
        options = {"solver": "newton-cg", "class_weight": class_weights(y[away])}
        models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, **options)) for c in (1e-3, 0.1)]
        models.append(KNeighborsClassifier(min(10, int(away.sum())), metric="cosine"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ENDED)
            for name, model in zip(found, models, strict=True):
                found.loc[here, name] = model.fit(x[away], y[away]).predict_proba(x[here])[:, 1]
    return found


def rank_suspects(y: np.ndarray, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Rank images by the probability of their labels, int (n,), from the crack probabilities of `out_of_fold`.

    A row per image, the most doubtful first: row, given (mean probability of its label), by (number of models for which
    confident learning, Northcutt, Jiang, Chuang 2021, finds the label wrong). CrackutilsError without cleanlab.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise config.CrackutilsError("The audit of labels needs cleanlab. Run pip install cleanlab.") from error
    given = np.where(y[:, None] == 1, probabilities, 1 - probabilities)
    columns = (probabilities[name].to_numpy(np.float64) for name in probabilities)
    by = sum(find_label_issues(y, np.column_stack([1 - p, p]), n_jobs=1).astype(int) for p in columns)
    table = pd.DataFrame({"row": np.arange(len(y)), "given": given.mean(1).round(6), "by": by})
    return table.sort_values(["given", "row"], ignore_index=True)


def score_planted_labels(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, share: float = 0.01, seed: int = 0
) -> dict[str, float | int]:
    """Measure the audit of labels with flipped labels: a share, drawn with a seed; other arguments as `out_of_fold`.

    Returns planted (number of flipped labels); recall (share of them among as many top suspects); and called,
    called_recall and called_precision, of the images whose label all models find wrong by confident learning.
    """
    planted = np.zeros(len(y), bool)
    planted[np.random.default_rng(seed).choice(len(y), max(1, int(share * len(y))), replace=False)] = True
    flipped = np.where(planted, 1 - y, y)
    probabilities = out_of_fold(x, flipped, groups)
    table = rank_suspects(flipped, probabilities)
    count = int(planted.sum())
    called = planted[table.loc[table["by"] == probabilities.shape[1], "row"]]
    found = {"planted": count, "recall": round(float(planted[table["row"][:count]].mean()), 6), "called": len(called)}
    found["called_recall"] = round(int(called.sum()) / count, 6)
    return found | {"called_precision": round(int(called.sum()) / max(1, len(called)), 6)}


def estimate_unread(ds: Dataset) -> dict[str, float | int]:
    """Estimate the number of Negative images with an undetected crack, from images drawn at random.

    A vision-language model read them for `data/audit/*_reads.csv`: audit (1, 2), drawn (suspect: doubted by models;
    random: from Negative images neither doubted nor read; control: not doubted; again: read before), first and second
    (two readings without the label), verdict (as in `datasets.label_verdicts`). Random images of the last audit count.
    Returns read (images), random and cracks (among them), share with low and high (its 95 % Wilson interval), unread
    (Negative images), and expected, expected_low and expected_high cracks among those; empty if no image was read.
    """
    file = config.AUDIT / f"{ds.profile.source}_reads.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["audit", "file", "drawn"])
    table = table[table["file"].isin(ds.index["file"])]
    random = table[(table["drawn"] == "random") & (table["audit"] == table["audit"].max())]
    if not len(random):
        return {}
    cracks = int((random["verdict"] == "crack").sum())
    share, (low, high) = cracks / len(random), wilson(cracks, len(random))
    negative = (ds.given == 0) & (ds.index["number"] <= _READ_TO)
    n = int((~ds.index["file"].isin(table["file"]) & negative).sum())
    found = {"read": table["file"].nunique(), "random": len(random), "cracks": cracks, "unread": n}
    found |= {"share": round(share, 6), "low": round(low, 6), "high": round(high, 6)}
    return found | {"expected": round(share * n), "expected_low": round(low * n), "expected_high": round(high * n)}


def compare_corrections(
    x: np.ndarray, given: np.ndarray, corrected: np.ndarray, manifest: pd.DataFrame
) -> pd.DataFrame:
    """Train linear heads on features x with labels as given and as corrected, and test each against both, on one split.

    A row per training run: trained_with, changed (labels in train and val that differ), errors_given, errors_corrected,
    n (of the test), changed_test.
    """
    train, val, test = ((manifest["split"] == part).to_numpy() for part in PARTS)
    both, rows = {"given": given, "corrected": corrected}, []
    for name, y in both.items():
        called = fit_linear_head(x[train], y[train], x[val], y[val], 1000).probabilities(x[test]) >= 0.5
        row = {"trained_with": name, "changed": int((y != given)[~test].sum())}
        row |= {f"errors_{truth}": int((called != labels[test]).sum()) for truth, labels in both.items()}
        rows.append(row | {"n": int(test.sum()), "changed_test": int((given != corrected)[test].sum())})
    return pd.DataFrame(rows)


def image_quality(ds: Dataset) -> pd.DataFrame:
    """Find dark, bright, blurred, empty and oddly shaped images with cleanvision; CrackutilsError without it.

    A row per image in index order: row, and for each issue is_<issue>_issue and <issue>_score (0 worst, 1 best).
    """
    try:
        from cleanvision import Imagelab
    except ImportError as error:
        raise config.CrackutilsError("The audit of quality needs cleanvision. Run pip install cleanvision.") from error
    files = [str(ds.folder / file) for file in ds.index["file"]]
    lab = Imagelab(filepaths=files)
    issues = ("dark", "light", "blurry", "low_information", "odd_size", "odd_aspect_ratio")
    with contextlib.redirect_stdout(io.StringIO()):  # its printed report repeats the table
        lab.find_issues({name: {} for name in issues}, n_jobs=1, verbose=False)
    return lab.issues.loc[files].reset_index(drop=True).assign(row=np.arange(len(files)))
