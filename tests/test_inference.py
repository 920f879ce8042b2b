"""The inference forms against the training form, and the training form against a textbook's."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks.textbook import textbook_copy, textbook_planes
from common.errors import CallError
from common.evaluation.metrics import snr
from common.network.dcunet import FOLDED, LITERATURE, DCUNet20
from common.network.inference import folded_network, inference_form
from common.network.model import Denoiser
from common.network.onnx_export import export_onnx
from common.network.stft import STFT

FRAMES = {LITERATURE: 99, FOLDED: 96}


def planes(network, frames, batch=2, **options):
    """Random spectrum planes for a network."""
    return torch.randn(batch, 2 * network.plan.inputs, 1025, frames, **options)


def settled(plan, width, seed=0):
    """A network whose norms have uneven statistics and whose mask does something."""
    torch.manual_seed(seed)
    network = DCUNet20(width, plan)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        network(planes(network, FRAMES[plan]))
        network.mask.weight_real.mul_(5)
    return network.eval()


@pytest.fixture(scope="module", params=[(LITERATURE, 1), (LITERATURE, 3), (FOLDED, 2)])
def network(request):
    return settled(*request.param)


def relative(got, expected):
    """Distance of two tensors relative to the second one's size."""
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_the_network_is_the_textbooks(network, mode, dtype, tolerance):
    """The mask in either precision; all gradients in float64, since those of float32 carry its own rounding."""
    ours = copy.deepcopy(network).to(dtype).train(mode == "train")
    textbook = textbook_copy(ours)
    x = planes(network, FRAMES[network.plan_name], dtype=dtype)
    x_ours = x.clone().requires_grad_()
    x_textbook = textbook_planes(x).requires_grad_()
    masks = ours(x_ours), textbook(x_textbook)[:, 0].permute(0, 3, 1, 2)
    assert relative(*masks) < tolerance
    if dtype == torch.float32:
        return
    weight = torch.randn_like(masks[0])
    for mask in masks:
        (mask * weight).sum().backward()
    assert relative(x_ours.grad, x_textbook.grad.movedim(-1, 2).flatten(1, 2)) < tolerance
    for layer, other in zip([*ours.encoder, *ours.decoder, ours.mask], [*textbook.encoder, *textbook.decoder],
                            strict=True):
        conv = getattr(layer, "conv", layer)
        assert relative(conv.weight_real.grad, other.real.weight.grad) < tolerance
        assert relative(conv.weight_imag.grad, other.imag.weight.grad) < tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_folded_form_is_the_training_form(network, dtype, tolerance):
    """bfloat16: 40 dB."""
    x = planes(network, 115)
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
    for precision in (torch.float32, torch.bfloat16):
        form = inference_form(model, "cpu", str(precision).removeprefix("torch."))
        assert form.network.mask.kernel.dtype == precision
    for wrong in ({"device": "tpu"}, {"precision": "int4"}):
        with pytest.raises(CallError, match="expected a"):
            inference_form(model, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(CallError, match="offers none: use auto"):
            inference_form(model, "cuda")


@pytest.mark.filterwarnings("ignore")
def test_exports_take_any_number_of_frames(network, tmp_path):
    """ONNX through onnxruntime, to 1e-4."""
    network = copy.deepcopy(network)  # with weights that the half precision of an exported file holds
    network.load_state_dict({name: value.half().float() for name, value in network.state_dict().items()})
    model = Denoiser(network, STFT())
    export_onnx(model, tmp_path / "mask.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mask.onnx")
    for batch, frames in ((1, 1), (1, 99), (2, 100), (1, 323), (1, 400)):
        x = planes(network, frames, batch)
        least = network.plan.valid_length(1) + network.plan.time_stride
        with torch.inference_mode():  # few frames are continued by silence
            expected = network(torch.nn.functional.pad(x, (0, max(0, least - frames))))[..., :frames]
        got, = session.run(None, {"planes": x.numpy()})
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
