"""Splits into train, val and test that keep copies together, and a check that looks for copies by another means.

Grouping: neighbours in colour and texture statistics, registered by normalised cross-correlation.
Check: every crop position on high-passed thumbnails, decided by phase correlation; it shares no step with the grouping
but the thumbnails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crackutils import config, datasets
from crackutils.splits.overlaps import BUNDLES, estimate_photos
from crackutils.splits.registration import appearance, find_copies


@dataclass(frozen=True)
class Groups:
    """Which images must stay on one side.

    Attributes:
        ids: int (n,), the group of each image.
        report: files, groups, largest group, cap, and how many links of each kind were joined or cut by the cap.
    """

    ids: np.ndarray
    split_report: dict[str, int]


def group_copies(ds: datasets.Dataset, method: str = config.SPLITS[0]) -> Groups:
    """Return which images must stay together, for "copy-safe" or for "photo-safe".

    Copy-safe joins copies and runs of neighbouring Positive numbers, which METU cut along the same crack of one photo.

    Where the photos are known, all patches of one are joined, and runs are not needed. Exact copies and copies of the
    same crop are always joined; then shifted ones and neighbours, each from the most alike on, unless the group would
    exceed the cap (an eighth of a bundle): without it the whole of Positive would chain into one group.

    Photo-safe joins the images of one photo: as it is known, or else as `photos` estimates it.
    """
    n = len(ds.index)
    if method == "photo-safe":
        known = ds.cuts["photo"].to_numpy()
        ids = np.unique(known if (known >= 0).all() else estimate_photos(ds), return_inverse=True)[1]
        if ids.max() + 1 < min(BUNDLES, n):
            raise config.CrackutilsError(
                f"SPLIT=photo-safe needs at least {BUNDLES} photos, these {n} images come from about {ids.max() + 1};"
                " use SPLIT=copy-safe."
            )
        return Groups(ids, {"files": n, "groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})
    cap = max(4, n // (8 * BUNDLES))
    parent, size = list(range(n)), [1] * n
    photo = ds.cuts["photo"].to_numpy()
    of_photo = np.argsort(photo, kind="stable")
    of_photo = of_photo[photo[of_photo] >= 0]
    beside = photo[of_photo[1:]] == photo[of_photo[:-1]]
    same_photo = np.column_stack([of_photo[:-1], of_photo[1:]])[beside]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    report = {"files": n, "cap": cap}
    found = find_copies(ds)
    found = found.sort_values("ncc", ascending=False, kind="stable")
    shifted = found["kind"] == "shifted"
    running = (ds.given == 1) & (ds.index["number"] >= 0) & (photo < 0)
    positive = ds.index[running].sort_values("number", kind="stable")
    rows = positive.index.to_numpy()
    x = appearance(ds)
    distance = np.sqrt(((x[rows[1:]] - x[rows[:-1]]) ** 2).sum(1)).round(3)
    runs = np.column_stack([rows[:-1], rows[1:]])[np.argsort(distance, kind="stable")]
    ends = found[["a", "b"]].to_numpy()
    found_links = [("copy", ends[~shifted]), ("shifted", ends[shifted]), ("run", runs)]
    if len(same_photo):
        found_links.insert(0, ("photo", same_photo))
    for name, links in found_links:
        joined = cut = 0
        for a, b in links:
            ra, rb = sorted((root(int(a)), root(int(b))))
            if ra == rb:
                continue
            if name not in ("photo", "copy") and size[ra] + size[rb] > cap:
                cut += 1
                continue
            parent[rb], size[ra] = ra, size[ra] + size[rb]
            joined += 1
        report |= {f"{name}_links_joined": joined, f"{name}_links_cut": cut}
    ids = np.unique([root(i) for i in range(n)], return_inverse=True)[1]
    return Groups(ids, report | {"groups": int(ids.max() + 1), "largest": int(np.bincount(ids).max())})


def pack_groups(labels: np.ndarray, ids: np.ndarray, bundles: int, seed: int) -> np.ndarray:
    """Pack whole groups into bundles of nearly equal numbers of files of each class.

    Args:
        labels: int (n,), 0 or 1.
        ids: int (n,), the group of each file.
        bundles: number of bundles.
        seed: which of the equally good packings.

    Returns:
        int (n,), the bundle of each file.
    """
    counts = np.zeros((ids.max() + 1, 2), int)
    np.add.at(counts, (ids, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    load = np.zeros((bundles, 2))
    share = np.maximum(counts.sum(0), 1) / bundles
    home = np.empty(len(counts), int)
    for g in order:
        after = ((load + counts[g]) / share) ** 2 - (load / share) ** 2  # the growth of the squared load, per class
        home[g] = after.sum(1).argmin()
        load[home[g]] += counts[g]
    return home[ids]
