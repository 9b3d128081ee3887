"""The rules of the source tree as functions from a parsed file to its violations.

`tests/test_architecture.py` runs them over the tree, and over planted violations.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Rooms from the ground up; a file may import its own room and anything in a lower row.
ROWS: list[list[str]] = [
    ["version", "errors"],
    ["types", "files"],
    ["randomness"],
    ["budget"],
    ["events", "recording", "calibration"],
    ["weights"],
    ["models"],
    ["scorers"],
    ["methods"],
    ["tasks", "embedded", "allocation"],
    ["registry"],
    ["bench"],
    ["gateway"],
    ["explain", "listing", "doctor", "integrations"],
    ["commands"],
    ["cli"],
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
# The laws and the enumerator: they drive whole methods; only tests and the doctor import them.
TESTING = "testing"
MOST_LINES = 400


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name and its text."""

    name: str
    text: str

    @classmethod
    def read(cls, file: Path, root: Path) -> Module:
        parts = file.relative_to(root).with_suffix("").parts
        return cls(".".join(p for p in parts if p != "__init__"), file.read_text(encoding="utf-8"))

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """What stands after `itscale.`; empty for the package itself."""
        return ".".join(self.name.split(".")[1:2])

    @cached_property
    def exported(self) -> list[str] | None:
        """The names in `__all__`; None without one."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and _is_name(node.targets[0], "__all__"):
                return list(ast.literal_eval(node.value))
        return None

    @cached_property
    def bound(self) -> set[str]:
        """Names that exist at the top level of the file."""
        names: set[str] = set()
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.Assign):
                names.update(
                    t.id for target in node.targets for t in ast.walk(target) if isinstance(t, ast.Name)
                )
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
        return names

    def imports(self) -> Iterator[tuple[str, str | None]]:
        """Every `(module, name)` imported from anywhere in the file; name None for `import module`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Call) and _dotted(node.func).endswith("import_module"):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant):
                    yield str(first.value), None


def import_violations(module: Module) -> list[str]:
    """Imports between rooms that do not point downward."""
    found = []
    for target, name in module.imports():
        if target.startswith("."):
            found.append(f"{module.name}: relative import of {target}; name the module in full")
        elif target == "itscale" and name is None and module.room:
            found.append(f"{module.name}: imports the package itself; import the room that has the name")
        elif target == "itscale" and module.room and name not in {*ROW_OF, TESTING}:
            found.append(f"{module.name}: takes {name} from the package; import the room that has it")
        elif target.partition(".")[0] == "itscale" and module.room:
            room = ".".join(target.split(".")[1:2]) or str(name)
            if room != module.room and not _may_import(module.room, room):
                found.append(f"{module.name}: {module.room} must not import {room}")
    if module.room and module.room not in ROW_OF and module.room != TESTING:
        found.append(f"{module.name}: {module.room} is no room; give it a row in tests/architecture.py")
    return found


def _may_import(room: str, other: str) -> bool:
    if other == TESTING:
        return room == "doctor"  # it runs the laws on a user's backend
    row = ROW_OF["methods"] + 1 if room == TESTING else ROW_OF.get(room, -1)
    return ROW_OF.get(other, len(ROWS)) < row


def export_violations(module: Module, tree: Mapping[str, Module]) -> list[str]:
    """A public file without a true `__all__`, and names that cross rooms without being in one."""
    found = []
    if module.exported is None:
        if module.bound - {"annotations"} and not module.name.rpartition(".")[2].startswith("_"):
            found.append(f"{module.name}: no __all__; list what is public")
    else:
        missing = sorted(set(module.exported) - module.bound)
        found += [f"{module.name}: __all__ lists {name}, which does not exist" for name in missing]
    for target, name in module.imports():
        source = tree.get(target)
        if source is None or name is None or f"{target}.{name}" in tree or source.room == module.room:
            continue
        if name not in (source.exported or ()):
            found.append(f"{module.name}: takes {name} from {target}, where it is not public (__all__)")
    return found


# Law 9: nothing a model wrote is executed, and nothing loaded can execute.
_EXECUTING_NAMES = {"eval", "exec", "compile", "__import__"}
_EXECUTING_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
# Law 5: draws come from named streams. A generator object made from a seed is such a stream.
_GLOBAL_DRAWS = re.compile(
    r"random\.(?!Random$)\w+|(np|numpy)\.random\.(?!Generator$|default_rng$|SeedSequence$|PCG64$)\w+"
    r"|torch\.(manual_seed|seed|rand|randn|randint|randperm|rand_like|randn_like|bernoulli|normal|multinomial)"
)


def call_violations(module: Module) -> list[str]:
    """Calls that execute text or unpickle, and draws from a global generator."""
    found = []
    for target, name in module.imports():
        if target.partition(".")[0] in _EXECUTING_MODULES:
            found.append(f"{module.name}: imports {target}, which runs what it loads")
        if name and _GLOBAL_DRAWS.fullmatch(f"{target}.{name}"):
            found.append(f"{module.name}: {target}.{name} draws from a global generator")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id in _EXECUTING_NAMES:
            found.append(f"{module.name}:{node.lineno}: {node.id} runs text")
        elif isinstance(node, ast.Attribute) and _GLOBAL_DRAWS.fullmatch(_dotted(node)):
            found.append(f"{module.name}:{node.lineno}: {_dotted(node)} draws from a global generator")
        elif isinstance(node, ast.Call):
            found += [f"{module.name}:{node.lineno}: {fault}" for fault in _call_faults(node)]
    return found


def _call_faults(call: ast.Call) -> Iterator[str]:
    options = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if _dotted(call.func) == "torch.load" and options.get("weights_only") is not True:
        yield "torch.load without weights_only=True runs what it loads"
    if options.get("trust_remote_code"):
        yield "trust_remote_code runs code from a checkpoint"
    if _dotted(call.func).endswith("default_rng") and not call.args and not call.keywords:
        yield "default_rng() without a seed is not reproducible"


def comment_violations(module: Module) -> list[str]:
    """Ignores that do not say what they ignore."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        for bare, coded in (
            (r"#\s*(ruff:\s*)?noqa\b", r"noqa: [A-Z]+[0-9]+"),
            (r"#\s*type:\s*ignore\b", r"type: ignore\[[a-z-]+"),
            (r"#\s*mypy:\s*ignore-errors\b", r"(?!)"),
        ):
            if re.search(bare, token.string) and not re.search(coded, token.string):
                found.append(f"{module.name}:{token.start[0]}: {token.string.strip()} names no rule")
    return found


def length_violations(module: Module) -> list[str]:
    """Files that do not fit in the head."""
    lines = module.text.count("\n")
    return [f"{module.name}: {lines} lines, more than {MOST_LINES}; split it"] if lines > MOST_LINES else []


def undescribed_tests(module: Module) -> list[str]:
    """Tests without a docstring that states the behaviour."""
    return [
        f"{module.name}: {node.name} has no docstring"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test")
        and not ast.get_docstring(node)
    ]


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain on a plain name; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""
