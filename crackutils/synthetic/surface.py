"""The bare concrete: albedo and relief of six finishes, with pores, grains and dirt."""

import math

import numpy as np

from crackutils.synthetic.drawing import blob, fill, noise, octaves, slope, soften
from crackutils.synthetic.scene import Scene


def add_surface(s: Scene, finish: str) -> None:
    """Give albedo and height the texture of one of `FINISHES`."""
    rng, h, w, z = s.rng, s.h, s.w, s.zoom
    strength = math.exp(rng.normal(math.log(0.010), 0.4))
    grains = [(max(1.5, g * z**0.5), a) for g, a in ((2, 0.5), (4.5, 0.8), (10, 0.9), (24, 0.9), (60, 1.0), (160, 1.1))]
    s.albedo += octaves(rng, h, w, [(g, strength * a * math.exp(rng.normal(0, 0.35))) for g, a in grains])
    relief = {"smooth": 0.14, "pitted": 0.25, "brushed": 0.25, "boards": 0.25, "rough": 0.55, "eroded": 0.4}[finish]
    relief *= math.exp(rng.normal(0, 0.45))
    grains = [(max(1.4, g * z**0.5), a) for g, a in ((1.6, 0.18), (3.2, 0.45), (7, 0.8), (18, 1.2), (50, 2.2))]
    s.height += octaves(rng, h, w, [(g, relief * a * z**0.5 * math.exp(rng.normal(0, 0.3))) for g, a in grains])
    angle = rng.uniform(0, math.pi)
    if finish == "brushed":
        for grain in (1.6, 4, 9):
            s.height += rng.uniform(0.04, 0.25) * grain**0.6 * s.noise(grain * z**0.5, rng.uniform(8, 30), angle)
    elif finish == "boards":
        angle = float(rng.choice([0, math.pi / 2])) + rng.normal(0, 0.03)
        for grain in (2, 6):
            s.height += rng.uniform(0.04, 0.22) * s.noise(grain * z**0.5, 40, angle)
        s.albedo += rng.uniform(0.002, 0.015) * s.noise(5 * z, 40, angle)
    elif finish in ("pitted", "eroded"):
        for grain in (3, 7):
            pits = np.maximum(s.noise(grain * z**0.6) - rng.uniform(1.0, 1.9), 0)
            s.height -= rng.uniform(0.2, 1.0) * grain**0.5 * pits
            s.albedo -= rng.uniform(0.0, 0.10) * pits
    if finish in ("rough", "eroded") or rng.random() < 0.25:  # grains of sand and stone, lighter and darker
        for sign in (1, -1):
            stones = np.maximum(sign * s.noise(rng.uniform(2, 6) * z**0.5) - rng.uniform(1.2, 2.2), 0)
            s.albedo += sign * rng.uniform(0.01, 0.08) * np.minimum(stones, 1)
            s.height += rng.uniform(0, 0.4) * stones
    _add_pores(s)
    for _ in range(int(rng.poisson(1.2))):  # clouds of dirt and of lime
        cloud = np.clip(s.noise(rng.uniform(40, 200)) - rng.uniform(0.2, 1.2), 0, 1.2)
        s.albedo += rng.normal(-0.02, 0.03) * cloud
    tint = rng.uniform(0, 2.5) * noise(rng, *s.chroma.shape[:2], rng.uniform(4, 30))
    s.chroma += tint[..., None] * np.array([0.5, 0.1, -1.0], np.float32)


def roughen(s: Scene) -> None:
    """Make the surface much smoother or rougher, and give it the coarse grains of asphalt or washed-out concrete."""
    rng, h, w = s.rng, s.h, s.w
    s.height *= math.exp(rng.uniform(-1.9, 0.9))
    s.albedo = 1 + (s.albedo - 1) * math.exp(rng.uniform(-1.4, 1.0))
    if rng.random() < 0.3:
        grain, strength = math.exp(rng.uniform(math.log(1.6), math.log(6))), math.exp(rng.uniform(-3.6, -1.3))
        parts = [(g, a * rng.uniform(0.3, 1)) for g, a in ((1.5, 0.6), (grain, 0.9), (grain * 1.9, 0.7))]
        stones = octaves(rng, h, w, parts)
        stones = np.tanh(rng.uniform(0.7, 2.5) * stones) if rng.random() < 0.5 else stones
        s.albedo *= 1 + strength * stones * np.clip(0.8 + 0.3 * s.noise(60), 0.2, 1.5)
        s.height += rng.uniform(0, 1.2) * grain**0.5 * stones
    s.albedo = np.clip(s.albedo, 0.15, 2.5)


def _add_pores(s: Scene) -> None:
    """Add bug holes, small ones in numbers and large ones rarely, each with its own darkness, and white grains."""
    rng, z = s.rng, s.zoom
    hollow, dark, light = s.canvas(), s.canvas(), s.canvas()
    for _ in range(min(int(math.exp(rng.normal(3.6, 1.1))), 400)):
        x, y = rng.uniform(0, s.w), rng.uniform(0, s.h)
        radius = float(np.clip(math.exp(rng.normal(0.75, 0.5)) * z**0.7, 0.7, 16))
        shape = blob(rng, x, y, radius, rng.uniform(0.45, 1), 0.3)
        fill(hollow, shape, int(rng.uniform(80, 255)))
        if rng.random() < 0.75:
            fill(dark, shape, int(rng.uniform(40, 230)))
    for _ in range(int(math.exp(rng.normal(1.5, 1.2)))):
        shape = blob(rng, rng.uniform(0, s.w), rng.uniform(0, s.h), rng.uniform(0.8, 3.5) * z**0.5, rng.uniform(0.5, 1))
        fill(light, shape, int(rng.uniform(60, 255)))
    s.height -= rng.uniform(1, 4) * soften(hollow, 0.9 * max(1, z**0.5))
    s.albedo *= 1 - soften(dark, 0.7, rng.uniform(0.3, 0.7))
    s.albedo += soften(light, 0.7, rng.uniform(0.08, 0.3))


def shade_surface(s: Scene) -> np.ndarray:
    """Return the luminance of the surface: albedo under slanted light."""
    return s.albedo * (1 + 0.45 * np.tanh(slope(s.height, s.light) * 0.7))
