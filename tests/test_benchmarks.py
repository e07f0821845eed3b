"""What the benchmark of speed chooses, by which losses, and what the model card of our backbone reports."""

import json
from typing import Any

import numpy as np
import pandas as pd

from crackutils import models
from tools.benchmarks import directions, few_masks, sample, speed
from tools.notebooks import replace_marked


def row(run: str, total: float, above: float, error: float, images: int = 200) -> dict[str, Any]:
    return {"run": run, "images": images, "total": total, "val": {"above": above, "standard_error": error}}


def test_the_fastest_within_two_standard_errors_of_the_lowest_loss_is_chosen() -> None:
    rows = [row("ours", 5, 0.001, 0.001), row("224 px", 9, 0.0, 0.0)]
    rows += [row("128 px", 4, 0.002, 0.001), row("96 px", 3, 0.0021, 0.001)]  # just two standard errors, and more
    rows += [row("96 px", 1, 0.0, 0.0, images=100), row("ours, again", 1, 0.0, 0.0)]  # on fewer images; no variant
    assert speed.cheapest(rows) == "128 px"


def test_validation_losses_are_paired_by_image_and_read_no_test_image() -> None:
    manifest = pd.DataFrame({"file": list("abcd"), "split": ["val", "val", "val", "test"], "label": [1, 0, 1, 1]})
    found = speed.validation(manifest, {"good": {"c": 0.9, "b": 0.2, "a": 0.8}, "bad": {"a": 0.7, "b": 0.2, "c": 0.6}})
    differences = np.array([np.log(0.8 / 0.7), 0, np.log(0.9 / 0.6)])
    assert found["good"] == {"loss": round(-np.log([0.8, 0.8, 0.9]).mean(), 5), "above": 0, "standard_error": 0}
    assert found["bad"]["above"] == round(differences.mean(), 5)
    assert found["bad"]["standard_error"] == round(differences.std() / 3**0.5, 5)


def test_the_model_card_follows_from_what_was_measured() -> None:
    found = json.loads(sample.OUT.read_text("utf-8"))["final"]
    assert models.OWN_FILE.with_name("README.md").read_text("utf-8") == sample.card(found)


def test_the_tables_of_the_docs_follow_from_what_was_measured() -> None:
    makers = {
        "directions": directions.directions_table,
        "few-masks": few_masks.masks_table,
        "speed": speed.speed_tables,
    }
    for (name, make), part in zip(makers.items(), (directions, few_masks, speed), strict=True):
        page = part.PAGE.read_text("utf-8")
        assert replace_marked(page, name, make(json.loads(part.OUT.read_text("utf-8")))) == page
    found = json.loads(directions.OUT.read_text("utf-8"))
    cells = {(row["trained"], row["tested"]): row["auroc"] for row in found["rows"]}
    for name in ("METU", "SDNET2018, cleaned labels"):
        assert len(cells) == 9 and cells[name, name] == max(v for (a, _), v in cells.items() if a == name)
    means = pd.DataFrame(json.loads(few_masks.OUT.read_text("utf-8"))["rows"]).groupby("masks")["iou"].mean()
    assert sorted(means.index) == [0, *few_masks.COUNTS] and means.idxmin() == 0
