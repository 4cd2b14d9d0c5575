"""Rate networks as neuroscience draws them: leaky recurrent units without biases, an answer at every step.

The matrices are ``nn.Linear`` modules that are called once a step, so that measurements find them (``nn.RNN`` is one
operation to torch, whose gradients must be formed sample by sample).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isometry._base import check_positive, check_tensor
from isometry.nn._activations import activation_module

__all__ = ["RateNetwork"]


class RateNetwork(nn.Module):
    """h_t = phi((1 - leak) h_(t-1) + leak (W_in x_t + W_h h_(t-1))), y_t = W_out h_t, h_0 = 0.

    Its modules are ``input``, ``recurrent``, ``activation`` and ``output``, with PyTorch's default initialization.

    Args:
        inputs: Number of input channels.
        hidden: Number of units.
        outputs: Number of outputs.
        activation: Name of the activation.
        leak: Time step over time constant, above 0 and up to 1; 1 makes it a plain recurrent network.
        every_step: Answer at every step, (N, T, outputs); False answers at the last step, (N, outputs).

    Example:
        >>> net = RateNetwork(3, 20, 2, leak=0.5)
        >>> net(torch.zeros(4, 8, 3)).shape
        torch.Size([4, 8, 2])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        activation: str = "relu",
        leak: float = 1.0,
        every_step: bool = True,
    ) -> None:
        super().__init__()
        for name, count in (("inputs", inputs), ("hidden", hidden), ("outputs", outputs)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a positive whole number, got {count!r}.")
        if check_positive("leak", leak) > 1:
            raise ValueError(f"leak must be at most 1, got {leak:g}: a step cannot be longer than the time constant.")
        self.leak, self.every_step = float(leak), every_step
        self.input = nn.Linear(inputs, hidden, bias=False)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.activation = activation_module(activation)
        self.output = nn.Linear(hidden, outputs, bias=False)

    def extra_repr(self) -> str:
        """Say what the modules do not show.

        Returns:
            The options.
        """
        return f"leak={self.leak:g}, every_step={self.every_step}"

    def forward(self, x: Tensor) -> Tensor:
        """Run sequences.

        Args:
            x: (N, T, inputs).

        Returns:
            (N, T, outputs), or (N, outputs).
        """
        drive = self.input(check_tensor("x", x, ndim=3))
        state = drive.new_zeros(len(drive), self.recurrent.in_features)
        states = []
        for step in drive.unbind(1):
            pushed = step + self.recurrent(state)
            # With leak 1 the old state drops out, also where it has overflowed.
            state = self.activation(pushed if self.leak == 1 else (1 - self.leak) * state + self.leak * pushed)
            states.append(state)
        answer: Tensor = self.output(torch.stack(states, 1) if self.every_step else state)
        return answer
