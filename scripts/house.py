"""Counts the house rules over the package and fails on what breaks one: `python scripts/house.py`.

Limits: a file 250 lines, a method file 90, a function body 35 (median 10), nesting depth 3, a docstring on everything
public, tests at least 0.8 of the code. Forbidden: what is listed in `FORBIDDEN`, implementation inheritance, tests on a
method's name.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE_LINES, METHOD_LINES, BODY_LINES, MEDIAN_BODY, DEPTH, TESTS_TO_CODE = 250, 90, 35, 10, 3, 0.8
Def = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FORBIDDEN_NAMES = {"eval": "eval()", "exec": "exec()", "NotImplementedError": "NotImplementedError"}
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# (file, function): why it may hand keywords on.
FOREIGN = {
    ("rekindle/tokens/sampling/cache.py", "decode_attention"): "transformers' calling convention for attention",
    ("rekindle/interop/trl/recorder.py", "handed_on"): "a method of TRL's that is wrapped: any call of it has to pass",
}
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


@dataclass(frozen=True)
class Function:
    """One function or method: where it is, the lines of its body without the docstring, its depth of nested blocks."""

    where: str
    body: int
    depth: int


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """All lines, blank ones included."""
        return len(self.text.splitlines())

    def at(self, node: ast.AST | None = None) -> str:
        """path:line relative to the repository."""
        shown = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return str(shown) if node is None else f"{shown}:{node.lineno}"  # type: ignore[attr-defined]


def read(folder: Path) -> list[Module]:
    """Every Python file below `folder`, sorted by path."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, text, ast.parse(text, str(path))))
    return found


# --- sizes ----------------------------------------------------------------------------------------------------------


def functions(module: Module) -> Iterator[Function]:
    """Every function of the module; stubs (`...`) of protocols are left out."""
    for node in ast.walk(module.tree):
        if isinstance(node, Def) and not _is_stub(node):
            first = node.body[1 if ast.get_docstring(node) else 0]
            yield Function(
                f"{module.at(node)} {node.name}", (node.end_lineno or 0) - first.lineno + 1, _depth(node.body)
            )


def _is_stub(node: Def) -> bool:
    rest = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in rest)


def _depth(body: Iterable[ast.AST]) -> int:
    """Deepest nesting of blocks; an `elif` is no deeper than its `if`; a nested function starts afresh."""
    return max((_depth_of(node) for node in body), default=0)


def _depth_of(node: ast.AST) -> int:
    if isinstance(node, Def | ast.ClassDef | ast.Lambda):
        return 0
    if not isinstance(node, BLOCKS):
        return _depth(ast.iter_child_nodes(node))
    chained = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
    elifs = [child for child in chained if isinstance(child, ast.If)]
    inner = [child for child in ast.iter_child_nodes(node) if child not in elifs]
    return max(1 + _depth(inner), _depth(elifs))


def size_faults(module: Module, is_method: bool) -> Iterator[str]:
    """What is too long or too deep in one module."""
    limit = METHOD_LINES if is_method else FILE_LINES
    if module.lines > limit:
        yield f"{module.at()}: {module.lines} lines, at most {limit}"
    for function in functions(module):
        if function.body > BODY_LINES:
            yield f"{function.where}: a body of {function.body} lines, at most {BODY_LINES}"
        if function.depth > DEPTH:
            yield f"{function.where}: blocks nested {function.depth} deep, at most {DEPTH}"


# --- docstrings -----------------------------------------------------------------------------------------------------


def public(module: Module) -> Iterator[tuple[str, bool]]:
    """(where, has a docstring) of the module and of each of its public classes, functions and methods."""
    if module.tree.body:
        yield module.at(), bool(ast.get_docstring(module.tree))
    yield from _public_in(module, module.tree.body)


def _public_in(module: Module, body: list[ast.stmt]) -> Iterator[tuple[str, bool]]:
    for node in body:
        if not isinstance(node, Def | ast.ClassDef) or node.name.startswith("_"):
            continue
        # The stub of a protocol's method is a signature; the protocol's docstring says what it is.
        if isinstance(node, ast.ClassDef) or not _is_stub(node) or ast.get_docstring(node):
            yield f"{module.at(node)} {node.name}", bool(ast.get_docstring(node))
        if isinstance(node, ast.ClassDef):
            yield from _public_in(module, node.body)


# --- forbidden ------------------------------------------------------------------------------------------------------


def forbidden(module: Module, method_names: set[str]) -> Iterator[str]:
    """Constructs that the house does not use."""
    for number, line in enumerate(module.text.splitlines(), start=1):
        if MARKERS.search(line):
            yield f"{module.at()}:{number}: unfinished: {line.strip()}"
    if _has_code(module) and "annotations" not in _future_imports(module):
        yield f"{module.at()}: no `from __future__ import annotations`"
    for node in ast.walk(module.tree):
        named = isinstance(node, Def) and (module.at(), node.name) in FOREIGN
        for reason in () if named else _reasons(node, method_names):
            yield f"{module.at(node)}: {reason}"


def _has_code(module: Module) -> bool:
    return len(module.tree.body) > (1 if ast.get_docstring(module.tree) else 0)


def _future_imports(module: Module) -> set[str]:
    froms = [n for n in module.tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    return {alias.name for node in froms for alias in node.names}


def _reasons(node: ast.AST, method_names: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
        yield FORBIDDEN_NAMES[node.id]
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        yield "bare except"
    if isinstance(node, ast.Global):
        yield "global state"
    if isinstance(node, Def) and _passes_on(node):
        yield "**kwargs pass-through"
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (f"import of {name}" for name in imported(node) if name.split(".")[0] in FORBIDDEN_MODULES)
    if isinstance(node, ast.Call):
        yield from _call_reasons(node)
    if isinstance(node, ast.Compare | ast.MatchValue):
        named = method_names & {
            c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)
        }
        yield from (f"a test on the method name '{name}'" for name in sorted(named))


def _passes_on(node: Def) -> bool:
    """Whether a call gets all keywords of the caller. A copy by `replace` refuses unknown names itself."""
    if node.args.kwarg is None:
        return False
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and ast.unparse(call.func) != "replace"]
    handed = [keyword.value for call in calls for keyword in call.keywords if keyword.arg is None]
    return any(isinstance(value, ast.Name) and value.id == node.args.kwarg.arg for value in handed)


def _call_reasons(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called == "getattr" and len(node.args) == 3:
        yield "getattr with a default"
    if called == "torch.load":
        yield "torch.load: weights are safetensors"
    for keyword in node.keywords:
        trusted = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg == "trust_remote_code" and not trusted:
            yield "trust_remote_code"


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import statement names."""
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def inheritance(modules: list[Module]) -> Iterator[str]:
    """Classes that inherit from another class of the package, protocols and errors excepted."""
    classes = [(m, n) for m in modules for n in ast.walk(m.tree) if isinstance(n, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases} for _, node in classes}
    concrete = {name for name, parents in bases.items() if "Protocol" not in parents and not _is_error(name, bases)}
    for module, node in classes:
        for parent in sorted(bases[node.name] & concrete):
            yield f"{module.at(node)} {node.name}: inherits the implementation of {parent}"


def _is_error(name: str, bases: dict[str, set[str]]) -> bool:
    parents = bases.get(name, set())
    return any(
        p.endswith(("Error", "Exception")) or (p in bases and p != name and _is_error(p, bases)) for p in parents
    )


# --- the whole ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """The table (what, value, limit) and the list of faults."""

    table: list[tuple[str, str, str]]
    faults: list[str]


def inspect(package: Path = ROOT / "rekindle", tests: Path = ROOT / "tests") -> Report:
    """Counts everything."""
    modules, test_modules = read(package), read(tests)
    methods = [m for m in modules if m.path.parent.name == "methods" and m.path.name != "__init__.py"]
    names = {m.path.stem for m in methods}
    counted = [f for m in modules for f in functions(m)]
    documented = [entry for m in modules for entry in public(m)]
    code, test_code = sum(m.lines for m in modules), sum(m.lines for m in test_modules)
    median, ratio = statistics.median([f.body for f in counted]), test_code / code
    faults = [fault for m in modules for fault in size_faults(m, m in methods)]
    faults += [fault for m in modules for fault in forbidden(m, names)]
    faults += inheritance(modules)
    faults += [f"{where}: no docstring" for where, has in documented if not has]
    if median > MEDIAN_BODY:
        faults.append(f"the median function body has {median} lines, at most {MEDIAN_BODY}")
    if ratio < TESTS_TO_CODE:
        faults.append(f"tests : code is {ratio:.2f}, at least {TESTS_TO_CODE}")
    share = 100 * sum(has for _, has in documented) / len(documented)
    table = [
        ("files, lines of code", f"{len(modules)}, {code}", ""),
        ("largest file", f"{max(m.lines for m in modules)}", f"{FILE_LINES}"),
        ("largest method file", f"{max((m.lines for m in methods), default=0)}", f"{METHOD_LINES}"),
        (
            "function body, median / largest",
            f"{median:g} / {max(f.body for f in counted)}",
            f"{MEDIAN_BODY} / {BODY_LINES}",
        ),
        ("deepest nesting", f"{max(f.depth for f in counted)}", f"{DEPTH}"),
        ("public docstrings", f"{share:.0f} %", "100 %"),
        ("tests : code, lines", f"{ratio:.2f}", f">= {TESTS_TO_CODE}"),
    ]
    return Report(table, faults)


def main() -> int:
    """Prints the table and the faults; 1 where there are any."""
    report = inspect()
    for what, value, limit in report.table:
        print(f"{what:<34}{value:>16}   {limit}")
    for fault in report.faults:
        print(fault, file=sys.stderr)
    print(f"{len(report.faults)} faults")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
