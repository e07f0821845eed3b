"""The project's own files: dependencies and lock, imports, the command line's mistakes, paths, sources."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from crackutils import config

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


def test_lock_satisfies_every_declared_dependency(locked: list[tuple[Requirement, int]]) -> None:
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


def test_lock_has_hashes_and_no_address(lock: str, locked: list[tuple[Requirement, int]]) -> None:
    assert len(locked) > 100
    assert [str(r) for r, hashes in locked if not hashes] == []
    assert re.findall(r"https?:|-index|--find-links|--trusted-host|@ ", lock) == []


def test_conda_environment_uses_the_lock() -> None:
    text = (config.ROOT / "environment.yml").read_text("utf-8")
    assert re.search(r"^ +- -r requirements\.lock$", text, re.M)
    found = re.search(r"^ +- python=([\d.]+)$", text, re.M)
    assert found and found[1] in SpecifierSet(PROJECT["requires-python"])


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import crackutils, crackutils.config, crackutils.__main__"), ("-m", "crackutils", "help")],
    ids=["import", "help"],
)
def test_the_command_line_needs_the_standard_library_only(arguments: tuple[str, ...]) -> None:
    done = python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "crackutils.config" in modules
    assert sorted(modules.intersection(HEAVY)) == []


def module_imports() -> dict[str, set[str]]:
    """Return, per module of the package, those that it imports when it is imported itself."""
    names = {path.stem for path in PACKAGE.glob("*.py")}
    found = {}
    for path in PACKAGE.glob("*.py"):
        uses = set()
        todo = list(ast.parse(path.read_text("utf-8")).body)
        while todo:
            node = todo.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.Import):
                uses |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("crackutils.")}
            elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "crackutils"):
                inner = (node.module or "").removeprefix("crackutils").strip(".")
                uses |= {inner.split(".")[0]} if inner else {alias.name for alias in node.names} & names
            todo.extend(ast.iter_child_nodes(node))
        found[path.stem] = uses - {path.stem}
    return found


def test_the_package_stays_small_and_has_no_import_cycle() -> None:
    imports = module_imports()
    assert "config" in imports["runner"]  # the search finds something
    assert len(set(imports) - {"__init__", "__main__"}) <= 21
    left = dict(imports)
    while left:
        free = [name for name, uses in left.items() if not uses & set(left)]
        assert free, f"import cycle among {sorted(left)}"
        for name in free:
            del left[name]


# ---------------------------------------------------------------- mistakes on the command line


MISTAKES = [
    (["rnu"], "rnu"),
    (["run"], "number of a notebook"),
    (["run", "99"], "notebook=99 is unknown"),
    (["run", "all", "PROFILE=metu-hlaf"], "did you mean metu-half?"),
    (["run", "03", "EPOCH=3"], "did you mean EPOCHS?"),
    (["run", "03", "EPOCHS=many"], "EPOCHS=many must be a whole number"),
    (["run", "03", "FORCE=perhaps"], "FORCE=perhaps must be 1 or 0"),
    (["run", "03", "RECIPE=mobilnetv2"], "did you mean mobilenetv2?"),
    (["run", "04", "RECIPE=mobilenetv2"], "simple-cnn"),
    (["run", "all", "RECIPE=mobilenetv2"], "make run-03"),
    (["run", "01", "RECIPE=mobilenetv2"], "RECIPE"),
    (["run", "03", "RECIPE=chernxi-mobilenetv3small"], "WEIGHTS=imagenet or random"),
    (["run", "recipes", "03"], "give it alone"),
    (["run", "recipes", "RECIPE=mobilenetv2"], "parameter=RECIPE is unknown"),
    (["run", "recipes", "EPOCH=3"], "did you mean EPOCHS?"),
    (["recipes", "PROFILE=sample"], "PROFILE=sample"),
    (["recipes", "simple-cnn"], "simple-cnn"),
    (["run", "--profile", "sample", "03"], "--profile"),
    (["report", "PROFILE=nothing"], "PROFILE=nothing is unknown"),
    (["report", "PROFILE=sample"], "make run-all PROFILE=sample"),
    (["verify", "EPOCHS=3"], "EPOCHS"),
    (["tensorboard", "PROFILE=sample"], "make run-all"),
    (["pretrain", "PROFILE=sample"], "PROFILE"),
    (["data", "FROM=no/such/archive.rar"], "archive.rar"),
    (["data", "SOURCE=metro"], "did you mean metu?"),
    (["score", "no-such-folder", "--out", "x.csv", "--model", "y"], "no-such-folder"),
    (["score", "no-such-folder"], "--out"),
    (["lint", "PROFILE=sample"], "PROFILE=sample"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_ends_in_one_sentence(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tools.commands import main

    monkeypatch.delenv("MAKEFLAGS", raising=False)
    status = main(arguments)
    told = capsys.readouterr()
    assert status == 2
    assert told.err.startswith("error: ") and told.err.count("\n") == 1, told.err
    assert says in told.err
    assert told.out == ""
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("arguments", [["rnu"], ["run", "03", "RECIPE=nothing"]], ids=["rnu", "run"])
def test_a_mistake_ends_the_process_with_status_2(arguments: list[str]) -> None:
    done = python("-m", "crackutils", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_make_passes_its_variables_unquoted() -> None:
    name = 'it\'s a "folder" with $HOME; echo'
    flags = "s -- FROM=" + name.replace(" ", r"\ ")
    done = python("-m", "crackutils", "data", "--make", MAKEFLAGS=flags, FROM=name)
    assert done.returncode == 2
    assert name in done.stderr and done.stderr.count("\n") == 1


def test_recipes_takes_no_variable_of_make(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tools.commands import main

    monkeypatch.setenv("MAKEFLAGS", " -- RECIPE=simple-cnn")
    monkeypatch.setenv("RECIPE", "simple-cnn")
    assert main(["recipes", "--make"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: recipes takes no variable, but RECIPE=simple-cnn is given; leave it out.\n"


# ---------------------------------------------------------------- the list of recipes


def test_recipes_lists_each_with_its_source_sizes_result_and_corrections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crackutils.published import CORRECTED_IN_ALL, PUBLISHED
    from crackutils.recipes import RECIPES
    from tools.commands import main

    monkeypatch.delenv("MAKEFLAGS", raising=False)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CRACKUTILS_THREADS"):
        monkeypatch.setenv(name, "2")  # the command sets them; here they are put back
    assert main(["recipes"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    blocks = dict(re.findall(r"^(\S+) +(run-0[34] .*\n(?: .*\n)+)", told.out, re.M))
    assert list(blocks) == list(RECIPES)
    for name, (target, parameters, trained, size, epochs, result) in {
        "chernxi-mobilenetv3small": ("run-03", "1,023,874", "84,754", "120", "1+1+1", "5 errors in 1,600 (accuracy"),
        "chernxi-cnn-120": ("run-04", "7,530", "7,530", "120", "14", "4 errors in 1,600 (accuracy 0.9975; notebook"),
        "marzed7-cnn-256": ("run-04", "7,387,649", "7,387,649", "256", "3", "65 errors in 4,000 (accuracy"),
        "bitterfrown-mobilenetv2": ("run-03", "2,260,546", "2,562", "160", "10", "no result that can be read"),
    }.items():
        first = blocks[name].split("\n")[0]
        assert first.split()[:5] == [target, parameters, trained, size, epochs], name
        assert f"  {result}" in first
    assert [name for name, block in blocks.items() if block.split("\n")[0].endswith("  ours")] == [
        name for name in RECIPES if name not in PUBLISHED
    ]
    for name, published in PUBLISHED.items():
        _, about, *corrections = blocks[name].rstrip("\n").split("\n")
        assert about.strip() == f"{RECIPES[name].title}; {published.source}"
        assert [line.strip() for line in corrections] == [f"- {line}" for line in published.corrections]
    assert all(line in told.out for line in CORRECTED_IN_ALL)


# ---------------------------------------------------------------- files


def project_files() -> list[Path]:
    """Return the files that belong to the project, whether or not they are committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=config.ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):  # a downloaded ZIP
        ours = re.compile(r"(?!\.git/|\.venv/|results/|data/(?!sources)|.*(__pycache__|egg-info|checkpoints|_cache)/)")
        paths = (path.relative_to(config.ROOT).as_posix() for path in config.ROOT.rglob("*") if path.is_file())
        listed = [path for path in paths if ours.match(path)]
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
    metu = tomllib.loads((config.ROOT / "data" / "sources.toml").read_text("utf-8"))["metu"]
    assert metu["size"] > 10**8
    assert re.fullmatch(r"[0-9a-f]{64}", metu["sha256"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", metu["doi"]) and metu["doi"] in metu["citation"]
    assert metu["licence"] == "CC BY 4.0"
    assert all(re.match(r"https://[^/]+/.+", address["url"]) for address in metu["addresses"]) and metu["addresses"]


def test_every_profile_has_a_source() -> None:
    sources = tomllib.loads((config.ROOT / "data" / "sources.toml").read_text("utf-8"))
    assert {profile.source for profile in config.PROFILES.values()} <= set(sources)


def test_what_comes_from_elsewhere_has_a_licence_and_what_is_made_here_a_seed_of_its_own() -> None:
    sources = tomllib.loads((config.ROOT / "data" / "sources.toml").read_text("utf-8"))
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
