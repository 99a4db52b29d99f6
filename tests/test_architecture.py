"""The rules of the house that a reader of one file cannot see: directions, configs that act, sizes, words."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.core.annotations import locate, signature_of
from src.core.cli import CONF
from src.core.config import RESERVED

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CONFIGS = sorted(CONF.rglob("*.yaml"))

# Room → what it may import, as prefixes below `src`. Everyone may import core.
DIRECTIONS = {
    "core": (),
    "data": (),
    "sim": ("data.actions", "data.episode"),
    "model": ("data.actions", "data.batch", "data.normalizer"),
    "pretraining": ("model.backbone", "sim"),
    "deploy": ("data.frames", "experiment.checkpoint", "model.policy"),
    "evaluation": (
        "data.actions", "data.batch", "data.datamodule", "data.episode", "data.mirror", "deploy",
        "experiment.checkpoint", "experiment.csv_logger", "experiment.quiet", "experiment.run_record",
        "model.policy", "model.senses", "sim",
    ),
    "experiment": (
        "data.actions", "data.batch", "data.datamodule", "data.normalizer", "model.flops", "model.policy",
    ),
    "comparison": ("experiment", "evaluation.statistics", "evaluation.report"),
    "plugins": ("comparison", "sweep"),
    "sweep": ("experiment",),
    "speed": ("data", "model", "sim", "experiment", "deploy", "evaluation"),
    "external": ("data.actions", "data.datamodule", "data.episode", "deploy", "evaluation"),
}  # fmt: skip
HEAVY = {
    "torch",
    "lightning",
    "transformers",
    "peft",
    "numpy",
    "hydra",
    "omegaconf",
    "wandb",
    "h5py",
    "mujoco",
    "rich",
}
EARLY = "src.experiment.early"
"""What an entry point may ask before anything heavy is imported."""
LIGHT_HYDRA = {"omegaconf", "hydra"}
"""Imported at the top by entry points only for annotations; 0.1 s."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- directions


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    if len(parts) == 1:
        return  # entry points compose
    allowed = DIRECTIONS[parts[0]]
    for module in _imports(path):
        below = module.removeprefix("src.")
        if not module.startswith("src.") or below.split(".")[0] in (parts[0], "core"):
            continue
        fine = any(below == prefix or below.startswith(f"{prefix}.") for prefix in allowed)
        assert fine, (
            f"{relative(path)} imports {module}; {parts[0]} may import core and {allowed or 'nothing else'}"
        )


def test_every_room_has_its_direction() -> None:
    rooms = {path.name for path in (ROOT / "src").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= DIRECTIONS.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "src").glob("*.py")), ids=relative)
def test_entry_points_import_nothing_heavy_at_the_top(path: Path) -> None:
    """They answer --help at once, so what is heavy is imported inside the task."""
    top = {module.split(".")[0] for module in _imports(path, top_only=True)}
    heavy = top & (HEAVY - LIGHT_HYDRA)
    assert not heavy, f"{relative(path)} imports {heavy} at the top"
    ours = [module for module in _imports(path, top_only=True) if module.startswith("src.")]
    assert all(module.startswith("src.core.") or module == EARLY for module in ours), ours


def test_what_is_refused_early_needs_nothing_heavy() -> None:
    path = ROOT / "src" / Path(*EARLY.split(".")[1:]).with_suffix(".py")
    imported = _imports(path, top_only=True)
    assert not {module.split(".")[0] for module in imported} & HEAVY
    assert all(module.startswith("src.core.") for module in imported if module.startswith("src."))


def test_the_doctor_needs_the_standard_library_alone() -> None:
    import sys

    top = {module.split(".")[0] for module in _imports(ROOT / "src" / "doctor.py", top_only=True)}
    assert top <= set(sys.stdlib_module_names), top - set(sys.stdlib_module_names)


# ---------------------------------------------------------------- every YAML key acts


def _nodes(tree: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(tree, dict):
        if isinstance(tree.get("_target_"), str):
            yield key, tree
        for name, value in tree.items():
            yield from _nodes(value, f"{key}.{name}".strip("."))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _nodes(value, f"{key}[{index}]")


def _is_root(path: Path) -> bool:
    return path.parent == CONF


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_target_imports_and_takes_every_key(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for key, node in _nodes(tree):
        target = locate(node["_target_"], key)
        parameters, takes_more = signature_of(target)
        if node["_target_"].startswith("src."):
            assert not takes_more, f"{node['_target_']} takes **kwargs, so a typo would pass unseen"
        names = set(node) - RESERVED
        if key == "" and _is_root(path):
            names -= {"defaults", "hydra"}
        elif key == "":
            names -= {"defaults"}
        unknown = names - parameters.keys()
        assert takes_more or not unknown, (
            f"{relative(path)}: {key} has keys that {node['_target_']} does not take: {unknown}"
        )


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_the_annotations_of_our_targets_can_be_read(path: Path) -> None:
    """Types are checked against annotations; one that cannot be evaluated would switch the check off in silence."""
    from typing import get_type_hints

    for key, node in _nodes(yaml.safe_load(path.read_text(encoding="utf-8")) or {}):
        if node["_target_"].startswith("src."):
            target = locate(node["_target_"], key)
            function = target.__init__ if inspect.isclass(target) else target
            hints = get_type_hints(function)
            missing = set(signature_of(target)[0]) - hints.keys()
            assert not missing, f"{node['_target_']}: no annotation for {missing}"


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_config_opens_with_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines[:2] if line.startswith("#") and "@package" not in line]
    assert comments, f"{relative(path)} opens without a comment that says what it is for"


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_composes_and_passes_the_check(option: str, compose: Any) -> None:
    from src.core.config import check
    from src.core.overrides import root_keys

    cfg = compose("train", f"experiment={option}", "run_folder=somewhere")
    check(cfg, root_keys(CONF, "train"))


@pytest.mark.parametrize(
    "group", ["model", "data", "trainer", "logger", "callbacks", "evaluation", "scheduler", "debug"]
)
def test_every_option_of_a_group_composes_and_passes_the_check(group: str, compose: Any) -> None:
    from src.core.config import check
    from src.core.overrides import root_keys

    for path in sorted((CONF / group).glob("[!_]*.yaml")):  # _…: a base of others, not an option
        cfg = compose("train", f"{group}={path.stem}", "run_folder=somewhere")
        check(cfg, root_keys(CONF, "train"))


# ---------------------------------------------------------------- sizes and words


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_short_and_say_what_they_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{relative(path)} is longer than 400 lines; one job per file"
    assert ast.get_docstring(ast.parse(text)), f"{relative(path)} has no docstring"


def test_no_file_knows_a_path_of_somebody_s_computer() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|work|tmp|root|Users)/\w")
    files = [*SOURCES, *CONFIGS, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not pattern.search(line), f"{relative(path)}:{number}: {line.strip()}"


def test_constraints_pin_every_dependency_without_a_machine_s_build() -> None:
    import tomllib

    pins = {line.split("==")[0].lower() for line in _pins()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!~ \[]", text)[0].lower() for text in wanted}
    canonical = {name.replace("_", "-") for name in pins}
    assert {name.replace("_", "-") for name in names} <= canonical
    assert not [line for line in _pins() if "+" in line or "@" in line or line.startswith("nvidia")]


def _pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Modules that a file imports: all of them, or those that are imported when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(tree.body) if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("src") and node.module.count(".") == 1:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
