import pytest
import torch
from torch.nn import functional as F

from common.errors import UserError
from common.network.dcunet import FOLDED, FREQUENCY, LITERATURE, PLANS, ComplexConv2d, DCUNet20, Row, bounded_mask

plans = pytest.mark.parametrize("plan", PLANS)


def random_planes(plan, frames, bins=1025, **options):
    """Random spectrum planes for a plan."""
    return torch.randn(1, 2 * PLANS[plan].inputs, bins, frames, **options)


def test_the_literature_network_has_its_parameters():
    assert sum(p.numel() for p in DCUNet20(32, LITERATURE).parameters()) == 3_958_850


@plans
def test_a_plan_has_ten_and_ten_rows(plan):
    assert [len(rows) for rows in (PLANS[plan].encoder, PLANS[plan].decoder, PLANS[plan].depth_factors)] == [10] * 3


def test_the_folded_decoder_mirrors_its_encoder():
    plan = PLANS[FOLDED]
    assert [row._replace(output_padding=(0, 0)) for row in plan.decoder] == list(reversed(plan.encoder))


def test_depth_factors_are_the_channels_of_the_encoder():
    network = DCUNet20(2, FOLDED, (1, 1, 2, 2, 3, 3, 4, 4, 5, 6)).eval()
    assert [len(layer.norm.weight) // 4 for layer in network.encoder] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert network(random_planes(FOLDED, 16)).shape == (1, 2, 1025, 16)
    for wrong in ((1, 2), (0,) * 10):
        with pytest.raises(UserError, match="ten depth factors"):
            DCUNet20(2, FOLDED, wrong)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sources, channels_out", [([1], 1), ([3], 5), ([2, 3], 4)])
def test_complex_convolution_equals_complex_arithmetic(transposed, sources, channels_out):
    torch.manual_seed(0)
    row = Row((5, 3), (2, 2), (2, 1), (1, 0) if transposed else (0, 0))
    layer = ComplexConv2d(sources, channels_out, row, transposed).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, sum(sources), 11, 9, dtype=torch.complex128, requires_grad=True)
    kernel = torch.complex(layer.weight_real, layer.weight_imag)
    bias = torch.complex(*layer.bias.chunk(2))
    if transposed:
        expected = F.conv_transpose2d(x, kernel, bias, row.stride, row.padding, row.output_padding)
    else:
        expected = F.conv2d(x, kernel, bias, row.stride, row.padding)
    got = layer(torch.cat([part for source in x.split(sources, 1) for part in (source.real, source.imag)], 1))
    got = torch.complex(*got.chunk(2, 1))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for parameter in (layer.weight_real, layer.weight_imag, layer.bias, x):
        gradients = [torch.autograd.grad(y.abs().square().sum(), parameter, retain_graph=True)[0]
                     for y in (got, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_the_mask_is_bounded_and_keeps_the_phase():
    torch.manual_seed(0)
    planes = 3 * torch.randn(2, 2, 7, 5)
    planes[0, :, 0, 0] = 0
    raw, mask = (torch.complex(p[:, 0], p[:, 1]) for p in (planes, bounded_mask(planes)))
    torch.testing.assert_close(mask.abs(), torch.tanh(raw.abs()))
    assert (mask.abs() <= 1).all() and mask[0, 0, 0] == 0
    heard = raw.abs() > 0
    torch.testing.assert_close(mask[heard].angle(), raw[heard].angle())


@plans
@pytest.mark.parametrize("frames", [1, 2, 15, 98, 99, 100, 115, 116, 323, 330])
def test_any_number_of_frames(plan, frames):
    assert DCUNet20(1, plan).eval()(random_planes(plan, frames)).shape == (1, 2, 1025, frames)


@plans
@pytest.mark.parametrize("bins", [129, 513, 1025, 2049])
def test_any_number_of_bins(plan, bins):
    assert DCUNet20(1, plan).eval()(random_planes(plan, 16, bins)).shape == (1, 2, bins, 16)


@pytest.mark.parametrize("plan, fitting", [(LITERATURE, [99, 99, 115, 323]), (FOLDED, [16, 112, 112, 336])])
def test_lengths_that_fit_are_not_padded(plan, fitting):
    assert [PLANS[plan].valid_length(n) for n in (1, 99, 100, 323)] == fitting
    assert PLANS[plan].valid_length(1025, FREQUENCY) == 1025


@plans
def test_the_nyquist_bin_is_heard_and_masked(plan):
    torch.manual_seed(0)
    network = DCUNet20(2, plan).double().eval()
    x = random_planes(plan, 100, dtype=torch.float64, requires_grad=True)
    mask = network(x)
    assert mask[:, :, 1024].abs().min() > 0
    assert torch.autograd.grad(mask[:, :, 1018:1024].sum(), x)[0][:, :, 1024].abs().max() > 0


@plans
def test_no_output_frame_looks_further_than_the_context(plan):
    torch.manual_seed(0)
    network, context = DCUNet20(1, plan).double().eval(), PLANS[plan].context_frames()
    x = random_planes(plan, 643, dtype=torch.float64, requires_grad=True)
    mask = network(x)
    furthest = 0
    for frame in range(304, 320):  # every phase of the strides
        gradient = torch.autograd.grad(mask[..., frame].sum(), x, retain_graph=True)[0]
        reached = gradient.abs().sum((0, 1, 2)).nonzero().ravel()
        furthest = max(furthest, frame - int(reached.min()), int(reached.max()) - frame)
    assert context - 16 < furthest <= context


@pytest.mark.parametrize("width", [0, -1, 1.5, "8"])
def test_a_width_must_be_a_positive_integer(width):
    with pytest.raises(UserError, match="expected a network width"):
        DCUNet20(width)


def test_an_unknown_plan_is_named():
    with pytest.raises(UserError, match="among folded, literature, got 'unet'"):
        DCUNet20(1, "unet")
