"""Muon for complex kernels: every step goes equally far in all directions of a kernel.

The gradient of a kernel has few strong directions, and a step along it learns only these. Muon makes all singular
values of the step equal: it steps along the unitary factor of the gradient's moving average. For a complex layer this
is the factor of the complex matrix, so that the step stays a complex product.

References: Jordan et al. 2024 (Muon: an optimizer for hidden layers in neural networks); Liu et al. 2025 (Muon is
scalable for LLM training), for the size of the step.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn

# Coefficients of the odd polynomial, and how often it is applied: Jordan et al. 2024. Singular values above 0.002 of
# the matrix's norm end between 0.68 and 1.21, which is near enough to 1.
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5
# Root mean square of a step's complex elements at a rate of 1. AdamW's steps are about as large in practice (Liu et al.
# 2025), so that both can share a rate.
STEP_RMS = 0.2


def unitary_factor(matrix: torch.Tensor) -> torch.Tensor:
    """Return about U V^H for the complex matrix U S V^H, (rows, columns); a zero matrix stays zero.

    The polynomial is applied to the Gram matrix, which is smaller than the matrix.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return unitary_factor(matrix.mH).mH
    (a, b, c), gram = COEFFICIENTS, matrix @ matrix.mH
    square_norm = gram.diagonal().real.sum().clamp(min=torch.finfo(torch.float32).tiny)
    gram, product = gram / square_norm, square_norm.rsqrt()
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for k in range(ROUNDS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product if k else factor * product
        if k < ROUNDS - 1:
            gram = factor @ gram @ factor
    return product @ matrix


class ComplexMuon(torch.optim.Optimizer):
    """Steps on pairs of real and imaginary kernels, each (rows, ...): the rest of the dimensions are the columns.

    pairs: parameters (real, imaginary). lr: the rate of an AdamW whose steps are as large. momentum: decay of the
    gradient's moving average, which looks one step ahead (Nesterov).
    """

    def __init__(self, pairs: Iterable[tuple[nn.Parameter, nn.Parameter]], lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0):
        super().__init__([{"params": list(pair)} for pair in pairs],
                         {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """Make one step; the gradients of all kernels are needed."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            ahead = []
            for kernel in group["params"]:
                if not self.state[kernel]:
                    self.state[kernel]["average"] = torch.zeros_like(kernel)
                average = self.state[kernel]["average"]
                average.lerp_(kernel.grad, 1 - momentum)
                ahead.append(kernel.grad.lerp(average, momentum).flatten(1))
            direction = unitary_factor(torch.complex(*ahead))
            # The elements of a unitary factor have the mean square 1 / max(rows, columns).
            size = lr * STEP_RMS * math.sqrt(max(direction.shape))
            for kernel, part in zip(group["params"], (direction.real, direction.imag), strict=True):
                kernel.mul_(1 - lr * group["weight_decay"]).sub_(part.reshape(kernel.shape), alpha=size)
