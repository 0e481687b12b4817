"""How often 95 % intervals cover the truth, and how often a difference is seen where there is none.

Studies are simulated: texts are hard or easy, seeds are lucky or not, some texts are lucky with some seeds, and settings that are
compared are the same (the null). Printed for 3, 5 and 10 seeds: the share of studies whose interval of a mean error holds the true
mean over all seeds and texts, by the analysis of variance (aim 93-97 %) and by bootstrap; the share in which two equal settings
differ by more than noise (at most 5 %), and in which one is taken for better or worse than the best of several others, all equal
(at most 5 %).

    python -m benchmarks.coverage [studies]
"""

from __future__ import annotations

import sys

import numpy as np

from analysis.stats import inference

HARDNESS, LUCK, LEVEL = 2.5, 1.0, -4.0
"""On the logit scale: spread of the texts, of a text with a seed, and the middle; errors of about 11 %."""
DRAWS = 300
"""Of each bootstrap here; reports take more."""


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
        alarms += p_value < inference.ALPHA
    return 100 * covered / studies, 100 * alarms / studies


def bootstrapped(seeds: int, texts: int, of_seed: float, studies: int, seed: int = 0) -> float:
    """Percent of studies whose bootstrap interval covers the true mean."""
    rng, true = np.random.default_rng((seed, seeds, texts)), truth(of_seed)
    covered = 0
    for _ in range(studies):
        one = simulated(rng, seeds, rng.normal(0, HARDNESS, texts), of_seed)
        interval = inference.bootstrap_interval(one, draws=DRAWS)
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    return 100 * covered / studies


def best_alarms(seeds: int, texts: int, of_seed: float, studies: int, settings: int = 6, seed: int = 0) -> tuple[float, float]:
    """Percent of studies of equal settings in which (one named before, the one with the least error) differs from the best other.

    The second is the worst that can be done: to claim of the one that looks best that it is.
    """
    rng, alarms = np.random.default_rng((seed, seeds, texts, settings)), [0, 0]
    for _ in range(studies):
        hardness = rng.normal(0, HARDNESS, texts)
        groups = [simulated(rng, seeds, hardness, of_seed) for _ in range(settings)]
        for kind, named in enumerate((0, int(np.argmin([group.mean() for group in groups])))):
            others = [group for place, group in enumerate(groups) if place != named]
            p_value = inference.against_best(groups[named], others, draws=DRAWS).p_value
            assert p_value is not None
            alarms[kind] += p_value < inference.ALPHA
    return 100 * alarms[0] / studies, 100 * alarms[1] / studies


def main() -> None:
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    heads = ("seeds", "texts", "spread of seeds", "covered %", "by bootstrap %", "false alarms %", "of best named, least %")
    print(f"{studies:,} simulated studies a line; spread of seeds on the logit scale\n{'  '.join(heads)}")
    for seeds in (3, 5, 10):
        for texts in (200, 1000):
            for of_seed in (0.05, 0.15, 0.3, 1.0):
                covered, alarms = measured(seeds, texts, of_seed, studies)
                numbers = [
                    covered,
                    bootstrapped(seeds, texts, of_seed, studies),
                    alarms,
                    *best_alarms(seeds, texts, of_seed, studies),
                ]
                shown = (f"{seeds}", f"{texts}", f"{of_seed}", *(f"{number:.1f}" for number in numbers[:3]))
                last = f"{numbers[3]:.1f}, {numbers[4]:.1f}"
                print("  ".join(text.rjust(len(head)) for text, head in zip((*shown, last), heads, strict=True)), flush=True)


if __name__ == "__main__":
    main()
