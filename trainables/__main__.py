"""`python -m trainables RECIPE.yaml`: run one recipe here and now, in plain PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from trainables.data.known_tasks import resolve
from trainables.encoder.process_memory import lasting
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.plain_yaml import read_yaml
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per evaluation and the test scores last. Exit codes: 0 done, 1 diverged, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m trainables", description=__doc__)
    parser.add_argument("recipe", help="YAML file: tasks, task, encoder, stages, seed, precision")
    parser.add_argument("--store", help="folder or URL of the artifact store (default: the user's cache)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--no-test", action="store_true", help="do not read the test split")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: waiting threads must not take a busy core from the others
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        recipe = validate(Recipe, _with_known_tasks(read_yaml(options.recipe)))
        from trainables.store.store import Store

        store = Store(options.store) if options.store else Store.default()
        return _run(recipe, store, Execution(threads=options.threads), test=not options.no_test)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads any more: as if interrupted, without the flush at exit that would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 130
    except KeyboardInterrupt as error:
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))  # such as a state that could not be saved
        print(f"interrupted{notes}; run the same command again to resume from the last saved state", file=sys.stderr)
        return 130


def _with_known_tasks(data: Any) -> Any:
    """Tasks written as `known` replaced by what the table of known tasks says of them."""
    if not isinstance(data, dict) or not isinstance(data.get("tasks"), dict):
        return data  # for validation to refuse
    tasks = {name: resolve(name).canonical() if task == "known" else task for name, task in data["tasks"].items()}
    return data | {"tasks": tasks}


def _run(recipe: Recipe, store: object, execution: Execution, *, test: bool) -> int:
    with lasting():
        from transformers.utils import logging as transformers_logging

        from trainables.stages import run_recipe as runner
        from trainables.training import loop

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    try:
        # Closed here, else the failure of a last save would be lost.
        with contextlib.closing(runner.run(recipe, store, execution)) as rows:  # type: ignore[arg-type,type-var]
            for row in rows:
                print(json.dumps(row), flush=True)
        if test:
            print(json.dumps(runner.evaluate_test(recipe, store, execution)))  # type: ignore[arg-type]
    except loop.Diverged as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
