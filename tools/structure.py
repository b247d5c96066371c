"""Check the structure of the package: number and length of files, import cycles, imports that run up the layers.

    python tools/structure.py

Prints the figures and every violation; exit status 1 if there is one. Imports are read from the source, those within
functions too; imports under `TYPE_CHECKING` count.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "emim"
MAX_FILES = 170
MAX_LINES = 600
LAYERS = (
    ("errors",),
    ("utils", "precision", "environment", "_moved"),
    ("distributed", "isolation"),
    ("ops",),
    ("nn",),
    ("models",),
    ("data",),
    ("datasets",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("motion",),
    ("report",),
    ("serve",),
    ("bench",),
    ("cli",),
)
"""From the bottom up. A module imports from its own layer and from those below it."""


def main() -> int:
    modules = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}
    imports = {name: _imports(path, name, modules) for name, path in modules.items()}
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules.items()}
    longest = max(lengths, key=lambda name: lengths[name])
    print(
        f"{len(modules)} files, {sum(lengths.values())} lines, {sum(lengths.values()) // len(modules)} a file, "
        f"the longest {longest} with {lengths[longest]}"
    )
    faults = [
        f"{name} has {lines} lines, more than {MAX_LINES}" for name, lines in lengths.items() if lines > MAX_LINES
    ]
    if len(modules) > MAX_FILES:
        faults.append(f"{len(modules)} files are more than {MAX_FILES}")
    faults += [f"import cycle: {' -> '.join(cycle)}" for cycle in _cycles(imports)]
    faults += [
        f"{name} imports {used}, which is above it"
        for name, all_used in imports.items()
        for used in sorted(all_used)
        if used != "emim" and _layer(used) > _layer(name)
    ]
    print("\n".join(faults) or "no import cycle, no import that runs up the layers")
    return 1 if faults else 0


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, name: str, modules: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "emim":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    return found - {name}


def _layer(name: str) -> int:
    """Return the number of a module's layer; the package itself, which offers the public names, is above all."""
    _, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return next((number for number, layer in enumerate(LAYERS) if room in layer), len(LAYERS))


def _cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = defaultdict(int)
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for used in imports.get(name, ()):
            if used not in order:
                visit(used)
                low[name] = min(low[name], low[used])
            elif used in stack:
                low[name] = min(low[name], order[used])
        if low[name] == order[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(group)

    for name in imports:
        if name not in order:
            visit(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
