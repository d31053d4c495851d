"""One bar for each stage: how many are done, failed and left, how fast, and how long it will take."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def shown(items: Iterable[Item], total: int, stage: str, unit: str, failed: Callable[[Item], bool]) -> Iterator[Item]:
    """Pass items on and draw a bar on standard error; none where there is nothing to do."""
    if total == 0:
        return
    failures = 0
    with tqdm(total=total, desc=f"{stage:<6}", unit=unit, smoothing=0.1, dynamic_ncols=True) as bar:
        for done, item in enumerate(items, start=1):
            failures += failed(item)
            bar.set_postfix_str(f"{done - failures} done, {failures} failed, {total - done} left", refresh=False)
            bar.update()
            yield item
