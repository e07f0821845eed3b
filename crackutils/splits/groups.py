"""Group the images that must stay on one side of a split, and pack the groups into bundles of equal size."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from crackutils import config
from crackutils.datasets import Dataset
from crackutils.splits.overlaps import estimate_photos
from crackutils.splits.registration import appearance, equal_pairs, find_copies

BUNDLES = 10  # 7 + 2 + 1 of them make 70/20/10


@dataclass(frozen=True)
class Groups:
    """Which images must stay on one side of a split.

    Attributes:
        ids: int (n,), the group of each image.
        report: files, groups, largest group; for "copy-safe" also cap and the links of each kind it joined and cut.
    """

    ids: np.ndarray
    report: dict[str, int]


def group_copies(ds: Dataset, method: str = config.SPLITS[0]) -> Groups:
    """Return which images must stay together, for "copy-safe" or for "photo-safe".

    Copy-safe joins all patches of a known photo, copies, and, where photos are unknown, runs of neighbouring Positive
    numbers, which METU cut along the same crack of one photo. Photos, exact copies and copies of the same crop are
    always joined; then shifted copies and runs, each from the most similar on, unless the group would exceed the cap
    (an eighth of a bundle): without it the whole of Positive would chain into one group.

    Photo-safe joins the images of one photo, known or from `estimate_photos`. CrackutilsError if these are too few.
    """
    n = len(ds.index)
    if method == "photo-safe":
        known = ds.cuts["photo"].to_numpy()
        ids = np.unique(known if (known >= 0).all() else estimate_photos(ds), return_inverse=True)[1]
        report = {"files": n}
        if ids.max() + 1 < min(BUNDLES, n):
            raise config.CrackutilsError(
                f"SPLIT=photo-safe needs at least {BUNDLES} photos, these {n} images come from about {ids.max() + 1}."
                " Use SPLIT=copy-safe."
            )
    else:
        ids, report = _join_links(n, max(4, n // (8 * BUNDLES)), _ranked_links(ds))
    return Groups(ids, report | {"groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})


def _ranked_links(ds: Dataset) -> dict[str, np.ndarray]:
    """Return kinds of links between images, int (m, 2) each, in the order in which they are joined."""
    photo = ds.cuts["photo"].to_numpy()
    of_photos = equal_pairs(photo)
    of_photos = of_photos[photo[of_photos[:, 0]] >= 0]
    copies = find_copies(ds).sort_values("ncc", ascending=False, kind="stable")
    shifted, ends = copies["kind"] == "shifted", copies[["a", "b"]].to_numpy()
    running = ds.index[(ds.given == 1) & (ds.index["number"] >= 0) & (photo < 0)]
    rows = running.sort_values("number", kind="stable").index.to_numpy()
    x = appearance(ds)[rows]
    nearest_first = np.argsort(np.linalg.norm(x[1:] - x[:-1], axis=1).round(3), kind="stable")
    runs = np.column_stack([rows[:-1], rows[1:]])[nearest_first]
    links = {"photo": of_photos} if len(of_photos) else {}
    return links | {"copy": ends[~shifted], "shifted": ends[shifted], "run": runs}


def _join_links(n: int, cap: int, links: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Return the groups that links make of `n` images, and the report; the cap holds for shifted links and runs."""
    groups, report = DisjointSet(range(n)), {"files": n, "cap": cap}
    for kind, pairs in links.items():
        limit = cap if kind in ("shifted", "run") else n
        joined = cut = 0
        for a, b in pairs.tolist():
            if groups.connected(a, b):
                continue
            if groups.subset_size(a) + groups.subset_size(b) > limit:
                cut += 1
            else:
                joined += groups.merge(a, b)
        report |= {f"{kind}_links_joined": joined, f"{kind}_links_cut": cut}
    return pd.factorize(np.array([groups[row] for row in range(n)]))[0], report


def pack_groups(labels: np.ndarray, ids: np.ndarray, bundles: int, seed: int) -> np.ndarray:
    """Pack whole groups into bundles of nearly equal numbers of files of each class.

    Labels (0 or 1) and ids, the groups from 0, are int (n,). The seed draws one of the equally good packings.

    Returns:
        int (n,), the bundle of each file.
    """
    # by hand: scikit-learn's StratifiedGroupKFold packs large groups of mixed classes last and refuses small datasets
    counts = np.zeros((ids.max() + 1, 2), int)
    np.add.at(counts, (ids, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    load = np.zeros((bundles, 2))
    share = np.maximum(counts.sum(0), 1) / bundles
    bundle = np.empty(len(counts), int)
    for group in order:
        growth = ((load + counts[group]) / share) ** 2 - (load / share) ** 2  # of the squared load, per class
        bundle[group] = growth.sum(1).argmin()
        load[bundle[group]] += counts[group]
    return bundle[ids]
