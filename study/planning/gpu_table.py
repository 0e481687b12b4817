"""GPUs as their data sheets describe them: for plans of runs on a GPU that this machine lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.settings.errors import ConfigError, near

UTILISATION = 0.4
"""Share of a GPU's peak that training is assumed to reach."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its data sheet describes it."""

    name: str
    rates: Mapping[str, float]
    """{precision: FLOP/s of dense matrix products}; a precision that its tensor cores lack is missing."""
    memory_gb: int
    source: str

    @property
    def auto(self) -> str:
        """The precision that `precision: auto` is on this GPU."""
        return next(precision for precision in PRECISIONS if precision in self.rates)

    @property
    def memory_bytes(self) -> float:
        """Memory in bytes. Data sheets count 10^9 bytes to a GB or somewhat more; this is the smaller."""
        return self.memory_gb * 1e9

    def rate(self, precision: str) -> float:
        """FLOP/s of matrix products in a precision. Raises ConfigError for one that it lacks."""
        if precision not in self.rates:
            raise ConfigError([f"precision: {precision} given, but {self.name} computes in {', '.join(self.rates)}"])
        return self.rates[precision]

    def speed_text(self, precision: str) -> str:
        """Return the assumed rate with its source: `40% (assumed) of 989 bfloat16 TFLOP/s (NVIDIA H100 SXM data sheet)`."""
        return f"{UTILISATION:.0%} (assumed) of {self.rate(precision) / 1e12:,.0f} {precision} TFLOP/s ({self.source})"


PRECISIONS = ("bfloat16", "float16", "tf32", "float32")
"""The columns of the table."""


def _gpu(name: str, rates: str, memory_gb: int, source: str) -> Gpu:
    """A GPU from its rates in TFLOP/s, in the order of PRECISIONS; `-`: its tensor cores lack this one."""
    columns = zip(PRECISIONS, rates.split(), strict=True)
    return Gpu(name, {precision: float(rate) * 1e12 for precision, rate in columns if rate != "-"}, memory_gb, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("A10", " 125  125  62.5 31.2", 24, "NVIDIA A10 data sheet"),
        _gpu("A100", "312  312  156  19.5", 80, "NVIDIA A100 80GB data sheet"),
        _gpu("H100", "989  989  494  67", 80, "NVIDIA H100 SXM data sheet"),
        _gpu("H200", "989  989  494  67", 141, "NVIDIA H200 SXM data sheet"),
        _gpu("L4", "  121  121  60   30.3", 24, "NVIDIA L4 data sheet"),
        _gpu("L40S", "362  362  183  91.6", 48, "NVIDIA L40S data sheet"),
        _gpu("RTX4090", "165  165  82.6 82.6", 24, "NVIDIA Ada GPU architecture white paper"),
        _gpu("T4", "  -    65   -    8.1", 16, "NVIDIA T4 data sheet"),
        _gpu("V100", "-    125  -    15.7", 16, "NVIDIA V100 SXM2 data sheet"),
    )
}
"""{name: GPU}. Data sheets that count sparse matrices print twice the rates of tensor cores."""


def gpu_named(name: str) -> Gpu:
    """Return a GPU by name. Raises ConfigError with the near miss for one that is not in the table."""
    gpu = {known.lower(): gpu for known, gpu in GPUS.items()}.get(name.lower().replace(" ", "").replace("-", ""))
    if gpu is None:
        raise ConfigError([f"--gpu {name}: not in the table{near(name.upper(), GPUS)}"])
    return gpu
