from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.network.checkpoints import save_weights
from common.network.dcunet import PLANS, DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.training.network_widening import widen
from common.training.processes import Processes
from common.training.run_state import begin
from common.training.settings import TrainSettings


def random_planes(network):
    return torch.randn(2, 2 * network.plan.inputs, 129, 19)


@pytest.fixture(params=PLANS)
def narrow(request):
    torch.manual_seed(0)
    network = DCUNet20(2, request.param)
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
    planes = random_planes(narrow)
    wide = widen(narrow, width).eval()
    assert (wide.width, wide.plan_name) == (width, narrow.plan_name)
    with torch.inference_mode():
        expected = narrow(planes)
        assert expected.std() > 1e-3  # a mask that is the same everywhere would prove little
        assert torch.allclose(wide(planes), expected, atol=1e-5)


def test_new_channels_learn(narrow):
    wide = widen(narrow, 3)
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in wide.named_parameters()}
    for _ in range(2):  # what leads from new channels to old ones is zero at first, so that nothing reaches beyond it
        wide(random_planes(wide)).square().mean().backward()
        optimizer.step()
    stuck = [name for name, p in wide.named_parameters() if name.endswith("weight_real") and (p == before[name]).all()]
    assert not stuck
    first = wide.encoder[0].conv.weight_real
    assert (first[2:] != before["encoder.0.conv.weight_real"][2:]).any()


def test_too_wide_to_begin_with(narrow):
    with pytest.raises(UserError, match=r"at least as wide as .* width 2 and .* got 1 and .*: set a width"):
        widen(narrow, 1)
    with pytest.raises(UserError, match="at least as wide"):
        widen(narrow, 3, (1,) * 10)


def test_deeper_factors_widen_too(narrow):
    planes, factors = random_planes(narrow), [factor + 1 for factor in narrow.depth_factors]
    with torch.inference_mode():
        assert torch.allclose(widen(narrow, 2, factors).eval()(planes), narrow(planes), atol=1e-5)


def begun(settings, folder, start):
    return begin(folder / "run", replace(settings, start=start), {}, Processes())


def test_a_run_begins_with_narrower_weights(narrow, tmp_path):
    save_weights(Denoiser(narrow, STFT()), tmp_path / "narrow.pth", {})
    run = begun(TrainSettings(narrow.plan_name, 3, compression=1.0), tmp_path, tmp_path / "narrow.pth")
    waveform = torch.randn(1, 20000)
    with torch.inference_mode():
        expected = Denoiser(narrow, STFT()).eval()(waveform)
        assert torch.allclose(run.model.eval()(waveform), expected, atol=1e-4)
        assert torch.allclose(run.average(waveform), expected, atol=1e-4)


def test_a_run_begins_with_weights_of_its_own_form(narrow, tmp_path):
    save_weights(Denoiser(narrow, STFT(hop_length=256)), tmp_path / "w.pth", {})
    other = next(plan for plan in PLANS if plan != narrow.plan_name)
    for settings, what in ((TrainSettings(other, 3), "plan"), (TrainSettings(narrow.plan_name, 3), "STFT")):
        with pytest.raises(UserError, match=f"expected weights of {what}"):
            begun(settings, tmp_path, tmp_path / "w.pth")
