"""The ways to infer a taste that study_inference.py compares."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.posteriors import build_method
from recsys_vae.posterior import Encoder, MaximumLikelihood, PosteriorMethod
from recsys_vae.posterior.likelihood_power import LikelihoodPower, parse_power

ROWS = (
    "encoder,draws=100",
    "maximum_likelihood",
    "mode",
    "mode,likelihood_power=0.5",
    "mode,likelihood_power=1,towards=0.75",
    "laplace,draws=100",
    "mean_field",
    "mean_field,draws=100",
    "mean_field,likelihood_power=1,steps=10",
    "importance,draws=200",
    "mala",
    "hmc",
)
# Chains too short to be believed, to see whether all runs.
QUICK = (
    *ROWS[:-3],
    "importance,draws=30",
    "mala,draws=80,warmup=50,thin=1",
    "hmc,draws=80,warmup=20",
)


@dataclass(frozen=True)
class Row:
    """A way to infer, and its power where it was given."""

    name: str
    method: PosteriorMethod
    power: LikelihoodPower | None
    predictive: str

    @classmethod
    def parse(cls, text: str) -> Row:
        """Of ``POSTERIOR[,KEY=VALUE...]``: keys of ``posterior``, ``likelihood_power`` or ``predictive``."""
        name, *settings = text.split(",")
        overrides = [
            setting if setting.startswith(("likelihood_power=", "predictive=")) else f"posterior.{setting}"
            for setting in settings
        ]
        config = compose_config("evaluate", ["run=-", f"posterior={name}", *overrides])
        shown = [setting for setting in settings if not setting.startswith("likelihood_power=")]
        power = None if config.likelihood_power is None else parse_power(config.likelihood_power)
        return cls(", ".join([name, *shown]), build_method(config), power, config.predictive)

    def powers(self, trained: LikelihoodPower) -> list[LikelihoodPower | None]:
        """The powers to run it at; none where it has no say."""
        if isinstance(self.method, Encoder | MaximumLikelihood):
            return [None]
        return [self.power] if self.power is not None else list(dict.fromkeys((trained, 1.0)))
