"""Which helper modules a chapter's code reaches through its imports. Nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

PACKAGE = "lla_helpers"


class Helpers:
    """The helper package under `root`, read as text.

    The package's own `__init__` is no part of a closure: it only says where a name lives, and
    exporting one name more must not make every chapter stale.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reached: dict[str, set[str]] = {}

    @cached_property
    def exports(self) -> dict[str, str]:
        """Name -> module, from the literal `EXPORTS` of the package."""
        init = self.root / PACKAGE / "__init__.py"
        tree = ast.parse(init.read_text(encoding="utf-8")) if init.is_file() else ast.Module([])
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == "EXPORTS" for t in targets):
                return ast.literal_eval(node.value)
        return {}

    def file(self, module: str) -> Path | None:
        """The file of a dotted module name, None when it is not one of ours."""
        if not module.startswith(f"{PACKAGE}.") or not module.replace(".", "").isidentifier():
            return None
        path = self.root.joinpath(*module.split("."))
        return next(
            (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None
        )

    def closure(self, code: ast.AST) -> dict[str, Path]:
        """Every module of ours that `code` imports, directly or through others."""
        found: dict[str, Path] = {}
        waiting = set(self.named(code, PACKAGE))
        while waiting:
            module = waiting.pop()
            path = self.file(module)
            if path is not None and module not in found:
                found[module] = path
                waiting |= self.imports(module, path)
        return found

    def imports(self, module: str, path: Path) -> set[str]:
        if module not in self.reached:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            tree = ast.parse(path.read_text(encoding="utf-8"), path.name)
            self.reached[module] = set(self.named(tree, package)) | ancestors(module)
        return self.reached[module]

    def named(self, tree: ast.AST, package: str) -> Iterator[str]:
        """Modules that `tree`, which belongs to `package`, may import, at any depth of its code."""
        aliases = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
                aliases |= {a.asname or PACKAGE for a in node.names if ours(a)}
            elif isinstance(node, ast.ImportFrom):
                base = absolute(node, package)
                yield base
                yield from (n for a in node.names for n in self.members(base, a.name))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value  # importlib.import_module("lla_helpers.x")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in aliases:
                    yield from self.members(PACKAGE, node.attr)

    def members(self, base: str, name: str) -> Iterator[str]:
        """The modules that `from base import name` may load."""
        yield f"{base}.{name}"
        if base == PACKAGE:
            wanted = self.exports if name == "*" else {name} & set(self.exports)
            yield from (f"{PACKAGE}.{self.exports[export]}" for export in wanted)


def ours(alias: ast.alias) -> bool:
    """Whether `import ...` binds a name to our package itself."""
    return alias.name == PACKAGE or (alias.name.startswith(f"{PACKAGE}.") and not alias.asname)


def absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def ancestors(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(2, len(parts))}
