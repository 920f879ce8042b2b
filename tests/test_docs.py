"""What the documents say exists: commands with their flags, links, and modules."""

import re
import shlex

import pytest

from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "pretrained_weights" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}


def commands(text):
    """The words of every `python ...` line in fenced blocks and in code spans, without comments."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.M | re.S)
    spans = re.findall(r"`(python [^`]+)`", re.sub(r"^ *```\n.*?^ *```", "", text, flags=re.M | re.S))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + [" ".join(span.split()) for span in spans]:
        words = shlex.split(line.replace("'", '"'), comments=True)
        if words[:1] == ["python"] and words[1:2] not in (["-c"], []):
            yield words[1:]


def program(words):
    """The words that name a program and its sub-command, and the flags that are given to it."""
    n = 2 if words[0] == "-m" else 1
    if words[n - 1] in ("common.training", "common.data.provenance", "benchmarks.pretrained") and len(words) > n:
        n += 1
    return tuple(words[:n]), {word for word in words[n:] if re.fullmatch("--[a-z][a-z-]*", word)}


def documented():
    found = {}
    for text in TEXTS.values():
        for words in commands(text):
            name, flags = program(words)
            found.setdefault(name, set()).update(flags)
    return found


@pytest.mark.parametrize("name, flags", documented().items(), ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_documented_commands_and_flags_exist(call, name, flags):
    if name[:2] in (("-m", "venv"), ("-m", "pytest"), ("-m", "pip")):
        pytest.skip("not of this project")
    shown = call(*name, "--help").stdout
    assert {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", shown)} == set()


@pytest.mark.parametrize("document", TEXTS)
def test_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXTS[document]):
        assert target.startswith("https://") or (folder / target).exists(), target


def test_modules_that_are_named_exist():
    names = {name for text in TEXTS.values() for name in re.findall(r"\b(?:common|benchmarks)(?:\.[a-z_]+)+", text)}
    for name in names - {"benchmarks.md"}:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or path.is_dir(), name


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150
