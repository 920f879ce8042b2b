"""Denoising without PyTorch: the same command in an installation that has only onnxruntime."""

import subprocess
import sys

import numpy as np
import pytest

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.demo import synth
from common.denoising.__main__ import main
from common.denoising.files import denoise
from common.errors import CallError, UserError
from common.evaluation.metrics import snr
from common.network import loading
from common.network.confidence import FEATURE_MODELS, FeatureModel
from common.network.exported import ExportedModel
from common.network.loading import load_noise_model
from common.network.model import Denoiser
from common.network.onnx_export import export_onnx
from common.network.weights_files import PRETRAINED, exported_file
from tests.conftest import ROOT, mini_model
from tests.test_confidence import constant

# Packages that the smallest installation lacks. A module that is None in sys.modules cannot be imported.
MISSING = ("torch", "torchaudio", "torchmetrics", "scipy", "librosa", "pandas", "matplotlib", "onnx", "joblib", "tqdm",
           "filelock", "pesq", "pystoi", "IPython")
WITHOUT = """import runpy, sys
sys.modules |= dict.fromkeys({})
runpy.run_path(sys.argv.pop(1), run_name="__main__")"""


def listen(*args, code=0, also=()):
    """Run a script where the packages MISSING and `also` are not installed; returns what it says."""
    done = subprocess.run([sys.executable, "-c", WITHOUT.format((*MISSING, *also)), *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A song with two seconds of noise alone before it, as wav and as mp3."""
    folder, song = tmp_path_factory.mktemp("noisy"), sum(synth.song(7, 3).values())
    song = np.pad(song, ((0, 0), (2 * synth.SAMPLE_RATE, 0)))
    noisy = (song + 0.02 * np.random.default_rng(0).standard_normal(song.shape)).astype(np.float32)
    for suffix in ("wav", "mp3"):
        write_audio(folder / f"song.{suffix}", noisy, synth.SAMPLE_RATE)
    return folder


@pytest.mark.parametrize("suffix, flags", [("wav", ()), ("wav", ("--noise-print", "auto")),
                                           ("mp3", ("--noise-print", "0-1.5")), ("mp3", ("--model", "siren"))])
def test_the_command_gives_the_same_without_pytorch(noisy, tmp_path, suffix, flags):
    """To 50 dB, of the difference to what is removed."""
    source, outputs = noisy / f"song.{suffix}", [tmp_path / f"{name}.wav" for name in ("with", "without")]
    main([str(source), "-o", str(outputs[0]), "--precision", "float32", "--bits", "float", *flags])
    said = listen("denoise.py", source, "-o", outputs[1], "--bits", "float", *flags)
    assert "s of audio in" in said
    with_torch, without, before = (read_audio(path)[0] for path in (*outputs, source))
    n = with_torch.shape[1]
    assert without.shape == with_torch.shape and np.abs(before[:, :n] - with_torch).max() > 0.01
    assert snr(before[:, :n] - with_torch, before[:, :n] - without) > 50


def test_what_needs_more_says_what_to_install(tmp_path):
    assert listen("merger.py", "--help", code=1).splitlines() == [
        "error: expected the package joblib, but it is not installed: in the folder of the repository, pip install -r "
        "requirements.txt installs all"]
    assert "pip install -e . installs what denoising needs" in listen("denoise.py", "song.mp3", code=1, also=("av",))
    (tmp_path / "own.pth").touch()
    said = listen("denoise.py", "LICENSE", "-o", tmp_path / "out.wav", "--model", tmp_path / "own.pth", code=2)
    assert "not installed: pip install torch" in said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("plan, compression", [("folded", 0.5), ("folded", 1.0), ("literature", 1.0)])
def test_an_exported_file_is_the_whole_model(plan, compression, tmp_path, rng):
    classifier = FeatureModel(*(rng.standard_normal(shape).astype(np.float32)
                                for shape in ((100,), (100,), (100, 11), (11,))))
    plain = mini_model(plan, compression)
    model = Denoiser(plain.network, plain.stft, constant(0.7), constant(0.2, 6), classifier).eval()
    export_onnx(model, tmp_path / "m.onnx", "0" * 64)
    exported = load_noise_model(tmp_path / "m.onnx")
    assert isinstance(exported, ExportedModel) and exported.weights_sha256 == "0" * 64
    for name in ("stft", "takes_print", "time_stride", "context_frames"):
        assert getattr(exported, name) == getattr(model, name)
    for name in FEATURE_MODELS:
        for key, values in vars(getattr(model, name)).items():
            assert np.array_equal(getattr(getattr(exported, name), key), values)
    audio = (0.1 * rng.standard_normal((2, 150_000))).astype(np.float32)
    audio[1, :] *= 1e-3
    for power in (None, np.full((2, model.stft.n_bins), 1e-3)):
        expected, got = (denoise(m, audio, 44100, print_power=power) for m in (model, exported))
        assert snr(audio - expected, audio - got) > 60


def test_only_what_onnxruntime_can_is_accepted(tmp_path, monkeypatch):
    exported = exported_file(PRETRAINED / "class3.pth")
    with pytest.raises(CallError, match="expected --device cpu or auto with onnxruntime, got 'cuda'"):
        load_noise_model(exported, "cuda")
    with pytest.raises(CallError, match="expected --precision float32 or auto with onnxruntime, got 'bfloat16'"):
        load_noise_model(exported, precision="bfloat16")
    for content in (b"", b"none at all"):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(UserError, match="expected an exported network of this project"):
            load_noise_model(tmp_path / "m.onnx")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert isinstance(load_noise_model("class3"), ExportedModel)
