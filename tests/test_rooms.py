"""Imports between the rooms of the library go one way."""

import ast
from pathlib import Path

from tests.conftest import ROOT

# A room may import from those before it, and from the modules beside the rooms.
ROOMS = ("audio", "network", "denoising", "data", "evaluation", "training", "notebook", "demo")


def imported(path: Path) -> set[str]:
    """Modules of the library that a file imports, in functions too, and the names that it takes from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] == "common"}


def test_all_forms_of_an_import_count(tmp_path):
    (tmp_path / "a.py").write_text("import common.x\nfrom common import y as z\n"
                                   "def f():\n  from common.data import b, c\n")
    assert imported(tmp_path / "a.py") == {"common.x", "common", "common.y", "common.data", "common.data.b",
                                           "common.data.c"}


def test_every_refusal_says_what_to_do():
    """A message ends in advice behind a colon."""
    for path in (ROOT / "common").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "CallError", "AudioError"):
                parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else node.args
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)
                assert ": " in text or not text.startswith("expected"), f"{path}:{node.lineno} {text}"


def test_every_folder_is_a_known_room():
    assert sorted(path.parent.name for path in (ROOT / "common").glob("*/__init__.py")) == sorted(ROOMS)


def test_rooms_import_from_rooms_before_them():
    for path in (ROOT / "common").rglob("*.py"):
        place = path.relative_to(ROOT / "common").parts
        own = ROOMS.index(place[0]) if len(place) > 1 else -1
        for module in imported(path):
            room = module.split(".")[1:2]
            if room and room[0] in ROOMS:
                assert ROOMS.index(room[0]) <= own, f"{path} imports {module}"


def test_no_two_modules_import_each_other():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "common").rglob("*.py")}
    needs = {name: {m for m in imported(path) if m in files} for name, path in files.items()}
    while ready := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in ready:
            del needs[name]
    assert not needs, f"these import each other: {sorted(needs)}"
