"""What notebook 06 measures: few training images, the luck of a choice, copies across folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from crackutils.pitfalls import effects

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("cracks", [1, 30])
def test_every_draw_is_of_training_images_and_holds_both_classes(cracks: int) -> None:
    label, train = np.arange(300) < cracks, np.arange(0, 300, 2)
    draws = effects.draw_few(label.astype(int), train, 0)
    assert len(draws) == 100 and all(set(np.unique(label[few])) == {False, True} for few in draws)
    assert all(np.isin(few, train).all() and len(few) <= 77 for few in draws)


def test_a_choice_among_equals_is_luck_and_a_better_model_is_no_luck() -> None:
    equal = effects.score_choice(RNG.random((100, 400)) < 0.2, 40, 0)
    optimism = equal["same images"] - equal["untouched images"]
    assert abs(optimism[1]) < 0.01 and 0.05 < optimism[10] < optimism[100]
    best = effects.score_choice(np.arange(100)[:, None] * np.ones(400) > 0, 40, 0)
    assert best.loc[100].tolist() == [1, 1] and best.loc[1, "same images"] < 0.05


def test_copies_in_other_folds_make_a_memory_look_good() -> None:
    x, label = np.repeat(RNG.random((50, 2)), 2, axis=0), np.repeat(RNG.integers(0, 2, 50), 2)
    folds = {"apart": np.arange(100) % 2, "together": np.arange(100) // 2 % 2}
    pairs = pd.DataFrame({"a": np.arange(0, 60, 2), "b": np.arange(1, 60, 2)})
    with_copy, errors = effects.compare_folds({"near": (KNeighborsClassifier(1), x)}, label, folds, pairs)
    assert with_copy.to_dict() == {"apart": 0.6, "together": 0.0}
    assert errors.loc["near", "apart"].tolist() == [0, 0, 0]
    assert errors.loc[("near", "all"), "together"] > 0.3
