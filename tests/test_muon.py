"""Muon's steps have equal singular values, follow the phase of the gradient and leave no parameter out."""

import pytest
import torch

from common.network.dcunet import PLANS
from common.training.muon import STEP_RMS, ComplexMuon, unitary_factor
from common.training.processes import Processes
from common.training.run_state import Run
from common.training.settings import TrainSettings


def gradient(rows, columns, seed=0):
    """A complex matrix whose singular values fall from 1 to 0.01."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, min(rows, columns), dtype=torch.complex64, generator=generator))[0]
                   for n in (rows, columns))
    return left @ (torch.logspace(0, -2, min(rows, columns))[:, None] * right.mH)


def layer(matrix, kernel=(3, 2)):
    """Real and imaginary kernels of zeros, whose gradients are those of a complex matrix."""
    pair = []
    for part in (matrix.real, matrix.imag):
        weight = torch.zeros(len(matrix), matrix.shape[1] // 6, *kernel, requires_grad=True)
        weight.grad = part.reshape(weight.shape).clone()
        pair.append(weight)
    return pair


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (16, 16), (1, 7), (7, 1), (96, 768)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_factor_keeps_the_directions_and_levels_their_sizes(shape, scale):
    matrix = gradient(*shape)
    factor = unitary_factor(scale * matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    sizes = left.mH @ factor @ right.mH
    assert torch.allclose(sizes, torch.diag(sizes.diagonal()), atol=2e-3)
    assert sizes.diagonal().real.min() > 0.6 and sizes.diagonal().abs().max() < 1.25


def test_no_gradient_makes_no_step():
    assert unitary_factor(torch.zeros(3, 5, dtype=torch.complex64)).abs().max() == 0


def test_the_phase_of_the_gradient_is_the_phase_of_the_step():
    turn, matrix = torch.polar(torch.tensor(1.0), torch.tensor(0.7)), gradient(8, 24)
    assert torch.allclose(unitary_factor(turn * matrix), turn * unitary_factor(matrix), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_step_has_the_size_of_adamws_whatever_that_of_the_gradient(scale):
    matrix = gradient(24, 96)
    pair = layer(scale * matrix)
    ComplexMuon([pair], lr=0.1).step()
    step = torch.complex(*pair).detach()
    assert step.abs().square().mean().sqrt() == pytest.approx(0.1 * STEP_RMS, rel=0.15)
    assert torch.vdot(step.flatten(), matrix.flatten()).real < 0  # against the gradient


def test_momentum_remembers_and_weights_decay():
    pair = layer(gradient(4, 12))
    optimizer = ComplexMuon([pair], lr=0.1, momentum=0.9)
    optimizer.step()
    first = pair[0].detach().clone()
    for weight in pair:
        weight.grad.zero_()
    optimizer.step()
    from_average = pair[0].detach() - first
    assert float(from_average.norm()) == pytest.approx(float(first.norm()), rel=0.1)
    decaying = layer(torch.zeros(4, 12, dtype=torch.complex64))
    with torch.no_grad():
        decaying[0].fill_(1)
    ComplexMuon([decaying], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(decaying[0], torch.tensor(0.95))


@pytest.mark.parametrize("plan", PLANS)
def test_every_parameter_has_one_optimizer(plan):
    run = Run(TrainSettings(plan, width=2), Processes())
    learned = [p for optimizer in run.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, learned)) == sorted(map(id, run.model.parameters()))
    kernels = [p for group in run.kernel_optimizer.param_groups for p in group["params"]]
    assert len(kernels) == 36 and all(p.ndim == 4 for p in kernels)
