"""One synthetic photo, from its seed and its number."""

import math

import cv2
import numpy as np

from crackutils.synthetic.camera import take_photo
from crackutils.synthetic.cracks import add_cracks, render_crack
from crackutils.synthetic.distractors import add_distractor, lay_overlays
from crackutils.synthetic.scene import FINISHES, HEIGHT, OBJECTS, STYLES, USUAL, WIDTH, Photo, Scene
from crackutils.synthetic.surface import add_surface, shade_surface


def make_photo(
    seed: int, number: int, width: int = WIDTH, height: int = HEIGHT, styles: tuple[float, ...] = USUAL
) -> Photo:
    """Make one photo.

    Args:
        seed: of the whole set.
        number: which photo of it, from 0.
        width: in pixels, at least 256.
        height: in pixels, at least 256.
        styles: how probable each of `STYLES` is.
    """
    rng = np.random.default_rng([seed, number])
    style = str(rng.choice(STYLES, p=styles))
    zoom = float(np.clip(math.exp(rng.normal({"hairline": -0.2, "medium": 0.2, "wide": 0.6}[style], 0.45)), 0.5, 3.5))
    turn = rng.uniform(0, 2 * math.pi)
    s = Scene(rng, width, height, zoom, (math.cos(turn), math.sin(turn)))
    finish = str(rng.choice(FINISHES, p=[0.34, 0.26, 0.1, 0.07, 0.12, 0.11]))
    add_surface(s, finish)
    chosen = rng.permutation(len(OBJECTS))[: int(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.2, 0.05]))]
    for i in chosen:
        add_distractor(s, OBJECTS[i])
    surface = shade_surface(s)
    crack = add_cracks(s, style)
    surface = render_crack(s, surface, crack, style)
    level = float(np.clip(rng.normal(178, 24), 95, 222))
    if rng.random() < 0.7:  # warm, as in METU, or cool, as on SDNET's walls
        cast = np.array([0.45, -0.08, -1.0]) * rng.normal(9, 5) + rng.normal(0, 0.8, 3)
    else:
        cast = np.array([-0.9, 0.25, 1.0]) * rng.normal(8, 4) + rng.normal(0, 0.8, 3)
    chroma = cv2.resize(s.chroma, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = cv2.merge([surface * level] * 3) * (1 + cast.astype(np.float32) / level) + chroma
    lay_overlays(rgb, s)
    uneven, coarse = rng.uniform(0, 0.06), rng.standard_normal((3, 4), np.float32)
    light = 1 + uneven * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rgb *= (light if s.shade is None else light * s.shade)[..., None]
    image, taken = take_photo(rng, rgb.astype(np.float32))
    facts = {"finish": finish, "objects": s.objects, "style": style, "zoom": round(zoom, 2)}
    facts |= {"crack_width": round(crack.width, 2), "level": round(level)} | taken
    return Photo(image, crack.open, crack.lines, s.points, facts)
