"""Images as another camera might have taken them, corrupted, and with another texture."""

import numpy as np
import pytest

from crackutils.detector.data import VARIATIONS, shrink, vary
from crackutils.transfer.robustness import CORRUPTIONS, corrupt, mix_textures

SQUARE = 96


def surface(line: int = 0, side: int = SQUARE) -> np.ndarray:
    """Return a grey, slightly rough surface, with an upright dark line of so many pixels in the middle."""
    rng = np.random.default_rng(0)
    grey = 150 + 20 * np.sin(np.arange(side) / 30)[:, None] + rng.normal(0, 3, (side, side))
    left = (side - line) // 2
    grey[:, left : left + line] = 40
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)


def dark(image: np.ndarray) -> np.ndarray:
    """Return the columns of the middle row that are dark."""
    return np.flatnonzero(image[SQUARE // 2, :, 1] < 95)


@pytest.mark.parametrize("kinds", [(), *[(kind,) for kind in VARIATIONS], VARIATIONS])
def test_varied_images_keep_their_shape_and_follow_the_seed(kinds: tuple[str, ...]) -> None:
    image = surface(6)

    def draws(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        found = [vary(image, rng, kinds) for _ in range(4)]
        assert all((x.shape, x.dtype) == (image.shape, np.uint8) for x in found)
        return [x.tobytes() for x in found]

    first = draws(1)
    assert draws(1) == first
    np.testing.assert_array_equal(image, surface(6))
    if not kinds:
        assert set(first) == {image.tobytes()}
        return
    assert len({image.tobytes(), *first}) == 5  # each is another, and none is as it was
    assert not set(draws(2)) & set(first)


def test_the_share_says_how_often_a_kind_of_variation_happens() -> None:
    image, rng = surface(6), np.random.default_rng(0)
    for kind, often in (("blur", 0.3), ("scale", 0.3), ("exposure and noise", 0.51)):  # either or both
        for share, expected in ((0.0, 0.0), (0.3, often)):
            changed = [not np.array_equal(vary(image, rng, (kind,), share), image) for _ in range(200)]
            assert np.mean(changed) == pytest.approx(expected, abs=0.1)
            assert share or not any(changed)
    for kind in ("contrast", "jpeg and tint"):  # light and colour are never quite the same
        assert not np.array_equal(vary(image, rng, (kind,), 0.0), image)


def test_each_kind_of_variation_does_what_its_name_says() -> None:
    image, rng = surface(6), np.random.default_rng(4)

    def many(kind: str) -> np.ndarray:
        return np.stack([vary(image, rng, (kind,)) for _ in range(60)]).astype(float)

    steps = np.abs(np.diff(image.astype(float), axis=1))
    contrast = many("contrast")
    spread, level = contrast.std((1, 2, 3)) / image.std(), contrast.mean((1, 2, 3)) / image.mean()
    assert spread.min() < 0.7 and spread.max() > 1.2
    assert level.min() < 0.85 and level.max() > 1.1
    blurred = many("blur")
    assert (np.abs(np.diff(blurred, axis=2)).max((1, 2, 3)) < steps.max()).all()
    np.testing.assert_allclose(blurred.mean((1, 2, 3)), image.mean(), atol=1.5)
    exposed = many("exposure and noise")
    level, rough = exposed.mean((1, 2, 3)) / image.mean(), np.abs(np.diff(exposed[:, :, :30], axis=2)).mean((1, 2, 3))
    assert level.min() < 0.3 and 1.2 < level.max() < 1.7
    assert rough.max() > 4 * steps[:, :29].mean()
    tinted = many("jpeg and tint").mean((1, 2))
    assert 3 < np.std(tinted - tinted.mean(1, keepdims=True)) < 9


def test_to_shrink_makes_a_line_thinner_and_mirrors_what_lies_around() -> None:
    image = surface(12)
    small = shrink(image, 0.5)
    assert (small.shape, small.dtype) == (image.shape, np.uint8)
    middle = dark(small)
    middle = middle[np.abs(middle - SQUARE / 2) < SQUARE / 4]
    assert 5 <= len(middle) <= 7  # 12 before
    assert middle.mean() == pytest.approx((SQUARE - 1) / 2, abs=1)
    quarter = SQUARE // 4
    np.testing.assert_array_equal(small[:, :quarter], small[:, quarter : 2 * quarter][:, ::-1])
    np.testing.assert_array_equal(small[-quarter:], small[-2 * quarter : -quarter][::-1])
    np.testing.assert_array_equal(shrink(image, 1.0), image)
    drawn = [dark(vary(image, np.random.default_rng(k), ("scale",))) for k in range(20)]
    widths = [min(map(len, np.split(x, np.flatnonzero(np.diff(x) > 1) + 1))) for x in drawn]
    assert max(widths) <= 12
    assert min(widths) <= 7
    assert len({dark(shrink(image, 0.5, np.random.default_rng(k)))[0] for k in range(12)}) > 4  # anywhere


def test_textures_are_mixed_so_that_a_crack_stays_where_it_was() -> None:
    image, other = surface(4), np.full((SQUARE, SQUARE, 3), (200, 160, 120), np.uint8)
    other[: SQUARE // 2] -= 40
    mixed = mix_textures(image, other)
    assert (mixed.shape, mixed.dtype) == (image.shape, np.uint8)
    assert np.abs(mixed[:, :30].astype(int) - other[:, :30]).mean() < 8  # the other surface, where there is no crack
    line = slice((SQUARE - 4) // 2, (SQUARE + 4) // 2)
    share = mixed.astype(float) / other
    assert share[:, line].max() < 0.6
    assert np.delete(share, np.arange(line.start - 2, line.stop + 2), axis=1).min() > 0.8
    even = np.full_like(image, 90)
    assert np.abs(mix_textures(even, other).astype(int) - other).max() <= 1  # nothing to add


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_keep_shape_follow_the_seed_and_grow_with_their_strength(kind: str) -> None:
    image, errors = surface(6), []
    assert len(CORRUPTIONS[kind]) == 5
    for strength in range(6):
        one, two, other = (corrupt(image, kind, strength, np.random.default_rng(k)) for k in (1, 1, 2))
        assert (one.shape, one.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(one, two)
        assert np.array_equal(one, other) == (kind != "noise" or not strength)
        errors.append(np.abs(one.astype(int) - image).mean())
    np.testing.assert_array_equal(image, surface(6))
    assert errors[0] == 0 and min(errors[1:]) > 0
    assert kind == "rotation" or (np.diff(errors) > 0).all(), errors


def test_corruptions_are_as_strong_as_they_say() -> None:
    flat, rng = np.full((SQUARE, SQUARE, 3), 100, np.uint8), np.random.default_rng(0)
    for strength in range(1, 6):
        value = {kind: values[strength - 1] for kind, values in CORRUPTIONS.items()}
        assert corrupt(flat, "noise", strength, rng).std() == pytest.approx(value["noise"], rel=0.1)
        for kind, sign in (("darker", -1), ("brighter", 1)):
            np.testing.assert_array_equal(corrupt(flat, kind, strength, rng), round(100 * 2 ** (sign * value[kind])))
        for kind in ("blur", "rotation", "scale"):
            np.testing.assert_allclose(corrupt(flat, kind, strength, rng), flat, atol=1)
        turned = corrupt(surface(4), "rotation", strength, rng)[..., 1] < 95
        y, x = np.nonzero(turned[20:-20, 20:-20])
        angle = np.degrees(np.arctan2(*np.linalg.eigh(np.cov(x, y))[1][::-1, -1]))
        assert abs(90 - angle % 180) == pytest.approx(value["rotation"], abs=2)
