"""What the benchmark of speed chooses, and by what."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crackutils import config


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed", config.ROOT / "benchmarks" / "speed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(run: str, total: float, above: float, error: float, images: int = 200) -> dict[str, Any]:
    return {"run": run, "images": images, "total": total, "val": {"above": above, "standard_error": error}}


def test_the_fastest_that_is_not_told_apart_on_validation_is_chosen(speed: ModuleType) -> None:
    rows = [
        row("ours", 5, 0.001, 0.001),
        row("160 px, 2 views", 9, 0.0, 0.0),
        row("128 px", 4, 0.002, 0.001),  # just two standard errors
        row("96 px", 3, 0.0021, 0.001),
        row("96 px", 1, 0.0, 0.0, images=100),  # on fewer images
        row("ours, again", 1, 0.0, 0.0),  # no variant
    ]
    assert speed.cheapest(rows) == "128 px"


def test_validation_losses_are_paired_by_image_and_read_no_test_image(speed: ModuleType) -> None:
    manifest = pd.DataFrame({"file": list("abcd"), "split": ["val", "val", "val", "test"], "label": [1, 0, 1, 1]})
    found = speed.validation(manifest, {"good": {"c": 0.9, "b": 0.2, "a": 0.8}, "bad": {"a": 0.7, "b": 0.2, "c": 0.6}})
    differences = np.array([np.log(0.8 / 0.7), 0, np.log(0.9 / 0.6)])
    assert found["good"] == {"loss": round(-np.log([0.8, 0.8, 0.9]).mean(), 5), "above": 0, "standard_error": 0}
    assert found["bad"]["above"] == round(differences.mean(), 5)
    assert found["bad"]["standard_error"] == round(differences.std() / 3**0.5, 5)
