"""Every figure: labelled axes, the same pixels each time, and nothing to show is no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crackutils import config, models, plots
from crackutils.adaptation import figures
from crackutils.audit import figures
from crackutils.inspection import figures
from crackutils.metrics import reliability_table, score_predictions, wilson
from crackutils.recipes import RECIPES
from crackutils.transfer import figures

RNG = np.random.default_rng(0)
IMAGES = list(RNG.integers(0, 256, (7, 12, 12, 3), np.uint8))
GREY = RNG.integers(0, 256, (40, 16, 16), np.uint8)
LABELS = np.arange(40) % 2
P = np.clip(LABELS * 0.6 + RNG.uniform(0, 0.45, 40), 0, 1).astype(np.float32)
TABLE = pd.DataFrame(
    {"file": [f"{config.CLASSES[y]}/{i:05d}.jpg" for i, y in enumerate(LABELS)], "label": LABELS, "p_crack": P}
)
MANIFEST = TABLE[["file", "label"]].assign(split=["train"] * 28 + ["val"] * 8 + ["test"] * 4)
INDEX = TABLE[["file", "label"]].assign(width=227, height=[227] * 39 + [300], bytes=RNG.integers(4000, 9000, 40))
HISTORY = pd.DataFrame({"stage": ["head"] * 2 + ["fine-tune"] * 3, "epoch": [1, 2, 1, 2, 3]}).assign(
    loss=[0.6, 0.4, 0.3, 0.2, 0.1], accuracy=0.9, val_loss=[0.7, 0.5, 0.35, 0.3, 0.31], val_accuracy=0.85
)
RATES = pd.DataFrame(
    {
        "name": ["a", "b", "b", "b"],
        "errors": [0, 5, 3, 17],
        "n": [2000, 2000, 2000, 4000],
        "kind": ["copy-safe", "copy-safe", "random", "published"],
    }
)
CUTS = pd.DataFrame({"x": [2, 10], "y": [3, 0], "side": 8, "label": [1, 0]})
MASKS = [np.eye(24, 36, dtype=np.uint8) * 255, np.zeros((24, 36), np.uint8)]
PAIRS = pd.DataFrame({"a": ["x", "x", "y"], "b": ["y", "z", "z"], "p_holm": [0.8, 0.04, 0.0003]})
CLAIMS = pd.DataFrame({"name": ["a", "b"], "wrong": [0.5, 0.99], "right": [0.95, 0.9]})
SLICED = pd.DataFrame(
    {"run": ["a", "a", "b", "b"], "slice": ["thin", "dark"] * 2, "n": [9, 7, 9, 7], "errors": [3, 0, 1, 1]}
)
LEAKED = pd.DataFrame(
    {
        "head": ["linear", "linear"],
        "method": ["random", "copy-safe"],
        "error_rate": [0.01, 0.02],
        "low": 0.0,
        "high": 0.03,
    }
)
COSTS = pd.DataFrame({"name": ["a", "b"], "minutes": [2.0, 9.5], "accuracy": [0.99, 0.995]})


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    plt.close("all")


def network() -> Any:
    return models.build(RECIPES["simple-cnn"], "random", 1)[0]


# name: what draws it, and how many axes with scales it has (pictures have none)
MEASURED = pd.DataFrame({"width": [0.1, 0.2], "depth": [20.0, 40], "sharpness": [0.5, 1.5]})
METHODS = pd.DataFrame({"method": ["a", "b"], "auroc": [0.7, 0.9], "low": [0.6, None], "high": [0.8, None]})
THIRDS = pd.DataFrame(
    [
        {"run": run, "measure": measure, "third": k, "auroc": 0.5 + 0.1 * k}
        for run in "ab"
        for measure in ("width", "contrast", "sharpness")
        for k in range(3)
    ]
)
BROKEN = pd.DataFrame(
    [
        {"run": run, "corruption": kind, "strength": s, "error_rate": 0.05 * s}
        for run in "ab"
        for kind, strengths in (("none", [0]), ("blur", range(1, 6)), ("JPEG", range(1, 6)))
        for s in strengths
    ]
)
LEARNT = pd.DataFrame(
    [
        {"n": n, "draws": 20}
        | {
            f"{score}{part}": 0.8 + n / 1000
            for score in ("auroc", "average_precision")
            for part in ("", "_gain", "_gain_low", "_gain_high")
        }
        for n in (0, 20, 100)
    ]
)
FOUND = pd.DataFrame({"style": ["wide", "hairline"], "length_true": [900.0, 400], "length": [880.0, 90]})
PATCHES = [SimpleNamespace(image=image, label=k % 2) for k, image in enumerate(IMAGES[:6])]
LOOKS = {
    name: SimpleNamespace(p=np.array([0.1, 0.9, 0.7, 0.2, 0.1, 0.8]), heat=np.ones((6, 4, 4)) / 2) for name in "ab"
}
CASES: dict[str, tuple[Callable[[], Figure], int]] = {
    "image_grid": (lambda: plots.image_grid(IMAGES, list("abcdefg"), 3, "Pictures", [True] + [False] * 6), 0),
    "photos": (lambda: plots.photos([np.stack([m] * 3, 2) for m in MASKS], MASKS, [CUTS, CUTS[:1]]), 0),
    "split_counts": (lambda: plots.split_counts(MANIFEST), 1),
    "sizes": (lambda: plots.sizes(INDEX), 2),
    "brightness_contrast": (lambda: plots.brightness_contrast(GREY, LABELS), 2),
    "mean_images": (lambda: plots.mean_images(GREY, LABELS), 0),
    "pairs": (lambda: plots.pairs(IMAGES[:3], IMAGES[3:6], [("a", "b")] * 3, "Pairs"), 0),
    "architecture": (lambda: plots.architecture(network()), 0),
    "curves": (lambda: plots.curves(HISTORY), 2),
    "confusion": (lambda: plots.confusion(score_predictions(LABELS, P)), 1),
    "confusion_swapped": (lambda: plots.confusion_swapped(score_predictions(LABELS, P)), 2),
    "wrong_and_right": (lambda: plots.wrong_and_right(CLAIMS), 1),
    "roc_pr": (lambda: plots.roc_pr(LABELS, P), 2),
    "probabilities": (lambda: plots.probabilities(LABELS, P), 1),
    "predicted_against_true": (lambda: plots.predicted_against_true(IMAGES, TABLE[:7], "Predictions"), 0),
    "error_rates": (lambda: plots.error_rates(RATES), 1),
    "p_values": (lambda: plots.p_values(PAIRS), 1),
    "picture": (lambda: plots.picture(IMAGES[0], "One"), 0),
    "reliability": (lambda: plots.reliability({"a": reliability_table(LABELS, P)}), 1),
    "cost_curves": (lambda: plots.cost_curves(LABELS, P, 0.2), 1),
    "prevalence": (lambda: plots.prevalence({"a": (0.99, 0.01), "b": (0.9, 0.0)}), 1),
    "slices": (lambda: plots.slices(SLICED), 1),
    "leakage": (lambda: figures.leakage(LEAKED), 1),
    "learning_curve": (lambda: figures.learning_curve(LEARNT), 2),
    "domains": (lambda: figures.domains({"home": MEASURED, "elsewhere": MEASURED + 0.1}), 3),
    "methods": (lambda: figures.methods(METHODS, 0.85), 1),
    "by_measure": (lambda: figures.by_measure(THIRDS), 3),
    "robustness": (lambda: figures.robustness(BROKEN), 2),
    "cell_maps": (lambda: figures.cell_maps(IMAGES[:2], [np.eye(4), -np.eye(4)], ["a", "b"], "Maps"), 0),
    "inspected": (lambda: figures.inspected(IMAGES[0], np.eye(4), IMAGES[1]), 0),
    "lengths": (lambda: figures.lengths(FOUND), 1),
    "attention": (
        lambda: figures.attention([p.image for p in PATCHES], np.array([p.label for p in PATCHES]), LOOKS),
        0,
    ),
    "time_against_accuracy": (lambda: plots.time_against_accuracy(COSTS), 1),
}


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def words(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_every_plot_function_is_tried_here() -> None:
    public = {name for name, f in vars(plots).items() if callable(f) and getattr(f, "__module__", "") == plots.__name__}
    assert {name for name in public if not name.startswith("_")} - {"worst"} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_figure_is_labelled_and_the_same_each_time(name: str) -> None:
    draw, scales = CASES[name]
    figure = draw()
    assert isinstance(figure, Figure)
    first = pixels(figure)
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert all(ax.get_ylabel() for ax in bars)
    labelled = [ax for ax in figure.axes if ax not in bars and ax.axison and not ax.images]
    assert len(labelled) == scales
    for ax in labelled:
        assert ax.has_data()
        assert ax.get_xlabel()
        assert ax.get_ylabel() or any(t.get_text() for t in ax.get_yticklabels())  # names of rows label themselves
    second = draw()
    assert second is not figure
    np.testing.assert_array_equal(first, pixels(second))
    assert len(np.unique(first.reshape(-1, 4), axis=0)) > 10  # something was drawn


def test_nothing_to_show_is_a_figure_that_says_so() -> None:
    empty = [
        plots.image_grid([], title="Wrong ones"),
        plots.image_grid([], [], 3, "Wrong ones", []),
        plots.pairs([], [], [], "Wrong ones"),
        plots.predicted_against_true([], TABLE[:0], "Wrong ones"),
    ]
    for figure in empty:
        assert isinstance(figure, Figure)
        assert "Wrong ones - nothing to show" in words(figure)
        pixels(figure)


def test_a_grid_shows_every_image_and_marks_the_wrong_ones() -> None:
    figure = plots.image_grid(IMAGES, list("abcdefg"), 3, "t", [False, True] + [False] * 5)
    assert len(figure.axes) == 9
    assert [len(ax.images) for ax in figure.axes] == [1] * 7 + [0] * 2
    marked = [ax.get_title() for ax in figure.axes if ax.images and ax.spines["left"].get_linewidth() > 2]
    assert marked == ["b"]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), IMAGES[3])


def test_photos_are_framed_where_patches_were_cut() -> None:
    shots = [np.full((24, 36, 3), value, np.uint8) for value in (50, 200)]
    figure = plots.photos(shots, MASKS, [CUTS, CUTS[:0]])
    top, bottom = figure.axes[:2], figure.axes[2:]
    for k in (0, 1):
        np.testing.assert_array_equal(top[k].images[0].get_array(), shots[k])
        np.testing.assert_array_equal(bottom[k].images[0].get_array(), MASKS[k])
        assert bottom[k].images[0].get_clim() == (0, 255)  # a mask of faint cracks only must not look like a strong one
    assert [(p.get_bbox().bounds, p.get_linestyle()) for p in top[0].patches] == [
        ((2, 3, 8, 8), "-"),
        ((10, 0, 8, 8), "--"),
    ]
    assert len({p.get_edgecolor() for p in top[0].patches}) == 2
    assert len(top[1].patches) == 0
    assert f"{24 / (24 * 36):.2%}" in bottom[0].get_title()
    assert "0.00%" in bottom[1].get_title()
    assert "not known" in words(plots.photos([], [], []))


def test_predicted_against_true_frames_exactly_the_wrong_ones() -> None:
    table = pd.DataFrame({"file": ["Negative/1.jpg", "Positive/2.jpg", "Positive/3.jpg"], "label": [0, 1, 1]})
    figure = plots.predicted_against_true(IMAGES[:3], table.assign(p_crack=np.float32([0.5, 0.4, 0.9])), "t", columns=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].splitlines() == ["N/1.jpg", "true Negative", "predicted Positive, p 0.500"]
    assert titles[1].splitlines() == ["P/2.jpg", "true Positive", "predicted Negative, p 0.400"]
    assert [ax.spines["left"].get_linewidth() > 2 for ax in figure.axes] == [True, True, False]


def test_worst_lists_the_farthest_from_the_truth_first() -> None:
    p = [0.9, 0.1, 0.5, 0.9]
    table = pd.DataFrame({"file": list("dcba"), "label": [0, 1, 0, 0], "p_crack": p})
    assert plots.worst(table)["file"].tolist() == ["a", "c", "d", "b"]  # equals in order of their names
    assert plots.worst(table, 2)["file"].tolist() == ["a", "c"]
    assert len(plots.worst(table[:0])) == 0


def test_curves_name_the_stages_and_begin_them_where_they_begin() -> None:
    figure = plots.curves(HISTORY)
    for ax in figure.axes:
        assert [t.get_text() for t in ax.texts] == ["head", "fine-tune"]
        (line,) = (x for x in ax.lines if x.get_linestyle() == ":")
        assert list(line.get_xdata()) == [2.5, 2.5]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), HISTORY["loss"])
    assert not [x for x in plots.curves(HISTORY[:1]).axes[0].lines if x.get_linestyle() == ":"]


def test_a_confusion_matrix_has_truth_in_rows() -> None:
    figure = plots.confusion({"tn": 90, "fp": 10, "fn": 1, "tp": 3, "n": 104})
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["90\n90.00%", "10\n10.00%", "1\n25.00%", "3\n75.00%"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(config.CLASSES)
    assert "0\n0.00%" in words(plots.confusion({"tn": 0, "fp": 0, "fn": 0, "tp": 3, "n": 3}))  # a class without images


def test_swapped_names_leave_the_numbers_where_they_are() -> None:
    right, wrong, *_ = plots.confusion_swapped({"tn": 90, "fp": 10, "fn": 1, "tp": 3, "n": 104}).axes
    assert [t.get_text() for t in right.texts] == [t.get_text() for t in wrong.texts]
    assert [t.get_text() for t in right.get_yticklabels()] == list(config.CLASSES)
    for labels in (wrong.get_xticklabels(), wrong.get_yticklabels()):
        assert [t.get_text() for t in labels] == list(config.CLASSES[::-1])


def test_wrong_and_right_join_the_two_values_of_a_row() -> None:
    ax = plots.wrong_and_right(CLAIMS).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5, 0.99], [0.95, 0.9]]
    assert [list(s[:, 0]) for s in ax.collections[0].get_segments()] == [[0.5, 0.95], [0.99, 0.9]]
    assert [t.get_text() for t in ax.texts] == ["0.500", "0.950", "0.990", "0.900"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["with the mistake", "without it"]


def test_the_areas_under_the_curves_are_those_of_the_metrics() -> None:
    found = score_predictions(LABELS, P)
    text = words(plots.roc_pr(LABELS, P))
    assert f"area {found['auroc']:.5f}" in text
    assert f"average precision {found['average_precision']:.5f}" in text


def test_error_rates_show_no_error_as_an_arrow() -> None:
    ax = plots.error_rates(RATES).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert {"0 of 2,000", "5 of 2,000", "3 of 2,000", "17 of 4,000"} <= {t.get_text().strip() for t in ax.texts}
    markers = [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1]
    assert markers == ["<", "o", "D", "s"]
    low, high = wilson(5, 2000)
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans[1] == pytest.approx((low, high))


def test_error_rates_put_all_numbers_of_a_name_into_one_row() -> None:
    ax = plots.error_rates(RATES).axes[0]
    heights = [float(line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert [round(y) for y in heights] == [0, 1, 1, 1]
    assert len(set(heights)) == 4  # and none upon another


def test_p_values_mark_what_is_told_apart() -> None:
    ax = plots.p_values(PAIRS).axes[0]
    bold = {t.get_text(): t.get_weight() == "bold" for t in ax.texts}
    assert bold == {"0.80": False, "0.04": True, "3e-4": True}
    assert "only one" in words(plots.p_values(PAIRS[:0]))


def test_architecture_colours_what_is_trained() -> None:
    model = network()
    text = words(plots.architecture(model))
    assert "98,289 parameters" in text
    assert "conv_4" in text
    assert "14 x 14 x 128" in text


def test_slices_come_with_the_weakest_first() -> None:
    ax = plots.slices(SLICED).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["thin", "dark"]
    assert {t.get_text() for t in ax.texts} == {"3/9", "0/7", "1/9", "1/7"}


def test_precision_falls_with_the_prevalence() -> None:
    line = plots.prevalence({"a": (1.0, 0.01)}).axes[0].lines[0]
    at = np.interp(0.01, line.get_xdata(), line.get_ydata())
    assert at == pytest.approx(0.5025, abs=0.01)  # 1 in 100, a false alarm in 100: every second alarm is a crack
