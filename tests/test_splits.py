"""Finding copies, grouping, splitting, and the check for leaks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import splitfolders
from PIL import Image, ImageFilter

from crackutils import config, datasets
from crackutils.audit.mosaics import check_loops, known_overlaps, largest_mosaics
from crackutils.datasets import Dataset
from crackutils.images import GREY
from crackutils.splits.check import PHASE_PEAK, PLANTED, crop_window, find_leaks, leaked_test_images, planted_recall
from crackutils.splits.groups import BUNDLES, Groups, group_copies, pack_groups
from crackutils.splits.make import PARTS, make_split, split_report
from crackutils.splits.overlaps import SURE_SCORE, estimate_photos, find_mosaics, find_overlaps
from crackutils.splits.registration import COPY_NCC, find_copies
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import PATCH

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def with_photos(ds: Dataset, photo: pd.Series | int) -> Dataset:
    out = replace(ds)
    vars(out)["cuts"] = ds.cuts.assign(photo=photo)
    return out


@pytest.fixture(scope="session")
def metu_like(smoke: Dataset) -> Dataset:
    """The images of the smoke profile as if nobody had noted which photos they were cut from."""
    return with_photos(smoke, -1)


@pytest.fixture(params=["known", "unknown"])
def either(request: pytest.FixtureRequest, smoke: Dataset, metu_like: Dataset) -> tuple[Dataset, bool]:
    """The smoke profile, and whether its photos are known."""
    return (smoke, True) if request.param == "known" else (metu_like, False)


def uneven_groups(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and groups of 4,000 files: a few big groups, many small ones, some of both classes."""
    rng = np.random.default_rng(seed)
    sizes = [*rng.integers(30, 51, 12), *rng.integers(5, 20, 60)]
    while sum(sizes) < 4000:
        sizes.append(int(rng.choice([1, 1, 1, 2, 3])))
    ids = np.repeat(np.arange(len(sizes)), sizes)[:4000]
    share = rng.choice([0, 0, 0, 1, 1, 0.3], len(sizes))  # of positives in a group
    labels = (rng.random(4000) < share[ids]).astype(int)
    shuffled = rng.permutation(4000)
    return labels[shuffled], ids[shuffled]


@pytest.mark.parametrize("seed", [0, 1, 1337])
def test_packing_keeps_groups_whole_and_shares_equal(seed: int) -> None:
    labels, ids = uneven_groups(seed)
    assert (pd.Series(labels).groupby(ids).nunique() == 2).sum() > 20  # mixed groups are there
    bundle = pack_groups(labels, ids, BUNDLES, seed)
    assert pd.Series(bundle).groupby(ids).nunique().max() == 1
    assert set(bundle) == set(range(10))
    for chosen in (labels >= 0, labels == 0, labels == 1):
        load = np.sort(np.bincount(bundle[chosen], minlength=10) / chosen.sum())
        for count, share in ((7, 0.7), (2, 0.2), (1, 0.1)):  # whichever bundles split-folders puts where
            assert load[-count:].sum() == pytest.approx(share, abs=0.01)
            assert load[:count].sum() == pytest.approx(share, abs=0.01)
    np.testing.assert_array_equal(pack_groups(labels, ids, BUNDLES, seed), bundle)
    assert (pack_groups(labels, ids, BUNDLES, seed + 1) != bundle).mean() > 0.5


def homes(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "splits").iterdir())


def laid_out(home: Path) -> dict[str, str]:
    """Return the part in which each file lies, by its name in the index."""
    paths = [p.relative_to(home) for p in home.rglob("*.jpg")]
    assert all(len(p.parts) == 3 for p in paths)
    out = {f"{p.parts[1]}/{p.parts[2]}": p.parts[0] for p in paths}
    assert len(out) == len(paths)  # none in two parts
    return out


def as_listed(manifest: pd.DataFrame) -> dict[str, str]:
    return dict(zip(manifest["file"], manifest["split"], strict=True))


def test_copy_safe_split_of_the_sample(either: tuple[Dataset, bool], data_dir: Path) -> None:
    ds, known = either
    manifest = make_split(ds, "copy-safe", 1337)
    assert list(manifest) == ["file", "label", "split", "group"]
    pd.testing.assert_frame_equal(manifest[["file", "label"]], ds.index[["file", "label"]])
    assert manifest.groupby("group")["split"].nunique().max() == 1
    off, off_class = (0.14, 0.16) if known else (0.02, 0.04)  # nine whole photos do not go into ten equal bundles
    assert manifest["split"].value_counts(normalize=True).to_dict() == pytest.approx(SHARES, abs=off)
    for _, of_class in manifest.groupby("label")["split"]:
        assert of_class.value_counts(normalize=True).to_dict() == pytest.approx(SHARES, abs=off_class)
    copies = find_copies(ds)
    copies = copies if known else copies[copies["kind"] != "shifted"]  # the cap may cut the others
    group = manifest["group"].to_numpy()
    assert len(copies) and (group[copies["a"]] == group[copies["b"]]).all()
    (home,) = homes(data_dir)
    assert laid_out(home) == as_listed(manifest)
    assert sorted(p.name for p in home.iterdir()) == ["manifest.csv", "report.json", "test", "train", "val"]
    some = manifest.iloc[77]
    assert (home / some["split"] / some["file"]).read_bytes() == (ds.folder / some["file"]).read_bytes()
    report = split_report(ds, "copy-safe", 1337)
    assert json.loads((home / "report.json").read_text()) | {"split_files": 140} == report
    assert (report["files"], report["groups"]) == (140, manifest["group"].nunique())
    assert report["largest"] == manifest["group"].value_counts().max()
    assert known or report["largest"] <= report["cap"]
    assert any(name.startswith("photo") for name in report) == known


@pytest.mark.parametrize("seed", [1, 2, 1337])
def test_no_photo_lies_on_two_sides(seed: int, smoke: Dataset) -> None:
    photo = smoke.cuts["photo"]
    assert photo.nunique() >= 8
    for method in ("copy-safe", "photo-safe"):
        manifest = make_split(smoke, method, seed)
        assert manifest["split"].groupby(photo).nunique().max() == 1
    assert split_report(smoke, "photo-safe", seed)["groups"] == photo.nunique()
    both = make_split(smoke, "copy-safe", seed).groupby("split")["label"].nunique()
    assert both.to_dict() == dict.fromkeys(PARTS, 2)  # each part can be scored
    assert make_split(smoke, "random", seed)["split"].groupby(photo).nunique().mean() > 1.8


def test_second_call_reads_the_first_ones_result(smoke: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first, copies = make_split(smoke, "random", 1337), find_copies(smoke)
    leaks = find_leaks(smoke, first)
    assert len(leaks)
    for name in ("make.splitfolders.ratio", "registration.search_copies", "check.coarse_maps"):
        monkeypatch.setattr(f"crackutils.splits.{name}", None)
    pd.testing.assert_frame_equal(make_split(smoke, "random", 1337), first)
    pd.testing.assert_frame_equal(find_copies(smoke), copies)
    pd.testing.assert_frame_equal(find_leaks(smoke, first), leaks)


@pytest.mark.parametrize("method", config.SPLITS)
def test_the_seed_alone_decides_and_nothing_mixes(
    method: str, smoke: Dataset, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    one, two = make_split(smoke, method, 1), make_split(smoke, method, 2)
    assert random.random() == expected  # Python's own generator is left alone
    assert (one["split"] != two["split"]).sum() > 20
    assert [h.name.split("-", 2)[2] for h in homes(data_dir)] == [f"{method}-1.v1", f"{method}-2.v1"]
    for home, manifest in zip(homes(data_dir), (one, two), strict=True):
        assert laid_out(home) == as_listed(manifest)
    assert all((smoke.folder / file).is_file() for file in smoke.index["file"])  # the images stay where they are
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "another"))
    pd.testing.assert_frame_equal(make_split(smoke, method, 1), one)


def test_random_is_what_split_folders_gives(smoke: Dataset, tmp_path: Path) -> None:
    manifest = make_split(smoke, "random", 1337)
    splitfolders.ratio(str(smoke.folder), str(tmp_path / "published"), seed=1337, ratio=(0.7, 0.2, 0.1))
    assert laid_out(tmp_path / "published") == as_listed(manifest)
    assert (manifest["group"] == -1).all()
    assert split_report(smoke, "random", 1337) == {"split_files": 140}


def test_a_changed_image_goes_to_another_split(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 20)
    first = make_split(datasets.load(config.profile("own")), "random", 1)
    (raw / "Negative" / "00001.jpg").unlink()
    second = make_split(datasets.load(config.profile("own")), "random", 1)
    assert (len(first), len(second), len(homes(data_dir))) == (40, 39, 2)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_very_few_images_are_split_and_checked(count: int, data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", count)
    ds = datasets.load(config.profile("own"))
    for method in config.SPLITS:
        manifest = make_split(ds, method, 1337)
        assert len(manifest) == 2 * count
        assert manifest["split"].isin(PARTS).all()
        leaks = find_leaks(ds, manifest)
        assert list(leaks) == ["a", "b", "peak"] and leaks.empty  # noise has no copies


def test_files_of_one_name_in_both_classes_and_odd_names(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 12)
    renamed = [("00001.jpg", "a__b, ü 'c'.jpg"), ("00002.jpg", "NA.JPG")]
    for name, (old, new) in zip(config.CLASSES, renamed, strict=True):
        (raw / name / old).rename(raw / name / new)
    ds = datasets.load(config.profile("own"))
    for method in config.SPLITS:
        manifest = make_split(ds, method, 3)
        home = next(h for h in homes(data_dir) if f"-{method}-" in h.name)
        for file, part in as_listed(manifest).items():
            assert (home / part / file).read_bytes() == (raw / file).read_bytes()


@dataclass
class Planted:
    """A data set with known copies: the smoke profile, copies of some images, and pairs of crops from new photos."""

    ds: Dataset
    truth: dict[tuple[str, str], str]  # kind of each planted pair, by the two file names in order
    photo: dict[str, int]  # the photo of each new crop

    def of_kind(self, kind: str) -> set[tuple[str, str]]:
        return {pair for pair, k in self.truth.items() if k == kind}

    def pairs(self, found: pd.DataFrame) -> dict[tuple[str, str], str]:
        name = self.ds.index["file"].to_numpy()
        kinds = found["kind"] if "kind" in found else ["leak"] * len(found)
        return {tuple(sorted((name[a], name[b]))): k for a, b, k in zip(found["a"], found["b"], kinds, strict=True)}

    def precision(self, pairs: dict[tuple[str, str], str]) -> float:
        """Return the share of one photo among the pairs with a new crop; of the others the photos are not known."""
        new = [pair for pair in pairs if set(pair) & set(self.photo)]
        return sum(self.photo.get(a) == self.photo.get(b) for a, b in new) / len(new)


def plant(raw: Path, smoke: Dataset, blur: float) -> tuple[dict, dict]:
    """Write the smoke images, exact and re-encoded copies of them, and pairs of crops moved by 10 to 40 pixels."""
    rng = np.random.default_rng(11)
    truth, photo_of = {}, {}
    for file in smoke.index["file"]:
        (raw / file).parent.mkdir(parents=True, exist_ok=True)
        (raw / file).write_bytes((smoke.folder / file).read_bytes())
    chosen = smoke.index.drop_duplicates("sha256", keep=False)["file"].sample(20, random_state=1)
    for i, file in enumerate(chosen):
        copy = f"{file.split('/')[0]}/copy_{i:02d}.jpg"
        if i < 10:
            (raw / copy).write_bytes((raw / file).read_bytes())
        else:
            with Image.open(raw / file) as image:
                image.save(raw / copy, quality=60)
        truth[tuple(sorted((file, copy)))] = "exact" if i < 10 else "same"
    for number in range(40):
        shot = make_photo(11, number, 512, 384)
        photo, mask = Image.fromarray(shot.image), shot.mask
        if blur:
            photo = photo.filter(ImageFilter.GaussianBlur(blur))
        distance, angle = rng.uniform(10, 40), rng.uniform(0, 2 * np.pi)
        x, y = int(rng.integers(45, photo.width - PATCH - 45)), int(rng.integers(45, photo.height - PATCH - 45))
        label = config.CLASSES[int(mask[y : y + PATCH, x : x + PATCH].any())]
        shift = round(distance * np.cos(angle)), round(distance * np.sin(angle))
        pair = tuple(f"{label}/photo_{number:02d}{name}.jpg" for name in "ab")
        for file, (dx, dy) in zip(pair, ((0, 0), shift), strict=True):
            photo.crop((x + dx, y + dy, x + dx + PATCH, y + dy + PATCH)).save(raw / file, quality=90)
            photo_of[file] = number
        truth[pair] = "shifted"
    return truth, photo_of


@pytest.fixture(scope="module")
def planted(smoke: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Planted]:
    """Return a function that gives the data set whose new photos are smoothed by so many pixels."""

    @cache
    def give(blur: float) -> Planted:
        home = tmp_path_factory.mktemp("planted")
        truth, photo_of = plant(home / "raw" / "own", smoke, blur)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CRACKUTILS_DATA_DIR", str(home))
            return Planted(datasets.load(config.profile("own")), truth, photo_of)

    return give


@pytest.mark.parametrize(("blur", "recall"), [(0.7, 0.95), (0.0, 0.9)])
def test_planted_copies_are_found(blur: float, recall: float, planted: Callable[[float], Planted]) -> None:
    p = planted(blur)
    found = p.pairs(find_copies(p.ds))
    for kind, least in (("exact", 1), ("same", 1), ("shifted", recall)):
        hit = p.of_kind(kind) & set(found)
        assert len(hit) / len(p.of_kind(kind)) >= least
        assert {found[pair] for pair in hit} == {kind}
    assert (len(p.of_kind("exact")), len(p.of_kind("same"))) == (10, 10)
    assert p.precision(found) >= 0.95


def test_the_shift_is_measured(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    found = find_copies(p.ds).query("kind == 'shifted' and ncc > 0.9")
    quarter, middle = GREY // 4, slice(GREY // 4, 3 * GREY // 4)
    for a, b, dy, dx in found[["a", "b", "dy", "dx"]].head(30).itertuples(index=False):
        one, two = p.ds.grey[a].astype(float), p.ds.grey[b].astype(float)
        y, x = quarter + round(dy * GREY), quarter + round(dx * GREY)
        piece = two[y : y + 2 * quarter, x : x + 2 * quarter]
        assert np.corrcoef(one[middle, middle].ravel(), piece.ravel())[0, 1] > 0.8
    assert len(found) > 20


def test_copies_table(smoke: Dataset) -> None:
    found = find_copies(smoke)
    assert list(found) == ["a", "b", "dy", "dx", "ncc", "kind"]
    assert (found["a"] < found["b"]).all()
    assert not found.duplicated(["a", "b"]).any()
    assert (found["ncc"] > COPY_NCC).all()
    exact = found[found["kind"] == "exact"]
    sha = smoke.index["sha256"].to_numpy()
    assert list(sha[exact["a"]]) == list(sha[exact["b"]])
    again = np.flatnonzero(smoke.index["sha256"].duplicated())
    assert len(again) >= 2
    assert set(again) <= set(exact["b"])  # of three equal ones all pairs may be listed


@pytest.fixture
def copies_are(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the grouping see these copies (a, b, kind, ncc) and no others."""

    def put(*rows: tuple[int, int, str, float]) -> None:
        table = pd.DataFrame(rows, columns=["a", "b", "kind", "ncc"]).astype({"a": int, "b": int})
        monkeypatch.setattr("crackutils.splits.groups.find_copies", lambda ds: table.assign(dy=0.1, dx=0.0))

    return put


def chain(n: int, kind: str) -> list[tuple[int, int, str, float]]:
    return [(a, a + 1, kind, 0.9) for a in range(n - 1)]


def links(grouped: Groups, kind: str) -> tuple[int, int]:
    return grouped.report[f"{kind}_links_joined"], grouped.report[f"{kind}_links_cut"]


LIKELY = [(0, k, "shifted", 0.81 + k / 1000) for k in range(1, 9)]
CAPPED = [
    # a long chain is cut at the cap, into 35 groups of 4, and the cuts are counted
    (chain(140, "shifted"), {0, 1, 2, 3}, {"groups": 35, "largest": 4, "shifted": (105, 34), "run": (0, 17)}),
    # sure copies are joined before likely ones, and those, the most similar first, before runs
    ([*LIKELY, (0, 20, "same", 0.9), (0, 21, "exact", 1.0)], {0, 8, 20, 21}, {"copy": (2, 0), "shifted": (1, 7)}),
    # equal crops stay together whatever the cap
    (chain(10, "exact"), set(range(10)), {"copy": (9, 0)}),
]


@pytest.mark.parametrize(("copies", "first_group", "report"), CAPPED, ids=["chain", "order", "exact"])
def test_groups_have_a_cap(copies: list, first_group: set, report: dict, metu_like: Dataset, copies_are) -> None:
    copies_are(*copies)
    grouped = group_copies(metu_like)
    assert set(np.flatnonzero(grouped.ids == grouped.ids[0])) == first_group
    found = grouped.report | {kind: links(grouped, kind) for kind in ("copy", "shifted", "run")}
    assert (report | {"cap": 4}).items() <= found.items()
    sizes = np.bincount(grouped.ids)
    assert (found["groups"], found["largest"]) == (len(sizes), sizes.max())


def test_cap_is_an_eightieth_of_the_files(metu_like: Dataset, copies_are: Callable) -> None:
    index = pd.concat([metu_like.index] * 10, ignore_index=True)  # 1,400 files
    grey, colour = np.tile(metu_like.grey, (10, 1, 1)), np.tile(metu_like.colour, (10, 1, 1, 1))
    copies_are(*chain(1400, "shifted"))
    big = replace(metu_like, index=index, grey=grey, colour=colour)
    assert group_copies(with_photos(big, -1)).report["largest"] == 17


def test_runs_join_neighbouring_positives_only(metu_like: Dataset, copies_are: Callable) -> None:
    copies_are()
    grouped = group_copies(metu_like)
    table = metu_like.index.assign(group=grouped.ids)
    assert table.loc[table["label"] == 0, "group"].is_unique
    runs = table[table["label"] == 1].groupby("group")["number"].agg(["min", "max", "size"])
    assert (runs["max"] - runs["min"] == runs["size"] - 1).all()
    assert sum(links(grouped, "run")) == 69
    assert grouped.report["groups"] == 140 - links(grouped, "run")[0]


def test_all_patches_of_a_photo_are_one_group_whatever_the_cap(smoke: Dataset, copies_are: Callable) -> None:
    copies_are()
    grouped, photo = group_copies(smoke), smoke.cuts["photo"]
    together = pd.DataFrame({"photo": photo, "group": grouped.ids}).drop_duplicates()
    assert together["photo"].is_unique and together["group"].is_unique
    assert grouped.report["largest"] == photo.value_counts().max() > grouped.report["cap"]
    assert links(grouped, "photo") == (140 - photo.nunique(), 0)
    assert grouped.report["groups"] == photo.nunique()
    assert links(grouped, "run") == (0, 0)  # runs say nothing where photos are known


def test_runs_are_looked_for_among_images_of_unknown_photos_only(smoke: Dataset, copies_are: Callable) -> None:
    copies_are()
    known = smoke.index["number"] % 2 == 0
    grouped = group_copies(with_photos(smoke, smoke.cuts["photo"].where(known, -1)))
    table = smoke.index.assign(group=grouped.ids, photo=smoke.cuts["photo"])
    assert not set(table.loc[known, "group"]) & set(table.loc[~known, "group"])
    assert table[known].groupby("photo")["group"].nunique().max() == 1
    assert table.loc[~known & (table["label"] == 0), "group"].is_unique
    assert sum(links(grouped, "run")) == (~known & (table["label"] == 1)).sum() - 1


def test_copies_join_photos(smoke: Dataset, copies_are: Callable) -> None:
    photo = smoke.cuts["photo"]
    first = photo.drop_duplicates()[:2]
    copies_are((*sorted(first.index), "same", 0.95))
    grouped = group_copies(smoke)
    assert len(set(grouped.ids[photo.isin(first)])) == 1
    assert grouped.report["groups"] == photo.nunique() - 1


def two_sides(p: Planted, kinds: set[str]) -> pd.DataFrame:
    """Return a manifest with the second half of the planted pairs of these kinds in val and test, the rest in train."""
    away = [pair[1] for pair, kind in p.truth.items() if kind in kinds]
    split = pd.Series("train", p.ds.index["file"])
    split[away[::2]], split[away[1::2]] = "val", "test"
    return split.rename("split").reset_index()


def test_planted_leaks_are_found(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    manifest = two_sides(p, {"exact", "same", "shifted"})
    one, _ = list(p.truth)[1]  # a copy of it lies in test
    manifest.loc[manifest["file"] == one, "split"] = "val"  # leaks of test are looked for in val too
    found = find_leaks(p.ds, manifest)
    a, b = (manifest["split"].to_numpy()[found[end]] for end in "ab")
    assert set(a) == {"val", "test"} and set(b[a == "val"]) == {"train"}
    other = p.ds.index["file"][found["b"][b == "val"]]
    assert not set(other) & set(p.photo)  # smoke images of one photo may overlap, new photos come in two crops only
    assert found["peak"].between(PHASE_PEAK, 1.01).all()
    pairs = p.pairs(found)
    for kind, least in (("exact", 1), ("same", 1), ("shifted", 0.9)):
        assert len(p.of_kind(kind) & set(pairs)) / len(p.of_kind(kind)) >= least
    assert p.precision(pairs) >= 0.9


def test_leaks_of_another_split_of_the_same_sizes_are_not_mistaken(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    apart = two_sides(p, {"exact"})
    split = apart.set_index("file")["split"].copy()
    for one, two in p.of_kind("exact"):
        other = next(file for file in p.photo if split[file] == "train")  # trades places
        split[other], split[two] = split[two], "train"
        assert split[one] == "train"
    together = split.reset_index()
    assert together["split"].value_counts().to_dict() == apart["split"].value_counts().to_dict()
    assert p.of_kind("exact") <= set(p.pairs(find_leaks(p.ds, apart)))
    assert not p.of_kind("exact") & set(p.pairs(find_leaks(p.ds, together)))


def test_copy_safe_split_leaks_far_less_than_the_random_one(either: tuple[Dataset, bool]) -> None:
    ds, known = either
    safe, published = (make_split(ds, method, 1337) for method in ("copy-safe", "random"))
    leaked, leaked_published = find_leaks(ds, safe), find_leaks(ds, published)
    # overlaps that are too small to be grouped, and chance
    assert leaked["a"].nunique() <= (0.05 if known else 0.2) * (safe["split"] != "train").sum()
    assert leaked_published["a"].nunique() >= 0.3 * (published["split"] != "train").sum()
    copies = find_copies(ds)
    kept = copies if known else copies[copies["kind"] != "shifted"]  # the cap may cut the others
    kept, copies, leaked, leaked_published = (
        {tuple(sorted(pair)) for pair in table[["a", "b"]].to_numpy().tolist()}
        for table in (kept, copies, leaked, leaked_published)
    )
    assert not kept & leaked
    assert len(copies & leaked_published) >= 15


def test_the_check_finds_what_is_planted(smoke: Dataset) -> None:
    table = planted_recall(smoke)
    assert list(table) == ["kind", "planted", "found", "recall", "false_alarms"]
    assert tuple(table["kind"]) == PLANTED == ("shifted", "re-encoded", "brighter", "all three")
    assert list(table["planted"]) == [35] * 4
    assert (table["recall"] >= 0.9).all()
    assert (table["recall"] == table["found"] / table["planted"]).all()
    assert (table["false_alarms"] <= 4).all()
    pd.testing.assert_frame_equal(planted_recall(smoke), table)


def test_the_check_can_fail(smoke: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted copies that show another place are not counted as found."""

    def elsewhere(ds: Dataset, row: int, *how: object) -> np.ndarray:
        return np.stack([ds.grey[row - 40]] * 3, 2) if how else crop_window(ds, row)

    monkeypatch.setattr("crackutils.splits.check.crop_window", elsewhere)
    assert (planted_recall(smoke, 40)["recall"] <= 0.2).all()


def test_photo_safe_keeps_what_overlaps_together_where_nothing_is_known(metu_like: Dataset) -> None:
    links = find_overlaps(metu_like)
    leaked = {}
    for method in ("random", "photo-safe"):
        part = make_split(metu_like, method, 3)["split"].to_numpy()
        leaked[method] = leaked_test_images(part, links)
    assert leaked["random"] >= 5 and leaked["photo-safe"] == 0
    ids = group_copies(metu_like, "photo-safe").ids
    assert ids[links["a"]].tolist() == ids[links["b"]].tolist()
    assert np.bincount(ids).max() <= max(len(ids) / (2 * BUNDLES), np.bincount(find_mosaics(metu_like)).max())


@pytest.mark.parametrize("method", ["copy-safe", "photo-safe"])
def test_corrected_labels_change_no_group(method: str, metu_like: Dataset) -> None:
    flipped = replace(metu_like, index=metu_like.index.assign(label=1 - metu_like.index["label"]))
    flipped = with_photos(flipped, -1)
    np.testing.assert_array_equal(group_copies(flipped, method).ids, group_copies(metu_like, method).ids)


def test_photos_are_cut_down_to_what_a_split_can_hold(metu_like: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    n = len(metu_like.index)
    mosaic = np.r_[np.zeros(40, int), np.arange(1, n - 39)]  # a big mosaic, which may not be cut, and single crops
    monkeypatch.setattr("crackutils.splits.overlaps.find_mosaics", lambda ds: mosaic)
    sizes = np.sort(np.bincount(estimate_photos(metu_like, n)))[::-1]
    assert sizes[0] >= 40 and (sizes[1:] <= n / (2 * BUNDLES)).all()


def test_impossible_splits_are_refused(smoke: Dataset) -> None:
    few = with_photos(smoke, np.arange(len(smoke.index)) % 4)
    with pytest.raises(config.CrackutilsError, match=r"photo-safe needs at least 10 photos.*Use SPLIT=copy-safe"):
        make_split(few, "photo-safe", 1337)
    with pytest.raises(config.CrackutilsError, match=r"^SPLIT=copysafe is unknown \(did you mean copy-safe\?\)"):
        make_split(smoke, "copysafe", 1337)


def test_nothing_overlaps(data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", 12)
    ds = datasets.load(config.profile("own"))
    for _ in range(2):  # computed, and read again
        assert find_overlaps(ds).empty and find_overlaps(ds)["a"].dtype == int
    assert len(np.unique(find_mosaics(ds))) == 24
    assert check_loops(ds).empty and largest_mosaics(ds) == []
    assert known_overlaps(ds).empty


def test_surer_links_make_smaller_mosaics(smoke: Dataset) -> None:
    every, sure = find_mosaics(smoke), find_mosaics(smoke, SURE_SCORE)
    assert len(np.unique(sure)) > len(np.unique(every))
    assert pd.Series(every).groupby(sure).nunique().max() == 1
