"""The page "Try it" of the site, in a real Chromium: the same cracks as Python finds, and nothing from outside."""

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial import KDTree

from crackutils.detector.runs import SHIPPED
from crackutils.images import read_image
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.measure import find_lines
from crackutils.inspection.tiling import load_detector, map_photo
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import USUAL
from tools.browser import SCRIPTS, Unreachable, fetch_runtime, write_browser_files

pytestmark = pytest.mark.slow
PHOTOS = 5


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has the page and what it loads."""
    home = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        try:
            fetch_runtime()
        except Unreachable as error:
            pytest.skip(str(error))
        write_browser_files(home / "_static" / "browser")
    page = re.search(r"```\{raw\} html\n(.*?)```", (SCRIPTS / "try.md").read_text("utf-8"), re.S)[1]
    (home / "try.html").write_text(
        f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">{page}', "utf-8"
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=home)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/try.html"
        server.shutdown()


def test_the_page_finds_the_lines_that_python_finds(site: str, browser: Any, tmp_path: Path) -> None:
    net, outside = load_detector(SHIPPED), []
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.on(
        "request", lambda sent: None if sent.url.startswith((site[:16], "blob:", "data:")) else outside.append(sent)
    )
    page.goto(site)
    lengths = np.zeros(2)
    for k in range(PHOTOS):
        photo = tmp_path / f"{k}.png"
        cv2.imwrite(str(photo), cv2.cvtColor(make_photo(77, k, 700 + k, 620, USUAL).image, cv2.COLOR_RGB2BGR))
        page.set_input_files("#try-file", str(photo))
        page.wait_for_selector("#try-it[data-done]", timeout=120_000)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the lines").click()
        found = [f["geometry"]["coordinates"] for f in json.loads(Path(saved.value.path()).read_text())["features"]]
        seen = map_photo(read_image(photo), net)
        _, lines, _ = find_lines(crack_mask(seen.pixels, 0.5, seen.cells))
        lengths += [sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in one) for one in (lines, found)]
        assert lines, "nothing to compare"
        for one, other in ((lines, found), (found, lines)):
            far = KDTree(np.concatenate(one)).query(np.concatenate(other))[0]
            assert (far <= 1.5).mean() >= 0.95 and np.median(far) <= 0.5, k
    assert abs(lengths[1] / lengths[0] - 1) < 0.05 and not outside
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("content", "says"), [(b"no picture", "no picture that this browser reads"), (None, "smaller")]
)
def test_the_page_says_why_a_file_is_of_no_use(
    content: bytes | None, says: str, site: str, browser: Any, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content or cv2.imencode(".png", np.zeros((20, 90), np.uint8))[1].tobytes())
    page = browser.new_page()
    page.goto(site)
    page.set_input_files("#try-file", str(file))
    page.get_by_text(says).wait_for(timeout=20_000)
    page.locator("#try-file:enabled").wait_for()
