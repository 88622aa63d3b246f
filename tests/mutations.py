"""For mutants.py: the mutants of a module that count, and the tests that bear on it.

The mutants are Cosmic Ray's, without those that say nothing about tests:
- what leaves the program as it is: mutants in annotations and docstrings, and texts that do not parse or that another mutant has;
- arithmetic turned into logic or shifts, or back: tensors of floats have none, any call whatever would kill it;
- `==` for `is`, `!=` for `is not`, and back: of None, types and strings they say the same.
VariableReplacer and VariableInserter need names of variables as arguments; without them they are no part of Cosmic Ray's stock.
"""

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

FAMILIES = ({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"BitOr", "BitAnd", "BitXor"}, {"LShift", "RShift"})
IDENTITY = {("Eq", "Is"), ("NotEq", "IsNot"), ("Is", "Eq"), ("IsNot", "NotEq")}


@dataclass(frozen=True)
class Mutant:
    """One change. `name` is the operator and its occurrence; `before` and `after` are the lines that differ."""

    name: str
    operator: str
    function: str
    text: str
    diff: str
    before: str
    after: str

    def key(self, module):
        """What an entry of equivalent_mutants.toml says of it."""
        return module, self.function, self.operator, self.before, self.after


class Meaning(ast.NodeTransformer):
    """A program without annotations and docstrings."""

    def visit(self, node):
        self.generic_visit(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
        return node


def meaning(text):
    return ast.dump(Meaning().visit(ast.parse(text)))


def says_something(operator):
    kind, _, change = operator.partition("_")
    if kind == "ReplaceBinaryOperator":
        return any(set(change.split("_")) <= family for family in FAMILIES)
    return tuple(change.split("_")) not in IDENTITY


def mutants(path):
    """All mutants of a file that count."""
    source = path.read_text()
    seen, tree = {meaning(source)}, get_ast(source)
    for full_name in operator_names():
        operator, kind = full_name.removeprefix("core/"), get_operator(full_name)
        if kind.arguments() or not says_something(operator):
            continue
        places = [node for node in ast_nodes(tree) for _ in kind().mutation_positions(node)]
        for occurrence, node in enumerate(places):
            text = mutate_code(source, kind(), occurrence)
            try:
                new = meaning(text)
            except SyntaxError:
                continue
            if new not in seen:
                seen.add(new)
                lines = list(difflib.unified_diff(source.splitlines(), text.splitlines(), str(path), str(path), lineterm="", n=0))
                before, after = ("\n".join(line[1:].strip() for line in lines[3:] if line[0] == sign and line[1:].strip()) for sign in "-+")
                owner = node if node.type != "decorator" else node.search_ancestor("decorated").children[-1]
                function = ASTQuery(owner).get_definition_name() or ""
                yield Mutant(f"{operator}#{occurrence}", operator, function, text, "\n".join(lines), before, after)


def floors():
    """The modules of floors 1 and 2, as tests/test_house.py has them."""
    for node in ast.parse(next(Path("tests").rglob("test_house.py")).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            table = ast.literal_eval(node.value)
            return [*table[1], *table[2]]
    raise SystemExit("test_house.py has no FLOORS")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.ImportFrom, ast.Import)):
            yield from (alias.name.removeprefix("tfpg.") for alias in node.names)
            yield (getattr(node, "module", "") or "").removeprefix("tfpg.")


def candidates():
    """The files of tests of floors 1 and 2; docs/errata.md, which runs everything once, tells too little for its time."""
    whole = [path for path in Path("tests").glob("test_*.py") if path.stem.removeprefix("test_") in floors()]
    return sorted(str(path) for path in [*Path("tests/equations").glob("test_*.py"), *whole] if path.stem != "test_errata")


def needs(file):
    """What else a file of tests is made of."""
    helpers = {path.stem: path for path in Path("tests").rglob("*.py") if not path.name.startswith(("test_", "mut"))}
    used, new = {"conftest"}, {Path(file)}
    while new:
        names = {name for path in new for name in imported(path)} & helpers.keys() - used
        used, new = used | names, {helpers[name] for name in names}
    return sorted(helpers[name] for name in used)
