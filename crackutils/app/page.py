"""The page: what happens on a click. What is done with the photos, `Desk` does."""

import functools
import math
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np

from crackutils.app.desk import Desk
from crackutils.app.layout import BRUSHES, CLICKS, CSS, SCOPES, UPLOAD, lay_out
from crackutils.config import CrackutilsError

_ALIKE, _OPAQUE = 60, 100  # a painted pixel's colour may differ so much from the brush's, and is that opaque at least
_TOLD = 3  # photos that cannot be used and are named, of those that are dropped together
_EMPTY = "No photo is open. Drop some above."
_SHOWN = gr.Progress(track_tqdm=True)  # of `inspect`, on the page too


def build_page(start_desk: Callable[[Path], Desk], home: Path, model: str, given: Sequence[Path] = ()) -> gr.Blocks:
    """Return the page.

    `start_desk` opens a desk in a folder, `home` is the folder of all of them, `model` says which network it is, and
    `given` photos lie on each new desk.
    """
    with gr.Blocks(title="crackutils", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        p = lay_out(model)
        shown = [p.picture, p.table, p.crack, p.crop, p.told, p.kind, p.facts]
        fields = [p.threshold, p.limit, p.exposure, p.scale]
        all_shown = [p.photo, *fields, *shown]
        # what is set while the first photo opens needs the desk
        opened = page.load(functools.partial(_open_desk, start_desk, home), p.known, [p.known, p.desk])
        opened.then(functools.partial(_take_given, given), [p.desk, *fields], [p.files, *all_shown])
        p.files.upload(_take, [p.desk, p.files, *fields], [p.files, *all_shown])
        p.photo.input(_chosen, [p.desk, p.photo, *fields], all_shown[1:])  # a late answer must not change the field
        p.remove.click(_remove, [p.desk, p.photo, *fields], all_shown)
        _connect_settings(p, shown)
        _connect_cracks(p, shown)
        p.beside_tab.select(_view(lambda desk: (desk.plain(), desk.picture())), p.desk, p.beside)
        p.tint_tab.select(_view(Desk.tinted), p.desk, p.tint)
        p.brush_tab.select(_view(Desk.picture), p.desk, p.editor)
        p.write.click(_report, [p.desk, p.exif], p.done)
        p.keep.click(_keep, p.desk, p.done)
        p.clear.click(_clear, [p.desk, *fields], [p.done, *all_shown])
    return page


def _connect_settings(p: SimpleNamespace, shown: list[Any]) -> None:
    for happens in (p.scale.submit, p.scale.blur):
        happens(_set_scale, [p.desk, p.scale, p.scope], [p.scale, *shown])
    p.by_points.click(_scale_from_points, [p.desk, p.ends, p.distance, p.scope], [p.scale, *shown])
    p.by_marker.click(_scale_from_marker, [p.desk, p.side, p.scope], [p.scale, *shown])
    asked, quiet = [p.desk, p.threshold], {"show_progress": "hidden"}
    moved = p.threshold.change(_preview, asked, p.picture, trigger_mode="always_last", **quiet)
    moved.then(_set_threshold, asked, shown, **quiet)  # lines and widths of a large photo take a second
    for happens in (p.limit.submit, p.limit.blur):
        happens(_set_limit, [p.desk, p.limit], [p.limit, p.exposure, *shown])
    p.exposure.input(_set_exposure, [p.desk, p.exposure], [p.limit, p.exposure, *shown])


def _connect_cracks(p: SimpleNamespace, shown: list[Any]) -> None:
    p.picture.select(_click, [p.desk, p.clicks, p.ends], [p.ends, p.crack, p.picture])
    p.table.select(_click_row, None, p.crack)
    p.crack.change(_show_crack, [p.desk, p.crack], [p.crop, p.told])
    p.kind.input(_mark, [p.desk, p.crack, p.kind], shown)
    p.unmark.click(_unmark, p.desk, shown)
    p.apply.click(_paint, [p.desk, p.editor, p.stroke, p.thick, p.does], [p.editor, p.stroke, *shown])
    p.unbrush.click(_unbrush, p.desk, [p.editor, *shown])


def _said(action: Callable[..., Any]) -> Callable[..., Any]:
    """Return an action of a desk that says on the page what it could not do."""

    @functools.wraps(action)
    def tell(desk: Desk | None, *values: Any, **named: Any) -> Any:
        if desk is None:
            gr.Warning("The page is still opening, or its server was started anew. Reload this page.")
            return gr.skip()
        try:
            with desk.lock:
                desk.check()
                return action(desk, *values, **named)
        except CrackutilsError as error:
            gr.Warning(_plain(error))
            return gr.skip()

    return tell


def _view(look: Callable[[Desk], Any]) -> Callable[..., Any]:
    return _said(lambda desk: look(desk) if desk.sight else None)


def _plain(message: Any) -> str:
    """Return a message as HTML that shows it as it is: names of files are the user's."""
    return str(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _show(desk: Desk) -> list[Any]:
    """Return what a photo and its cracks look like now."""
    if desk.sight is None:
        return [None, None, gr.Dropdown(choices=[], value=None), None, "", None, _EMPTY]
    table = desk.table()
    crack = gr.Dropdown(choices=table["crack"].astype(str).tolist(), value=None)
    return [desk.picture(), table, crack, None, "", None, desk.summary()]


def _open_desk(start_desk: Callable[[Path], Desk], home: Path, name: Any) -> list[Any]:
    name = name if isinstance(name, str) and re.fullmatch("[0-9a-f]{32}", name) else secrets.token_hex(16)
    desk = start_desk(home / name)
    os.utime(desk.home)  # it is in use
    return [name, desk]


def _take_given(given: Sequence[Path], desk: Desk, *fields: Any) -> list[Any]:
    return _take(desk, [] if desk.session.photos else [(path, path.name) for path in given], *fields)


@_said
def _take(desk: Desk, files: list[tuple[Path, str]] | None, *fields: Any) -> list[Any]:
    """Take files, open the first photo that can be used, and say of those before it, and besides, what is wrong."""
    before = set(desk.session.photos)
    problems = desk.add(files or [])
    names = [name for name in desk.session.photos if name not in before or desk.chosen_photo is None]
    problems += desk.open_first(names)
    if problems:
        rest = f" And {len(problems) - _TOLD:,} more." if len(problems) > _TOLD else ""
        gr.Warning(_plain(" ".join(problems[:_TOLD]) + rest))
    return [None, *_choose(desk, desk.chosen_photo, *fields)]


def _choose(desk: Desk, name: str | None, *fields: Any) -> list[Any]:
    if name is None:
        desk.sight = None
    elif name != desk.chosen_photo:  # the field tells the same choice twice
        try:
            desk.open(name)
        except CrackutilsError as error:
            gr.Warning(_plain(error))
    session, names = desk.session, list(desk.session.photos)
    photo = gr.Dropdown(choices=names, value=name if name in names else None)
    now = [session.threshold, _text(session.limit_mm), session.exposure or "", _text(desk.scale_of(name or ""))]
    # what is typed meanwhile must stay
    now = [gr.skip() if new == old else new for new, old in zip(now, fields, strict=True)]
    return [photo, *now, *_show(desk)]


@_said
def _chosen(desk: Desk, name: str | None, *fields: Any) -> list[Any]:
    return _choose(desk, name, *fields)[1:] if name else gr.skip()  # none where the field was left before it was filled


@_said
def _remove(desk: Desk, name: str | None, *fields: Any) -> list[Any]:
    names = list(desk.session.photos)
    if name not in names:  # none, or clicked twice
        raise CrackutilsError("No photo is chosen. Choose the one to remove.")
    at = names.index(name)
    desk.remove(name)
    return _choose(desk, next(iter([*names[at + 1 :], *names[:at][::-1]]), None), *fields)


@_said
def _set_scale(desk: Desk, text: str, scope: str) -> Any:
    if not desk.set_scale(read_number(text), everywhere=scope == SCOPES[0]):
        return gr.skip()  # leaving the field must not undo what is chosen elsewhere
    return [_text(desk.scale_of(desk.chosen_photo or "")), *_show(desk)]


@_said
def _scale_from_points(desk: Desk, text: str, length: str, scope: str) -> list[Any]:
    return _set_scale(desk, _text(desk.scale_between(read_points(text), read_number(length))), scope)


@_said
def _scale_from_marker(desk: Desk, side: str, scope: str) -> list[Any]:
    value, told = desk.scale_from_marker(read_number(side))
    gr.Info(told)
    return _set_scale(desk, _text(value), scope)


@_said
def _preview(desk: Desk, threshold: float) -> Any:
    late = threshold == desk.session.threshold  # the lines themselves are drawn already
    return gr.skip() if late or not desk.sight else desk.preview(threshold)


@_said
def _set_threshold(desk: Desk, value: float) -> Any:
    if value == desk.session.threshold:
        return gr.skip()
    desk.set_threshold(value)
    return _show(desk)


@_said
def _set_limit(desk: Desk, text: str) -> Any:
    if (value := read_number(text)) == desk.session.limit_mm:
        return gr.skip()
    desk.set_limit(value)
    return [_text(value), "", *_show(desk)]


@_said
def _set_exposure(desk: Desk, name: str) -> Any:
    if (name or None) == desk.session.exposure:
        return gr.skip()  # leaving the field tells it too, and would take back a chosen crack
    desk.set_exposure(name or None)
    return [_text(desk.session.limit_mm), name, *_show(desk)]


@_said
def _click(desk: Desk, mode: str, text: str, at: gr.SelectData) -> list[Any]:
    x, y = at.index
    if mode == CLICKS[1]:
        points = [*read_points(text), desk.point_at(x, y)][-2:]
        return ["; ".join(f"{x:.0f}, {y:.0f}" for x, y in points), gr.skip(), desk.picture(points)]
    crack = desk.crack_at(x, y)
    if crack is None:
        gr.Info("No crack is near that point.")
    return [gr.skip(), None if crack is None else str(crack), gr.skip()]


def _click_row(at: gr.SelectData) -> str:
    return str(at.row_value[0])


@_said
def _show_crack(desk: Desk, number: str | None) -> list[Any]:
    if number is None or desk.sight is None or int(number) > len(desk.sight.cracks):
        return [None, ""]
    return [desk.crop(int(number)), desk.describe(int(number))]


@_said
def _mark(desk: Desk, number: str | None, kind: str) -> list[Any]:
    if number is None:
        raise CrackutilsError("No crack is chosen. Click on one in the picture, or choose its number.")
    desk.mark(int(number), kind)
    return _show(desk)


@_said
def _unmark(desk: Desk) -> list[Any]:
    desk.edit(marks=())
    return _show(desk)


@_said
def _paint(desk: Desk, value: Any, text: str, width: float, does: str) -> list[Any]:
    layers = [layer for layer in (value or {}).get("layers", []) if layer is not None and layer[..., 3].any()]
    for layer in layers:
        for kind, colour in BRUSHES.items():
            rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
            alike = np.abs(layer[..., :3].astype(int) - rgb).max(2) < _ALIKE
            desk.brush(alike & (layer[..., 3] >= _OPAQUE), kind)
    if text.strip():
        desk.draw(read_points(text), width, does)
    elif not layers:
        raise CrackutilsError("Nothing is painted. Paint in the picture, or type the points of a line.")
    return [desk.picture(), "", *_show(desk)]


@_said
def _unbrush(desk: Desk) -> list[Any]:
    desk.edit(brush=None)
    return [desk.picture(), *_show(desk)]


@_said
def _report(desk: Desk, exif: bool, _: gr.Progress = _SHOWN) -> list[str]:
    return [str(file) for file in desk.report(exif)]


@_said
def _keep(desk: Desk) -> list[str]:
    return [str(desk.write())]


@_said
def _clear(desk: Desk, *fields: Any) -> list[Any]:
    desk.clear()
    return [None, *_choose(desk, None, *fields)]


def read_number(text: str | None) -> float | None:
    """Return a number above 0, written with a point or a comma, None of nothing; CrackutilsError for other text."""
    if not (text or "").strip():
        return None
    try:
        if 0 < (value := float(text.replace(",", "."))) < math.inf:
            return value
    except ValueError:
        pass
    raise CrackutilsError(f"{text!r} is not a number above 0, so nothing has changed. Write one as 0.2, or nothing.")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def read_points(text: str) -> list[tuple[float, float]]:
    """Return points from "x, y; x, y; ..."; CrackutilsError for other text."""
    try:
        pairs = [tuple(float(n) for n in part.split(",")) for part in text.split(";") if part.strip()]
        return [(x, y) for x, y in pairs]
    except ValueError as error:
        raise CrackutilsError(f"{text!r} are no points. Write x, y; x, y with numbers.") from error


def launch(page: gr.Blocks, host: str, port: int | None, inline: bool) -> None:
    """Let a page listen, and return; OSError where the port is taken."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from outside
    looks = {"theme": gr.themes.Default(**fonts), "css": CSS, "footer_links": [], "height": 900, "inline": inline}
    listens = {"server_name": host, "server_port": port, "share": False, "ssr_mode": False, "inbrowser": False}
    page.queue(default_concurrency_limit=2).launch(
        **listens, **looks, quiet=True, show_error=True, prevent_thread_lock=True, max_file_size=UPLOAD
    )
