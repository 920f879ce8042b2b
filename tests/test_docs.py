"""What the documents say works: their commands are run on a small corpus, and their links and modules exist."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from common.audio.writing import write_audio
from common.demo import synth
from common.demo.copies import make_copies
from common.network.checkpoints import save_weights
from tests.conftest import ROOT

CARD = "pretrained_weights/README.md"
DOCUMENTS = [ROOT / "README.md", ROOT / CARD, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
# What a reader puts in place of these words. Every merger writes to folders of its own.
WORDS = {"<songs_dir>": "songs", "<noises_dir>": "noises", "<num_songs>": "1", "<noises_per_song>": "1",
         "<white_noises_per_song>": "1", "<0-9>": "3", "<input_output_dir>": "{program}/input",
         "<target_output_dir>": "{program}/target", "<audio_dir1>": "merger.py/input",
         "<audio_dir2>": "merger.py/target", "<output_file>": "correlation.csv", "<input_dir>": "merger.py/input",
         "<target_dir>": "merger.py/target", "<manifest.csv>": "merger.py/input/manifest.csv",
         "<new_input_dir>": "again/input", "<new_target_dir>": "again/target"}
MERGER_FLAGS = shlex.split("--path-songs songs --path-noises noises --iter-songs 1 --iter-noise 1 "
                           "--input-dir {program}/input --target-dir {program}/target")
# Flags that make a documented command small; the last one of a name counts.
SMALL = {"common.training run": "--epochs 1 --steps-per-epoch 2 --n-validation 2 --warmup-steps 1",
         "common.training publish": "--calibration-pairs 4 --n-validation 2 --device cpu",
         "common.training classify": "--n-per-label 2 --device cpu"}
# Programs of which only the flags are checked here, and why.
NOT_RUN = {"common.demo": "the check of every change runs it", "common.evaluation": "it needs the frozen test set",
           "common.training recipe": "test_training_cli runs it", "benchmarks": "they need real recordings"}
NOT_OURS = ("venv", "pip", "pytest")


def commands(text):
    """The words of every `python ...` line in fenced blocks and code spans, in the order of the text."""
    found = []
    for match in re.finditer(r"^ *```\n(.*?)^ *```|`(python [^`]+)`", text, re.M | re.S):
        block, span = match.groups()
        found += block.replace("\\\n", " ").splitlines() if block else [" ".join(span.split())]
    lines = (shlex.split(line, comments=True) for line in found)
    return [words[1:] for words in lines if words[:1] == ["python"] and words[1:2] not in (["-c"], [])]


def program(words):
    """The name of a program, with its sub-command."""
    if words[0] != "-m":
        return words[0]
    n = 3 if words[1] in ("common.training", "common.data.provenance", "benchmarks.pretrained") else 2
    return " ".join(words[1:n])


def is_run(document, words):
    """Whether a command is whole, and neither of NOT_RUN nor of the card, which tells how its weights were made."""
    name = program(words)
    whole = len(words) > len(name.split()) + (words[0] == "-m")
    return whole and name not in NOT_RUN and name.split(".")[0] not in NOT_RUN and document != CARD


DOCUMENTED = [(document, words) for document, text in TEXTS.items() for words in commands(text)
              if program(words) not in NOT_OURS]


def typed(words):
    """The words as a reader types them, for a small amount of work."""
    name = program(words)
    words = [WORDS.get(word, word) for word in words]
    if dots := [i for i, word in enumerate(words) if word.startswith("...")]:
        words[dots[0] :] = MERGER_FLAGS
    return [word.replace("{program}", name) for word in [*words, *SMALL.get(name, "").split()]]


@pytest.fixture(scope="module")
def desks(corpus, pool_folder, model, tmp_path_factory):
    """A function from a document to the folder where its commands run, with the files that all documents speak of."""
    made = {}

    def desk(document):
        if document not in made:
            folder = made[document] = tmp_path_factory.mktemp("desk")
            (folder / "noises").symlink_to(corpus[1])
            (folder / "pool").symlink_to(pool_folder)
            for split in ("train", "validation", "test"):
                song = min((corpus[0] / split).iterdir())
                (folder / "songs" / split).mkdir(parents=True)
                (folder / "songs" / split / song.name).symlink_to(song)
            (folder / "tapes" / "1").mkdir(parents=True)
            make_copies(folder, 24)  # tape_a.flac and tape_b.flac
            for name in ("song.mp3", "song.wav", "noisy.flac", "tapes/1/a.mp3"):
                write_audio(folder / name, sum(synth.song(1, 4).values()), synth.SAMPLE_RATE)
            for name in ("white.pth", "siren.pth", "mixed.pth", "Weights/best.pth"):
                save_weights(model, folder / name, {"noise": "mixed"})
        return made[document]
    return desk


@pytest.mark.parametrize("document, words", [pair for pair in DOCUMENTED if is_run(*pair)],
                         ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60])
def test_documented_commands_work(desks, document, words):
    folder, words = desks(document), typed(words)
    if "-o" in words and (output := folder / words[words.index("-o") + 1]).is_symlink():
        output.unlink()  # what this document makes itself
    program = words[:1] if words[0] == "-m" else [ROOT / words[0]]
    done = subprocess.run([sys.executable, *program, *words[1:]], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted({program(pair[1]) for pair in DOCUMENTED if not is_run(*pair)}))
def test_other_documented_commands_have_their_flags(call, name):
    flags = {word.split("=")[0] for _, words in DOCUMENTED for word in words
             if program(words) == name and word.startswith("--")}
    shown = call(*(["-m"] if "/" not in name and not name.endswith(".py") else []), *name.split(), "--help").stdout
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
