"""How a pipeline stage ends: errors as messages, the exit status as documented. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError, TrialError


@contextmanager
def stage() -> Iterator[None]:
    """Exit status 2 with a message for wrong input, 1 when trials are at fault, 130 after Ctrl-C; no traceback in any of them."""
    try:
        yield
    except TrialError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except PipelineError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished trials are stored; run the same command again to continue.", file=sys.stderr)  # noqa: T201
        sys.exit(130)
