"""Fixtures for all tests: folders of their own, and the smoke profile's images."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crackutils import config, datasets
from crackutils.files import write_atomically
from crackutils.inference import engines
from crackutils.inference.engines import run_stream
from crackutils.sources.fetch import prepare

config.start("smoke")  # thread counts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of whole notebooks first: they take longest, and one worker takes all of them."""
    items.sort(key=lambda item: item.path.name != "test_nbval.py")


@pytest.fixture(scope="session", autouse=True)
def converted_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Convert each network once: a conversion takes seconds, and the name of its file says what it is."""
    home, really = tmp_path_factory.mktemp("engines"), engines.convert

    def convert(model: Any, file: Path, batch: int) -> None:
        if not (known := home / f"{batch}-{file.name}").is_file():
            really(model, known, batch)
        write_atomically(file, known.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "convert", convert)
        yield


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty data folder and results folder, so that none touches data/ or results/."""
    monkeypatch.setenv("CRACKUTILS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CRACKUTILS_RESULTS_DIR", str(tmp_path / "results"))
    return (tmp_path / "data").resolve()


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder that holds the smoke profile's images for the whole session."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="session")
def smoke(smoke_home: Path) -> Iterator[datasets.Dataset]:
    """The images of the smoke profile; what a test computes from them is cached in that test's own data folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRACKUTILS_DATA_DIR", str(smoke_home))
        prepare(config.profile("smoke"))
        loaded = datasets.load(config.profile("smoke"))
    yield loaded


@pytest.fixture
def tree() -> Callable[..., Path]:
    """Return a function that writes `count` different small pictures per class, named like METU's."""

    def write(folder: Path, count: int = 3, side: int = 40) -> Path:
        for label, name in enumerate(config.CLASSES):
            (folder / name).mkdir(parents=True)
            for number in range(1, count + 1):
                noise = np.random.default_rng([label, number]).integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(noise).save(folder / name / f"{number:05d}.jpg", quality=60)
        return folder

    return write


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that went through an engine, in order."""
    rows: list[int] = []

    def counting(engine: Any, items: Any, read: Any) -> Iterator[Any]:
        for found in run_stream(engine, items, read):
            rows.append(found[0])
            yield found

    monkeypatch.setattr("crackutils.inference.features.run_stream", counting)
    return rows


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that writes a run of notebook 08 and returns its model.

    The model is untrained, but its last layer gives some features a weight.
    """
    from crackutils import training
    from crackutils.detector.network import build_detector  # TensorFlow takes seconds, which not all tests need
    from crackutils.detector.runs import DETECTOR

    tiny, home = dataclasses.replace(DETECTOR, size=64), tmp_path_factory.mktemp("untrained")
    made: list[Any] = []

    def write(folder: Path, adapted: bool = False) -> Any:
        if not made:
            made.append(model := build_detector(tiny, "crackutils", 5))
            kernel, _ = model.get_layer("p_crack").get_weights()
            kernel[1:4] = 0.3
            model.get_layer("p_crack").set_weights([1.2 * kernel, np.float32([0.1])])
            training.save(model, home, "")
        shutil.copytree(home, folder, dirs_exist_ok=True)
        settings = {"profile": "smoke", "threshold": 0.5, "recipe": tiny.as_dict(), "weights": "crackutils"}
        settings |= {"adapted": {"labels": 10}} if adapted else {}
        content = {"schema": 1, "notebook": "08_cross_dataset", "run": tiny.name, "settings": settings}
        (folder / "metrics.json").write_text(json.dumps(content | {"test": {"n": 1}}))
        (folder / "run.json").write_text("{}")
        return made[0]

    return write


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine without a network, which inspects photos in the place of any other."""
    from test_inspection import Fake

    engine = Fake()
    monkeypatch.setattr("crackutils.inspection.folder.load_detector", lambda *_: engine.detector)
    return engine


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real Chromium, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync", "--no-first-run"])
