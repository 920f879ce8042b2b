"""Fixtures that several test files share: a small corpus, merged sets of it, a mini model, a browser."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.manifest import read_manifest
from common.data.pool_packing import pack
from common.demo.corpus import make_corpus
from common.network.dcunet import FOLDED, DCUNet20
from common.network.model import PRECISION_VARIABLE, Denoiser
from common.network.stft import STFT

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "notebooks" / "denoising_app.ipynb"
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; what the tests start shares them too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def measured_snr_db(song, noise):
    """10 log10 of the power of two arrays, computed here and nowhere else."""
    return 10 * np.log10((np.asarray(song, float) ** 2).sum() / (np.asarray(noise, float) ** 2).sum())


def even_clock(seconds):
    """A stand-in for the module `time`, whose clock goes on by the same time at each look, on any machine."""
    return SimpleNamespace(monotonic=itertools.count(0.0, seconds).__next__)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folders of songs (5 s each) and noises of a generated corpus."""
    return make_corpus(tmp_path_factory.mktemp("corpus"), song_seconds=5)


@pytest.fixture(scope="session")
def call():
    """Run a script of the repository as a user would; returns the finished process."""
    def _call(*args, code=0):
        done = subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, f"exit {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done
    return _call


@pytest.fixture(scope="session")
def merged(corpus, call, tmp_path_factory):
    """Run a merger on the corpus once per distinct call; returns (input_dir, target_dir, manifest rows)."""
    songs, noises = corpus
    made = {}

    def _merged(script="merger.py", split="train", n_songs=2, n_noises=2, *extra):
        key = (script, split, n_songs, n_noises, extra)
        if key not in made:
            out = tmp_path_factory.mktemp("merged")
            white = script == "merger_white.py"
            flags = [] if white else ["--path-noises", noises]
            call(script, "--path-songs", songs, *flags, "--iter-songs", n_songs,
                 "--iter-white-noise" if white else "--iter-noise", n_noises, "--split", split,
                 "--input-dir", out / "input", "--target-dir", out / "target", *extra)
            made[key] = out / "input", out / "target", read_manifest(out / "input")
        return made[key]
    return _merged


def mini_model(plan=FOLDED, compression=1.0):
    """A mini network with settled batch-norm statistics and a mask that does something."""
    torch.manual_seed(0)
    denoiser = Denoiser(DCUNet20(2, plan, compression=compression), STFT())
    denoiser.train()
    with torch.no_grad():
        for _ in range(2):
            denoiser(torch.randn(2, 98 * 512))
        denoiser.network.mask.weight_real.mul_(5)
    return denoiser.eval()


@pytest.fixture(scope="session")
def model():
    return mini_model()


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    """Whatever this machine computes fastest, other machines compute in the other precision."""
    monkeypatch.setenv(PRECISION_VARIABLE, request.param)
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def pool_folder(corpus, tmp_path_factory):
    """A pool of the generated corpus."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    pack([corpus[0]], [corpus[1]], folder, jobs=2)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. Ends with the module, since no other event loop can run beside playwright's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="expected playwright: pip install playwright")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    program = next(found, None) or pytest.skip("expected chromium or google-chrome on the PATH: install one of them")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[
            "--no-sandbox",  # containers have no sandbox
            "--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty tab that shares nothing with those of other tests."""
    with browser.new_context() as context:
        yield context.new_page()
