"""Finding copies, grouping, splitting, and the check for leaks."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import splitfolders
from PIL import Image

from crackutils import config, datasets
from crackutils.audit.mosaics import check_loops, known_overlaps, largest_mosaics
from crackutils.datasets import Dataset
from crackutils.splits.check import PHASE_PEAK, PLANTED, crop_window, find_leaks, leaked_test_images, planted_recall
from crackutils.splits.make import (
    BUNDLES,
    PARTS,
    Groups,
    _home,
    fill_parts,
    group_copies,
    has_all_classes,
    make_split,
    pack_groups,
    split_report,
    spread_classes,
)
from crackutils.splits.overlaps import SURE_SCORE, estimate_photos, find_mosaics, find_overlaps
from crackutils.splits.registration import COPY_NCC, SURE_NCC, find_copies

MADE = [method for method in config.SPLITS if method != "given"]


def with_photos(ds: Dataset, photo: pd.Series | int) -> Dataset:
    out = replace(ds)
    vars(out)["cuts"] = ds.cuts.assign(photo=photo)
    return out


@pytest.fixture(scope="session")
def metu_like(smoke: Dataset) -> Dataset:
    """The images of the smoke profile as if nobody had noted which photos they were cut from."""
    return with_photos(smoke, -1)


@pytest.fixture(params=[True, False], ids=["known", "unknown"])
def either(request: pytest.FixtureRequest, smoke: Dataset, metu_like: Dataset) -> tuple[Dataset, bool]:
    """The smoke profile, and whether its photos are known."""
    return (smoke if request.param else metu_like), request.param


@pytest.mark.parametrize("seed", [0, 1, 1337])
def test_packing_keeps_groups_whole_and_shares_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)  # 4,000 files: a few big groups, many small ones, some of both classes
    sizes = [*rng.integers(30, 51, 12), *rng.integers(5, 20, 60)]
    while sum(sizes) < 4000:
        sizes.append(int(rng.choice([1, 1, 1, 2, 3])))
    ids = np.repeat(np.arange(len(sizes)), sizes)[:4000]
    share = rng.choice([0, 0, 0, 1, 1, 0.3], len(sizes))  # of positives in a group
    labels, shuffled = (rng.random(4000) < share[ids]).astype(int), rng.permutation(4000)
    labels, ids = labels[shuffled], ids[shuffled]
    assert (pd.Series(labels).groupby(ids).nunique() == 2).sum() > 20  # mixed groups are there
    bundle = pack_groups(labels, ids, BUNDLES, seed)
    assert pd.Series(bundle).groupby(ids).nunique().max() == 1 and set(bundle) == set(range(10))
    for chosen in (labels >= 0, labels == 0, labels == 1):
        load = np.sort(np.bincount(bundle[chosen], minlength=10) / chosen.sum())
        for count, share in ((7, 0.7), (2, 0.2), (1, 0.1)):  # whichever bundles split-folders puts where
            assert [load[-count:].sum(), load[:count].sum()] == pytest.approx([share, share], abs=0.01)
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


def pair_set(table: pd.DataFrame) -> set[tuple[int, ...]]:
    return {tuple(sorted(pair)) for pair in table[["a", "b"]].to_numpy().tolist()}


def test_copy_safe_split_of_the_sample(either: tuple[Dataset, bool], data_dir: Path) -> None:
    ds, known = either
    manifest = make_split(ds, "copy-safe", 1337)
    assert list(manifest) == ["file", "label", "split", "group"]
    pd.testing.assert_frame_equal(manifest[["file", "label"]], ds.index[["file", "label"]])
    assert manifest.groupby("group")["split"].nunique().max() == 1
    off, off_class = (0.14, 0.16) if known else (0.02, 0.04)  # nine whole photos do not go into ten equal bundles
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    assert manifest["split"].value_counts(normalize=True).to_dict() == pytest.approx(shares, abs=off)
    for _, of_class in manifest.groupby("label")["split"]:
        assert of_class.value_counts(normalize=True).to_dict() == pytest.approx(shares, abs=off_class)
    copies = find_copies(ds)
    copies = copies if known else copies[copies["kind"] != "shifted"]  # the cap may cut the others
    group = manifest["group"].to_numpy()
    assert len(copies) and (group[copies["a"]] == group[copies["b"]]).all()
    (home,) = homes(data_dir)
    assert sorted(p.name for p in home.iterdir()) == ["manifest.csv", "report.json", "test", "train", "val"]
    report = split_report(ds, "copy-safe", 1337)
    assert json.loads((home / "report.json").read_text()) | {"split_files": 140} == report
    sizes = manifest["group"].value_counts()
    assert (report["files"], report["groups"], report["largest"]) == (140, len(sizes), sizes.max())
    assert known or report["largest"] <= report["cap"]
    assert any(name.startswith("photo") for name in report) == known
    published = make_split(ds, "random", 1337)
    leaked, leaked_published = find_leaks(ds, manifest), find_leaks(ds, published)
    # overlaps that are too small to be grouped, and chance
    assert leaked["a"].nunique() <= (0.05 if known else 0.2) * (manifest["split"] != "train").sum()
    assert leaked_published["a"].nunique() >= 0.3 * (published["split"] != "train").sum()
    assert not pair_set(copies) & pair_set(leaked)
    part, every = published["split"].to_numpy(), find_copies(ds)
    across = pair_set(every[part[every["a"]] != part[every["b"]]])
    assert len(across) > 15 and len(across & pair_set(leaked_published)) / len(across) >= 0.85


@pytest.mark.parametrize("seed", [1, 2, 1337])
def test_no_photo_lies_on_two_sides(seed: int, smoke: Dataset) -> None:
    photo = smoke.cuts["photo"]
    assert photo.nunique() >= 8
    for method in ("copy-safe", "photo-safe"):
        assert make_split(smoke, method, seed)["split"].groupby(photo).nunique().max() == 1
    assert split_report(smoke, "photo-safe", seed)["groups"] == photo.nunique()
    both = make_split(smoke, "copy-safe", seed).groupby("split")["label"].nunique()
    assert both.to_dict() == dict.fromkeys(PARTS, 2)  # each part can be scored
    assert make_split(smoke, "random", seed)["split"].groupby(photo).nunique().mean() > 1.8
    later = with_photos(smoke, photo // 2)  # a table of photos that came after the first split
    assert make_split(later, "copy-safe", seed)["split"].groupby(photo // 2).nunique().max() == 1
    gaps = with_photos(smoke, photo.where(photo != photo[0], -1))  # a table with gaps, which are filled in later
    known = (photo != photo[0]).to_numpy()
    assert len(np.unique(group_copies(gaps, "photo-safe").ids[known])) == photo.nunique() - 1
    assert make_split(gaps, "photo-safe", seed)["split"][known].groupby(photo[known]).nunique().max() == 1
    assert _home(gaps, "copy-safe", seed) != _home(smoke, "copy-safe", seed)


def test_photos_with_copies_of_each_other_stay_together(smoke: Dataset, copies_are: Callable) -> None:
    photo = smoke.cuts["photo"]
    a, b = (int(np.flatnonzero(photo == one)[0]) for one in sorted(photo.unique())[:2])
    copies_are((a, b, "exact", 1.0))
    ids = group_copies(smoke, "photo-safe").ids
    assert ids[a] == ids[b] and ids.max() + 2 == photo.nunique()


def test_second_call_reads_the_first_ones_result(smoke: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first, copies = make_split(smoke, "random", 1337), find_copies(smoke)
    leaks = find_leaks(smoke, first)
    assert len(leaks)
    for name in ("make.splitfolders.ratio", "registration.search_copies", "check.coarse_maps"):
        monkeypatch.setattr(f"crackutils.splits.{name}", None)
    pd.testing.assert_frame_equal(make_split(smoke, "random", 1337), first)
    pd.testing.assert_frame_equal(find_copies(smoke), copies)
    pd.testing.assert_frame_equal(find_leaks(smoke, first), leaks)


@pytest.mark.parametrize("method", MADE)
def test_the_seed_alone_decides(method: str, smoke: Dataset, data_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    before = random.getstate()
    one, two = make_split(smoke, method, 1), make_split(smoke, method, 2)
    assert random.getstate() == before  # Python's own generator is left alone
    assert (one["split"] != two["split"]).sum() > 20
    assert [h.name.split("-", 2)[2].rpartition("-")[0] for h in homes(data_dir)] == [f"{method}-1", f"{method}-2"]
    for home, manifest in zip(homes(data_dir), (one, two), strict=True):
        assert laid_out(home) == as_listed(manifest)
    assert all((smoke.folder / file).is_file() for file in smoke.index["file"])  # the images stay where they are
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "another"))
    pd.testing.assert_frame_equal(make_split(smoke, method, 1), one)


def test_random_is_what_split_folders_gives(smoke: Dataset, tmp_path: Path) -> None:
    manifest = make_split(smoke, "random", 1337)
    splitfolders.ratio(str(smoke.folder), str(tmp_path / "published"), seed=1337, ratio=(0.7, 0.2, 0.1))
    assert laid_out(tmp_path / "published") == as_listed(manifest) and (manifest["group"] == -1).all()
    assert split_report(smoke, "random", 1337) == {"split_files": 140}


@pytest.mark.parametrize("count", [3, 12])
def test_few_images_without_copies_are_split_and_checked(count: int, data_dir: Path, tree: Callable[..., Path]) -> None:
    tree(data_dir / "raw" / "own", count)
    ds = datasets.load(config.profile("own"))
    for method in MADE:
        manifest = make_split(ds, method, 1337)
        assert len(manifest) == 2 * count and has_all_classes(ds.given, manifest["split"].to_numpy())
        leaks = find_leaks(ds, manifest)
        assert list(leaks) == ["a", "b", "peak"] and leaks.empty  # noise has no copies
    for _ in range(2):  # computed, and read again
        assert find_overlaps(ds).empty and find_overlaps(ds)["a"].dtype == int
    assert len(np.unique(find_mosaics(ds))) == 2 * count and largest_mosaics(ds) == []
    assert check_loops(ds).empty and known_overlaps(ds).empty


def test_odd_names_and_a_changed_image(data_dir: Path, tree: Callable[..., Path]) -> None:
    raw = tree(data_dir / "raw" / "own", 12)
    names = ["a__b, ü 'c'.jpg", "NA.JPG", "day1/1.jpg", "day 2/x/1.jpg", f"{'n' * 246}.jpg", "a\rb.jpg"]
    ds = datasets.load(config.profile("own"))
    files = [f"Negative/{name}" for name in names] + list(ds.index["file"])[len(names) :]
    for old, new in zip(ds.index["file"], files, strict=True):
        (raw / new).parent.mkdir(parents=True, exist_ok=True)
        (raw / old).rename(raw / new)
    ds = replace(ds, index=ds.index.assign(file=files))
    for method in MADE:
        manifest = make_split(ds, method, 3)
        home = next(h for h in homes(data_dir) if f"-{method}-" in h.name)
        for file, part in as_listed(manifest).items():
            assert (home / part / file).read_bytes() == (raw / file).read_bytes()
    fewer = replace(ds, index=ds.index[1:].reset_index(drop=True), grey=ds.grey[1:], colour=ds.colour[1:])
    assert len(make_split(fewer, "random", 3)) == 23  # other images, another split
    assert len(homes(data_dir)) == len(MADE) + 1


@pytest.mark.parametrize(("negative", "positive"), [(60, 4), (5, 60), (9, 40), (26, 20), (10, 10), (21, 20), (3, 3)])
def test_small_and_lopsided_sets_have_both_classes_in_each_part(
    negative: int, positive: int, data_dir: Path, tree: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tree(data_dir / "raw" / "own", max(negative, positive))
    for name, count in zip(config.CLASSES, (negative, positive), strict=True):
        for file in sorted((raw / name).iterdir())[count:]:
            file.unlink()
    ds = datasets.load(config.profile("own"))
    for method in ("copy-safe", "random"):
        manifest = make_split(ds, method, 1337)
        assert has_all_classes(ds.given, manifest["split"].to_numpy())
        assert manifest["split"].value_counts().idxmax() == "train" or len(ds.index) < 10
        assert ("note" in split_report(ds, method, 1337)) == ("SPLIT=" + method in capsys.readouterr().out)
    assert "runs of neighbours are not kept together" in str(split_report(ds, "copy-safe", 1337)) or positive >= 20


def test_groups_are_dealt_out_whole_and_impossible_tests_are_told() -> None:
    rng, none = np.random.default_rng(0), np.full(20, "train")
    for _ in range(200):  # groups of one class and of both, few of a class
        sizes = rng.integers(1, 6, (rng.integers(6, 12), 2)) * rng.integers(0, 2, (1, 2))
        sizes = np.concatenate([sizes, rng.integers(0, 3, (8, 2)) * np.eye(2, dtype=int)[rng.integers(0, 2, 8)]])
        ids, labels = (np.repeat(part, sizes.ravel()) for part in np.indices(sizes.shape).reshape(2, -1))
        ids = np.unique(ids, return_inverse=True)[1]
        split = fill_parts(labels, ids, 1)
        assert pd.Series(split).groupby(ids).nunique().max() == 1
        enough = all(len(np.unique(ids[labels == label])) >= 3 for label in (0, 1))
        assert has_all_classes(labels, split) or not enough
    labels, two = np.repeat([0, 1], 10), np.r_[np.arange(10), [10] * 7, [11] * 3]
    split, note = spread_classes(labels, two, none, 1)
    assert has_all_classes(labels, split) and "of Positive make only 2 groups, so those in val are like" in note
    assert not set(two[split == "test"]) & set(two[split != "test"])  # the test is clean
    with pytest.raises(config.CrackutilsError, match=r"^The 10 images of Positive are copies .* use SPLIT=random"):
        spread_classes(labels, np.minimum(two, 10), none, 1)


def test_a_given_split_is_taken_as_it_is_and_checked(smoke: Dataset, tmp_path: Path, capsys: Any) -> None:
    ds = replace(smoke, folder=tmp_path)
    for file in ds.index["file"]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).symlink_to(smoke.folder / file)

    def refused() -> str:
        with pytest.raises(config.CrackutilsError) as told:
            make_split(ds, "given", 1)
        return str(told.value)

    def give(split: np.ndarray, rows: int = 140) -> None:
        table = pd.DataFrame({"file": ds.index["file"], "split": split})[:rows]
        table.to_csv(tmp_path / "given_split.csv", index=False)

    assert "has none" in refused()
    came = make_split(ds, "random", 5)["split"].to_numpy()
    give(came)
    assert list(make_split(ds, "given", 1)["split"]) == list(came)
    copies = find_copies(ds)
    copies = copies[copies["ncc"] >= SURE_NCC]
    count = leaked_test_images(came, copies)
    told = f"note: SPLIT=given: {count} of {(came == 'test').sum()} test images have a copy in train."
    assert count and told in capsys.readouterr().out
    assert split_report(ds, "given", 1)["test_copies_in_train"] == count
    give(np.where(came == "val", "train", came))  # another table, another split
    part = make_split(ds, "given", 1)["split"].to_numpy()
    assert has_all_classes(ds.given, part) and list(part == "test") == list(came == "test")
    assert "it had no val" in capsys.readouterr().out and 0.1 < (part == "val").sum() / (part != "test").sum() < 0.3
    give(np.where(came == "test", "train", came))
    assert list(make_split(ds, "given", 1)["split"] == "test") == list(came == "val")
    give(came, 138)
    assert "gives no part to 2 images (Positive/00069.jpg, Positive/00070.jpg)" in refused()
    give(np.where(ds.given == 1, "train", came))
    assert "leaves no image of Positive in test" in refused()
    (tmp_path / "given_split.csv").write_text("file;split\n")
    assert "has not the columns file,split, in UTF-8, with commas. Fetch" in refused()
    one = with_photos(ds, np.where(came == "test", ds.cuts["photo"], 1000))
    give(np.where(came == "val", "train", came))  # all training images are of one photo
    part = make_split(one, "given", 1)["split"].to_numpy()
    assert has_all_classes(ds.given, part) and "are val, by images, for they are one group" in capsys.readouterr().out


@pytest.fixture(scope="module")
def planted(smoke: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[tuple[int, ...], str]]:
    """The smoke images with copies of twenty of them, and the kind of each such pair of rows: exact, or same."""
    home = tmp_path_factory.mktemp("planted")
    raw, kinds = home / "raw" / "own", {}
    for name in config.CLASSES:
        shutil.copytree(smoke.folder / name, raw / name)
    for i, file in enumerate(smoke.index.drop_duplicates("sha256", keep=False)["file"].sample(20, random_state=1)):
        copy = file.replace(".jpg", "_copy.jpg")
        if i < 10:
            shutil.copyfile(raw / file, raw / copy)
        else:
            Image.open(raw / file).save(raw / copy, quality=60)
        kinds[file, copy] = "exact" if i < 10 else "same"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(home))
        ds = datasets.load(config.profile("own"))
    row = {file: k for k, file in enumerate(ds.index["file"])}
    return ds, {tuple(sorted(row[file] for file in pair)): kind for pair, kind in kinds.items()}


def test_copies_and_mosaics_of_the_sample(smoke: Dataset) -> None:
    found, sha = find_copies(smoke), smoke.index["sha256"]
    assert list(found) == ["a", "b", "dy", "dx", "ncc", "kind"]
    assert (found["a"] < found["b"]).all() and not found.duplicated(["a", "b"]).any()
    assert (found["ncc"] > COPY_NCC).all()
    exact = found[found["kind"] == "exact"]
    assert sha[exact["a"]].tolist() == sha[exact["b"]].tolist()
    again = np.flatnonzero(sha.duplicated())
    assert len(again) >= 2 and set(again) <= set(exact["b"])  # of three equal ones all pairs may be listed
    at, photo, known = smoke.cuts[["y", "x"]].to_numpy(), smoke.cuts["photo"].to_numpy(), known_overlaps(smoke)
    assert (photo[found["a"]] == photo[found["b"]]).mean() >= 0.95
    np.testing.assert_allclose(found[["dy", "dx"]], (at[found["a"]] - at[found["b"]]) / 227, atol=0.01)
    near = known[(np.abs(at[known["a"]] - at[known["b"]]) <= 0.2 * 227).all(1)]
    assert len(near) > 20 and pair_set(near) <= pair_set(found)
    every, sure = find_mosaics(smoke), find_mosaics(smoke, SURE_SCORE)  # surer links make smaller mosaics
    assert len(np.unique(sure)) > len(np.unique(every)) and pd.Series(every).groupby(sure).nunique().max() == 1


@pytest.fixture
def copies_are(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the grouping see these copies (a, b, kind, ncc) and no others."""

    def put(*rows: tuple[int, int, str, float]) -> None:
        table = pd.DataFrame(rows, columns=["a", "b", "kind", "ncc"]).astype({"a": int, "b": int})
        monkeypatch.setattr("crackutils.splits.make.find_copies", lambda ds: table.assign(dy=0.1, dx=0.0))

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


@pytest.mark.parametrize("some", [False, True])
def test_runs_join_neighbours_of_unknown_photos(some: bool, smoke: Dataset, copies_are: Callable) -> None:
    copies_are()
    known = (smoke.index["number"] % 2 == 0) & some  # photos of no image, or of every second
    grouped = group_copies(with_photos(smoke, smoke.cuts["photo"].where(known, -1)))
    table = smoke.index.assign(group=grouped.ids, photo=smoke.cuts["photo"])
    assert not set(table.loc[known, "group"]) & set(table.loc[~known, "group"])
    assert not known.any() or table[known].groupby("photo")["group"].nunique().max() == 1
    assert table.loc[~known & (table["label"] == 0), "group"].is_unique
    positive = table[~known & (table["label"] == 1)].sort_values("number")
    runs = positive.assign(rank=range(len(positive))).groupby("group")["rank"].agg(["min", "max", "size"])
    assert (runs["max"] - runs["min"] == runs["size"] - 1).all()
    joined, cut = links(grouped, "run")
    assert joined + cut == len(positive) - 1
    assert grouped.report["groups"] == (~known).sum() - joined + table.loc[known, "photo"].nunique()


def test_all_patches_of_a_photo_are_one_group_whatever_the_cap(smoke: Dataset, copies_are: Callable) -> None:
    copies_are()
    grouped, photo = group_copies(smoke), smoke.cuts["photo"]
    together = pd.DataFrame({"photo": photo, "group": grouped.ids}).drop_duplicates()
    assert together["photo"].is_unique and together["group"].is_unique
    assert grouped.report["largest"] == photo.value_counts().max() > grouped.report["cap"]
    assert links(grouped, "photo") == (140 - photo.nunique(), 0)
    assert links(grouped, "run") == (0, 0)  # runs say nothing where photos are known
    first = photo.drop_duplicates()[:2]
    copies_are((*sorted(first.index), "same", 0.95))  # a copy joins two photos
    grouped = group_copies(smoke)
    assert len(set(grouped.ids[photo.isin(first)])) == 1 and grouped.report["groups"] == photo.nunique() - 1


def test_planted_copies_are_found_with_their_kind_and_as_leaks(planted: tuple[Dataset, dict], smoke: Dataset) -> None:
    ds, kinds = planted
    copies = find_copies(ds).set_index(["a", "b"])["kind"]
    assert {pair: copies.get(pair) for pair in kinds} == kinds
    pairs, rows = np.array(list(kinds)), np.arange(len(ds.index))
    apart = np.full(len(rows), "train", object)
    apart[pairs[::2, 1]], apart[pairs[1::2, 1]] = "val", "test"
    apart[pairs[1, 0]] = "val"  # leaks of test are looked for in val too
    found = find_leaks(ds, pd.DataFrame({"split": apart}))
    a, b = apart[found["a"]], apart[found["b"]]
    assert set(a) == {"val", "test"} and set(b[a == "val"]) == {"train"} and set(b[a == "test"]) == {"val", "train"}
    assert found["peak"].between(PHASE_PEAK, 1.01).all() and set(kinds) <= pair_set(found)
    photo = ds.index["file"].str.replace("_copy", "").map(smoke.cuts.set_index("file")["photo"]).to_numpy()
    assert (photo[found["a"]] == photo[found["b"]]).mean() >= 0.9
    away, together = rows[apart != "train"], np.full(len(rows), "train", object)
    together[np.setdiff1d(rows, pairs)[: len(away)]] = apart[away]  # another split of the same sizes is no mistake
    assert not set(kinds) & pair_set(find_leaks(ds, pd.DataFrame({"split": together})))


def test_the_check_finds_what_is_planted_and_nothing_else(smoke: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    table = planted_recall(smoke)
    assert list(table) == ["kind", "planted", "found", "recall", "false_alarms"]
    assert tuple(table["kind"]) == PLANTED == ("shifted", "re-encoded", "brighter", "all three")
    assert table["planted"].eq(35).all() and table["false_alarms"].le(4).all() and table["recall"].ge(0.9).all()
    assert (table["recall"] == table["found"] / table["planted"]).all()
    pd.testing.assert_frame_equal(planted_recall(smoke), table)

    def elsewhere(ds: Dataset, row: int, *how: object) -> np.ndarray:  # copies that show another place
        return np.stack([ds.grey[row - 40]] * 3, 2) if how else crop_window(ds, row)

    monkeypatch.setattr("crackutils.splits.check.crop_window", elsewhere)
    assert (planted_recall(smoke, 40)["recall"] <= 0.2).all()


def test_photo_safe_keeps_what_overlaps_together_where_nothing_is_known(metu_like: Dataset) -> None:
    links = find_overlaps(metu_like)
    for method, least, most in (("random", 5, 140), ("photo-safe", 0, 0)):
        part = make_split(metu_like, method, 3)["split"].to_numpy()
        assert least <= leaked_test_images(part, links) <= most
    flipped = with_photos(replace(metu_like, index=metu_like.index.assign(label=1 - metu_like.index["label"])), -1)
    for method in ("copy-safe", "photo-safe"):
        ids = group_copies(metu_like, method).ids
        np.testing.assert_array_equal(group_copies(flipped, method).ids, ids)  # corrected labels change no group
    assert ids[links["a"]].tolist() == ids[links["b"]].tolist()  # those of photo-safe
    assert np.bincount(ids).max() <= max(len(ids) / (2 * BUNDLES), np.bincount(find_mosaics(metu_like)).max())


def test_photos_are_cut_down_to_what_a_split_can_hold(metu_like: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    n = len(metu_like.index)
    mosaic = np.r_[np.zeros(40, int), np.arange(1, n - 39)]  # a big mosaic, which may not be cut, and single crops
    monkeypatch.setattr("crackutils.splits.overlaps.find_mosaics", lambda ds: mosaic)
    sizes = np.sort(np.bincount(estimate_photos(metu_like, n)))[::-1]
    assert sizes[0] >= 40 and (sizes[1:] <= n / (2 * BUNDLES)).all()


def test_impossible_splits_are_refused(smoke: Dataset) -> None:
    with pytest.raises(config.CrackutilsError, match=r"photo-safe needs at least 10 photos.*Use SPLIT=copy-safe"):
        make_split(with_photos(smoke, np.arange(len(smoke.index)) % 4), "photo-safe", 1337)
    with pytest.raises(config.CrackutilsError, match=r"^SPLIT=copysafe is unknown \(did you mean copy-safe\?\)"):
        make_split(smoke, "copysafe", 1337)
