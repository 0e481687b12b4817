"""A figure of matplotlib for notebooks. The one file that imports matplotlib when it is imported."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Canvas(Figure):
    """A figure that a notebook shows as an image where pyplot, which would tell it how, is not imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()
