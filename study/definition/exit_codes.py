"""The command's exit codes, and the text on them in its help."""

from __future__ import annotations

EPILOG = """\b
Exit codes:
  0    done
  1    the study ended without any result, or something unexpected broke;
       of doctor: something is wrong with the machine
  2    wrong input: every fault is named, nothing was computed
  3    the run folder is in use by another process
  4    stopped: the machine failed, or all trials alike; once that is mended the same command goes on
  130  interrupted: the same command goes on
"""
DONE, NO_RESULT, WRONG_INPUT, IN_USE, INTERRUPTED = 0, 1, 2, 3, 130
