"""Every figure of every room: labelled axes, the same pixels each time, and nothing to show is no error."""

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crackutils import config, plots
from crackutils.adaptation.curve import plot_learning_curve
from crackutils.audit import leakage as audit
from crackutils.comparison import figures as comparison
from crackutils.inspection import figures as inspection
from crackutils.metrics import reliability_table, score_predictions, wilson
from crackutils.pitfalls import effects as pitfalls
from crackutils.transfer import figures as transfer

RNG = np.random.default_rng(0)
IMAGES = list(RNG.integers(0, 256, (7, 12, 12, 3), np.uint8))
LABELS = np.arange(40) % 2
P = np.clip(LABELS * 0.6 + RNG.uniform(0, 0.45, 40), 0, 1).astype(np.float32)
FILES = [f"{config.CLASSES[y]}/{i:05d}.jpg" for i, y in enumerate(LABELS)]
TABLE = pd.DataFrame({"file": FILES, "label": LABELS, "p_crack": P})
HISTORY = pd.DataFrame({"stage": ["head"] * 2 + ["fine-tune"] * 3, "epoch": [1, 2, 1, 2, 3]}).assign(
    loss=[0.6, 0.4, 0.3, 0.2, 0.1], accuracy=0.9, val_loss=[0.7, 0.5, 0.35, 0.3, 0.31], val_accuracy=0.85
)
LINEAR = HISTORY.assign(C=[0.01, 0.1, 1.0, 10.0, 100.0])
RATES = pd.DataFrame({"name": ["a", "b", "b", "b"], "errors": [0, 5, 3, 17], "n": [2000, 2000, 2000, 4000]}).assign(
    kind=["copy-safe", "copy-safe", "random", "published"]
)
CUTS = pd.DataFrame({"x": [2, 10], "y": [3, 0], "side": 8, "label": [1, 0]})
MASKS = [np.eye(24, 36, dtype=np.uint8) * 255, np.zeros((24, 36), np.uint8)]
PHOTOS = [np.full((24, 36, 3), value, np.uint8) for value in (50, 200)]
PAIRS = pd.DataFrame({"a": ["x", "x", "y"], "b": ["y", "z", "z"], "p_holm": [0.8, 0.04, 0.0003]})
CLAIMS = pd.DataFrame({"name": ["a", "b"], "wrong": [0.5, 0.99], "right": [0.95, 0.9]})
SLICED = pd.DataFrame({"run": list("aabb"), "slice": ["thin", "dark"] * 2, "n": [9, 7, 9, 7], "errors": [3, 0, 1, 1]})
LEAKED = pd.DataFrame({"head": "linear", "method": ["random", "copy-safe"], "error_rate": [0.01, 0.02]})
LEAKED = LEAKED.assign(low=0.0, high=0.03)
COSTS = pd.DataFrame({"name": ["a", "b"], "minutes": [2.0, 9.5], "accuracy": [0.99, 0.995]})
MEASURED = pd.DataFrame({"width": [0.1, 0.2], "depth": [20.0, 40], "sharpness": [0.5, 1.5]})
METHODS = pd.DataFrame({"method": ["a", "b"], "auroc": [0.7, 0.9], "low": [0.6, None], "high": [0.8, None]})
THIRDS = pd.DataFrame(
    [(run, measure, k) for run in "ab" for measure in ("width", "darkness", "sharpness") for k in range(3)],
    columns=["run", "measure", "third"],
).assign(auroc=lambda t: 0.5 + 0.1 * t["third"])
KINDS = [("none", 0), *((kind, strength) for kind in ("blur", "JPEG") for strength in range(1, 6))]
BROKEN = pd.DataFrame([(run, *kind) for run in "ab" for kind in KINDS], columns=["run", "corruption", "strength"])
BROKEN = BROKEN.assign(error_rate=0.05 * BROKEN["strength"])
SCORES = [
    f"{score}{part}" for score in ("auroc", "average_precision") for part in ("", "_gain", "_gain_low", "_gain_high")
]
LEARNT = pd.DataFrame([{"n": n, "draws": 20} | dict.fromkeys(SCORES, 0.8 + n / 1000) for n in (0, 20, 100)])
LENGTHS = pd.DataFrame({"style": ["wide", "hairline"], "length_true": [900.0, 400], "length_found": [880.0, 90]})
LOOK = SimpleNamespace(p=np.array([0.1, 0.9, 0.7, 0.2, 0.1, 0.8]), heat=np.ones((6, 4, 4)) / 2)
MAPS = [np.eye(4), -np.eye(4)]
REACH = np.float32(IMAGES[:4]) / 127.5 - 1

# what draws it, and how many axes with scales it has (pictures have none)
CASES: dict[str, tuple[Callable[[], Figure], int]] = {
    "plots.image_grid": (lambda: plots.image_grid(IMAGES, list("abcdefg"), 3, "Pictures", [True] + [False] * 6), 0),
    "plots.photos": (lambda: plots.photos(PHOTOS, MASKS, [CUTS, CUTS[:1]]), 0),
    "plots.pairs": (lambda: plots.pairs(IMAGES[:3], IMAGES[3:6], [("a", "b")] * 3, "Pairs"), 0),
    "plots.picture": (lambda: plots.picture(IMAGES[0], "One"), 0),
    "plots.curves": (lambda: plots.curves(HISTORY), 2),
    "plots.curves of a linear head": (lambda: plots.curves(LINEAR), 2),
    "plots.confusion": (lambda: plots.confusion(score_predictions(LABELS, P)), 1),
    "plots.confusion_swapped": (lambda: plots.confusion_swapped(score_predictions(LABELS, P)), 2),
    "pitfalls.wrong_and_right": (lambda: pitfalls.wrong_and_right(CLAIMS), 1),
    "plots.roc_pr": (lambda: plots.roc_pr(LABELS, P), 2),
    "plots.probabilities": (lambda: plots.probabilities(LABELS, P), 1),
    "plots.predicted_against_true": (lambda: plots.predicted_against_true(IMAGES, TABLE[:7], "Predictions"), 0),
    "comparison.error_rates": (lambda: comparison.error_rates(RATES), 1),
    "comparison.p_values": (lambda: comparison.p_values(PAIRS), 1),
    "comparison.time_against_accuracy": (lambda: comparison.time_against_accuracy(COSTS), 1),
    "comparison.reliability": (lambda: comparison.reliability({"a": reliability_table(LABELS, P)}), 1),
    "comparison.cost_curves": (lambda: comparison.cost_curves(LABELS, P, 0.2), 1),
    "comparison.prevalence": (lambda: comparison.prevalence({"a": (0.99, 0.01), "b": (0.9, 0.0)}), 1),
    "comparison.slices": (lambda: comparison.slices(SLICED), 1),
    "pitfalls.plot_inputs": (lambda: pitfalls.plot_inputs({"once": REACH, "twice": REACH / 9}, LABELS[:4]), 0),
    "audit.plot_leakage": (lambda: audit.plot_leakage(LEAKED), 1),
    "adaptation.plot_learning_curve": (lambda: plot_learning_curve(LEARNT), 2),
    "transfer.domains": (lambda: transfer.domains({"home": MEASURED, "elsewhere": MEASURED + 0.1}), 3),
    "transfer.methods": (lambda: transfer.methods(METHODS, 0.85), 1),
    "transfer.by_measure": (lambda: transfer.by_measure(THIRDS), 3),
    "transfer.robustness": (lambda: transfer.robustness(BROKEN), 2),
    "transfer.crack_maps": (lambda: transfer.crack_maps(IMAGES[:2], MAPS, ["a", "b"], "Maps"), 0),
    "inspection.inspection": (lambda: inspection.inspection(IMAGES[0], MAPS[0], IMAGES[1]), 0),
    "inspection.lengths": (lambda: inspection.lengths(LENGTHS), 1),
    "inspection.attention": (lambda: inspection.attention(IMAGES[:6], LABELS[:6], {"a": LOOK, "b": LOOK}), 0),
}


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    plt.close("all")


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def words(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def ticks(ax: plt.Axes) -> list[list[str]]:
    return [[t.get_text() for t in labels] for labels in (ax.get_xticklabels(), ax.get_yticklabels())]


def test_every_figure_is_tried_here() -> None:
    modules = {file: file.read_text("utf-8") for file in config.PACKAGE.rglob("*.py")}
    drawn = {
        f"{'plots' if file.stem == 'plots' else file.parent.name}.{name}"
        for file, source in modules.items()
        for name in re.findall(r"^def ([a-z]\w*)\([^)]*\) -> Figure:", source, re.M)
    }
    assert drawn == {name.split(" ")[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_figure_is_labelled_and_the_same_each_time(name: str) -> None:
    draw, scales = CASES[name]
    figure, second = draw(), draw()
    assert isinstance(figure, Figure) and second is not figure
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert all(ax.get_ylabel() or ax.get_xlabel() for ax in bars)
    labelled = [ax for ax in figure.axes if ax not in bars and ax.axison and not ax.images]
    assert len(labelled) == scales
    for ax in labelled:
        assert ax.has_data() and ax.get_xlabel()
        assert ax.get_ylabel() or any(ticks(ax)[1])  # names of rows label themselves
    first = pixels(figure)
    np.testing.assert_array_equal(first, pixels(second))
    assert len(np.unique(first.reshape(-1, 4), axis=0)) > 10  # something was drawn


def test_nothing_to_show_is_a_figure_that_says_so() -> None:
    for figure in (
        *(plots.image_grid([], title="Wrong ones"), plots.image_grid([], [], 3, "Wrong ones", [])),
        *(plots.pairs([], [], [], "Wrong ones"), plots.predicted_against_true([], TABLE[:0], "Wrong ones")),
        transfer.crack_maps([], [], [], "Wrong ones"),
    ):
        assert isinstance(figure, Figure) and "Wrong ones - nothing to show" in words(figure)
        pixels(figure)
    assert "not known" in words(plots.photos([], [], []))
    assert "only one" in words(comparison.p_values(PAIRS[:0]))
    assert "No slice" in words(comparison.slices(SLICED[:0]))


def test_a_grid_shows_every_image_and_marks_the_wrong_ones() -> None:
    figure = plots.image_grid(IMAGES, list("abcdefg"), 3, "t", [False, True] + [False] * 5)
    assert [len(ax.images) for ax in figure.axes] == [1] * 7 + [0] * 2
    assert [ax.get_title() for ax in figure.axes if ax.images and ax.spines["left"].get_linewidth() > 2] == ["b"]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), IMAGES[3])


def test_photos_are_framed_where_patches_were_cut() -> None:
    figure = plots.photos(PHOTOS, MASKS, [CUTS, CUTS[:0]])
    top, bottom = figure.axes[:2], figure.axes[2:]
    for k in (0, 1):
        np.testing.assert_array_equal(top[k].images[0].get_array(), PHOTOS[k])
        np.testing.assert_array_equal(bottom[k].images[0].get_array(), MASKS[k])
        assert bottom[k].images[0].get_clim() == (0, 255)  # a mask of faint cracks only must not look like a strong one
    frames = [(p.get_bbox().bounds, p.get_linestyle()) for p in top[0].patches]
    assert frames == [((2, 3, 8, 8), "-"), ((10, 0, 8, 8), "--")]
    assert len({p.get_edgecolor() for p in top[0].patches}) == 2
    assert len(top[1].patches) == 0
    assert f"{24 / (24 * 36):.2%}" in bottom[0].get_title() and "0.00%" in bottom[1].get_title()


def test_predicted_against_true_frames_exactly_the_wrong_ones() -> None:
    table = pd.DataFrame({"file": ["Negative/1.jpg", "Positive/2.jpg", "Positive/3.jpg"], "label": [0, 1, 1]})
    figure = plots.predicted_against_true(IMAGES[:3], table.assign(p_crack=np.float32([0.5, 0.4, 0.9])), "t")
    titles = [ax.get_title().splitlines() for ax in figure.axes]
    assert titles[0] == ["N/1.jpg", "true Negative", "predicted Positive, p 0.500"]
    assert titles[1] == ["P/2.jpg", "true Positive", "predicted Negative, p 0.400"]
    assert [ax.spines["left"].get_linewidth() > 2 for ax in figure.axes[:3]] == [True, True, False]


def test_worst_lists_the_farthest_from_the_truth_first() -> None:
    table = pd.DataFrame({"file": list("dcba"), "label": [0, 1, 0, 0], "p_crack": [0.9, 0.1, 0.5, 0.9]})
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
    np.testing.assert_array_equal(plots.curves(LINEAR).axes[0].lines[0].get_xdata(), LINEAR["C"])


def test_a_confusion_matrix_has_truth_in_rows_and_its_names_may_be_swapped() -> None:
    scores = {"tn": 90, "fp": 10, "fn": 1, "tp": 3, "n": 104}
    (ax, *_), (right, wrong, *_) = plots.confusion(scores).axes, plots.confusion_swapped(scores).axes
    texts = [[t.get_text() for t in a.texts] for a in (ax, right, wrong)]
    assert texts == [["90\n90.00%", "10\n10.00%", "1\n25.00%", "3\n75.00%"]] * 3
    assert ticks(ax) == ticks(right) == [list(config.CLASSES)] * 2
    assert ticks(wrong) == [list(config.CLASSES[::-1])] * 2
    assert "0\n0.00%" in words(plots.confusion({"tn": 0, "fp": 0, "fn": 0, "tp": 3, "n": 3}))  # a class without images


def test_wrong_and_right_join_the_two_values_of_a_row() -> None:
    ax = pitfalls.wrong_and_right(CLAIMS).axes[0]
    assert ticks(ax)[1] == ["a", "b"]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5, 0.99], [0.95, 0.9]]
    assert [list(s[:, 0]) for s in ax.collections[0].get_segments()] == [[0.5, 0.95], [0.99, 0.9]]
    assert [t.get_text() for t in ax.texts] == ["0.500", "0.950", "0.990", "0.900"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["with the mistake", "without it"]


def test_the_areas_under_the_curves_are_those_of_the_metrics() -> None:
    found, text = score_predictions(LABELS, P), words(plots.roc_pr(LABELS, P))
    assert f"area {found['auroc']:.5f}" in text
    assert f"Average precision {found['average_precision']:.5f}" in text
    with pytest.raises(config.CrackutilsError, match="are of one class"):
        plots.roc_pr(LABELS[::2], P[::2])


def test_error_rates_have_a_row_per_name_and_no_error_is_an_arrow() -> None:
    ax = comparison.error_rates(RATES).axes[0]
    assert ticks(ax)[1] == ["a", "b"]
    assert {"0 of 2,000", "5 of 2,000", "3 of 2,000", "17 of 4,000"} <= {t.get_text().strip() for t in ax.texts}
    points = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [line.get_marker() for line in points] == ["<", "o", "D", "s"]
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans[1] == pytest.approx(wilson(5, 2000))
    heights = [float(line.get_ydata()[0]) for line in points]
    assert [round(y) for y in heights] == [0, 1, 1, 1]
    assert len(set(heights)) == 4  # and none upon another
    assert {"0.0005", "0.001", "0.002"} <= set(ticks(ax)[0])


def test_maps_lie_beside_their_images_and_true_masks_have_no_scale() -> None:
    axes = transfer.crack_maps(IMAGES[:4], MAPS * 2, list("abcd"), "t", bar=False).axes
    assert [(ax.get_title(), len(ax.images)) for ax in axes[:4]] == [("a", 1), ("", 2), ("b", 1), ("", 2)]
    assert [len(ax.images) for ax in axes[8:]] == [0] * 4 and len(axes) == 12  # an empty place, and no bar


def test_p_values_mark_what_is_told_apart() -> None:
    ax = comparison.p_values(PAIRS).axes[0]
    bold = {t.get_text(): t.get_weight() == "bold" for t in ax.texts}
    assert bold == {"0.80": False, "0.04": True, "3e-4": True}


def test_slices_come_with_the_weakest_first() -> None:
    ax = comparison.slices(SLICED).axes[0]
    assert ticks(ax)[0] == ["thin", "dark"]
    assert {t.get_text() for t in ax.texts} == {"3/9", "0/7", "1/9", "1/7"}
