"""The page: what happens on a click. What is done with the photos, `Desk` does."""

import asyncio
import functools
import html
import inspect
import math
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import numpy as np

from crackutils.app.desk import Desk
from crackutils.app.layout import BRUSHES, CLICKS, CSS, KINDS, SCOPES, TABS, UPLOAD, lay_out
from crackutils.config import CrackutilsError

_ALIKE, _OPAQUE = 60, 100  # a painted pixel's colour may differ so much from the brush's, and is that opaque at least
_EMPTY = "No photo is open. Add photos above."
_PROGRESS = gr.Progress(track_tqdm=True)  # of `inspect`, on the page too
# what `_look` describes
_SHOWN = ("photo", "threshold", "limit", "exposure", "scale", "ends", "exact", "facts", "table", "crack")
_SHOWN += ("crop", "told", "kind", "picture", "beside", "tint", "editor", "painted", "stroke", "done")
_SHOWN += ("clear", "spare", "really")
# what a new page shows; what is typed into it before the first photo is open must stay
_FRESH = {"threshold": (0.5, None)} | dict.fromkeys(("limit", "exposure", "scale", "ends", "stroke"), ("", None))
# the button comes a little later than the answer
_FOCUS = """async () => {
    const spare = () => document.querySelector("#spare");
    for (let k = 0; k < 300 && !spare()?.offsetParent; k++) await new Promise(done => setTimeout(done, 30));
    spare()?.focus();
}"""


@dataclass
class Screen:
    """What one user sees of his desk: the open tab, the threshold that is tried, and by name what the page shows."""

    desk: Desk
    tab: str = TABS[0]
    tried: float | None = None
    stroke: str = ""
    painted: bool = False  # whether the last action came with strokes
    asked: bool = False  # whether to remove all photos
    shown: dict[str, tuple[Any, Any]] = field(default_factory=_FRESH.copy)


class _Page(gr.Blocks):
    """A page on which the answers to one user come in the order of his actions.

    gradio writes the pictures of an answer after the action, beside the next action: a short late answer would overtake
    an early one with a picture, which would then hide it.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._turns: WeakKeyDictionary = WeakKeyDictionary()  # a lock for each user

    async def process_api(self, *args: Any, state: Any = None, **named: Any) -> dict[str, Any]:
        async with self._turns.setdefault(state, asyncio.Lock()):
            return await super().process_api(*args, state=state, **named)


def build_page(start_desk: Callable[[Path], Desk], home: Path, model: str, given: Sequence[Path] = ()) -> gr.Blocks:
    """Return the page.

    `start_desk` opens a desk in a folder, `home` is the folder of all of them, `model` says which network it is, and
    `given` photos lie on each new desk.
    """
    with _Page(title="crackutils", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        p = lay_out(model)
        # what is set while the first photo opens needs the desk
        opened = page.load(functools.partial(_open_desk, start_desk, home), p.known, [p.known, p.screen])
        files = [(path, path.name) for path in given]
        _on(p, opened.then, lambda screen: _take(screen, [] if screen.desk.session.photos else files))
        _on(p, p.files.upload, _take, p.files).then(lambda: None, None, p.files)
        _on(p, p.photo.input, _choose, p.photo, source="photo")
        _on(p, p.remove.click, _remove)
        _connect_settings(p)
        _connect_cracks(p)
        _on(p, p.tabs.select, _turn_to)
        _on(p, p.write.click, _report, p.exif, show_progress_on=p.done)
        _on(p, p.keep.click, lambda screen: screen.desk.write())
        asked = _on(p, p.clear.click, _ask)
        asked.then(None, js=_FOCUS)
        _on(p, p.spare.click, lambda screen: None)
        _on(p, p.really.click, lambda screen: screen.desk.clear())
    return page


def _connect_settings(p: SimpleNamespace) -> None:
    _on(p, p.scale.submit, _set_scale, p.scale, p.scope)
    _on(p, p.scale.blur, _set_scale, p.scale, p.scope, source="scale")
    for happens in (p.ends.submit, p.ends.blur):
        _on(p, happens, _set_ends, p.ends, source="ends")
    _on(p, p.by_points.click, _scale_from_points, p.ends, p.distance, p.scope)
    _on(p, p.by_marker.click, _scale_from_marker, p.side, p.scope)
    quiet = {"show_progress": "hidden"}
    moved = _on(p, p.threshold.change, _try_threshold, p.threshold, source="threshold", **quiet)
    _on(p, moved.then, _set_threshold, **quiet)  # lines and widths of a large photo take a second
    for happens in (p.limit.submit, p.limit.blur):
        _on(p, happens, lambda screen, text: screen.desk.set_limit(read_number(text)), p.limit, source="limit")
    _on(p, p.exposure.input, lambda screen, name: screen.desk.set_limit(None, name), p.exposure, source="exposure")


def _connect_cracks(p: SimpleNamespace) -> None:
    _on(p, p.picture.select, _click, p.clicks, p.ends)
    _on(p, p.table.select, _click_row)
    _on(p, p.crack.input, _choose_line, p.crack, source="crack")
    _on(p, p.kind.input, _mark, p.kind, source="kind")
    _on(p, p.unmark.click, lambda screen: screen.desk.edit(marks=()))
    _on(p, p.apply.click, _paint, p.stroke, p.thick, p.does)
    _on(p, p.unbrush.click, lambda screen: screen.desk.edit(brush=None))


def _on(
    p: SimpleNamespace, happens: Any, action: Callable[..., None], *inputs: Any, source: str = "", **named: Any
) -> Any:
    """Let an action of a screen, with the values of some parts, happen on an event, of the field `source` if any."""
    outputs = [getattr(p, name) for name in _SHOWN]
    named = {"show_progress_on": [p.facts, p.picture], "trigger_mode": "always_last" if source else None} | named
    return happens(_acted(action, source), [p.screen, *inputs, p.editor, p.painted], outputs, **named)


def _acted(action: Callable[..., None], source: str = "") -> Callable[..., list[Any]]:
    """Return an action as the page calls it: strokes that are not applied yet come first, then what changed is shown.

    What cannot be done is said on the page. A field tells its value again when it is left: that is no action.
    """

    @functools.wraps(action)
    def act(screen: Screen | None, *values: Any) -> list[Any]:
        if screen is None:
            gr.Warning("The page is still opening, or its server was restarted. Reload this page.")
            return [gr.skip()] * len(_SHOWN)
        *values, strokes, painted = values
        with screen.desk.lock:
            shown = screen.shown.get(source, (None, None))
            if source and values[0] == shown[0]:
                return [gr.skip()] * len(_SHOWN)
            try:
                screen.desk.check()
                screen.shown |= {source: (values[0], shown[1])} if source else {}
                screen.asked = screen.asked and action is _set_threshold  # that is no action of the user
                screen.painted = painted == _picture_of(screen) and _apply_strokes(screen.desk, strokes)
                action(screen, *values)
            except CrackutilsError as error:
                gr.Warning(html.escape(str(error), quote=False))  # names of files are the user's
            return _show(screen)

    signature = inspect.signature(action)
    more = inspect.Parameter("more", inspect.Parameter.VAR_POSITIONAL)  # gradio counts what an action takes
    act.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])
    return act


def _show(screen: Screen) -> list[Any]:
    """Return what the page does not show yet, else gr.skip(): what is typed meanwhile stays, in each field."""
    now, answer = _look(screen), []
    for name in _SHOWN:
        value, depends, look = now.get(name, (None, None, None))
        new = look is not None and screen.shown.get(name) != (value, depends)
        answer.append(look() if new else gr.skip())
        screen.shown |= {name: (value, depends)} if new else {}
    return answer


def _look(screen: Screen) -> dict[str, tuple[Any, Any, Callable[[], Any]]]:
    """Return for parts of the page by name their value, what else their look depends on, and what they look like.

    Pictures in other tabs than the open one are left out.
    """
    desk, session, names = screen.desk, screen.desk.session, list(screen.desk.session.photos)
    scale, line = desk.scale_of(desk.chosen_photo or ""), desk.line
    seen = (desk.version, scale, session.limit_mm) if desk.sight else None
    lines = desk.lines() if desk.sight else {}
    kind = desk.sight.marks.get(line, (0, 0, KINDS[-1]))[2] if line else None
    values = {
        "threshold": screen.tried or session.threshold,
        "limit": _text(session.limit_mm),
        "exposure": session.exposure or "",
        "scale": _text(scale),
        "ends": "; ".join(f"{x:g}, {y:g}" for x, y in desk.ends),
        "exact": desk.describe_ends(),
        "kind": kind if kind in KINDS else None,
        "painted": _picture_of(screen),
        "stroke": screen.stroke,
    }
    parts = {name: (value, None, lambda value=value: value) for name, value in values.items()}
    views = {
        "picture": lambda: desk.picture() if screen.tried is None else desk.preview(screen.tried),
        "beside": lambda: (desk.plain(), desk.picture()),
        "tint": desk.tinted,
        "editor": desk.picture,
    }
    name = list(views)[TABS.index(screen.tab)]
    parts["editor"] = (None, None, lambda: None)
    parts[name] = ((line, desk.ends, screen.tried), seen, views[name] if seen else lambda: None)
    choices, asked = [(text, number) for number, text in lines.items()], screen.asked
    many = f"{len(names)} photo{'s' * (len(names) != 1)}"
    return parts | {
        "facts": (None, seen, lambda: desk.summary() if seen else _EMPTY),
        "table": (None, seen, lambda: desk.table() if seen else None),
        "crop": (line, seen, lambda: desk.crop(line) if line else None),
        "told": (line, seen, lambda: desk.describe(line) if line else ""),
        "photo": (desk.chosen_photo, names, lambda: gr.Dropdown(choices=names, value=desk.chosen_photo)),
        "crack": (line, lines, lambda: gr.Dropdown(choices=choices, value=line)),
        "done": (desk.done, None, lambda: list(map(str, desk.done)) or None),
        "clear": (asked, None, lambda: gr.Button(visible=not asked)),
        "spare": (asked, None, lambda: gr.Button(visible=asked)),
        "really": (asked, len(names), lambda: gr.Button(f"Really remove {many}", visible=asked)),
    }


def _picture_of(screen: Screen) -> str:
    """Return which picture the brush paints on."""
    return str(screen.desk.version) if screen.tab == TABS[3] else ""


def _open_desk(start_desk: Callable[[Path], Desk], home: Path, name: Any) -> list[Any]:
    name = name if isinstance(name, str) and re.fullmatch("[0-9a-f]{32}", name) else secrets.token_hex(16)
    desk = start_desk(home / name)
    os.utime(desk.home)  # it is in use
    return [name, Screen(desk)]


def _take(screen: Screen, files: list[tuple[Path, str]] | None) -> None:
    desk, before = screen.desk, set(screen.desk.session.photos)
    problems = desk.add(files or [])
    desk.open_first([name for name in desk.session.photos if name not in before or desk.sight is None], problems)


def _choose(screen: Screen, name: str) -> None:
    if name in screen.desk.session.photos:  # else it was left out, and the field is left only now
        screen.desk.open(name)


def _remove(screen: Screen) -> None:
    desk, names = screen.desk, list(screen.desk.session.photos)
    if desk.chosen_photo is None:
        raise CrackutilsError("No photo is open. Choose the one to remove.")
    at = names.index(desk.chosen_photo)
    desk.remove(names[at])
    desk.open_first([*names[at + 1 :], *names[:at][::-1]])


def _turn_to(screen: Screen, at: gr.SelectData) -> None:
    screen.tab = at.value


def _set_scale(screen: Screen, text: str, scope: str) -> None:
    screen.shown["scale"] = (text, None)
    screen.desk.set_scale(read_number(text), everywhere=scope == SCOPES[0])


def _set_ends(screen: Screen, text: str) -> None:
    screen.desk.ends = read_points(text)[-2:]


def _scale_from_points(screen: Screen, text: str, length: str, scope: str) -> None:
    screen.desk.ends = read_points(text)
    screen.desk.set_scale(screen.desk.scale_between(read_number(length)), everywhere=scope == SCOPES[0])


def _scale_from_marker(screen: Screen, side: str, scope: str) -> None:
    value, told = screen.desk.scale_from_marker(read_number(side))
    gr.Info(told)
    screen.desk.set_scale(value, everywhere=scope == SCOPES[0])


def _try_threshold(screen: Screen, value: float) -> None:
    screen.tried = value


def _set_threshold(screen: Screen) -> None:
    value, screen.tried = screen.tried, None
    if value is not None:
        screen.desk.set_threshold(value)


def _click(screen: Screen, mode: str, text: str, at: gr.SelectData) -> None:
    desk = screen.desk
    if mode == CLICKS[1]:
        x, y = map(round, desk.point_at(*at.index))
        desk.ends = [*read_points(text), (x, y)][-2:]
        return
    desk.line = desk.line_at(*at.index)
    if desk.line is None:
        gr.Info("No crack is near this point.")


def _click_row(screen: Screen, at: gr.SelectData) -> None:
    _choose_line(screen, int(at.row_value[0]))


def _choose_line(screen: Screen, number: int | None) -> None:
    if number in screen.desk.lines():  # else it comes late, or before the field was filled
        screen.desk.line = number


def _mark(screen: Screen, kind: str) -> None:
    if screen.desk.line is None:
        raise CrackutilsError("No crack is chosen. Click on one in the picture, or choose its number.")
    screen.desk.mark(screen.desk.line, None if kind == KINDS[-1] else kind)


def _apply_strokes(desk: Desk, value: Any) -> bool:
    """Add what is painted to the photo's brush, and return whether anything is."""
    layers = [layer for layer in (value or {}).get("layers", []) if layer is not None and layer[..., 3].any()]
    for layer in layers:
        for kind, colour in BRUSHES.items():
            rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
            alike = np.abs(layer[..., :3].astype(int) - rgb).max(2) < _ALIKE
            desk.brush(alike & (layer[..., 3] >= _OPAQUE), kind)
    return bool(layers)


def _paint(screen: Screen, text: str, width: float, does: str) -> None:
    screen.shown["stroke"] = (text, None)
    screen.stroke = text
    if text.strip():
        screen.desk.draw(read_points(text), width, does)
    elif not screen.painted:
        raise CrackutilsError("Nothing is painted. Paint in the picture, or type the points of a line.")
    screen.stroke = ""


def _report(screen: Screen, exif: bool, _: gr.Progress = _PROGRESS) -> None:
    screen.desk.report(exif)


def _ask(screen: Screen) -> None:
    if not screen.desk.session.photos:
        raise CrackutilsError("There are no photos. Add some first.")
    screen.asked = True


def read_number(text: str | None) -> float | None:
    """Return a number above 0, written with a point or a comma, None of nothing; CrackutilsError for other text."""
    if not (text or "").strip():
        return None
    try:
        if 0 < (value := float(text.replace(",", "."))) < math.inf:
            return value
    except ValueError:
        pass
    raise CrackutilsError(f"{text!r} is not a number above 0, so nothing has changed. Write it like 0.2, or nothing.")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def read_points(text: str) -> list[tuple[float, float]]:
    """Return points from "x, y; x, y; ..."; CrackutilsError for other text."""
    try:
        pairs = [tuple(float(n) for n in part.split(",")) for part in text.split(";") if part.strip()]
        return [(x, y) for x, y in pairs]
    except ValueError as error:
        raise CrackutilsError(f"{text!r} is not a list of points. Write x, y; x, y.") from error


def launch(page: gr.Blocks, host: str, port: int | None, inline: bool) -> None:
    """Let a page listen, and return; OSError where the port is taken."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from outside
    looks = {"theme": gr.themes.Default(**fonts), "css": CSS, "footer_links": [], "height": 900, "inline": inline}
    listens = {"server_name": host, "server_port": port, "share": False, "ssr_mode": False, "inbrowser": False}
    page.queue(default_concurrency_limit=2).launch(
        **listens, **looks, quiet=True, show_error=True, prevent_thread_lock=True, max_file_size=UPLOAD
    )
