import shutil

import numpy as np
import pytest

from common.audio.reading import read_audio
from common.data.pairs import load_test_pairs, pairs_in
from common.errors import UserError
from common.evaluation.frozen_set import INDEX, PRINT_INDEX, build, check
from common.labels import WHITE
from common.small_files import read_rows


@pytest.fixture(scope="module")
def frozen(corpus, tmp_path_factory):
    """Three conditions of three segments."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "merged" / "mine").mkdir(parents=True)  # somebody's, who chose this folder
    build([corpus[0]], [corpus[1]], folder, n_segments=3, noises_per_song=1, conditions=("white", "mixed", "siren"))
    return folder


def test_conditions_hold_test_songs_with_their_noises(frozen):
    rows = read_rows(frozen / INDEX)
    assert [r["condition"] for r in rows] == ["white"] * 3 + ["mixed"] * 3 + ["siren"] * 3
    assert all(r["song"].startswith("test/") for r in rows)
    assert {r["input_noise"] for r in rows[:3]} == {"white"}
    assert all("fold10/" in r["input_noise"] and "-8-0-0" in r["input_noise"] for r in rows[6:])
    for condition in ("white", "siren"):
        songs = [r["song"] for r in rows if r["condition"] == condition]
        assert len(set(songs)) == 3  # one segment of a pair
    pairs = load_test_pairs(frozen)
    assert len(pairs) == 9 and {p.noise for p in pairs} == {"white", "mixed", "siren"}
    assert len(pairs_in(frozen / "white")) == 3 and [p.name for p in (frozen / "merged").iterdir()] == ["mine"]


def test_prints_are_there_where_they_can_be(frozen):
    """The corpus has one clip of up to 4 s from each recording: white noise alone leaves something for a print."""
    rows, prints = read_rows(frozen / INDEX), read_rows(frozen / PRINT_INDEX)
    white = [(r["condition"], r["pair_id"]) for r in rows if r["input_noise"] == WHITE]
    assert [(r["condition"], r["pair_id"]) for r in prints] == white
    assert {r["source"] for r in prints} == {WHITE} and {r["seconds"] for r in prints} == {"1.500"}
    found = [pair for pair in load_test_pairs(frozen) if pair.noise_print]
    assert len(found) == len(prints)
    for pair in found:
        noisy, clean, alone = (read_audio(path)[0] for path in (pair.input, pair.target, pair.noise_print))
        assert alone.shape == (noisy.shape[0], 66150)
        assert 10 * np.log10(np.square(alone).mean() / np.square(noisy - clean).mean()) == pytest.approx(0, abs=0.2)


def test_the_same_sources_give_the_same_bytes(frozen, call, corpus, tmp_path):
    flags = ["-m", "common.evaluation", "--songs", corpus[0], "--noises", corpus[1], "--segments", 3,
             "--noises-per-song", 1, "--conditions", "white", "mixed", "siren"]
    done = call(*flags, "-o", tmp_path / "again", "--check", frozen / INDEX)
    assert "9 segments are those of" in done.stderr
    text = (frozen / INDEX).read_text()
    (tmp_path / "other.csv").write_text(text.rstrip()[:-16] + "0" * 16 + "\n")
    with pytest.raises(UserError, match=r"expected 2 segments in .*white, got 3 of an earlier call"):
        build([corpus[0]], [corpus[1]], frozen, n_segments=2, noises_per_song=1, conditions=("white",))
    with pytest.raises(UserError, match="but 1 are missing or others"):
        check(tmp_path / "again", tmp_path / "other.csv")
    # Prints are compared where they are published beside the segments, and a set without them is given them.
    assert check(tmp_path / "again", frozen / INDEX) == 9
    prints = tmp_path / "again" / PRINT_INDEX
    prints.write_text(prints.read_text().rstrip()[:-16] + "0" * 16 + "\n")
    with pytest.raises(UserError, match=r"noise prints of .*evaluation_prints.csv, but 1 are missing or others"):
        check(tmp_path / "again", frozen / INDEX)
    for condition in ("white", "mixed", "siren"):
        shutil.rmtree(tmp_path / "again" / condition / "print")
    build([corpus[0]], [corpus[1]], tmp_path / "again", 3, 1, ("white", "mixed", "siren"))
    assert check(tmp_path / "again", frozen / INDEX) == 9
    with pytest.raises(UserError, match="expected the 0 segments of"):
        check(tmp_path / "again", tmp_path / "none.csv")


def test_too_few_pairs_are_named(corpus, tmp_path):
    with pytest.raises(UserError, match="expected 90 pairs long and loud enough for white, got 4"):
        build([corpus[0]], [corpus[1]], tmp_path, n_segments=90, noises_per_song=1, conditions=("white",))
