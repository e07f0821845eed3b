"""Audit and slices: measures, overlaps and mosaics, planted copies and labels, leakage, quality."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from crackutils import config, datasets
from crackutils.audit import labels, mosaics
from crackutils.audit.copies import compare_copy_detectors, largest_groups, score_planted_copies
from crackutils.audit.leakage import count_relatives, measure_leakage, protocol_table, summarize_leakage
from crackutils.datasets import Dataset
from crackutils.slices import SLICES, hard_slices, measure_images, score_slices
from crackutils.splits.make import make_split
from crackutils.splits.overlaps import estimate_photos, find_mosaics, find_overlaps


def blobs(n: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Return features of two classes, `apart` deviations between their means in four of twenty dimensions."""
    y = np.arange(n) % 2
    x = np.random.default_rng(0).normal(size=(n, 20)).astype(np.float32)
    x[:, :4] += apart * y[:, None]
    return x, y


def drawn(width: int, level: int = 180, depth: int = 120, blur: bool = False) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(1).normal(level, 5, (128, 128)).clip(0, 255).astype(np.uint8))
    if width:
        ImageDraw.Draw(image).line([(5, 10), (120, 110)], fill=level - depth, width=width)
    small = image.resize((24, 24)) if blur else image
    return np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC))


def test_measures_follow_what_is_in_the_picture(smoke: Dataset) -> None:
    m, cracked = measure_images(smoke), smoke.index["label"] == 1
    assert m.equals(measure_images(smoke))  # read again
    for measured, known in (("width", "width"), ("depth", "step")):
        assert m.loc[cracked, measured].corr(smoke.cuts.loc[cracked, known].astype(float), "spearman") > 0.6
    next(smoke.cache.glob("measures*")).unlink()
    images = (drawn(2), drawn(12), drawn(12, depth=25), drawn(12, 90, 60), drawn(12, blur=True), drawn(0))
    thin, wide, faint, dark, blurred, none = measure_images(replace(smoke, grey=np.stack(images))).to_dict("records")
    assert thin["width"] < 0.5 * wide["width"]
    assert wide["length"] > 0.9 and none["length"] < 0.2
    assert faint["depth"] < 0.5 * wide["depth"]
    assert dark["brightness"] < 0.6 * wide["brightness"]
    assert blurred["sharpness"] < 0.7 * wide["sharpness"]


def test_slices_hold_a_tenth_of_their_kind_and_their_errors_are_counted(smoke: Dataset) -> None:
    held, label = hard_slices(smoke), smoke.index["label"]
    assert tuple(held) == SLICES
    for name in ("thin", "faint"):
        assert held[name].sum() == int(0.1 * (label == 1).sum()) and (label[held[name]] == 1).all()
    assert (label[held["line-like"]] == 0).all() and held["line-like"].any()
    assert held["dark"].sum() == int(0.1 * len(label)) and not held["doubtful label"].any()
    p = np.where(held["dark"], 1 - label, label) * 0.8 + 0.1  # wrong in the dark only
    scores = score_slices(smoke, smoke.index[["file", "label"]].assign(p_crack=p))
    assert (scores[0]["slice"], scores[0]["accuracy"]) == ("dark", 0)
    assert scores[0]["errors"] == scores[0]["n"] == held["dark"].sum()
    assert scores == sorted(scores, key=lambda row: row["accuracy"])


def test_overlaps_are_those_of_the_photos(smoke: Dataset) -> None:
    known, found = mosaics.known_overlaps(smoke), find_overlaps(smoke)
    photo = smoke.cuts["photo"].to_numpy()
    assert (photo[known["a"]] == photo[known["b"]]).all()
    table = mosaics.score_overlaps(smoke).set_index("overlap")
    assert table.loc["all", "recall"] > 0.85 and table.loc["all", "precision"] > 0.95
    assert table["recall"].iloc[-2] > 0.95  # half and more in common
    both = found.merge(known, on=["a", "b"], suffixes=("", "_known"))
    np.testing.assert_allclose(both["area"], both["area_known"], atol=0.06)
    for axis, shift in (("x", "dx"), ("y", "dy")):
        at = smoke.cuts[axis].to_numpy()
        np.testing.assert_allclose(both[shift], (at[both["b"]] - at[both["a"]]) / 227, atol=0.03)
    unknown = replace(smoke)
    vars(unknown)["cuts"] = smoke.cuts[["file"]].assign(photo=-1)
    assert mosaics.known_overlaps(unknown).empty and mosaics.score_overlaps(unknown).empty


def test_stitched_crops_agree_with_the_photo(smoke: Dataset) -> None:
    rows = max(mosaics.largest_mosaics(smoke), key=len)
    assert len(rows) >= 4
    sides = np.ptp(smoke.cuts[["y", "x"]].iloc[rows].to_numpy(), axis=0) + 227
    assert mosaics.stitch(smoke, rows).shape == (pytest.approx(sides[0], abs=8), pytest.approx(sides[1], abs=8), 3)
    mosaic = find_mosaics(smoke)
    row = np.flatnonzero(mosaic == np.flatnonzero(np.bincount(mosaic) == 1)[0])
    np.testing.assert_array_equal(mosaics.stitch(smoke, row), smoke.read(int(row[0])))


def test_loops_of_overlaps_close_and_a_wrong_link_shows(smoke: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    table, links, mosaic = mosaics.check_loops(smoke), find_overlaps(smoke), find_mosaics(smoke)
    assert len(table) > 20 and table["agrees"].mean() > 0.98
    trees = links[["a", "b"]].groupby(mosaic[links["a"]]).apply(lambda part: len(np.unique(part)) - 1)
    assert len(table) == len(links) - trees.sum()
    loop = table.iloc[0]
    wrong = links.copy()
    wrong.loc[(links["a"] == loop["a"]) & (links["b"] == loop["b"]), "dx"] += 0.4
    monkeypatch.setattr("crackutils.audit.mosaics.find_overlaps", lambda ds: wrong)
    assert mosaics.check_loops(smoke)["agrees"].sum() == table["agrees"].sum() - 1
    shown = np.concatenate(mosaics.largest_mosaics(smoke))
    assert loop["a"] not in shown and loop["b"] not in shown


def test_mosaics_are_counted_and_numbered_from_one(smoke: Dataset) -> None:
    counts, size = mosaics.mosaic_counts(smoke), np.bincount(find_mosaics(smoke))
    assert (counts["two_and_more"], counts["largest"]) == ((size > 1).sum(), size.max())
    ids = mosaics.group_ids(smoke, np.zeros(len(smoke.index), int))
    assert ids["mosaic"].dropna().unique().size == counts["two_and_more"] and ids["mosaic"].min() == 1
    assert ids["mosaic"].value_counts().max() == counts["largest"] and ids["mosaic"].isna().sum() == (size == 1).sum()
    own = ids["mosaic"].notna().groupby(smoke.index["label"]).mean()
    assert list(counts["share"].values()) == pytest.approx(list(own), abs=1e-6)


def test_ids_are_those_of_their_rows(smoke: Dataset) -> None:
    photo, mosaic = np.arange(len(smoke.index)) * 7, find_mosaics(smoke)
    ids = mosaics.group_ids(smoke, photo)
    assert ids["file"].equals(smoke.index["file"]) and (ids["photo"] == photo).all()
    known = ids["mosaic"].notna().to_numpy()
    pairs = set(zip(mosaic[known], ids["mosaic"][known], strict=True))
    assert len(pairs) == ids["mosaic"].nunique() == len(set(mosaic[known])) == ids["mosaic"].max()


def test_relatives_in_training_are_counted() -> None:
    parts = pd.DataFrame({"split": ["train", "train", "val", "test", "test"]})
    pairs = pd.DataFrame({"a": [0, 2, 3], "b": [3, 4, 4]})
    expected = {"test": 2, "with copy": 1, "with overlap": 0}
    assert count_relatives({"random": parts}, {"copy": pairs, "overlap": pairs[1:]}) == {"random": expected}


def test_photos_join_mosaics_and_cut_none(smoke: Dataset) -> None:
    mosaic, photo = find_mosaics(smoke), estimate_photos(smoke, 10)
    assert pd.Series(photo).groupby(mosaic).nunique().max() == 1
    assert len(np.unique(photo)) < len(np.unique(mosaic))
    known = smoke.cuts["photo"].to_numpy()
    alone, joined = (mosaics.score_grouping(ids, known) for ids in (mosaic, photo))
    assert alone["precision"] > 0.9 and joined["recall"] > alone["recall"]
    assert mosaics.score_grouping(known, known) == {"recall": 1, "precision": 1, "rand": 1}


def test_planted_copies_are_found(smoke: Dataset) -> None:
    table = score_planted_copies(smoke, 40).set_index("kind")
    assert table.loc["all", "planted"] == 40 and table.loc["re-encoded", "recall"] == 1
    assert table.loc["all", "recall"] >= 0.75 and table.loc["all", "precision"] > 0.9


def test_detectors_of_copies(smoke: Dataset) -> None:
    x = np.random.default_rng(0).normal(size=(len(smoke.index), 8)).astype(np.float32)
    table = compare_copy_detectors(smoke, x).set_index("way")
    exact = smoke.index["sha256"].duplicated(keep=False).sum()
    assert exact > 0 and table.loc["exact: equal bytes"].tolist() == [exact, 1]
    groups = largest_groups(5, pd.DataFrame({"a": [0, 1], "b": [1, 4]}), 3)
    assert [rows.tolist() for rows in groups] == [[0, 1, 4]]


def test_flipped_labels_are_the_first_suspects() -> None:
    x, y = blobs(600, 3)
    found = labels.score_planted_labels(x, y, np.arange(600), 0.02)
    assert found["planted"] == 12 and min(found["recall"], found["called_recall"]) > 0.9


def test_a_group_is_scored_by_models_that_saw_none_of_it() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(rng.integers(0, 2, 100), 4)
    x = np.repeat(rng.normal(size=(100, 30)), 4, axis=0).astype(np.float32)  # equal fours, nothing to learn
    groups = (np.arange(400), np.repeat(np.arange(100), 4))
    alone, together = (labels.out_of_fold(x, y, ids)["neighbours"] for ids in groups)
    assert ((together >= 0.5) == y).mean() < 0.65 < ((alone >= 0.5) == y).mean()
    with pytest.raises(config.CrackutilsError, match="all of one class"):
        labels.out_of_fold(x, np.zeros(400, int), np.arange(400))


def test_corrections_change_training_and_test() -> None:
    x, y = blobs(500, 4)
    given = np.where(np.arange(500) < 10, 1 - y, y)
    manifest = pd.DataFrame({"split": np.resize(["train"] * 7 + ["val"] * 2 + ["test"], 500)})
    table = labels.compare_corrections(x, given, y, manifest).set_index("trained_with")
    assert table["changed"].to_dict() == {"given": 0, "corrected": 9} and table["changed_test"].eq(1).all()
    assert (table["errors_given"] - table["errors_corrected"]).tolist() == [1, 1]


def test_corrected_labels(smoke: Dataset, smoke_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(smoke_home))
    with pytest.raises(config.CrackutilsError, match="LABELS=right is unknown"):
        datasets.load(smoke.profile, "right")
    monkeypatch.setattr(config, "AUDIT", tmp_path)
    with pytest.raises(config.CrackutilsError, match="which PROFILE=smoke does not have"):
        datasets.load(smoke.profile, "corrected")
    assert labels.estimate_unread(smoke) == {}
    first = int(np.flatnonzero(smoke.given == 1)[0])
    table = smoke.index.iloc[[0, first, 1]][["file", "sha256"]].assign(label="?", reason="seen")
    table.assign(verdict=["crack", "no crack", "ambiguous"]).to_csv(tmp_path / "smoke_labels.csv", index=False)
    ds = datasets.load(smoke.profile, "corrected")
    assert np.flatnonzero(ds.index["label"] != smoke.index["label"]).tolist() == [0, first]
    assert ds.sha256 == smoke.sha256 and (ds.given == smoke.given).all()
    assert hard_slices(ds)["doubtful label"].sum() == 3
    manifest, before = make_split(ds, "copy-safe", 1), make_split(smoke, "copy-safe", 1)
    assert (manifest["split"] == before["split"]).all()  # the same split, so that the two can be compared
    assert np.flatnonzero(manifest["label"] != before["label"]).tolist() == [0, first]
    other = replace(smoke, index=smoke.index.assign(sha256="0" * 64))
    with pytest.raises(config.CrackutilsError, match=r"smoke_labels\.csv"):
        datasets.label_verdicts(other)


def test_published_tables_of_metu_are_whole_and_fit_each_other() -> None:
    files = (config.AUDIT / f"metu_{name}.csv" for name in ("labels", "reads", "groups"))
    table, reads, groups = map(pd.read_csv, files)
    table, groups = (t.set_index("file", verify_integrity=True) for t in (table, groups))
    assert (reads["drawn"] == "again").equals(reads["file"].duplicated())  # in the second audit
    reads = reads.sort_values("audit").drop_duplicates("file", keep="last").set_index("file")
    assert table["reason"].str.len().between(10, 120).all()
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert (table.index.str.split("/").str[0] == table["label"]).all()
    assert (table.loc[["Negative/07903.jpg", "Negative/02432.jpg"], "verdict"] == "crack").all()
    assert (table.loc[["Positive/02730.jpg", "Positive/08303.jpg"], "verdict"] == "no crack").all()
    doubted = table["verdict"].map({"crack": "Negative", "no crack": "Positive", "ambiguous": "either"})
    assert ((doubted == table["label"]) | (doubted == "either")).all() and (doubted == "either").any()  # only doubts
    assert set(reads["drawn"]) == {"suspect", "random", "control", "again"}
    assert table["verdict"].equals(reads.loc[table.index, "verdict"])
    agreed = reads[reads["first"] == reads["second"]]
    given = np.where(agreed.index.str.startswith("Positive"), "crack", "no crack")
    assert set(agreed.index[agreed["first"] != given]) <= set(table.index)  # nothing that was doubted is left out
    assert list(groups) == ["mosaic", "photo"] and groups["mosaic"].isna().any()
    assert groups.groupby("mosaic")["photo"].nunique().max() == 1 and groups.groupby("mosaic").size().min() >= 2


def test_the_page_counts_what_the_second_audit_read() -> None:
    reads, page = pd.read_csv(config.AUDIT / "metu_reads.csv"), (config.ROOT / "docs" / "audit.md").read_text("utf-8")
    first = reads[reads["audit"] == 1].set_index("file")["verdict"]
    second = reads[reads["audit"] == 2].assign(before=lambda t: t["file"].map(first).fillna("unread"))
    kinds = second["drawn"] + second["before"] + second["file"].str.split("/").str[0]
    counts = pd.crosstab(kinds, second["verdict"])[["crack", "ambiguous", "no crack"]]
    table = page.partition("| Read in the second audit |")[2].partition("\n\n")[0].splitlines()[2:]
    shown = [tuple(map(int, line.strip("| ").split(" | ")[1:])) for line in table]
    assert sorted(shown) == sorted((sum(row), *row) for row in counts.itertuples(index=False))
    assert f"{reads['file'].nunique():,} images were opened and read" in page


def test_quality_calls_a_black_picture_dark(data_dir: Path, tree) -> None:
    folder = tree(data_dir / "raw" / "own", 6, 64)
    Image.new("RGB", (64, 64), (2, 2, 2)).save(folder / "Negative" / "00007.png")
    ds = datasets.load(config.profile("own"))
    table = labels.image_quality(ds)
    assert table["row"].tolist() == list(range(13))
    assert ds.index["file"][table.loc[table["is_dark_issue"], "row"]].tolist() == ["Negative/00007.png"]


def test_leakage_shows_in_the_nearest_neighbour() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(rng.integers(0, 2, 200), 2)
    x = (np.repeat(rng.normal(size=(200, 20)), 2, axis=0) + 0.01 * rng.normal(size=(400, 20))).astype(np.float32)
    twins = pd.DataFrame({"a": np.arange(0, 400, 2), "b": np.arange(1, 400, 2)})
    groups = {"random": np.arange(400), "safe": np.repeat(np.arange(200), 2)}
    table = measure_leakage(x, y, groups, {"copy": twins}, range(3))
    assert (table.groupby(["method", "seed", "head"])["n"].sum() == 400).all()
    tested = table[table["part"] == "test"]
    assert not tested.query("method == 'safe'")["in_training"].any()
    rate = summarize_leakage(tested).set_index(["head", "method"])["error_rate"]
    assert rate["nearest", "random"] < 0.5 * rate["nearest", "safe"]
    nearest = tested.query("method == 'random' and head == 'nearest'")
    with_twin = summarize_leakage(nearest, ("in_training",)).set_index("in_training")["error_rate"]
    assert with_twin[True] == 0 < with_twin[False]
    assert nearest.groupby("seed")["n"].sum().between(38, 42).all()


def test_leakage_summary_and_what_other_protocols_report() -> None:
    table = pd.DataFrame({"head": "linear", "method": "random", "seed": [0, 1, 2], "n": 100, "errors": [1, 2, 3]})
    (row,) = summarize_leakage(table).to_dict("records")
    assert (row["error_rate"], row["low"], row["splits"]) == (0.02, 0, 3)
    assert row["high"] - 0.02 == pytest.approx(4.303 * 0.01 / np.sqrt(3), abs=1e-4)  # Student's t, two degrees
    cells = {("random", "train"): 9, ("random", "val"): 10, ("random", "test"): 20, ("copy-safe", "test"): 32}
    cells |= {("photo-safe", "test"): 40}
    rows = [{"head": "linear", "method": m, "part": p, "n": 1000, "errors": e} for (m, p), e in cells.items()]
    table = protocol_table(pd.DataFrame(rows))
    assert table["flattery"].iloc[1:].tolist() == [4.0, 2.0, 1.25, 1.0]
    assert np.isnan(table["flattery"].iloc[0])
