import json
import os

import numpy as np
import pytest
import torch

from common.audio.writing import write_audio
from common.data.pool import CLIP_PEAK, INDEX, SAMPLES, SONG, Pool
from common.data.pool_packing import compact, pack, unpack
from common.errors import CallError, UserError, printable
from common.locks import locked


@pytest.fixture(scope="module")
def packed(corpus, tmp_path_factory):
    """A pool of the generated corpus, and of a folder of noises with sub-folders for its splits."""
    rng, more = np.random.default_rng(0), tmp_path_factory.mktemp("more")
    for split in ("train", "validation", "test"):
        write_audio(more / split / "3-dog_bark" / "a.wav", rng.uniform(-0.1, 0.1, (2, 30000)), 44100)
        write_audio(more / split / "rain" / "b.wav", rng.uniform(-0.1, 0.1, (1, 22050)), 22050)
    write_audio(more / "train" / "rain" / "silent.wav", np.zeros((1, 1000), np.float32), 44100)
    (more / "train" / "rain" / "broken.wav").write_bytes(b"no audio")
    folder = tmp_path_factory.mktemp("pool") / "pool"
    return pack([corpus[0]], [corpus[1], more], folder, jobs=2), folder


def test_a_pool_holds_the_splits_and_labels(packed):
    pool, _ = packed
    assert {c.split for c in pool.clips} == {"train", "validation"}  # what is for testing stays away
    assert len(pool.select("train", songs=True)) == 8 and len(pool.select("validation", songs=True)) == 2
    noises = pool.select("train", songs=False)
    assert len(noises) == 8 * 10 + 2 and {"rain", "dog_bark", "siren"} <= {c.label for c in noises}
    assert sorted(c.recording for c in noises if c.label == "dog_bark")[-1] == "a"
    songs = {split: {c.name for c in pool.select(split, songs=True)} for split in ("train", "validation")}
    assert not songs["train"] & songs["validation"]
    assert sum(c.length for c in pool.select("train", songs=True)) / 44100 == pytest.approx(8 * 5, rel=0.02)


def test_one_bad_file_ends_nothing_and_is_listed(corpus, tmp_path):
    """Namesakes are kept, as recordings of their own; `strict` makes a bad file an error."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for label in ("rain", "wind"):
            write_audio(tmp_path / "n" / split / label / "1.wav", rng.uniform(-0.1, 0.1, (1, 2000)), 44100)
    bad = {"x.wav": b"", "y.mp3": b"ID3" + "Bj\xf6rk".encode("latin-1") * 40, os.fsdecode(b"caf\xe9.wav"): b"RIFF"}
    for name, content in bad.items():
        (tmp_path / "n" / "train" / "rain" / name).write_bytes(content)
    pool = pack([corpus[0]], [tmp_path / "n"], tmp_path / "pool", jobs=1)
    noises = pool.select("train", songs=False)
    assert {clip.label: clip.name for clip in noises} == {"rain": "1.wav", "wind": "1.wav"}
    assert len({clip.recording for clip in noises}) == 2
    skipped = json.loads((tmp_path / "pool" / INDEX).read_text())["skipped"]
    assert len(skipped) == 3 and all(
        any(printable(name) in sentence for sentence in skipped) for name in bad)
    with pytest.raises(UserError, match="expected"):
        pack([corpus[0]], [tmp_path / "n"], tmp_path / "strict", jobs=1, strict=True)


def test_two_at_once_into_one_folder(corpus, tmp_path):
    with locked(tmp_path / "pool"), pytest.raises(CallError, match="another run is writing there"):
        pack(*([folder] for folder in corpus), tmp_path / "pool")
    pack(*([folder] for folder in corpus), tmp_path / "pool", jobs=1)
    assert {path.name for path in (tmp_path / "pool").iterdir()} == {INDEX, SAMPLES}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "song-denoiser-pool-1"}', b"\xff\xfe{",
                                     b'{"format": "song-denoiser-pool-1", "clips": [{"name": 1}]}'])
def test_a_damaged_index_is_one_sentence(tmp_path, content):
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(UserError, match="pack it again"):
        Pool.load(tmp_path)


def test_clips_keep_their_levels_and_bits(packed):
    pool, _ = packed
    for clip in pool.clips:
        audio = pool.samples[clip.start : clip.start + clip.channels * clip.length].float() / CLIP_PEAK
        assert float(audio.square().mean().sqrt()) == pytest.approx(clip.rms, rel=1e-3)
        assert float(audio.abs().max()) == 1
    clip = pool.clips[0]
    powers = pool.block_powers(clip, 1)
    second = pool.samples[clip.start + clip.length : clip.start + 2 * clip.length].float() / CLIP_PEAK
    assert powers[0] == pytest.approx(float(second[:4096].square().mean()), rel=1e-3)
    assert powers[-1] == pytest.approx(float(second[(len(powers) - 1) * 4096 :].square().mean()), rel=1e-3)


def test_a_pool_is_loaded_again(packed):
    pool, folder = packed
    again = Pool.load(folder)
    assert again.clips == pool.clips and torch.equal(again.samples, pool.samples)
    rows = json.loads((folder / INDEX).read_text())["clips"]
    assert len(rows) == len(pool.clips) and rows[0]["label"] == SONG


def test_a_compact_pool_travels(packed, tmp_path):
    pool, folder = packed
    size = (folder / SAMPLES).stat().st_size
    rate = compact(pool, tmp_path / "pool.zip", megabytes=size / 1e6 / 16, jobs=1)
    assert 30_000 < rate < 70_000
    assert (tmp_path / "pool.zip").stat().st_size == pytest.approx(size / 16, rel=0.35)
    there = unpack(tmp_path / "pool.zip", tmp_path / "there")
    assert there.clips == pool.clips
    clip = pool.select("train", songs=True)[0]
    a, b = (p.samples[clip.start : clip.start + clip.length].float() for p in (pool, there))
    assert 10 * torch.log10(a.square().sum() / (a - b).square().sum()) > 10


def test_mistakes_get_a_sentence(packed, corpus, tmp_path):
    pool, folder = packed
    with pytest.raises(CallError, match=r"expected a pool with pool\.json"):
        Pool.load(tmp_path)
    with pytest.raises(CallError, match="8 kbit/s"):
        compact(pool, tmp_path / "p.zip", megabytes=0.01)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="compact pool"):
        unpack(tmp_path / "bad.zip", tmp_path / "there")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    with pytest.raises(CallError, match="other files"):
        pack([folder], [folder], tmp_path / "full")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / INDEX).write_bytes((folder / INDEX).read_bytes())
    (tmp_path / "cut" / SAMPLES).write_bytes(b"1234")
    with pytest.raises(UserError, match="got 4"):
        Pool.load(tmp_path / "cut")
    with pytest.raises(CallError, match="nowhere does not exist"):
        unpack("nowhere", tmp_path / "there")
    for split, name in (("train", "7-3-0-0"), ("validation", "7-3-0-1")):  # two pieces of one recording
        write_audio(tmp_path / "n" / split / f"{name}.wav", np.ones((1, 100), np.float32) / 2, 44100)
    with pytest.raises(UserError, match="without a noise recording in common, but they share '7'"):
        pack([corpus[0]], [tmp_path / "n"], tmp_path / "leaks")
    with pytest.raises(UserError, match="expected songs of split test"):
        pool.select("test", songs=True)
