"""What the network reads of a spectrum, and that weights keep the compression that they fit."""

import numpy as np
import pytest
import torch

from common.errors import CallError, UserError
from common.network import tensor_stft
from common.network.checkpoints import load_safely, load_weights, save_atomically, save_weights
from common.network.dcunet import DCUNet20
from common.network.model import Denoiser
from common.network.network_inputs import network_inputs
from common.network.noise_print import wiener_gain
from common.network.stft import STFT
from common.training.network_widening import widen
from common.training.processes import Processes
from common.training.run_state import begin, network_to_begin_with
from common.training.settings import TrainSettings
from common.training.weight_averaging import average


@pytest.fixture
def spectrum(rng):
    """Bins whose magnitudes fall by 60 dB, and silent ones."""
    bins = rng.standard_normal((2, 65, 9, 2)) @ [1, 1j] * np.geomspace(1, 1e-3, 65)[:, None]
    bins[:, :, 4] = 0
    return bins.astype(np.complex64)


def test_phases_stay_and_magnitudes_are_compressed(spectrum):
    read, = network_inputs(spectrum, 0.5, None, 1)
    assert read.dtype == np.complex64
    np.testing.assert_allclose(np.abs(read), np.abs(spectrum) ** 0.5, rtol=1e-3)
    heard = np.abs(spectrum) > 0
    np.testing.assert_allclose(np.angle(read[heard]), np.angle(spectrum[heard]), atol=1e-5)
    same, = network_inputs(spectrum, 1.0, None, 1)
    assert np.array_equal(same, spectrum)


@pytest.mark.parametrize("compression", [0.3, 1.0])
def test_tensors_give_what_arrays_give(spectrum, compression):
    power = np.square(np.abs(spectrum)).mean(-1)
    for given in (None, power):
        arrays = network_inputs(spectrum, compression, given, 2)
        tensors = network_inputs(torch.from_numpy(spectrum), torch.tensor(compression),
                                 None if given is None else torch.from_numpy(given), 2)
        for a, b in zip(arrays, tensors, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays[1], arrays[0] * wiener_gain(spectrum, power), rtol=1e-5)


def test_treble_reaches_a_network_in_bfloat16(rng):
    """A quiet tone beside a loud one changes the mask; of magnitudes as they are it gets lost in rounding."""
    t = np.arange(33_000) / 44100
    loud, quiet = 0.3 * np.sin(2 * np.pi * 220 * t), 1e-5 * np.sin(2 * np.pi * 9000 * t)
    waves = torch.from_numpy(np.stack([loud, loud + quiet]).astype(np.float32))
    changes = []
    for compression in (1.0, 0.5):
        torch.manual_seed(0)
        model = Denoiser(DCUNet20(2, compression=compression), STFT()).eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            spectra = tensor_stft.forward(model.stft, waves)
            read, _ = network_inputs(spectra, compression, None, 2)
            mask = model.network(torch.stack([read.real, read.imag] * 2, 1))
        changes.append(float((mask[0] - mask[1]).norm() / mask[0].norm()))
    assert changes[1] > 20 * changes[0]


def written(path, compression):
    save_weights(Denoiser(DCUNet20(1, compression=compression), STFT()), path, {}, half=True)
    return path


def test_weights_keep_their_compression(tmp_path):
    path = written(tmp_path / "w.pth", 0.3)
    model, _ = load_weights(path)
    assert model.network.compression == pytest.approx(0.3, abs=1e-3) == widen(model.network, 2).compression
    assert network_to_begin_with(tmp_path / "run", TrainSettings(start=path))["compression"] == 0.3
    run = begin(tmp_path / "run", TrainSettings(width=2, compression=0.3, start=path), {}, Processes())
    assert run.model.network.compression == model.network.compression == run.average.network.compression
    with pytest.raises(UserError, match=r"expected weights of compression 0\.25 .* has 0\.3: set the same"):
        begin(tmp_path / "run", TrainSettings(width=2, compression=0.25, start=path), {}, Processes())
    assert begin(tmp_path / "new", TrainSettings(width=1, compression=0.25), {}, Processes()
                 ).model.network.compression == 0.25


def test_files_that_are_older_than_it_read_magnitudes_as_they_are(tmp_path):
    content = load_safely(written(tmp_path / "w.pth", 0.5))
    del content["state"]["network.compression"]
    save_atomically(content, tmp_path / "old.pth")
    assert load_weights(tmp_path / "old.pth")[0].network.compression == 1


def test_networks_of_two_compressions_have_no_mean(tmp_path):
    with pytest.raises(UserError, match=r"expected networks of one form, .* have compression 0\.5 and 1\.0"):
        average([written(tmp_path / "a.pth", 0.5), written(tmp_path / "b.pth", 1.0)])


@pytest.mark.parametrize("compression", [0, -0.5, 1.5, float("nan")])
def test_only_exponents_that_compress_are_accepted(compression):
    with pytest.raises(CallError, match="expected a compression above 0 and at most 1, got"):
        TrainSettings(compression=compression)
