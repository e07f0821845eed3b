"""The detector that the package brings: how it is trained, its size, its card, and that it works from a wheel."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from crackutils import config, training
from crackutils.detector.runs import DETECTOR, SHIPPED, read_detector_run
from crackutils.inspection.folder import inspect
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import THIN
from tools import detector
from tools.benchmarks import detector as benchmark


def write_masked(folder: Path, count: int = 3) -> Path:
    """Write photos with masks of people: a dark line each."""
    for k in range(count):
        image = np.full((300, 260 + k, 3), 180, np.uint8)
        image[:, 100 : 104 + k] = 40
        for name, picture in (("images", image), ("masks", (image[..., 0] < 100).astype(np.uint8) * 255)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{k}.png"), picture)
    return folder


def test_masks_of_people_are_read_and_a_missing_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = detector.read_masked(write_masked(tmp_path))
    assert [target.shape for target in photos.targets] == [(300, 260), (300, 261), (300, 262)]
    assert [int(target.sum()) for target in photos.targets] == [300 * n for n in (4, 5, 6)]
    assert (photos.anchors[:, 0, :, 1] >= 100).all() and (photos.anchors[:, 1] == -1).all()
    (tmp_path / "masks" / "1.png").unlink()
    assert len(detector.read_masked(tmp_path).targets) == 2
    assert "photos without a mask: 1 (1.png)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_small_training_writes_a_run_that_inspects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PHOTOS": 4, "SIDE": 320, "STEPS": (2, 1)}.items():
        monkeypatch.setattr(detector, name, value)
    monkeypatch.setattr(detector, "WEIGHTS", "crackutils")
    out = tmp_path / "shipped"
    detector.train_shipped(config.profile("smoke"), write_masked(tmp_path / "masked"), out)
    recipe, start, file = read_detector_run(out)
    assert (recipe, start) == (DETECTOR, "crackutils") and file.is_file()
    before = read_detector_run(config.data_dir() / "cache" / "detector" / "unmasked")[2]
    assert before.read_bytes() != file.read_bytes()
    settings = json.loads((out / "metrics.json").read_text("utf-8"))["settings"]
    assert (settings["steps"], settings["photos"], settings["masks"]) == ([2, 1], 4, 3)
    with zipfile.ZipFile(out / "model" / "model.keras") as parts:
        assert sorted(parts.namelist()) == ["config.json", "metadata.json"]
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((300, 200, 3), 120, np.uint8))
    assert len(inspect([tmp_path / "photo.png"], tmp_path / "report", out)) == 1


def test_it_is_small_and_its_card_is_that_of_what_was_measured() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 4_000_000
    found = json.loads(benchmark.OUT.read_text("utf-8"))
    assert (SHIPPED / "model" / "README.md").read_text("utf-8") == benchmark.write_card(found, SHIPPED)
    assert training.load(SHIPPED)[1] == DETECTOR
    names = ("tools/benchmarks/README.md", "docs/transfer.md")
    trainings, transfer = (" ".join(Path(config.ROOT, name).read_text("utf-8").split()) for name in names)
    uav, walls, whole, metu, lines = (found[k] for k in ("masked", "walls", "whole", "metu", "joints"))
    first = found["drawn"]["of the first 16"]
    row = f"(shipped) | {uav['iou']:.3f}, {uav['line_f1']:.3f} | {walls['tuning']:.3f}; {walls['published']:.3f}, "
    row += f"{walls['cleaned']:.3f} | {whole['auroc']:.3f}, {whole['average_precision']:.3f} | {metu['errors']}; "
    assert f"{row}{metu['errors_corrected']} | {first['iou']:.3f}; {lines['of the first 40']:.3f} |" in trainings
    assert f"makes {metu['errors']} by the given labels and {metu['errors_corrected']} by the" in transfer
    assert f"for {sum(detector.STEPS):,} steps" in transfer and f"better ({walls['published']:.3f})" in transfer


def test_it_finds_cracks_and_leaves_an_empty_wall_alone(tmp_path: Path) -> None:
    shots = [make_photo(4321, k, 512, 384, THIN) for k in range(6)]
    for k, shot in enumerate(shots):
        cv2.imwrite(str(tmp_path / f"{k}.png"), shot.image[..., ::-1])
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "wall.png"), rng.normal(170, 4, (384, 512, 3)).clip(0, 255).astype(np.uint8))
    table = inspect(sorted(tmp_path.glob("*.png")), tmp_path / "report").set_index("file")
    assert table.loc["wall.png", "cracks"] == 0 and table.loc["wall.png", "p_crack"] < 0.5
    true = [sum(np.hypot(*np.diff(line[:, :2], axis=0).T).sum() for line in shot.lines) for shot in shots]
    found = [table.loc[f"{k}.png", "length_px"] for k in range(6)]
    assert 0.6 < sum(found) / sum(true) < 1.3


@pytest.mark.slow
def test_a_wheel_brings_it(tmp_path: Path) -> None:
    """Installed somewhere else, without the repository, the command works in an empty folder."""
    built = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*built, str(config.ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as parts:
        parts.extractall(tmp_path / "site")
    cv2.imwrite(str(tmp_path / "photo.png"), make_photo(4321, 0, 512, 384, THIN).image[..., ::-1])
    (empty := tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "crackutils", "inspect", str(tmp_path / "photo.png"), "--out", "report"]
    plain = {"PYTHONPATH": str(tmp_path / "site"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": ""}
    done = subprocess.run(command, cwd=empty, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (empty / "report" / "report.html").is_file() and [p.name for p in empty.iterdir()] == ["report"]
    assert any((tmp_path / "cache" / "crackutils").rglob("*.tflite"))
