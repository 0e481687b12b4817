"""Print a page as PDF with a headless Chromium, the only way to a PDF that looks like the page."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
TIMEOUT_S = 120


class NoBrowser(RuntimeError):
    """Raised if there is no browser, or if it did not print; the message says what to do instead."""


def print_page(page: Path, target: Path) -> Path:
    """Print a page to a PDF file. Raises NoBrowser."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    instead = f"open {page} in a browser and print it to a file"
    if browser is None:
        raise NoBrowser(f"a PDF needs Chromium or Chrome, and none is on the PATH; install one, or {instead}")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        printed = Path(profile) / "page.pdf"
        flags = [
            "--headless",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--no-pdf-header-footer",
        ]
        command = [
            browser,
            *flags,
            *sandbox,
            f"--user-data-dir={profile}/profile",
            f"--print-to-pdf={printed}",
            page.absolute().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, env=os.environ | {"HOME": profile}, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoBrowser(f"{browser} did not print ({type(error).__name__}); {instead}") from None
        if done.returncode or not printed.is_file():
            raise NoBrowser(f"{browser} ended with {done.returncode} and printed nothing; {instead}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(printed, target)
    return target
