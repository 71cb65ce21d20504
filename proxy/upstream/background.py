"""Tasks that outlive the call that starts them, and their owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger("background")

Result = TypeVar("Result")


class Background:
    """Owns tasks: logs the death of each that fails, and ends them all when it is closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Run *work* until it is done or `close` ends it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("task_died", task=task.get_name(), error=type(exc).__name__)

    async def close(self, grace: float) -> None:
        """Give what is running *grace* seconds, then cancel it and wait for its end.

        Where whoever waits here is cancelled, so is what is running: nobody asks a second time.
        """
        try:
            if self._tasks and grace:
                await asyncio.wait(self._tasks, timeout=grace)
        finally:
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
