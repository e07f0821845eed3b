"""The project's own files: dependencies and lock, imports and sizes, both command lines, paths, sources."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import Mock

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from crackutils import cli, config, datasets
from tools import commands

PROJECT = tomllib.loads((config.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGE = config.ROOT / "crackutils"
HEAVY = ("numpy", "pandas", "cv2", "scipy", "tensorflow", "keras", "matplotlib", "papermill", "nbformat")


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in the project's folder, without make's variables."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "PROFILE", "FORCE", "FROM", "SOURCE")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=config.ROOT, env=env | variables, capture_output=True, text=True, timeout=120)


# ---------------------------------------------------------------- dependencies


@pytest.fixture(scope="module")
def lock() -> str:
    return config.LOCK.read_text("utf-8")


@pytest.fixture(scope="module")
def locked(lock: str) -> list[tuple[Requirement, int]]:
    """The entries of the lock, each with the number of its hashes."""
    found = []
    for entry in re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", lock, flags=re.M).strip()):
        words = entry.replace("\\\n", " ").split(" --hash=sha256:")
        assert all(re.fullmatch(r"[0-9a-f]{64}", word.strip()) for word in words[1:]), words[0]
        found.append((Requirement(words[0].strip()), len(words) - 1))
    return found


def test_lock_satisfies_every_declared_dependency_with_hashes_and_no_address(
    lock: str, locked: list[tuple[Requirement, int]]
) -> None:
    assert len(locked) > 100
    assert [str(r) for r, hashes in locked if not hashes] == []
    assert re.findall(r"https?:|-index|--find-links|--trusted-host|@ ", lock) == []
    extras = PROJECT["optional-dependencies"]
    declared = [Requirement(line) for line in PROJECT["dependencies"] + extras["dev"] + extras["audit"]]
    declared = [want for want in declared if want.name != PROJECT["name"]]  # dev takes audit in
    assert len(declared) > 20
    for want in declared:
        have = [r for r, _ in locked if canonicalize_name(r.name) == canonicalize_name(want.name)]
        assert have, f"{want.name} is not in the lock"
        for entry in have:
            (pin,) = entry.specifier
            assert pin.operator == "=="
            assert want.specifier.contains(pin.version), f"{entry} is outside {want}"


def test_each_supported_python_gets_each_dependency(locked: list[tuple[Requirement, int]]) -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for version in ("3.11.4", "3.11.9", "3.12.4", "3.13.2"):
        assert version in SpecifierSet(PROJECT["requires-python"])
        here = {"python_version": version.rpartition(".")[0], "python_full_version": version}
        chosen = [canonicalize_name(r.name) for r, _ in locked if r.marker is None or r.marker.evaluate(here)]
        assert names <= set(chosen), version
        assert len(chosen) == len(set(chosen)), f"two pins for one package on Python {version}"


def test_conda_environment_uses_the_lock() -> None:
    text = (config.ROOT / "environment.yml").read_text("utf-8")
    assert re.search(r"^ +- -r requirements\.lock$", text, re.M)
    found = re.search(r"^ +- python=([\d.]+)$", text, re.M)
    assert found and found[1] in SpecifierSet(PROJECT["requires-python"])


# ---------------------------------------------------------------- imports and sizes


def test_setup_needs_the_standard_library_only_and_old_pythons_can_read_its_refusal() -> None:
    for name in ("__init__", "__main__", "setup"):
        ast.parse((config.ROOT / "tools" / f"{name}.py").read_text("utf-8"), feature_version=(3, 7))
    done = python("-S", "-c", "import tools.setup; print(tools.setup.VENV)")  # without site-packages
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(config.ROOT / ".venv"), "")
    setup = "sys.argv = ['tools', 'setup']; runpy.run_module('tools', run_name='__main__')"
    for version in ((3, 9, 1), (3, 14, 0)):
        done = python("-S", "-c", f"import runpy, sys; sys.version_info = {version}; {setup}")
        assert (done.returncode, done.stdout) == (2, "")
        refusal = r"error: crackutils needs Python 3\.11, 3\.12 or 3\.13, .* PYTHON=python3\.12\.\n"
        assert re.fullmatch(refusal, done.stderr)
    done = python("-S", "-m", "tools", "run", "all")
    assert (done.returncode, done.stderr) == (2, "error: click is not installed. Run make setup first.\n")


@pytest.mark.parametrize("module", ["crackutils", "tools"])
def test_a_mistake_ends_the_process_with_status_2_without_loading_heavy_libraries(module: str) -> None:
    done = python("-X", "importtime", "-m", module, "rnu")
    *imports, error = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "") and error.startswith("error: ")
    modules = {line.rpartition("|")[2].strip() for line in imports}
    assert "crackutils.config" in modules
    assert sorted(modules.intersection(HEAVY)) == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, with what its build needs."""
    home = tmp_path_factory.mktemp("checkout")
    for name in ("crackutils", "tools"):
        shutil.copytree(config.ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(config.ROOT / name, home)
    return home


PLANTED = {  # upward imports, and what the lint says of them
    "crackutils/metrics.py": (
        "crackutils.inspection import report",
        "crackutils.metrics -> crackutils.inspection.report",
    ),
    "crackutils/images.py": ("crackutils import runs", "crackutils.images -> crackutils.runs"),
    "crackutils/splits/make.py": ("crackutils.synthetic import scene", "splits.make -> crackutils.synthetic.scene"),
    "crackutils/audit/quality.py": ("crackutils import cli", "crackutils.audit.quality -> crackutils.cli"),
    "crackutils/batches.py": ("tools import notebooks", "crackutils.batches -> tools.notebooks"),
    "crackutils/inspection/mask.py": ("crackutils.inspection import folder", ".mask -> .folder"),
    "tools/notebooks.py": ("tools import jobs", ".notebooks -> .jobs"),
}


def test_an_upward_import_inside_a_function_fails_the_lint(checkout: Path) -> None:
    def lint() -> subprocess.CompletedProcess[str]:
        command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
        return subprocess.run(
            [sys.executable, "-c", command], cwd=checkout, capture_output=True, text=True, check=False
        )

    done = lint()
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr
    for file, (what, _) in PLANTED.items():
        with open(checkout / file, "a", encoding="utf-8") as source:
            source.write(f"\n\ndef planted():\n    from {what}\n")
    done = lint()
    assert done.returncode == 1
    assert [told for _, told in PLANTED.values() if told not in done.stdout] == [], done.stdout


def test_the_built_package_holds_every_room_and_its_data(checkout: Path, tmp_path: Path) -> None:
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    ours = {path.relative_to(checkout).as_posix() for path in (checkout / "crackutils").rglob("*") if path.is_file()}
    subprocess.run([sys.executable, *command, str(checkout)], check=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as built:
        assert {name for name in built.namelist() if ".dist-info/" not in name} == ours


def lines(paths: Iterable[Path]) -> int:
    return sum(path.read_text("utf-8").count("\n") for path in paths)


def test_the_house_stays_small() -> None:
    entrances = {PACKAGE / name for name in ("cli.py", "scoring.py", "__main__.py")}
    assert lines(set(PACKAGE.glob("*.py")) - entrances) <= 3000
    assert lines(PACKAGE.rglob("*.py")) <= 8500
    assert lines((config.ROOT / "tests").glob("*.py")) <= 8000
    assert lines([config.ROOT / "README.md"]) <= 150
    sources = [path for name in ("crackutils", "tools", "tests") for path in (config.ROOT / name).rglob("*.py")]
    assert {str(path): lines([path]) for path in sources if lines([path]) > 600} == {}


# ---------------------------------------------------------------- mistakes on the command line


MISTAKES = [
    ("tools rnu", "rnu"),
    ("tools run", "number of a notebook"),
    ("tools run 99", "notebook=99 is unknown"),
    ("tools run all PROFILE=metu-hlaf", "did you mean metu-half?"),
    ("tools run 03 EPOCH=3", "did you mean EPOCHS?"),
    ("tools run 03 EPOCHS=many", "EPOCHS=many must be a whole number"),
    ("tools run 03 FORCE=perhaps", "FORCE=perhaps must be 1 or 0"),
    ("tools run 03 RECIPE=mobilnetv2", "did you mean mobilenetv2?"),
    ("tools run 04 RECIPE=mobilenetv2", "simple-cnn"),
    ("tools run all RECIPE=mobilenetv2", "make run-03"),
    ("tools run 01 RECIPE=mobilenetv2", "RECIPE"),
    ("tools run 03 RECIPE=chernxi-mobilenetv3small", "WEIGHTS=imagenet or random"),
    ("tools run recipes 03", "alone"),
    ("tools run recipes RECIPE=mobilenetv2", "parameter=RECIPE is unknown"),
    ("tools run recipes EPOCH=3", "did you mean EPOCHS?"),
    ("tools run --profile sample 03", "--profile"),
    ("tools recipes PROFILE=sample", "PROFILE=sample"),
    ("tools recipes simple-cnn", "simple-cnn"),
    ("tools report PROFILE=nothing", "PROFILE=nothing is unknown"),
    ("tools report PROFILE=sample", "make run-all PROFILE=sample"),
    ("tools verify EPOCHS=3", "EPOCHS"),
    ("tools tensorboard PROFILE=sample", "make run-all"),
    ("tools pretrain PROFILE=sample", "PROFILE"),
    ("tools data FROM=no/such/archive.rar", "archive.rar"),
    ("tools data SOURCE=metro", "did you mean metu?"),
    ("tools lint PROFILE=sample", "PROFILE=sample"),
    ("crackutils rnu", "rnu"),
    ("crackutils score no-such-folder --out x.csv --model y", "no-such-folder"),
    ("crackutils score no-such-folder", "--out"),
    ("crackutils inspect --out x", "PHOTOS"),
]


@pytest.mark.parametrize(("call", "says"), MISTAKES, ids=[call for call, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(
    call: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    program, *arguments = call.split()
    status = {"tools": commands.main, "crackutils": cli.main}[program](arguments)
    told = capsys.readouterr()
    assert status == 2
    assert told.err.startswith("error: ") and told.err.count("\n") == 1, told.err
    assert says in told.err and "Usage" not in told.err
    assert told.out == ""
    assert not (tmp_path / "results").exists()


def test_an_interrupted_command_ends_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crackutils.sources.fetch.fetch", Mock(side_effect=KeyboardInterrupt))
    assert cli.main(["data"]) == 130
    assert "continues where it stopped" in capsys.readouterr().err


QUOTED = 'it\'s a "folder" with $HOME; echo'


@pytest.mark.parametrize(
    ("command", "name", "value", "says"),
    [
        ("data", "FROM", QUOTED, f"FROM={QUOTED} does not exist"),
        ("recipes", "RECIPE", "simple-cnn", "recipes takes no setting, but RECIPE=simple-cnn is given. Leave it out."),
    ],
)
def test_variables_of_make_arrive_unquoted_and_unknown_ones_are_refused(
    command: str, name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAKEFLAGS", f"s -- {name}=" + value.replace(" ", r"\ "))
    monkeypatch.setenv(name, value)
    assert commands.main(["--make", command]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {says}") and told.err.count("\n") == 1
    assert told.out == ""


def test_every_make_target_calls_a_command_that_exists() -> None:
    makefile = (config.ROOT / "Makefile").read_text("utf-8")
    called = re.findall(r"^\t(?:\$\(RUN\)|@\$\(PYTHON\) -m tools(?: --make)?) (\w+)", makefile, re.M)
    assert len(called) == len(re.findall(r"^[a-z%-]+:.*##", makefile, re.M)) - 1  # but for help
    assert set(called) == set(commands.cli.commands)
    workflow = (config.ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    wanted = re.findall(r"\bmake ([\w-]+)", workflow + (config.ROOT / ".ci" / "run").read_text("utf-8"))
    assert {re.sub("^run-.*", "run-%", name) for name in wanted} <= set(re.findall(r"^([a-z%-]+):", makefile, re.M))


def test_recipes_lists_each_with_its_source_sizes_result_and_corrections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crackutils.published import CORRECTED_IN_ALL, PUBLISHED
    from crackutils.recipes import RECIPES

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CRACKUTILS_THREADS"):
        monkeypatch.setenv(name, "2")  # the command sets them; here they are put back
    assert cli.main(["recipes"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    blocks = dict(re.findall(r"^(\S+) +(run-0[34] .*\n(?: .*\n)+)", told.out, re.M))
    assert list(blocks) == list(RECIPES)
    for name, words in {
        "chernxi-mobilenetv3small": "run-03 1,023,874 84,754 120 1+1+1 5 errors in 1,600 (accuracy",
        "chernxi-cnn-120": "run-04 7,530 7,530 120 14 4 errors in 1,600 (accuracy 0.9975; notebook",
        "marzed7-cnn-256": "run-04 7,387,649 7,387,649 256 3 65 errors in 4,000 (accuracy",
        "bitterfrown-mobilenetv2": "run-03 2,260,546 2,562 160 10 no result that can be read",
    }.items():
        assert " ".join(blocks[name].split()).startswith(words)
    for name, block in blocks.items():
        (first, about, *corrections), source = block.rstrip("\n").split("\n"), PUBLISHED.get(name)
        assert first.endswith("  ours") == (source is None)
        assert about.strip() == RECIPES[name].title + (f"; {source.source}" if source else "")
        assert [line.strip() for line in corrections] == [
            f"- {line}" for line in (source.corrections if source else ())
        ]
    assert all(line in told.out for line in CORRECTED_IN_ALL)


# ---------------------------------------------------------------- files


def project_files() -> list[Path]:
    """Return the files that belong to the project, whether or not they are committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=config.ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    return [config.ROOT / name for name in listed if name and (config.ROOT / name).is_file()]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    machine = re.compile(r"(?<![\w.~:}>-])/(?:work|home|root|Users)/\w|\b[A-Z]:\\+Users")
    beside = re.compile(r"\.\./" + "shared")
    files = project_files()
    assert config.ROOT / "pyproject.toml" in files
    hits = []
    for path in files:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(config.ROOT).as_posix()
        hits += [f"{name}: {found[0]}" for found in machine.finditer(text)]
        hits += [f"{name}: {found[0]}" for found in beside.finditer(text) if name != ".ci/run"]
    assert hits == []


def test_no_file_is_larger_than_half_a_megabyte() -> None:
    exceptions = {PACKAGE / "backbone" / "mobilenetv2_035.npz": 1_500_000, config.AUDIT / "metu_groups.csv": 600_000}
    most = {path: exceptions.get(path, 500_000) for path in project_files()}
    assert [str(path) for path in most if path.stat().st_size > most[path]] == []


def test_the_source_of_the_images_can_be_checked_and_cited() -> None:
    metu = datasets.sources()["metu"]
    assert metu["size"] > 10**8
    assert re.fullmatch(r"[0-9a-f]{64}", metu["sha256"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", metu["doi"]) and metu["doi"] in metu["citation"]
    assert metu["licence"] == "CC BY 4.0"
    assert all(re.match(r"https://[^/]+/.+", address["url"]) for address in metu["addresses"]) and metu["addresses"]


def test_what_comes_from_elsewhere_has_a_licence_and_what_is_made_here_a_seed_of_its_own() -> None:
    sources = datasets.sources()
    assert {profile.source for profile in config.PROFILES.values()} <= set(sources)
    made = {name: entry for name, entry in sources.items() if "seed" in entry}
    assert set(made) == {"sample", "smoke", "walls"}
    assert all(entry.get("patches", entry.get("photos")) > 0 for entry in made.values())
    assert len({entry["seed"] for entry in made.values()}) == len(made)
    elsewhere = {name: entry for name, entry in sources.items() if name not in made and name != "own"}
    for name, entry in elsewhere.items():
        assert entry["licence"] == "CC BY 4.0", name
        assert entry["doi"] in entry["citation"], name


def test_pre_commit_uses_the_locked_versions(lock: str) -> None:
    hooks = (config.ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for name, prefix in (("ruff", "v"), ("nbstripout", "")):
        version = re.search(rf"^{name}==(\S+)", lock, re.M)[1]
        assert re.search(rf"/\S*{name}\S*\n\s+rev: {prefix}{re.escape(version)}\n", hooks), name
