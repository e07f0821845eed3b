"""Models entered by their predictions, masks judged by true ones, and splits as plain tables."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from test_runs import MANIFEST, fake_predictions

from crackutils import config, datasets
from crackutils.cli import main
from crackutils.comparison.tables import best_by_validation, cost_table, select_standard, summarize_runs
from crackutils.decisions import chosen_metrics, decision_metrics
from crackutils.evaluation.masks import evaluate_masks
from crackutils.evaluation.predictions import BENCHMARK, ENTERED, read_entry
from crackutils.files import sha256
from crackutils.inspection.truth import score_counts
from crackutils.metrics import wilson
from crackutils.recipes import RECIPES
from crackutils.runs import collect_runs, open_run, read_predictions, score_parts
from crackutils.splits.make import make_split
from tools.plan_series import plan
from tools.reference import differences, make_reference
from tools.run_series import hash_inputs
from tools.tables import write_benchmark

Capture = pytest.CaptureFixture[str]
WHERE = "PROFILE=metu-half SPLIT=copy-safe SPLIT_SEED=1337"
ALL = fake_predictions(3)[["file", "split", "p_crack"]]
ROWS = ALL[ALL["split"] == "test"].drop(columns="split").reset_index(drop=True)
FIRST, TRAINED = ROWS["file"][0], "Negative/00004.jpg"


def csv(table: pd.DataFrame, **options: str) -> bytes:
    return table.to_csv(index=False, **options).encode()


def with_first(**changes: object) -> bytes:
    table = ROWS.astype(object)
    for column, value in changes.items():
        table.loc[0, column] = value
    return csv(table)


FAULTY = {  # content, and what is said of it
    "missing image": (csv(ROWS[1:]), f"lacks 1 of the 60 images in test of {WHERE} ({FIRST}). Add them."),
    "unknown image": (with_first(file="Positive/x.jpg"), f"not in test of {WHERE} (first: Positive/x.jpg: unknown or "),
    "image of another part": (with_first(file=TRAINED), f"in 1 of 60 rows the image is not in test of {WHERE}"),
    "another profile": (csv(ROWS.replace("/00", "/1", regex=True)), "in 60 of 60 rows the image is not in test of"),
    "twice": (csv(pd.concat([ROWS, ROWS[:1]])), f"in 1 of 61 rows the image stood in a row before (first: {FIRST})"),
    "above 1": (with_first(p_crack=1.5), "in 1 of 60 rows p_crack is outside [0, 1] (first: Negative/00001.jpg: 1.5)"),
    "logits": (csv(ROWS.assign(p_crack=20 * ROWS["p_crack"] - 9)), "They look like logits: apply the sigmoid."),
    "NaN": (with_first(p_crack="nan"), f"in 1 of 60 rows p_crack is no number (first: {FIRST}: nan)"),
    "nothing for an image": (with_first(p_crack=""), "in 1 of 60 rows p_crack is no number"),
    "the truth": (csv(ROWS.rename(columns={"p_crack": "label"})), "has not one column p_crack. Its first line must be"),
    "other columns": (csv(ROWS.rename(columns={"file": "id", "p_crack": "y"})), "not one column file and p_crack."),
    "empty": (b"", "has not one column file and p_crack. Its first line must be file,p_crack."),
    "no row": (b"file,p_crack\n", f"lacks 60 of the 60 images in test of {WHERE}"),
    "training images": (csv(ROWS.assign(split="train")), "in 60 of 60 rows the split is not val or test"),
    "some validation images": (csv(ALL[:-1]), "lacks 1 of the 180 images in test and val of PROFILE=metu-half"),
    "a name for two images": (csv(ROWS.replace(r".*/", "", regex=True)), "(first: 00001.jpg: unknown or ambiguous, 0"),
    "another class folder": (with_first(file="Positive/n1.jpg"), "(first: Positive/n1.jpg: unknown or ambiguous)"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_table_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    content, said = FAULTY[kind]
    (file := tmp_path / "p.csv").write_bytes(content)
    manifest = MANIFEST.replace("Negative/00005.jpg", "Negative/n1.jpg")  # of no other class
    with pytest.raises(config.CrackutilsError) as error:
        read_entry(file, manifest, "test", WHERE)
    assert said in str(error.value) and "\n" not in str(error.value)


UNIQUE = MANIFEST.assign(file=[f"{file[:-4]}-{k}.jpg" for k, file in enumerate(MANIFEST["file"])])
NAMES = UNIQUE.set_index(MANIFEST["file"])["file"]
KINDS = {  # how people write names and numbers
    "as documented": (csv, lambda name: name),
    "semicolons and decimal commas": (lambda table: csv(table, sep=";", decimal=","), lambda name: name),
    "byte-order mark": (lambda table: b"\xef\xbb\xbf" + csv(table), lambda name: name),
    "backslashes": (csv, lambda name: name.replace("/", "\\")),
    "folders above": (csv, lambda name: f"C:\\data\\test\\{name}"),
    "without class folder": (csv, lambda name: name.partition("/")[2]),
    "other order, columns": (lambda t: csv(t[::-1].rename(columns={"file": "Image", "p_crack": "Probability"})), str),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_read_as_people_write_it(kind: str, tmp_path: Path, capsys: Capture) -> None:
    write, spell = KINDS[kind]
    (file := tmp_path / "p.csv").write_bytes(write(ROWS.assign(file=[spell(NAMES[name]) for name in ROWS["file"]])))
    table = read_entry(file, UNIQUE, "test", WHERE)
    wanted = fake_predictions(3).query("split == 'test'").reset_index(drop=True)
    pd.testing.assert_frame_equal(table, wanted.assign(file=NAMES[wanted["file"]].to_numpy()), check_exact=True)
    assert capsys.readouterr().out.startswith("p.csv: 60 rows, UTF-8")


def test_folders_in_a_name_count(tmp_path: Path) -> None:
    deep = UNIQUE.assign(file=UNIQUE["file"].str.replace("/", "/day2/", regex=False))
    table = ROWS.assign(file=[NAMES[name].replace("/", "/day2/") for name in ROWS["file"]])
    below = table["file"].str.partition("/")[2]
    (file := tmp_path / "p.csv").write_bytes(csv(table.assign(file="/mine/" + below)))
    assert read_entry(file, deep, "test", WHERE)["file"].tolist() == table["file"].tolist()
    file.write_bytes(csv(table.assign(file=below.str.replace("day2", "day1"))))
    with pytest.raises(config.CrackutilsError, match="60 of 60 rows the image is not in test"):
        read_entry(file, deep, "test", WHERE)


def test_classes_instead_of_probabilities_are_named(tmp_path: Path, capsys: Capture) -> None:
    words = np.where(ROWS["p_crack"] >= 0.5, "Positive", "Negative")
    for column in (words, (words == "Positive").astype(int)):
        (file := tmp_path / "p.csv").write_bytes(csv(ROWS.assign(p_crack=column)))
        assert read_entry(file, MANIFEST, "test", WHERE)["p_crack"].tolist() == (words == "Positive").tolist()
        assert "note: p.csv holds classes, no probabilities" in capsys.readouterr().out


def test_an_outside_model_is_judged_as_ours_and_stands_beside_them(
    smoke: datasets.Dataset, smoke_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(smoke_home))
    manifest = make_split(smoke, "copy-safe", config.DEFAULT_SEED)
    rows = manifest[manifest["split"] != "train"][["file", "split", "label"]].reset_index(drop=True)
    p = np.random.default_rng(0).uniform(0.05, 0.6, len(rows))
    rows["p_crack"] = np.where(rows["label"] == 1, 1 - p, p).astype(np.float32)
    ours = open_run("04_simple_cnn", smoke.profile, recipe=RECIPES["simple-cnn"])
    sizes = {"model": {"parameters": 1, "bytes": 2}}
    found = ours.write_predictions(rows) | decision_metrics(rows, smoke, manifest) | sizes
    ours.finish(smoke, manifest, found, {"train": 60.0, "images_per_second": 9.0})
    parts = {part: tmp_path / f"{part}.csv" for part in ("val", "test")}
    for part, file in parts.items():
        rows[rows["split"] == part][["file", "p_crack"]].to_csv(file, index=False)
    jobs = plan(["05"], {"PROFILE": "smoke"})
    before = [hash_inputs(job, smoke.profile, smoke.sha256) for job in jobs]
    command = ["evaluate", str(parts["test"]), "--profile", "smoke", "--name", "outside net"]
    assert main(command) == 0
    out = capsys.readouterr().out
    after = [hash_inputs(job, smoke.profile, smoke.sha256) for job in jobs]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False]  # 05 runs again
    monkeypatch.setattr(config, "REFERENCE", tmp_path / "reference")
    make_reference("smoke")
    assert [path.name for path in (tmp_path / "reference" / "smoke").iterdir()] == ["04_simple_cnn"]
    told = "no predictions for validation images: the threshold is 0.5, and no temperature is fitted"
    assert told in out and "not distinguishable" in out and "recall 0.999" not in out
    alone = collect_runs("smoke")[-1]
    assert (alone["run"], alone["notebook"]) == ("outside-net", ENTERED)
    assert "val" not in alone and alone["decision"]["threshold"] is None and "seed" not in alone["settings"]
    assert best_by_validation(collect_runs("smoke")) == "simple-cnn"
    for name in ("figures/mine.png", "checkpoints/epoch1.pt", "model/model.weights.h5"):  # beside the entry
        (alone["folder"] / name).parent.mkdir(exist_ok=True)
        (alone["folder"] / name).write_text("mine")
    os.utime(alone["folder"] / "figures" / "mine.png", (1, 1))
    shutil.copytree(alone["folder"], alone["folder"].with_name("a copy"))
    assert main(command) == 0 and len([*alone["folder"].glob("*/m*")]) + len([*alone["folder"].glob("*/*.pt")]) == 3
    capsys.readouterr()
    assert main([*command, "--validation", str(parts["val"])]) == 2
    assert "holds other predictions. Give another --name, or" in capsys.readouterr().err
    assert main([*command, "--validation", str(parts["val"]), "--force"]) == 0
    assert "on validation images)" in (out := capsys.readouterr().out) and told not in out
    assert f"-> {alone['folder']}; make run-05 PROFILE=smoke" in out
    runs = collect_runs("smoke")
    assert [run["run"] for run in runs] == ["simple-cnn", "outside-net"]
    for name in ("val", "test", "calibration", "decision", "intervals", "slices", "data"):
        assert runs[0][name] == runs[1][name], name  # the same predictions, the same judgement
    assert read_predictions(alone["folder"]).equals(read_predictions(ours.folder))
    assert runs[1]["entered"] == {"file": "test.csv", "sha256": sha256(parts["test"])}
    assert list(cost_table(runs).index) == [r["run"] for r in select_standard(runs, smoke)] == ["simple-cnn"]
    assert summarize_runs(runs)["parameters"].isna().tolist() == [False, True]
    rows.drop(columns="label").to_csv(both := tmp_path / "both.csv", index=False)
    assert main(["evaluate", str(both), "--profile", "smoke"]) == 0
    assert collect_runs("smoke")[-2]["decision"] == runs[1]["decision"]  # a column split is as good as two tables
    assert main(["evaluate", str(both), "--profile", "smoke", "--name", "simple-cnn"]) == 2
    assert "is the name of a run of this package" in capsys.readouterr().err


def test_a_split_is_exported_for_programs_that_do_without_us(
    smoke: datasets.Dataset, smoke_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(smoke_home))
    command = ["splits", "--export", str(tmp_path / "new"), "--profile", "smoke", "--split", "random"]
    assert main(command) == 0 and main(command) == 0  # its own file may be replaced
    table = pd.read_csv(file := tmp_path / "new" / "smoke-random-1337.csv")
    assert list(table) == ["file", "label", "split", "group", "sha256"] and file.read_bytes().startswith(b"file,")
    pd.testing.assert_frame_equal(table.drop(columns="sha256"), make_split(smoke, "random", config.DEFAULT_SEED))
    assert all(sha256(smoke.folder / row.file) == row.sha256 for row in table[:9].itertuples())
    file.write_text("mine")
    assert main(command) == 2 and file.read_text() == "mine" and "Move it, give another name" in capsys.readouterr().err


def test_masks_are_judged_by_true_ones_with_intervals(tmp_path: Path, capsys: Capture) -> None:
    for k in range(4):
        true, found = np.zeros((2, 120, 90), np.uint8)
        true[20 + 10 * k : 26 + 10 * k, 10:80] = 255
        found[20 + 10 * k : 26 + 10 * k, 10 : 80 - 20 * (k == 3)] = 255
        for name, mask in (("truth", true), ("found", found)):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"wall{k}.png"), mask)
    folders, out = [str(tmp_path / "found"), str(tmp_path / "truth")], tmp_path / "scores.csv"
    assert main(["evaluate-masks", *folders, "--out", str(out)]) == 0
    table = pd.read_csv(out).set_index("file")
    assert list(table.index) == [*(f"wall{k}.png" for k in range(4)), "all", "all_low", "all_high"]
    assert table["iou"].tolist()[:5] == pytest.approx([1, 1, 1, 5 / 7, 26 / 28], abs=1e-4)
    counts = table.iloc[:4][["found", "true", "both"]].sum()
    assert table.loc["all", "f1"] == pytest.approx(2 * counts["both"] / (counts["found"] + counts["true"]), abs=1e-4)
    assert (table["line_precision"].iloc[:5] == 1).all() and table.loc["wall3.png", "line_recall"] < 0.85
    assert (table.loc["all_low", "iou"], table.loc["all_high", "iou"]) == (pytest.approx(5 / 7, abs=0.08), 1)
    assert "4 photos, true masks " in capsys.readouterr().out
    assert len(score_counts(table.iloc[:4][table.columns[8:]])) == 4
    cv2.imwrite(str(tmp_path / "found" / "wall1.png"), np.arange(90, dtype=np.uint8)[None].repeat(120, 0))
    with pytest.raises(config.CrackutilsError, match=r"wall1\.png has many grey values"):
        evaluate_masks(*folders)
    (tmp_path / "found" / "wall1.png").rename(tmp_path / "found" / "b.png")
    with pytest.raises(config.CrackutilsError, match=r"found lacks 1 of 4 masks. Add them; black is no crack"):
        evaluate_masks(*folders)
    told = "true masks without a predicted mask: 1 (wall1.png)\npredicted masks without a true mask: 1 (b.png)"
    assert told in capsys.readouterr().out
    assert main(["evaluate-masks", folders[0], str(tmp_path / "none")]) == 2
    assert "is no folder. Give the folder of the true masks" in capsys.readouterr().err
    out.write_text("mine")
    assert main(["evaluate-masks", *folders, "--out", str(out)]) == 2 and out.read_text() == "mine"


@pytest.mark.parametrize("profile", [path.name for path in BENCHMARK.iterdir() if path.name in config.PROFILES])
def test_entries_of_the_benchmark_follow_from_predictions_for_the_same_images(profile: str) -> None:
    tested = {}
    for run in collect_runs(profile, base=BENCHMARK / profile):
        table, settings = read_predictions(run["folder"]), run["settings"]
        follows = score_parts(table) | chosen_metrics(table)
        assert differences({name: run.get(name) for name in follows}, follows) == [], run["run"]
        test = table[table["split"] == "test"]
        right = run["test"]["n"] - run["test"]["errors"]
        bounds = [1 - bound for bound in wilson(right, run["test"]["n"])[::-1]]
        assert run["intervals"]["wilson"] == pytest.approx(bounds, abs=1e-6)
        key = run["data"]["sha256"], settings["split"], settings["split_seed"]
        images = test[["file", "label"]].to_records(index=False).tolist()
        assert tested.setdefault(key, images) == images, run["run"]
    assert len(tested) == 1


def test_masks_of_the_benchmark_follow_from_their_counts_and_the_page_from_all() -> None:
    for file in (BENCHMARK / "masks").glob("*/*/scores.csv"):
        table = pd.read_csv(file).set_index("file")
        counts = table.iloc[:-3][table.columns[table.columns.get_loc("found") :]]
        scores = score_counts(counts.sum().to_frame("all").T).loc["all"]
        assert table.loc["all"].to_dict() == pytest.approx(scores.to_dict(), abs=1e-3), file
    assert write_benchmark(check=True), "docs/benchmark.md is not up to date. Run make tables."
