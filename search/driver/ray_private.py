"""What the search takes from Ray's private parts.

Ray may change any of it in a minor release, so pyproject.toml names the first that has not been looked at, and
tests/test_private_parts.py fails where a part is not as it is used here. All of it was seen in Ray 2.60.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def folders(scratch: Path, object_store: str) -> dict[str, str]:
    """Options of ray.init: where Ray keeps its files, and its shared memory. It has no public ones."""
    return {"_temp_dir": str(scratch), "_plasma_directory": object_store}


def keep_quiet_about_lost_workers() -> None:
    """Ray prints a page on each of them, which no option or logger stops; `status` has a line."""
    from ray._private import worker

    worker.print_to_stdstream = _print_nothing


def _print_nothing(data: Any, ignore_prefix: bool) -> None:
    pass


def count_every_loss_of_a_worker() -> type:
    """Have Tune take every loss of a worker for one. Returns the class that Tune uses from now on.

    Tune ends the whole run where Ray's memory monitor has killed a worker, since that error is not an actor's. It takes
    no other manager of actors than the one that its controller imports.
    """
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.tune.execution import tune_controller

    class ActorManager(tune_controller.RayActorManager):
        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
                exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            super()._actor_task_failed(tracked_actor_task, exception)

    tune_controller.RayActorManager = ActorManager  # type: ignore[misc]  # a class in the place of a class
    return ActorManager
