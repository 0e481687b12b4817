"""When Python looks for cycles of objects that it can free."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from trainables.encoder.process_memory import lasting

class Cycle:
    def __init__(self, name):
        self.name, self.itself = name, self

    def __del__(self):
        print("freed", self.name)

Cycle("before")
gc.collect()
with lasting():
    print(gc.isenabled())
print(gc.isenabled())
gc.disable()
with lasting():
    pass
print(gc.isenabled())
Cycle("at the end")
"""


def test_none_is_looked_for_while_libraries_are_imported_and_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["freed before", "False", "True", "False"]
