"""Flow matching: noise flows into a chunk of actions along a learned velocity field.

In: states over the window. Out: a summary of the window, on which the field depends; `decode` follows the field from
one fixed noise, `sample` from any. Conditional flow matching with straight paths (Lipman et al. 2023,
arXiv:2210.02747), as action heads use it (Black et al. 2024, pi0, arXiv:2410.24164): time 0 is noise, 1 the action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.base import Head, masked_mean
from src.model.heads.encoder import WindowEncoder
from src.model.heads.regression import clean_targets

_NOISE_SEED = 0
_VALIDATION_SEED = 1
_TIME_FEATURES = 8
_PERIODS = (0.4, 4.0)
"""Shortest and longest period of the time's sines, the way from noise to action being 1. pi0 goes down to 0.004; steps
of Euler's method are 0.1 apart, so finer ones have nothing to tell."""


class FlowHead(Head):
    """Predicts a summary `(S, size)` of the window; the field turns it and a noise `(H, A)` into a chunk.

    Unlike regression it keeps several answers to one situation apart, as whole chunks over all axes. Which one
    `decode` gives depends on the noise it starts from. It always starts from the same one, the buffer `noise (H, A)`,
    drawn once with a fixed seed, for two reasons. A policy that is asked twice must answer the same, whoever else is
    in the batch. And a fresh noise at every step would choose anew at every step, left now and right next, in front of
    the same box; a fixed one keeps the mode from step to step. (All zeros would be fixed too, but lie on the ridge
    between symmetric modes.) `sample` gives the other answers.
    """

    noise: Tensor

    def __init__(
        self,
        state_size: int,
        window: int,
        horizon: int,
        codec: ActionCodec,
        layers: int = 4,
        hidden_size: int = 1024,
        mlp: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        field: Sequence[int] = (512, 512, 512),
        steps: int = 10,
        draws: int = 8,
    ) -> None:
        """
        Args:
            layers, hidden_size, mlp, dropout: of the window's encoder, those of the LSTM head.
            field: widths of the SiLU layers of the velocity field, at least one.
            steps: of Euler's method from noise to action; each costs one pass of the field. pi0 takes 10.
            draws: times and noises per sample and training step. The window is encoded once for all of them, so they
                cost next to nothing beside a VLM and make the gradient far less noisy. On a target of two ways,
                after 300 steps of 64 samples, 45 to 64 % of what is sampled lands on one of them with 1 and 86 to
                90 % with 8 (three seeds, the small head of the tests). CogACT (Li et al. 2024, arXiv:2411.19650)
                repeats its samples for the same reason.

        Raises:
            ProjectError: an option out of its range.
        """
        super().__init__(state_size, window, horizon, codec)
        checks.widths(field=field)
        if not field:
            raise checks.refuse(
                "field", "no layer", "at least one width, because a linear field has one mode"
            )
        checks.at_least(1, steps=steps, draws=draws)
        self.steps, self.draws = steps, draws
        self.encoder = WindowEncoder(state_size, layers, hidden_size, mlp, dropout)
        chunk = horizon * self.action_dim
        sizes = [self.encoder.size + chunk + horizon + _TIME_FEATURES, *field]
        hidden = [
            part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())
        ]
        self.field = nn.Sequential(*hidden, nn.Linear(sizes[-1], chunk))
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer(
            "noise", torch.randn(horizon, self.action_dim, generator=generator, device="cpu")
        )

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, size)`."""
        summary: Tensor = self.encoder(states, window_mask)
        return summary

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Terms `loss` and `flow`, the same number: squared error of the velocity, mean over valid steps and axes.

        Training draws times and noises from torch's global generator. In eval mode they come from a fixed seed, the
        same for every batch of this size, so that validation losses differ between epochs by the weights alone. The
        loss of a perfect field is not zero: from a point between two answers nobody knows where it came from.
        """
        prediction, actions, action_mask = (
            part.repeat_interleave(self.draws, dim=0) for part in (prediction, actions, action_mask)
        )
        targets = clean_targets(actions, action_mask)
        if self.training:
            time = torch.rand(len(targets), device=targets.device)
            noise = torch.randn_like(targets)
        else:
            generator = torch.Generator().manual_seed(_VALIDATION_SEED)
            time = torch.rand(len(targets), generator=generator).to(targets.device)
            noise = torch.randn(targets.shape, generator=generator).to(targets.device)
        share = time[:, None, None]
        velocity = self._velocity(prediction, (1 - share) * noise + share * targets, time, action_mask)
        mean = masked_mean((velocity - (targets - noise)).square(), action_mask)
        return {"loss": mean, "flow": mean.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        """`(S, size)` -> `(S, H, A)` normalised, from the fixed noise."""
        return self.sample(prediction, self.noise.expand(len(prediction), -1, -1))

    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        """Follows the field from noise to action in `steps` steps of Euler's method.

        Args:
            prediction: `(S, size)` from `forward`; repeat rows for several draws of one sample.
            noise: `(S, H, A)`, standard normal.

        Returns:
            `(S, H, A)` normalised, float32.
        """
        actions = noise.float()
        valid = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
        for step in range(self.steps):
            time = torch.full((len(actions),), step / self.steps, device=actions.device)
            actions = actions + self._velocity(prediction, actions, time, valid) / self.steps
        return actions

    def _velocity(self, prediction: Tensor, point: Tensor, time: Tensor, valid: Tensor) -> Tensor:
        """The field at `point (S, H, A)` and `time (S,)`; steps that are not `valid (S, H)` enter as missing.

        A chunk at the end of an episode has fewer steps. Their points enter as zeros, with a mask that says so: noise
        or a repeated action there would be a chunk that the data do not have.
        """
        chunk = point.masked_fill(~valid[..., None], 0.0).flatten(1)
        parts = [prediction.float(), chunk, valid.to(chunk.dtype), _time_features(time)]
        velocity: Tensor = self.field(torch.cat(parts, dim=1))
        return velocity.float().view_as(point)


def _time_features(time: Tensor) -> Tensor:
    """`(S,)` in [0, 1] -> `(S, _TIME_FEATURES)`: sines and cosines of periods from `_PERIODS`, evenly in logarithm."""
    shortest, longest = _PERIODS
    count = _TIME_FEATURES // 2
    exponent = torch.linspace(0, 1, count, device=time.device)
    angle = time[:, None] * 2 * math.pi / (shortest * (longest / shortest) ** exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
