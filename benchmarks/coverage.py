"""How often 95 % intervals cover the truth, and how often a difference is seen where there is none.

Studies are simulated: texts are hard or easy, seeds are lucky or not, some texts are lucky with some seeds, and settings that are
compared are the same (the null). Printed for 3, 5 and 10 seeds: the share of studies whose interval of a mean error holds the true
mean over all seeds and texts, and the share in which two equal settings differ by more than noise; aims 93-97 % and at most 5 %.

    python -m benchmarks.coverage [studies]
"""

from __future__ import annotations

import sys

import numpy as np

from analysis import inference

HARDNESS, LUCK, LEVEL = 2.5, 1.0, -4.0
"""On the logit scale: spread of the texts, of a text with a seed, and the middle; errors of about 11 %."""


def simulated(rng: np.random.Generator, seeds: int, hardness: np.ndarray, of_seed: float) -> np.ndarray:
    """Errors [seeds, texts] of one setting on texts of this hardness [texts]."""
    shape = (seeds, len(hardness))
    logit = LEVEL + hardness + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, LUCK, shape)
    return (rng.random(shape) < 1 / (1 + np.exp(-logit))).astype(float)


def truth(of_seed: float) -> float:
    """Mean error over all seeds and texts."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    spread = np.sqrt(HARDNESS**2 + LUCK**2 + of_seed**2)
    return float(weights @ (1 / (1 + np.exp(-(LEVEL + spread * points)))) / weights.sum())


def measured(seeds: int, texts: int, of_seed: float, studies: int, seed: int = 0) -> tuple[float, float]:
    """(percent of studies whose interval covers the true mean, percent in which two equal settings seem to differ)."""
    rng, true = np.random.default_rng((seed, seeds, texts)), truth(of_seed)
    covered = alarms = 0
    for _ in range(studies):
        hardness = rng.normal(0, HARDNESS, texts)
        one, other = (simulated(rng, seeds, hardness, of_seed) for _ in range(2))
        interval, p_value = inference.mean(one).interval, inference.difference(one, other).p_value
        assert interval is not None
        assert p_value is not None
        covered += interval[0] <= true <= interval[1]
        alarms += p_value < 1 - inference.LEVEL
    return 100 * covered / studies, 100 * alarms / studies


def main() -> None:
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{studies:,} simulated studies a line\nseeds  texts  spread of seeds (logit)  covered %  false alarms %")
    for seeds in (3, 5, 10):
        for texts in (200, 1000):
            for of_seed in (0.05, 0.15, 0.3):
                covered, alarms = measured(seeds, texts, of_seed, studies)
                print(f"{seeds:5}  {texts:5}  {of_seed:23}  {covered:9.1f}  {alarms:14.1f}", flush=True)


if __name__ == "__main__":
    main()
