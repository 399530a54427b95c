"""What the search uses of Ray's private parts.

Ray may change any of it in a minor release. So pyproject.toml excludes the first release that was not checked, and
tests/test_private_parts.py fails if a part differs from its use here. All of it was checked with Ray 2.60.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def folders(scratch: Path, object_store: str) -> dict[str, str]:
    """Options of ray.init for the folders of Ray's files and of its shared memory. There are no public ones."""
    return {"_temp_dir": str(scratch), "_plasma_directory": object_store}


def keep_quiet_about_lost_workers() -> None:
    """Ray prints a page for each of them, which no option or logger stops; `status` has one line."""
    from ray._private import worker

    worker.print_to_stdstream = _print_nothing


def _print_nothing(data: Any, ignore_prefix: bool) -> None:
    pass


def count_every_loss_of_a_worker() -> type:
    """Make Tune count every loss of a worker as one. Returns the class that Tune uses from now on.

    If Ray's memory monitor has killed a worker, Tune ends the whole run, because that error is not an actor's. Tune has
    no option for another actor manager than the one that its controller imports.
    """
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.tune.execution import tune_controller

    class ActorManager(tune_controller.RayActorManager):
        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
                exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            super()._actor_task_failed(tracked_actor_task, exception)

    tune_controller.RayActorManager = ActorManager  # type: ignore[misc]  # replaces a class
    return ActorManager
