"""How much time calls are given."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from blockyard_faults.campaign.calls import DEADLINE


@dataclass(frozen=True, slots=True)
class Hurry:
    """A share of the calls gets between `least` and `most` seconds, all lengths as likely."""

    share: float
    least: float
    most: float

    def deadline(self, source: random.Random) -> float:
        """The seconds that the next call has."""
        if source.random() >= self.share:
            return DEADLINE
        return math.exp(source.uniform(math.log(self.least), math.log(self.most)))


RARELY = Hurry(0.02, 0.005, 0.5)
ALWAYS = Hurry(1.0, 0.001, 5.0)
OFTEN = Hurry(0.5, 0.05, 5.0)
