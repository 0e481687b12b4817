"""The exit codes of the command, and their description in its help."""

from __future__ import annotations

EPILOG = """\b
Exit codes:
  0    done
  1    the study ended without any result, or an unexpected error occurred;
       doctor: something is wrong with the machine
  2    wrong input: every fault is named, nothing was computed
  3    the run folder is in use by another process
  4    stopped: the machine failed, or all trials failed alike;
       after the repair, run the same command again to resume
  130  interrupted: run the same command again to resume
"""
DONE, NO_RESULT, WRONG_INPUT, IN_USE, INTERRUPTED = 0, 1, 2, 3, 130
