"""Progress on a terminal, and silence elsewhere: a log is no place for a bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, int, int | None], None]
"""Takes what is counted, how many are done, and of how many where that is known."""


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """One line for each thing that is counted, on standard error."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to load, and seldom needed
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above
    from rich.progress import TaskID  # noqa: PLC0415 - as above

    lines: dict[str, TaskID] = {}
    with Bar(console=Console(stderr=True)) as bar:

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total)
            bar.update(lines[what], description=f"{done} {what}", completed=done, total=total)

        yield tell
