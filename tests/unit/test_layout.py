"""The rooms of the package, their order, and that no import goes against it (docs/design.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "atom_plugin"
# Lower rooms first: a module imports from its own room and from those before it. `errors` is a module of its own.
ROOMS = (
    "errors", "runtime", "datasets", "transforms", "models", "matchers", "store", "distillation", "evaluation", "search",
    "audit", "replay", "report",
)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


# What `python -m atom_plugin` runs is above all rooms, as the command line is, which it starts.
MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py") if path.stem != "__main__"}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that ``path`` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative imports are not followed here"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in MODULES else node.module for name in whole]
        else:
            continue
        yield from (name for name in found if name in MODULES and name != "atom_plugin")


ARROWS = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def room(module: str) -> int:
    return ROOMS.index(module.split(".")[1])


def test_the_package_holds_these_rooms_and_no_module_beside_them() -> None:
    assert {name.split(".")[1] for name in MODULES if name != "atom_plugin"} == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "errors"}


def test_no_import_goes_to_a_later_room() -> None:
    up = [
        f"{name} -> {other}"
        for name, others in ARROWS.items()
        for other in others
        if name != "atom_plugin" and room(other) > room(name)  # the façade loads its names on first use
    ]
    assert not up


def test_no_circle() -> None:
    # A package's __init__ collects its modules, which may import one another but not the collection.
    modules = {name: others for name, others in ARROWS.items() if name != "atom_plugin"}
    TopologicalSorter(modules).prepare()  # CycleError names the circle


def test_an_engine_imports_nothing_of_the_loop_around_it() -> None:
    loop = {name for name in MODULES if name.startswith("atom_plugin.distillation.")}
    loop -= {name for name in loop if name.startswith("atom_plugin.distillation.engine")}
    arrows = {f"{name} -> {other}" for name, others in ARROWS.items() for other in others & loop if ".engine" in name}
    assert not arrows
