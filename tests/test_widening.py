import pytest
import torch

from common.checkpoints import save_weights
from common.dcunet import DCUNet20
from common.errors import UserError
from common.model import Denoiser
from common.parallel import Processes
from common.stft import STFT
from common.training import Run, TrainSettings
from common.widening import widen


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    network = DCUNet20(2, "elementwise")
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.5, 1.5)
    for name, parameter in network.named_parameters():
        if name.endswith("conv.bias"):
            parameter.data.normal_()
    return network.eval()


@pytest.mark.parametrize("width", [2, 3, 5])
def test_equals_the_narrow_network(narrow, width):
    planes = torch.randn(2, 2, 129, 19)
    wide = widen(narrow, width).eval()
    assert (wide.width, wide.product) == (width, "elementwise")
    with torch.inference_mode():
        expected = narrow(planes)
        assert expected.std() > 1e-3  # a mask that is the same everywhere would prove little
        assert torch.allclose(wide(planes), expected, atol=1e-5)


def test_new_channels_learn(narrow):
    wide = widen(narrow, 3)
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in wide.named_parameters()}
    for _ in range(2):  # what leads from new channels to old ones is zero at first, so that nothing reaches beyond it
        wide(torch.randn(2, 2, 129, 19)).square().mean().backward()
        optimizer.step()
    stuck = [name for name, p in wide.named_parameters() if name.endswith("weight_real") and (p == before[name]).all()]
    assert not stuck
    first = wide.encoder[0].conv.weight_real
    assert (first[2:] != before["encoder.0.conv.weight_real"][2:]).any()


def test_too_wide_to_begin_with(narrow):
    with pytest.raises(UserError, match=r"expected a width of at least 2, .* got 1: set a width"):
        widen(narrow, 1)


def test_a_run_begins_with_narrower_weights(narrow, tmp_path):
    save_weights(Denoiser(narrow, STFT()), tmp_path / "narrow.pth", {})
    run = Run(TrainSettings(3, "elementwise"), STFT(), Processes(), tmp_path / "narrow.pth")
    waveform = torch.randn(1, 20000)
    with torch.inference_mode():
        expected = Denoiser(narrow, STFT()).eval()(waveform)
        assert torch.allclose(run.model.eval()(waveform), expected, atol=1e-4)
        assert torch.allclose(run.average(waveform), expected, atol=1e-4)
