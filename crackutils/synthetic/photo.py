"""One synthetic photo from its seed and number, and its simulated camera."""

import math

import cv2
import numpy as np

from crackutils.synthetic.courses import add_any_cracks
from crackutils.synthetic.cracks import add_cracks
from crackutils.synthetic.distractors import add_distractor, lay_overlays
from crackutils.synthetic.drawing import stroke
from crackutils.synthetic.joints import add_structure
from crackutils.synthetic.marks import MARKS, add_mark, add_notes
from crackutils.synthetic.scene import FINISHES, HEIGHT, OBJECTS, STYLES, SURFACE, USUAL, WIDTH, Photo, Scene
from crackutils.synthetic.surface import add_surface, roughen, shade_surface


def make_photo(
    seed: int,
    number: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    styles: tuple[float, ...] = USUAL,
    rich: bool = False,
) -> Photo:
    """Make photo `number` (from 0) of the set of a seed, at least 256 pixels each way.

    `styles` holds the probability of each of `STYLES`. `rich` photos are for training a detector: a third of them show
    no crack, the others cracks of 0.3 to 60 pixels, on walls and roads full of joints, marks and other distractors.
    """
    rng = np.random.default_rng([seed, number])
    style = str(rng.choice(STYLES, p=styles))
    zoom = float(np.clip(math.exp(rng.normal({"hairline": -0.2, "medium": 0.2, "wide": 0.6}[style], 0.45)), 0.5, 3.5))
    turn = rng.uniform(0, 2 * math.pi)
    s = Scene(rng, width, height, zoom, (math.cos(turn), math.sin(turn)))
    finish = str(rng.choice(FINISHES, p=[0.34, 0.26, 0.1, 0.07, 0.12, 0.11]))
    add_surface(s, finish)
    calm = rich and rng.random() < 0.4  # like most concrete
    if rich:
        bare, surface, mask, lines, crack_width = furnish_wall(s, style, calm)
    else:
        for i in rng.permutation(len(OBJECTS))[: int(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.2, 0.05]))]:
            add_distractor(s, OBJECTS[i])
        surface, mask, lines, crack_width = add_cracks(s, style)
    if rich and not calm:
        level = rng.uniform(50, 230)
        cast = (np.array([0.45, -0.08, -1.0]) * rng.normal(0.03, 0.09) + rng.normal(0, 0.02, 3)) * level
    else:
        level = float(np.clip(rng.normal(178, 24), 95, 222))
        # warm, as in METU, or cool, as on SDNET's walls
        cast, *spread = ([0.45, -0.08, -1.0], 9, 5) if rng.random() < 0.7 else ([-0.9, 0.25, 1.0], 8, 4)
        cast = np.array(cast) * rng.normal(*spread) + rng.normal(0, 0.8, 3)
    uneven, coarse = rng.uniform(0, 0.06), rng.standard_normal((3, 4), np.float32)
    light = 1 + uneven * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    light = (light if s.shade is None else light * s.shade)[..., None]
    chroma = cv2.resize(s.chroma, (width, height), interpolation=cv2.INTER_LINEAR)

    def view(surface: np.ndarray) -> np.ndarray:
        rgb = cv2.merge([surface * level] * 3) * (1 + cast.astype(np.float32) / level) + chroma
        lay_overlays(rgb, s)
        rgb *= light
        if s.behind is not None:
            rgb += s.behind[..., 3:] * (s.behind[..., :3] - rgb)
        return rgb.astype(np.float32)

    rgb, drop = view(surface), None
    if rich:
        grey = (
            np.abs(cv2.cvtColor(view(bare).clip(0, 255) - rgb.clip(0, 255), cv2.COLOR_RGB2GRAY)) if lines else 0 * bare
        )
        image, drop, taken = take_photo(rng, np.dstack([rgb, grey]))
    else:
        image, _, taken = take_photo(rng, rgb)
    facts = {"finish": finish, "objects": s.objects, "style": style, "zoom": round(zoom, 2)}
    facts |= {"crack_width": round(crack_width, 2), "level": round(level)} | taken
    return Photo(image, mask, lines, s.points, facts, s.kinds, drop)


def furnish_wall(
    s: Scene, style: str, calm: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], float]:
    """Furnish a surface with joints, distractors and mostly cracks; return the same as `add_any_cracks`.

    A `calm` one has fewer of them, and keeps its roughness.
    """
    rng = s.rng
    if not calm:
        roughen(s)
        if rng.random() < 0.3:
            add_mark(s, "scales")
    if rng.random() < (0.3 if calm else 0.55):
        names = ("planks", "panels", "bricks", "blocks", "tiles", "seal", "saw", "joint", "ridge")
        name = str(rng.choice(names, p=[0.2, 0.24, 0.14, 0.08, 0.06, 0.06, 0.08, 0.07, 0.07]))
        add_distractor(s, name) if name in OBJECTS else add_structure(s, name)
    others = [name for name in (*MARKS, *OBJECTS) if name not in ("joint", "ridge", "scales")]
    few, many = ([0, 1, 2], [0.4, 0.4, 0.2]), ([1, 2, 3, 4, 5], [0.3, 0.28, 0.2, 0.14, 0.08])
    names = rng.choice(
        others, int(rng.choice(few[0], p=few[1]) if calm else rng.choice(many[0], p=many[1])), replace=False
    )
    for name in map(str, names):
        add_mark(s, name) if name in MARKS else add_distractor(s, name)
    if rng.random() < 0.33:
        bare, mask, lines, width = shade_surface(s), s.canvas(), [], 0.0
        found = bare, bare, mask, lines, width
    else:
        found = add_any_cracks(s, style)
        if found[3] and rng.random() < 0.12:
            add_notes(s, rng, found[3])
            s.objects.append("inspected")
    if s.behind is not None:
        s.mark(s.behind[..., 3] > 0.5, SURFACE)
    return found


def take_photo(rng: np.random.Generator, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]]:
    """Return the uint8 image that a camera takes of a float32 (h, w, 3) view, and its part of `Photo.facts`.

    The camera has focus, motion and noise, and denoises and sharpens as phones do. A fourth channel, `Photo.drop`, only
    passes through the lens; with it, cameras vary more.
    """
    h, w, channels = rgb.shape
    rich, drop = channels == 4, None
    if rich:
        blur = float(min(math.exp(rng.normal(-0.25, 0.5)), 2.5) + 0.1)
    else:
        blur = float(rng.uniform(0.5, 1.1) if rng.random() < 0.85 else rng.uniform(1.1, 3.0))
    rgb, motion = cv2.GaussianBlur(rgb, (0, 0), blur), 0.0
    if rng.random() < 0.07:
        motion = float(rng.uniform(2, 7))
        size = int(motion) * 2 + 3
        kernel = np.zeros((size, size), np.uint8)
        angle = rng.uniform(0, math.pi)
        dx, dy = motion / 2 * math.cos(angle), motion / 2 * math.sin(angle)
        stroke(kernel, np.array([[-dx, -dy], [dx, dy]]) + size // 2, 255)
        rgb = cv2.filter2D(rgb, -1, kernel.astype(np.float32) / max(1, int(kernel.sum())))
    if rich:
        rgb, drop = np.ascontiguousarray(rgb[..., :3]), np.rint(rgb[..., 3]).clip(0, 255).astype(np.uint8)
    noise = float(np.clip(math.exp(rng.normal(*((0.3, 0.8) if rich else (0.9, 0.5)))), 0.5, 9))
    grain = rng.standard_normal((h, w), np.float32)
    rgb += (cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 0.9)) * 2 * noise)[..., None]
    tint = rng.standard_normal((h // 4, w // 4, 3), np.float32)
    rgb += cv2.resize(tint, (w, h), interpolation=cv2.INTER_LINEAR) * noise * 0.35
    image = np.clip(rgb, 0, 255).astype(np.uint8)
    if rng.random() < (0.4 if rich else 0.7):  # noise reduction as in phones, which blurs fine detail
        image = cv2.medianBlur(image, 3 if rng.random() < (0.85 if rich else 0.5) else 5)
    sharp = float(rng.uniform(0, 1.0))
    image = cv2.addWeighted(image, 1 + sharp, cv2.GaussianBlur(image, (0, 0), 1.6), -sharp, 0)
    facts = {"blur": round(blur, 2), "motion": round(motion, 1), "noise": round(noise, 2), "sharpened": round(sharp, 2)}
    return image, drop, facts
