"""What the notebooks say of the sample is true of its reference, and their summaries show what metrics.json holds."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from crackutils import config
from crackutils.files import render_template
from crackutils.recipes import RECIPES
from crackutils.transfer.evaluation import auroc_text
from tools.notebooks import find_notebooks

BY_DESIGN = (  # how the sample is made, in sentences that name it
    *("a point on a crack: expect a dark middle", "the photos are known", "keeps each photo in one part"),
    *("images of two photos cannot be copies", "no label is wrong", "masks decide the labels", "the run stops if"),
    "the target is drawn with hairlines only",
)


def read_reference(profile: str) -> dict[str, Any]:
    """Return the metrics of a reference by number of notebook; of several runs one."""
    files = sorted((config.REFERENCE / profile).glob("*/*/metrics.json"))
    return {file.parents[1].name[:2]: json.loads(file.read_text("utf-8")) for file in files}


M = read_reference("sample")
needs_reference = pytest.mark.skipif(not M, reason="no reference/sample yet")


def falls(values: list[float]) -> bool:
    return all(a > b for a, b in pairwise(values))


def optimism(candidates: str) -> float:
    accuracy = M["06"]["chosen_and_reported"][candidates]
    return accuracy["same images"] - accuracy["untouched images"]


def gain_of_copies(model: str) -> float:
    errors = M["06"]["copies_across"][model]
    return errors["copy-safe"]["all"] - errors["random"]["all"]


def few_photos(notebook: str) -> bool:
    return all(M[notebook]["data"][part]["groups"] < 30 for part in ("val", "test"))


def corrupted(strength: int) -> dict[str, Any]:
    rows = [r for r in M["08"]["robustness"] if (r["run"], r["strength"]) == (M["08"]["run"], strength)]
    return {r["corruption"]: r for r in rows}


def one_more_error_is_enough() -> bool:
    a, b = (M["05"]["mcnemar"][0][f"only_{name}_wrong"] for name in "ab")
    p = [binomtest(a, a + b + more).pvalue for more in (0, 1)]
    return p[1] < 0.05 <= p[0]


def thresholds_change_widths() -> bool:
    table = pd.DataFrame(M["09"]["thresholds"])
    steady = all(np.ptp(table[name]) < 0.08 for name in ("line_precision", "line_recall"))
    return steady and table["precision"][0] < 0.5 and table["iou"][4] < table["iou"][3]


RESCALED, LEAKED = (M.get("06", {}).get(name, {}) for name in ("rescaled", "seen_in_training"))
CLAIMS: dict[str, dict[str, Callable[[], bool]]] = {  # by notebook: words of a sentence, and when it is true
    "00": {"On the sample each part holds few photos": lambda: few_photos("00")},
    "01": {
        "On the sample many frames overlap": lambda: M["01"]["share_with_copy"] > 0.3,
        "with seed 1337 about a third of the test images have a copy": lambda: (
            0.28
            < M["01"]["test_images_with_copy_in_train"]["random"] / M["07"]["relatives_in_training"]["random"]["test"]
            < 0.4
        ),
    },
    "02": {
        "Smaller sizes and stronger blur mix": lambda: (
            falls([M["02"]["darkness_left"][f"{size} px"] for size in (160, 112, 80, 48, 32)])
            and falls([M["02"]["darkness_left"][f"blur {sigma} px"] for sigma in (1, 2, 4)])
        ),
    },
    "03": {
        "on the sample each part holds few photos": lambda: few_photos("03"),
        "under strict penalties their loss is lower": lambda: all(
            row["val_loss"] < row["loss"] for row in M["00"]["head"] if row["C"] <= 0.1
        ),
    },
    "04": {
        "on the sample each part holds few photos": lambda: few_photos("04"),
        "allows three of eight epochs": lambda: (
            (M["04"]["training"]["stages"][0]["epochs"], RECIPES["simple-cnn"].stages[0].epochs) == (3, 8)
        ),
        "three epochs are too few": lambda: M["04"]["training"]["stages"][0]["best_epoch"] == 3,
    },
    "05": {
        "So it is for mobilenetv2-linear on the sample": lambda: M["05"]["judgements"][0]["error_outside"] > 0.03,
        "On the sample, one more error is enough": one_more_error_is_enough,
    },
    "06": {
        "fewer leak in a large set": lambda: LEAKED["of_40000_buffer_256"] < 0.1 < LEAKED["buffer_256"],
        "leaks almost all": lambda: LEAKED["buffer_whole"] > 0.99,
        "bring the AUROC near 0.5": lambda: abs(M["06"]["two_passes"]["two"]["auroc"] - 0.5) < 0.05,
        "near 0 for one candidate": lambda: abs(optimism("1")) < 0.002 < optimism("10") < optimism("100"),
        "less than a hundredth of the range": lambda: RESCALED["twice"]["share of the range -1 to 1"] < 0.01,
        "three epochs are then too few": lambda: RESCALED["twice"]["trained as theirs"] < 0.55,
        "fitted to the end, some contrast": lambda: RESCALED["twice"]["fitted to the end"] > 0.6,
        "Argmax misses every crack": lambda: M["06"]["one_unit"]["argmax"]["recall"] == 0,
        "models that remember more usually gain more": lambda: falls(
            [gain_of_copies(name) for name in ("nearest thumbnail", "nearest features", "head")]
        ),
    },
    "07": {
        "keep the same photos together": lambda: (
            not any(M["07"]["relatives_in_training"][split]["with overlap"] for split in ("copy-safe", "photo-safe"))
        ),
    },
    "08": {
        "training is short: expect no gain": lambda: all((r["gain_low"] or 0) <= 0 for r in M["08"]["report"]),
        "24 images are corrupted: one of them is 4 %": lambda: {r["n"] for r in M["08"]["robustness"]} == {24},
        "On the sample, blur": lambda: max(corrupted(3).values(), key=lambda r: r["errors"])["corruption"] == "blur",
    },
    "09": {
        "the line scores change little, but the width of the mask does": thresholds_change_widths,
        "*threshold* stays 0.5, as on the sample": lambda: M["09"]["calibration"]["threshold"] == 0.5,
    },
}


@needs_reference
@pytest.mark.parametrize(("notebook", "words"), [(number, words) for number in CLAIMS for words in CLAIMS[number]])
def test_a_sentence_about_the_sample_is_true_of_its_reference(notebook: str, words: str) -> None:
    text = read_text(notebook)
    assert words in text, "The sentence is gone or another. Change it in CLAIMS too."
    assert CLAIMS[notebook][words]()


@pytest.mark.parametrize("notebook", find_notebooks())
def test_no_sentence_about_the_sample_goes_unchecked(notebook: str) -> None:
    known = (*CLAIMS[notebook], *BY_DESIGN)
    sentences = re.split(r"(?<=[.?!])\s|\n", read_text(notebook))
    said = [sentence for sentence in sentences if re.search("(?<!minute )(?<!seconds )on the sample", sentence, re.I)]
    assert [sentence for sentence in said if not any(words in sentence for words in known)] == []


def read_text(notebook: str) -> str:
    cells = nbformat.read(find_notebooks()[notebook], as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def summary(room: str, metrics: dict[str, Any], **more: Any) -> list[str]:
    return render_template(config.PACKAGE / room / "summary.md.j2", metrics | more).splitlines()


@needs_reference
def test_a_summary_shows_what_was_measured_and_leaves_out_the_rest() -> None:
    lines = summary("audit", read_reference("metu-half")["07"])
    told = "84 labels are wrong, 172 ambiguous. 6 of the wrong ones are among as many first suspects; the last has rank"
    assert f"- {told} 10,919." in lines and not [line for line in lines if "Known" in line]
    assert "cracks (95 % interval 0 to 79) among the 8,678 unread images." in lines[-1]
    lines = summary("audit", M["07"])
    assert "- Known overlaps: 2,994 of 3,349 found (recall 89.4%, precision 97.3%)." in lines
    assert "- Error rates of the linear head: 2.25% (random), 2.83% (copy-safe), 3.13% (photo-safe)." in lines
    assert lines[-1].startswith("- Flipped labels: 20,")
    rates = pd.DataFrame({"corrupted": [0.25], "untouched": [0.1]}, ["a"])
    nothing = [{"method": "b", "auroc": None}], [{"threshold": 0.5, "recall": None, "precision": 1.0}]
    m = M["08"] | dict(zip(("report", "thresholds", "adaptation"), (*nothing, []), strict=True))
    lines = summary("transfer", m, about="c", auroc_text=auroc_text, rates=rates)
    assert lines[0] == "- c" and lines[-1] == "- `a` is wrong in 25.0% of corrupted and 10.0% of untouched images."
    assert "- AUROC of *b* on held-out photos: not defined." in lines and "recall 0.0%, precision 100.0%." in lines[3]
    lines = summary("pitfalls", M["06"], keras_version="3")
    assert lines[0] == "On 2,000 images of sample, with Keras 3:" and len(lines) == 6
