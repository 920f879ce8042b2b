"""The inference forms against the training form, and the training form against a textbook's."""

import copy
import io

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks.textbook import textbook_copy
from common.dcunet import DCUNet20
from common.errors import CallError
from common.export import export_onnx, export_program
from common.inference import folded_network, inference_form
from common.metrics import snr
from common.model import Denoiser
from common.stages import minimal_filter
from common.stft import STFT
from common.streaming import ONE_PASS_COLUMNS, StreamingDCUNet20


def settled(width, seed=0):
    """A network whose norms have uneven statistics and whose mask does something."""
    torch.manual_seed(seed)
    network = DCUNet20(width)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        network(torch.randn(2, 2, 1025, 99))
        network.mask.weight_real.mul_(5)
    return network.eval()


@pytest.fixture(scope="module", params=[1, 3])
def network(request):
    return settled(request.param)


def relative(got, expected):
    """Distance of two tensors relative to the second one's size."""
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_the_network_is_the_textbooks(network, mode, dtype, tolerance):
    """The mask in either precision; all gradients in float64, since those of float32 carry its own rounding."""
    ours = copy.deepcopy(network).to(dtype).train(mode == "train")
    textbook = textbook_copy(ours)
    x = torch.randn(2, 2, 1025, 99, dtype=dtype)
    x_ours, x_textbook = x.clone().requires_grad_(), x.permute(0, 2, 3, 1)[:, None].clone().requires_grad_()
    masks = ours(x_ours), textbook(x_textbook)[:, 0].permute(0, 3, 1, 2)
    assert relative(*masks) < tolerance
    if dtype == torch.float32:
        return
    weight = torch.randn_like(masks[0])
    for mask in masks:
        (mask * weight).sum().backward()
    assert relative(x_ours.grad, x_textbook.grad[:, 0].permute(0, 3, 1, 2)) < tolerance
    for layer, other in zip([*ours.encoder, *ours.decoder, ours.mask], [*textbook.encoder, *textbook.decoder],
                            strict=True):
        conv = getattr(layer, "conv", layer)
        assert relative(conv.weight_real.grad, other.real.weight.grad) < tolerance
        assert relative(conv.weight_imag.grad, other.imag.weight.grad) < tolerance


@pytest.mark.parametrize("n_outputs, n_taps", [(1, 1), (1, 3), (5, 2), (5, 3), (5, 4)])
def test_minimal_filtering_is_filtering(n_outputs, n_taps, rng):
    a, g, b = minimal_filter(n_outputs, n_taps)
    taps, inputs = rng.standard_normal(n_taps), rng.standard_normal(n_outputs + n_taps - 1)
    assert len(g) == n_outputs + n_taps - 1
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ inputs)), np.correlate(inputs, taps), atol=1e-12)


@pytest.mark.parametrize("bins, frames", [(1025, 1), (1025, 16), (1025, 100), (1025, 323), (513, 131),
                                          (1025, 16 * ONE_PASS_COLUMNS + 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_stream_is_the_training_form(network, bins, frames, batch):
    x = torch.randn(batch, 2, bins, frames)
    with torch.inference_mode():
        expected = network(x)
    got = StreamingDCUNet20(network, bins)(x)
    assert got.shape == expected.shape and relative(got, expected) < 1e-5


def test_a_stream_in_pieces_is_one_pass(network):
    x = torch.randn(2, 2, 1025, 723)
    form = StreamingDCUNet20(network, 1025)
    whole = form(x)
    for sizes in ((16, 64, 160, 32, 451), (16,) * 45 + (3,), (704, 19), (720, 3), (723,)):
        stream = form.open(2)
        pieces = x.split(sizes, -1)
        got = torch.cat([stream.push(p, last=i == len(sizes) - 1) for i, p in enumerate(pieces)], -1)
        assert got.shape == whole.shape and relative(got, whole) < 1e-6
    with pytest.raises(ValueError, match="multiple of 16 frames"):
        form.open(2).push(x[..., :17])


def test_a_stream_forgets_what_it_has_passed(network):
    """Neither the held columns nor the recycled arrays grow with the length of the signal."""
    form = StreamingDCUNet20(network, 1025)
    stream, held = form.open(1), []
    for _ in range(18):
        stream.push(torch.randn(1, 2, 1025, 64))
        columns = sum(piece.shape[-1] for s in stream.streams for _, piece, _ in s.pieces)
        arrays = sum(array.numel() for array in form.memory._free)
        held.append((columns, arrays))
    assert max(held[12:]) <= max(held[6:12])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_folded_form_is_the_training_form(network, dtype, tolerance):
    """bfloat16: 40 dB."""
    x = torch.randn(2, 2, 1025, 115)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        form = folded_network(network, dtype)
        got, expected = form(x), network(x)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    assert relative(got, expected) < tolerance
    assert not any("norm" in name for name in form.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_bfloat16_costs_no_improvement(network, rng):
    """Within 0.05 dB of float32, for a signal and its noisy version."""
    model = Denoiser(network, STFT())
    clean = np.sin(np.arange(60000) / 20)[None] * 0.2
    noisy = (clean + 0.05 * rng.standard_normal(clean.shape)).astype(np.float32)
    snrs = []
    with torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            denoised = inference_form(model, "cpu", precision)(torch.from_numpy(noisy)).numpy()
            snrs.append(snr(clean, denoised))
    assert snrs[0] == pytest.approx(snrs[1], abs=0.05)


def test_the_form_follows_device_and_precision(network):
    model = Denoiser(network, STFT())
    assert isinstance(inference_form(model, "cpu", "float32").network, StreamingDCUNet20)
    assert inference_form(model, "cpu", "bfloat16").network.mask.kernel.dtype == torch.bfloat16
    for wrong in ({"device": "tpu"}, {"precision": "int4"}):
        with pytest.raises(CallError, match="expected a"):
            inference_form(model, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(CallError, match="offers none: use auto"):
            inference_form(model, "cuda")


@pytest.mark.filterwarnings("ignore")
def test_exports_take_any_number_of_frames(network, tmp_path):
    """ONNX through onnxruntime to 1e-4, torch.export after a round trip through a file."""
    model = Denoiser(network, STFT())
    export_onnx(model, tmp_path / "mask.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mask.onnx")
    buffer = io.BytesIO()
    torch.export.save(export_program(model), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer).module()
    for batch, frames in ((1, 1), (1, 99), (2, 100), (1, 323), (1, 400)):
        x = torch.randn(batch, 2, 1025, frames)
        with torch.inference_mode():  # few frames are continued by silence
            expected = network(torch.nn.functional.pad(x, (0, max(0, 115 - frames))))[..., :frames]
            assert relative(program(x), expected) < 1e-5
        got, = session.run(None, {"planes": x.numpy()})
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
