"""Finding copies, grouping, splitting, and the check for leaks."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import splitfolders
from PIL import Image, ImageFilter

from crackutils import config, datasets
from crackutils.audit.mosaics import check_loops, known_overlaps, largest_mosaics
from crackutils.splits.check import PHASE_PEAK, crop_window, find_leaks, planted_recall
from crackutils.splits.groups import group_copies, pack_groups
from crackutils.splits.make import PARTS, leaked_test_images, make_split, split_report
from crackutils.splits.overlaps import BUNDLES, SURE_SCORE, estimate_photos, find_mosaics, find_overlaps
from crackutils.splits.registration import COPY_NCC, find_copies
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import PATCH

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


@pytest.fixture(scope="session")
def metu_like(smoke: datasets.Dataset) -> datasets.Dataset:
    """The images of the smoke profile as if nobody had noted which photos they were cut from."""
    return photos_unknown(smoke)


def photos_unknown(ds: datasets.Dataset) -> datasets.Dataset:
    out = dataclasses.replace(ds)
    vars(out)["cuts"] = ds.cuts.assign(photo=-1)
    return out


# ---------------------------------------------------------------- packing


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
def test_pack_keeps_groups_whole_and_shares_equal(seed: int) -> None:
    labels, ids = uneven_groups(seed)
    assert (np.array([len(set(labels[ids == g])) for g in np.unique(ids)]) == 2).sum() > 20  # mixed groups are there
    bundle = pack_groups(labels, ids, BUNDLES, seed)
    assert pd.Series(bundle).groupby(ids).nunique().max() == 1
    assert set(bundle) == set(range(10))
    for chosen in (labels >= 0, labels == 0, labels == 1):
        load = np.sort(np.bincount(bundle[chosen], minlength=10) / chosen.sum())
        # whichever bundles split-folders puts where
        assert load[-7:].sum() == pytest.approx(0.7, abs=0.01)
        assert load[:7].sum() == pytest.approx(0.7, abs=0.01)
        assert load[-2:].sum() == pytest.approx(0.2, abs=0.01)
        assert load[:2].sum() == pytest.approx(0.2, abs=0.01)
        assert load[[0, -1]] == pytest.approx(0.1, abs=0.01)


def test_pack_depends_on_the_seed_and_on_nothing_else() -> None:
    labels, ids = uneven_groups(3)
    first = pack_groups(labels, ids, BUNDLES, 5)
    np.testing.assert_array_equal(pack_groups(labels, ids, BUNDLES, 5), first)
    assert (pack_groups(labels, ids, BUNDLES, 6) != first).mean() > 0.5


# ---------------------------------------------------------------- splitting


def homes(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "splits").iterdir())


def laid_out(home: Path) -> dict[str, str]:
    """Return the part in which each file lies, by its name in the index."""
    paths = [p.relative_to(home) for p in home.rglob("*.jpg")]
    assert all(len(p.parts) == 3 for p in paths)
    out = {f"{p.parts[1]}/{p.parts[2]}": p.parts[0] for p in paths}
    assert len(out) == len(paths)  # none in two parts
    return out


@pytest.mark.parametrize("photos", ["known", "unknown"])
def test_copy_safe_split_of_the_sample(
    photos: str, smoke: datasets.Dataset, metu_like: datasets.Dataset, data_dir: Path
) -> None:
    ds = smoke if photos == "known" else metu_like
    manifest = make_split(ds, "copy-safe", 1337)
    assert list(manifest) == ["file", "label", "split", "group"]
    assert list(manifest["file"]) == list(ds.index["file"])
    assert list(manifest["label"]) == list(ds.index["label"])
    assert manifest.groupby("group")["split"].nunique().max() == 1
    # nine whole photos do not go into ten equal bundles
    off, off_class = (0.14, 0.16) if photos == "known" else (0.02, 0.04)
    assert manifest["split"].value_counts(normalize=True).to_dict() == pytest.approx(SHARES, abs=off)
    for label in (0, 1):
        of_class = manifest.loc[manifest["label"] == label, "split"]
        assert of_class.value_counts(normalize=True).to_dict() == pytest.approx(SHARES, abs=off_class)
    found = find_copies(ds)
    group = manifest["group"].to_numpy()
    sure = found if photos == "known" else found[found["kind"] != "shifted"]  # the cap may cut the others
    assert len(sure)
    assert (group[sure["a"]] == group[sure["b"]]).all()
    (home,) = homes(data_dir)
    assert laid_out(home) == dict(zip(manifest["file"], manifest["split"], strict=True))
    assert sorted(p.name for p in home.iterdir()) == ["manifest.csv", "report.json", "test", "train", "val"]
    some = manifest.iloc[77]
    assert (home / some["split"] / some["file"]).read_bytes() == (ds.folder / some["file"]).read_bytes()


@pytest.mark.parametrize("seed", [1, 2, 1337])
def test_no_photo_lies_on_two_sides(seed: int, smoke: datasets.Dataset) -> None:
    manifest = make_split(smoke, "copy-safe", seed).assign(photo=smoke.cuts["photo"])
    assert manifest["photo"].nunique() >= 8
    assert manifest.groupby("photo")["split"].nunique().max() == 1
    both = manifest.groupby("split")["label"].nunique()
    assert both.to_dict() == dict.fromkeys(PARTS, 2)  # each part can be scored
    mixed = make_split(smoke, "random", seed).assign(photo=smoke.cuts["photo"])
    sides = mixed.groupby("photo")["split"].nunique()
    assert sides.mean() > 1.8


def test_second_call_reads_the_first_ones_result(
    smoke: datasets.Dataset, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_split(smoke, "copy-safe", 1337)
    (home,) = homes(data_dir)
    made = (home / "manifest.csv").stat().st_mtime_ns
    monkeypatch.setattr(splits, "_split_folders", None)
    monkeypatch.setattr(splits, "group", None)
    pd.testing.assert_frame_equal(make_split(smoke, "copy-safe", 1337), first)
    assert (home / "manifest.csv").stat().st_mtime_ns == made


def test_the_same_seed_gives_the_same_split_from_nothing(
    smoke: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {m: make_split(smoke, m, 5) for m in config.SPLITS}
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "another"))
    for method in config.SPLITS:
        pd.testing.assert_frame_equal(make_split(smoke, method, 5), first[method])


@pytest.mark.parametrize("method", config.SPLITS)
def test_another_seed_goes_to_another_folder_and_nothing_mixes(
    method: str, smoke: datasets.Dataset, data_dir: Path
) -> None:
    one, two = make_split(smoke, method, 1), make_split(smoke, method, 2)
    assert (one["split"] != two["split"]).sum() > 20
    assert [h.name.split("-", 2)[2] for h in homes(data_dir)] == [f"{method}-1.v1", f"{method}-2.v1"]
    for home, manifest in zip(homes(data_dir), (one, two), strict=True):
        assert laid_out(home) == dict(zip(manifest["file"], manifest["split"], strict=True))
    for file in smoke.index["file"]:  # the images themselves stay where they are
        assert (smoke.folder / file).is_file()


def test_random_is_what_split_folders_gives(smoke: datasets.Dataset, tmp_path: Path) -> None:
    manifest = make_split(smoke, "random", 1337)
    splitfolders.ratio(str(smoke.folder), str(tmp_path / "published"), seed=1337, ratio=(0.7, 0.2, 0.1))
    assert laid_out(tmp_path / "published") == dict(zip(manifest["file"], manifest["split"], strict=True))
    assert (manifest["group"] == -1).all()
    assert split_report(smoke, "random", 1337) == {"split_files": 140}


def test_splitting_leaves_pythons_random_numbers_alone(smoke: datasets.Dataset) -> None:
    random.seed(5)
    expected = random.random()
    for method in config.SPLITS:
        random.seed(5)
        make_split(smoke, method, 1337)
        assert random.random() == expected


def test_unknown_method(smoke: datasets.Dataset) -> None:
    with pytest.raises(config.CrackutilsError, match=r"^SPLIT=copysafe is unknown \(did you mean copy-safe\?\)"):
        make_split(smoke, "copysafe", 1337)


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
        assert list(find_leaks(ds, manifest)) == ["a", "b", "peak"]
        assert len(find_leaks(ds, manifest)) == 0  # noise has no copies


def test_files_of_one_name_in_both_classes_and_odd_names(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 12)
    for name, (old, new) in zip(
        config.CLASSES, [("00001.jpg", "a__b, ü 'c'.jpg"), ("00002.jpg", "NA.JPG")], strict=True
    ):
        (raw / name / old).rename(raw / name / new)
    ds = datasets.load(config.profile("own"))
    for method in config.SPLITS:
        manifest = make_split(ds, method, 3)
        home = next(h for h in homes(data_dir) if f"-{method}-" in h.name)
        parts = zip(manifest["split"], manifest["file"], strict=True)
        assert all((home / part / file).read_bytes() == (raw / file).read_bytes() for part, file in parts)


# ---------------------------------------------------------------- copies


@dataclasses.dataclass
class Planted:
    """A data set with known copies.

    Attributes:
        ds: the images: those of the smoke profile, copies of some, and pairs of crops from photos made for this.
        truth: kind of each planted pair, by the two file names in order.
        photo: the photo of each new crop.
    """

    ds: datasets.Dataset
    truth: dict[tuple[str, str], str]
    photo: dict[str, int]

    def pairs(self, found: pd.DataFrame) -> dict[tuple[str, str], str]:
        name = self.ds.index["file"].to_numpy()
        kinds = found["kind"] if "kind" in found else ["leak"] * len(found)
        return {tuple(sorted((name[a], name[b]))): k for a, b, k in zip(found["a"], found["b"], kinds, strict=True)}


def plant(raw: Path, smoke: datasets.Dataset, blur: float, photos: int = 40) -> tuple[dict, dict]:
    """Write the smoke images, exact and re-encoded copies of them, and pairs of crops moved by 10 to 40 pixels."""
    rng = np.random.default_rng(11)
    truth, photo_of = {}, {}
    for file in smoke.index["file"]:
        (raw / file).parent.mkdir(parents=True, exist_ok=True)
        (raw / file).write_bytes((smoke.folder / file).read_bytes())
    chosen = smoke.index.drop_duplicates("sha256", keep=False)["file"].sample(20, random_state=1)
    for i, file in enumerate(chosen):
        label = file.split("/")[0]
        copy = f"{label}/copy_{i:02d}.jpg"
        if i < 10:
            (raw / copy).write_bytes((raw / file).read_bytes())
        else:
            with Image.open(raw / file) as image:
                image.save(raw / copy, quality=60)
        truth[tuple(sorted((file, copy)))] = "exact" if i < 10 else "same"
    for number in range(photos):
        shot = make_photo(11, number, 512, 384)
        photo, mask = Image.fromarray(shot.image), shot.mask
        if blur:
            photo = photo.filter(ImageFilter.GaussianBlur(blur))
        side, distance, angle = PATCH, rng.uniform(10, 40), rng.uniform(0, 2 * np.pi)
        x, y = int(rng.integers(45, photo.width - side - 45)), int(rng.integers(45, photo.height - side - 45))
        label = config.CLASSES[int(mask[y : y + side, x : x + side].any())]
        shift = round(distance * np.cos(angle)), round(distance * np.sin(angle))
        pair = []
        for name, (dx, dy) in (("a", (0, 0)), ("b", shift)):
            pair.append(f"{label}/photo_{number:02d}{name}.jpg")
            box = (x + dx, y + dy, x + dx + side, y + dy + side)
            photo.crop(box).save(raw / pair[-1], quality=90)
            photo_of[pair[-1]] = number
        truth[tuple(pair)] = "shifted"
    return truth, photo_of


@pytest.fixture(scope="module")
def planted(smoke: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], Planted]]:
    """Return a function that gives the data set whose new photos are smoothed by so many pixels."""
    made: dict[float, Planted] = {}

    def give(blur: float) -> Planted:
        if blur not in made:
            home = tmp_path_factory.mktemp("planted")
            truth, photo_of = plant(home / "raw" / "own", smoke, blur)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CRACKUTILS_DATA_DIR", str(home))
                made[blur] = Planted(datasets.load(config.profile("own")), truth, photo_of)
        return made[blur]

    yield give


@pytest.mark.parametrize(("blur", "recall"), [(0.7, 0.95), (0.0, 0.9)])
def test_planted_copies_are_found(blur: float, recall: float, planted: Callable[[float], Planted]) -> None:
    p = planted(blur)
    found = p.pairs(find_copies(p.ds))
    for kind in ("exact", "same"):
        wanted = {pair for pair, k in p.truth.items() if k == kind}
        assert len(wanted) == 10
        assert {found.get(pair) for pair in wanted} == {kind}
    wanted = {pair for pair, k in p.truth.items() if k == "shifted"}
    hit = wanted & set(found)
    assert len(hit) / len(wanted) >= recall
    assert {found[pair] for pair in hit} == {"shifted"}
    new = [pair for pair in found if set(pair) & set(p.photo)]  # of the smoke images the photos are not known
    right = [pair for pair in new if p.photo.get(pair[0]) == p.photo.get(pair[1])]
    assert len(right) / len(new) >= 0.95


def test_the_shift_is_measured(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    side, found = splits.GREY, find_copies(p.ds).query("kind == 'shifted' and ncc > 0.9")
    for a, b, dy, dx in found[["a", "b", "dy", "dx"]].head(30).itertuples(index=False):
        one, two = p.ds.grey[a].astype(float), p.ds.grey[b].astype(float)
        y, x, middle = round(dy * side), round(dx * side), slice(side // 4, 3 * side // 4)
        piece = two[side // 4 + y : 3 * side // 4 + y, side // 4 + x : 3 * side // 4 + x]
        assert np.corrcoef(one[middle, middle].ravel(), piece.ravel())[0, 1] > 0.8
    assert len(found) > 20


def test_copies_table(smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(splits, "find_copies", None)  # the second call reads the first one's result
    pd.testing.assert_frame_equal(find_copies(smoke), found)


# ---------------------------------------------------------------- groups


def chain(n: int, kind: str) -> pd.DataFrame:
    return pd.DataFrame({"a": range(n - 1), "b": range(1, n), "kind": kind, "dy": 0.1, "dx": 0.0, "ncc": 0.9})


def test_a_long_chain_is_cut_at_the_cap_and_the_cuts_are_counted(
    metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(metu_like.index)
    monkeypatch.setattr(splits, "copies", lambda ds: chain(n, "shifted"))
    grouped = group_copies(metu_like)
    sizes = np.bincount(grouped.ids)
    assert grouped.report["cap"] == 4
    assert (sizes.max(), grouped.report["largest"]) == (4, 4)
    assert grouped.report["shifted_links_joined"] + grouped.report["shifted_links_cut"] == n - 1
    assert grouped.report["shifted_links_joined"] == 105  # 35 groups of 4
    assert grouped.report["shifted_links_cut"] == 34
    assert grouped.report["run_links_joined"] == 0
    assert grouped.report["run_links_cut"] > 0
    assert grouped.report["groups"] == len(sizes) == 35


def test_cap_is_an_eightieth_of_the_files(
    data_dir: Path, metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = pd.concat([metu_like.index] * 10, ignore_index=True)  # 1,400 files
    big = dataclasses.replace(
        metu_like,
        index=index,
        grey=np.tile(metu_like.grey, (10, 1, 1)),
        colour=np.tile(metu_like.colour, (10, 1, 1, 1)),
    )
    monkeypatch.setattr(splits, "copies", lambda ds: chain(1400, "shifted"))
    assert group_copies(photos_unknown(big)).report["largest"] == 17


def test_sure_copies_are_joined_before_likely_ones_and_those_before_runs(
    metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(0, k, "shifted", 0.81 + k / 1000) for k in range(1, 9)] + [(0, 20, "same", 0.9), (0, 21, "exact", 1.0)]
    links = pd.DataFrame(rows, columns=["a", "b", "kind", "ncc"]).assign(dy=0.0, dx=0.0)
    monkeypatch.setattr(splits, "copies", lambda ds: links)
    grouped = group_copies(metu_like)
    assert set(np.flatnonzero(grouped.ids == grouped.ids[0])) == {0, 8, 20, 21}  # the cap is 4; 8 is the most alike
    assert (grouped.report["copy_links_joined"], grouped.report["copy_links_cut"]) == (2, 0)
    assert (grouped.report["shifted_links_joined"], grouped.report["shifted_links_cut"]) == (1, 7)


def test_equal_crops_stay_together_whatever_the_cap(
    metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "copies", lambda ds: chain(10, "exact"))
    grouped = group_copies(metu_like)
    assert grouped.report["cap"] == 4
    assert len(set(grouped.ids[:10])) == 1
    assert grouped.report["copy_links_cut"] == 0


def test_runs_join_neighbouring_positives_only(metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "copies", lambda ds: chain(1, "exact"))
    grouped = group_copies(metu_like)
    table = metu_like.index.assign(group=grouped.ids)
    assert table.loc[table["label"] == 0, "group"].is_unique
    for _, run in table[table["label"] == 1].groupby("group"):
        assert run["number"].max() - run["number"].min() == len(run) - 1
    assert grouped.report["run_links_joined"] + grouped.report["run_links_cut"] == 69
    assert grouped.report["groups"] == 140 - grouped.report["run_links_joined"]


def test_report_is_kept_with_the_split(metu_like: datasets.Dataset, data_dir: Path) -> None:
    report = split_report(metu_like, "copy-safe", 1337)
    manifest = make_split(metu_like, "copy-safe", 1337)
    assert (report["files"], report["split_files"]) == (140, 140)
    assert report["groups"] == manifest["group"].nunique()
    assert report["largest"] == manifest["group"].value_counts().max() <= report["cap"]
    (home,) = homes(data_dir)
    assert json.loads((home / "report.json").read_text()).items() <= report.items()
    assert not [name for name in report if name.startswith("photo")]


def test_all_patches_of_a_photo_are_one_group_whatever_the_cap(
    smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = chain(1, "exact")
    monkeypatch.setattr(splits, "copies", lambda ds: nothing)
    grouped, photo = group_copies(smoke), smoke.cuts["photo"]
    together = pd.DataFrame({"photo": photo, "group": grouped.ids}).drop_duplicates()
    assert together["photo"].is_unique
    assert together["group"].is_unique
    report = grouped.report
    assert report["largest"] == photo.value_counts().max() > report["cap"]
    assert (report["photo_links_joined"], report["photo_links_cut"]) == (140 - photo.nunique(), 0)
    assert report["groups"] == photo.nunique()
    assert (report["run_links_joined"], report["run_links_cut"]) == (0, 0)  # runs say nothing where photos are known


def test_runs_are_looked_for_among_images_of_unknown_photos_only(
    smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = dataclasses.replace(smoke)
    known = (smoke.index["number"] % 2 == 0).to_numpy()
    vars(half)["cuts"] = smoke.cuts.assign(photo=smoke.cuts["photo"].where(known, -1))
    nothing = chain(1, "exact")
    monkeypatch.setattr(splits, "copies", lambda ds: nothing)
    grouped = group_copies(half)
    table = smoke.index.assign(group=grouped.ids, photo=smoke.cuts["photo"])
    assert not set(table.loc[known, "group"]) & set(table.loc[~known, "group"])
    assert table[known].groupby("photo")["group"].nunique().max() == 1
    assert table.loc[~known & (table["label"] == 0), "group"].is_unique
    runs = grouped.report["run_links_joined"] + grouped.report["run_links_cut"]
    assert runs == (~known & (table["label"] == 1)).sum() - 1


def test_copies_join_photos(smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = smoke.cuts["photo"]
    one, other = (int(np.flatnonzero(photo == number)[0]) for number in photo.drop_duplicates()[:2])
    link = pd.DataFrame({"a": [min(one, other)], "b": [max(one, other)], "kind": "same", "ncc": 0.95})
    monkeypatch.setattr(splits, "copies", lambda ds: link.assign(dy=0.0, dx=0.0))
    grouped = group_copies(smoke)
    both = photo.isin([photo[one], photo[other]])
    assert len(set(grouped.ids[both])) == 1
    assert grouped.report["groups"] == photo.nunique() - 1


# ---------------------------------------------------------------- leaks


def two_sides(p: Planted, kinds: set[str]) -> pd.DataFrame:
    """Return a manifest with the second half of the planted pairs of these kinds in val and test, the rest in train."""
    out = p.ds.index[["file", "label"]].assign(split="train", group=-1)
    away = [pair[1] for pair, kind in p.truth.items() if kind in kinds]
    for part, files in (("val", away[::2]), ("test", away[1::2])):
        out.loc[out["file"].isin(files), "split"] = part
    return out


def test_planted_leaks_are_found(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    kinds = {"exact", "same", "shifted"}
    manifest = two_sides(p, kinds)
    found = find_leaks(p.ds, manifest)
    split = manifest["split"].to_numpy()
    assert set(split[found["a"]]) == {"val", "test"}
    assert set(split[found["b"][split[found["a"]] == "val"]]) == {"train"}
    other = p.ds.index["file"][found["b"][split[found["b"]] == "val"]]
    assert not set(other) & set(p.photo)  # smoke images of one photo may overlap, new photos come in two crops only
    assert found["peak"].between(PHASE_PEAK, 1.01).all()
    pairs = p.pairs(found)
    for kind, wanted in (("exact", 1), ("same", 1), ("shifted", 0.9)):
        planted_ones = [pair for pair, k in p.truth.items() if k == kind]
        assert sum(pair in pairs for pair in planted_ones) / len(planted_ones) >= wanted
    new = [pair for pair in pairs if set(pair) & set(p.photo)]
    assert sum(p.photo.get(a) == p.photo.get(b) for a, b in new) / len(new) >= 0.9


def test_leaks_of_test_are_looked_for_in_val_too(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    manifest = p.ds.index[["file", "label"]].assign(split="train", group=-1)
    one, two = next(pair for pair, kind in p.truth.items() if kind == "exact")
    row = {file: number for number, file in enumerate(manifest["file"])}
    manifest.loc[row[one], "split"], manifest.loc[row[two], "split"] = "val", "test"
    found = find_leaks(p.ds, manifest)
    assert ((found["a"] == row[two]) & (found["b"] == row[one])).any()


def test_leaks_of_another_split_of_the_same_sizes_are_not_mistaken(planted: Callable[[float], Planted]) -> None:
    p = planted(0.7)
    apart = two_sides(p, {"exact"})
    row = {file: number for number, file in enumerate(apart["file"])}
    together = apart.copy()
    for one, two in [pair for pair, kind in p.truth.items() if kind == "exact"]:
        other = next(b for b in p.photo if together.loc[row[b], "split"] == "train")  # trades places
        together.loc[row[other], "split"], together.loc[row[two], "split"] = together.loc[row[two], "split"], "train"
        assert together.loc[row[one], "split"] == "train"
    assert together["split"].value_counts().to_dict() == apart["split"].value_counts().to_dict()
    copies = {pair for pair, kind in p.truth.items() if kind == "exact"}
    assert copies <= set(p.pairs(find_leaks(p.ds, apart)))
    assert not copies & set(p.pairs(find_leaks(p.ds, together)))


@pytest.mark.parametrize(("photos", "most"), [("known", 0.05), ("unknown", 0.2)])
def test_copy_safe_split_leaks_far_less_than_the_random_one(
    photos: str, most: float, smoke: datasets.Dataset, metu_like: datasets.Dataset
) -> None:
    ds = smoke if photos == "known" else metu_like
    safe, published = (make_split(ds, method, 1337) for method in ("copy-safe", "random"))
    leaked, leaked_published = find_leaks(ds, safe), find_leaks(ds, published)
    held_out = (safe["split"] != "train").sum()
    assert leaked["a"].nunique() <= most * held_out  # overlaps that are too small to be grouped, and chance
    assert leaked_published["a"].nunique() >= 0.3 * (published["split"] != "train").sum()
    links = find_copies(ds)
    kept = links if photos == "known" else links[links["kind"] != "shifted"]  # the cap may cut the others
    known, kept = ({tuple(pair) for pair in table[["a", "b"]].to_numpy()} for table in (links, kept))
    assert not kept & {tuple(sorted(pair)) for pair in leaked[["a", "b"]].to_numpy()}
    assert len(known & {tuple(sorted(pair)) for pair in leaked_published[["a", "b"]].to_numpy()}) >= 15


def test_leaks_are_kept(smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_split(smoke, "random", 1337)
    found = find_leaks(smoke, manifest)
    monkeypatch.setattr(splits, "_search", None)
    pd.testing.assert_frame_equal(find_leaks(smoke, manifest), found)


def test_the_check_finds_what_is_planted(smoke: datasets.Dataset) -> None:
    table = planted_recall(smoke)
    assert list(table) == ["kind", "planted", "found", "recall", "false_alarms"]
    assert list(table["kind"]) == ["shifted", "re-encoded", "brighter", "all three"]
    assert list(table["planted"]) == [35] * 4
    assert (table["recall"] >= 0.9).all()
    assert (table["recall"] == table["found"] / table["planted"]).all()
    assert (table["false_alarms"] <= 4).all()
    pd.testing.assert_frame_equal(planted_recall(smoke), table)


def test_the_check_can_fail(smoke: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted copies that show another place are not counted as found."""
    rolled = np.roll(smoke.grey, 40, axis=0)
    window = crop_window
    monkeypatch.setattr(
        splits, "window", lambda ds, row, *how: np.stack([rolled[row]] * 3, 2) if how else window(ds, row)
    )
    assert (planted_recall(smoke, 40)["recall"] <= 0.2).all()


# ---------------------------------------------------------------- whole photos


def test_photo_safe_keeps_known_photos_whole(smoke: datasets.Dataset) -> None:
    manifest = make_split(smoke, "photo-safe", 3)
    assert manifest["split"].groupby(smoke.cuts["photo"].to_numpy()).nunique().max() == 1
    assert split_report(smoke, "photo-safe", 3)["groups"] == smoke.cuts["photo"].nunique()


def test_photo_safe_keeps_what_overlaps_together_where_nothing_is_known(metu_like: datasets.Dataset) -> None:
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
def test_corrected_labels_change_no_group(method: str, metu_like: datasets.Dataset) -> None:
    turned = dataclasses.replace(metu_like, index=metu_like.index.assign(label=1 - metu_like.index["label"]))
    vars(turned)["cuts"] = metu_like.cuts
    np.testing.assert_array_equal(group_copies(turned, method).ids, group_copies(metu_like, method).ids)


def test_photos_are_cut_down_to_what_a_split_can_hold(
    metu_like: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(metu_like.index)
    mosaic = np.r_[np.zeros(40, int), np.arange(1, n - 39)]  # a big mosaic, which may not be cut, and single crops
    monkeypatch.setattr(splits, "mosaics", lambda ds: mosaic)
    held = np.sort(np.bincount(estimate_photos(metu_like, n)))[::-1]
    assert held[0] >= 40 and (held[1:] <= n / (2 * BUNDLES)).all()


def test_too_few_photos_are_told(smoke: datasets.Dataset) -> None:
    few = dataclasses.replace(smoke)
    vars(few)["cuts"] = smoke.cuts.assign(photo=np.arange(len(smoke.index)) % 4)
    with pytest.raises(config.CrackutilsError, match=r"photo-safe needs at least 10 photos.*use SPLIT=copy-safe"):
        group_copies(few, "photo-safe")


def test_nothing_overlaps(data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", 12)
    ds = datasets.load(config.profile("own"))
    for _ in range(2):  # computed, and read again
        assert find_overlaps(ds).empty and find_overlaps(ds)["a"].dtype == int
    assert len(np.unique(find_mosaics(ds))) == 24
    assert check_loops(ds).empty and largest_mosaics(ds) == []
    assert known_overlaps(ds).empty


def test_surer_links_make_smaller_mosaics(smoke: datasets.Dataset) -> None:
    every, sure = find_mosaics(smoke), find_mosaics(smoke, SURE_SCORE)
    assert len(np.unique(sure)) > len(np.unique(every))
    assert pd.Series(every).groupby(sure).nunique().max() == 1
