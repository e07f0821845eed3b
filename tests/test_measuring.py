"""Width and length: profiles, centre lines, and the table of cracks, on pictures of which both are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from crackutils.config import CrackutilsError
from crackutils.inspection import graph, width
from crackutils.inspection import measure as measuring
from crackutils.inspection.export import describe_lines
from crackutils.inspection.graph import thin_mask
from crackutils.inspection.measure import COLUMNS, measure_cracks
from crackutils.inspection.width import profile_width
from tools.benchmarks.widths import half_depth, read_profiles

FINE = 8


def band(width: float, size: tuple[int, int] = (160, 700), slope: float = 0.15, end: float = 660) -> np.ndarray:
    """Return how much of each pixel, float (h, w), a straight band covers, drawn finer; it begins at x = 40."""
    y, x = ((np.arange(side * FINE) + 0.5) / FINE - 0.5 for side in size)
    across = ((y[:, None] - size[0] / 2) - slope * (x - size[1] / 2)) / np.hypot(1, slope)
    inside = (np.abs(across) <= width / 2) & (x >= 40) & (x <= end)
    return cv2.resize(inside.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def shoot(
    cover: np.ndarray, blur: float = 1.0, dark: float = 0.8, noise: float = 2.0, light: float = 170
) -> np.ndarray:
    """Return the photo, uint8 (h, w, 3), that a lens takes of what is covered."""
    grey = cv2.GaussianBlur((1 - dark * cover) * light, (0, 0), blur)
    grey = grey + np.random.default_rng(0).normal(0, noise, grey.shape)
    return np.repeat(grey.round().clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def measure(cover: np.ndarray, grown: int = 0, **camera: float) -> tuple:
    mask = cover > 0.4
    mask = cv2.dilate(mask.astype(np.uint8), np.ones((2 * grown + 1,) * 2, np.uint8)) > 0
    return measure_cracks(shoot(cover, **camera), mask, mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("width", [0.5, 1, 1.6, 2.5, 4, 6, 10, 16])
@pytest.mark.parametrize("blur", [0.7, 1.1, 1.6])
def test_a_profile_is_as_wide_as_it_is(width: float, blur: float) -> None:
    x = (np.arange(40 * FINE) + 0.5) / FINE - 20.3
    cover = (np.abs(x) <= width / 2).reshape(40, FINE).mean(1)
    grey = cv2.GaussianBlur(150 * (1 - 0.8 * cover)[None], (0, 0), blur)[0] * np.linspace(0.9, 1.1, 40)
    assert profile_width(grey) == pytest.approx(width, abs=0.12 + 0.14 * min(width, 6))
    grey[3:7] = 40  # a joint beside it
    assert profile_width(grey) == pytest.approx(width, abs=0.12 + 0.14 * min(width, 6))
    if width <= 1.6:
        assert half_depth(grey) > 1.3 * width  # what blur makes of it


def test_what_is_no_profile_is_refused() -> None:
    for values in (np.ones(15), np.ones((4, 20)), np.full(20, np.nan)):
        with pytest.raises(CrackutilsError, match="Sample it wider"):
            profile_width(values)
    assert np.isnan(profile_width(np.full(32, 150.0)))
    bright = np.full(32, 150.0)
    bright[15:18] = 220
    assert np.isnan(profile_width(bright))


@pytest.mark.parametrize("width", [1, 2, 3.5, 6, 12, 25, 40, 60])
@pytest.mark.parametrize("grown", [0, 1])
def test_cracks_are_as_wide_and_long_as_they_are(width: float, grown: int) -> None:
    table, pieces = measure(band(width), grown)
    crack = table.iloc[0]
    assert len(table) == len(pieces) == 1 and list(table.columns) == COLUMNS
    assert crack["width_p50"] == pytest.approx(width, abs=0.25 + 0.03 * width + 0.3 * grown)
    assert crack["width_p10"] <= crack["width_p50"] <= crack["width_p90"] <= crack["width_most"]
    assert crack["length"] == pytest.approx(620 * np.hypot(1, 0.15), rel=0.02 + width / 620)  # it ends before wide ends
    assert crack["area"] == pytest.approx(crack["length"] * crack["width_mean"])
    assert not crack["at_most"] and crack["p_crack"] == 1
    points = pieces[0].points
    off = (points[:, 1] - 79.5 - 0.15 * (points[:, 0] - 349.5)) / np.hypot(1, 0.15)
    assert np.abs(off[30:-30]).max() < 0.75 + 0.02 * width
    assert len(points) == len(pieces[0].width) == len(pieces[0].at_most)


def test_what_the_lens_cannot_show_is_only_bounded() -> None:
    thin, _ = measure(band(0.5), blur=2.2, noise=0.5)
    assert thin["at_most"][0] > 0.8 and 0.5 < thin["width_p50"][0] < 3  # no wider than the blur
    clipped, _ = measure(band(4), light=300)  # the surface is overexposed
    assert clipped["at_most"][0] == 1 and clipped["width_p50"][0] >= 3
    cover = band(np.linspace(0.9, 0.25, 700 * FINE))  # where it tapers off, the bounds are the largest values
    taper, lines = measure_cracks(shoot(cover, noise=0.5), cover > 0.05, np.uint8(cover > 0.05))
    most = taper["width_most"][0]
    assert taper["x_most"][0] < 100 and most == pytest.approx(0.95, abs=0.05) and most < taper["width_p90"][0]
    assert describe_lines(lines, None)[0]["width_most"] == round(most, 4)
    filled, (piece,) = measure(band(4), dark=-0.4)  # brighter than the surface
    assert np.isnan(filled["width_mean"][0]) and np.isnan(piece.width).all() and filled["length"][0] > 600


def test_branches_are_numbered_and_spurs_are_none() -> None:
    drawn = np.zeros((400, 600), np.uint8)
    for begin, end, thick in (((50, 60), (550, 60), 9), ((300, 60), (420, 300), 5), ((60, 250), (200, 330), 3)):
        cv2.line(drawn, begin, end, 1, thick)
    for x in range(60, 290, 23):  # rough edges
        cv2.circle(drawn, (x, 65), 4, 1, -1)
    table, pieces = measure(drawn.astype(np.float32))
    assert [(p.crack, p.piece) for p in pieces] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert table["pieces"].tolist() == [3, 1] and table["length"].is_monotonic_decreasing
    np.testing.assert_allclose(table["length"], [500 + np.hypot(120, 240), np.hypot(140, 80)], rtol=0.04)
    for crack, rows in table.groupby(table.index + 1):
        own = np.concatenate([p.points for p in pieces if p.crack == crack])
        x, y, wide, high = rows.iloc[0][["x", "y", "width", "height"]]
        assert ((own >= (x, y)) & (own < (x + wide, y + high))).all()
    assert np.isnan(pieces[0].width).any()  # at the fork, across which the crack goes on


@pytest.mark.parametrize("width", [3, 6, 12])
def test_a_fork_makes_no_crack_wider(width: float) -> None:
    cover = np.maximum(band(width, (400, 700), 0.1), band(width, (400, 700), 1.5, 400))
    table, pieces = measure(cover)
    assert table["pieces"][0] == 5 and table["width_most"][0] == pytest.approx(width, rel=0.05)
    unknown = sum(piece.steps[np.isnan(piece.width)].sum() for piece in pieces)
    assert 0 < unknown < 0.06 * table["length"][0]


def test_gaps_are_bridged_where_ends_face_each_other() -> None:
    lines = np.zeros((120, 400), np.uint8)
    for x in range(20, 360, 40):
        cv2.line(lines, (x, 40), (x + 29, 42), 1, 2)
    cv2.line(lines, (150, 52), (150, 110), 1, 2)  # another crack that ends beside it
    table, _ = measure(lines.astype(np.float32))
    assert table["pieces"].tolist() == [1, 1] and table["length"][0] == pytest.approx(349, rel=0.03)
    ring = np.zeros((300, 300), np.uint8)
    cv2.circle(ring, (150, 150), 100, 1, 4)
    table, (piece,) = measure(ring.astype(np.float32))
    assert table["length"][0] == pytest.approx(200 * np.pi, rel=0.03)
    np.testing.assert_array_equal(piece.points[0], piece.points[-1])


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((900, 900), np.uint8)
    for k in range(6):
        cv2.line(mask, (20 + 150 * k, 5), (880 - 130 * k, 890), 1, 3 + 8 * k)
    whole = thin_mask(mask > 0) > 0
    monkeypatch.setattr(graph, "_BLOCK", 256)
    assert (whole ^ (thin_mask(mask > 0) > 0)).sum() < 0.01 * whole.sum()
    table, pieces = measure(np.zeros((50, 60), np.float32))
    assert table.empty and list(table.columns) == COLUMNS and not pieces


def test_lines_are_read_together_as_each_alone() -> None:
    random, shapes = np.random.default_rng(0), [(k, 31 + k % 3) for k in range(1, 9)]
    profiles = [(random.uniform(0, 255, one).astype(np.float32), random.integers(0, 3, one)) for one in shapes]
    alone = [np.concatenate(values) for values in zip(*(width.read_profiles(*one) for one in profiles), strict=True)]
    np.testing.assert_array_equal(measuring._read_together(profiles), alone)


def test_profiles_are_read_as_they_were_published(tmp_path: Path) -> None:
    grey = ",".join(["150."] * 15 + ["60.", "40.", "60."] + ["150."] * 14)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.csv").write_text(f"width_m, mean_res, width_px\n0.4,0.2,2.0\nintensities\n{grey}")
    row = read_profiles(tmp_path).iloc[0]
    assert (row["true"], row["mm_per_px"], row["1 px"]) == (2, 0.2, 1)
    assert row["ours"] == pytest.approx(2.3, abs=0.4) and row["half depth"] == pytest.approx(2.8, abs=0.1)
