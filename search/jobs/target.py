"""What each kind of cluster must implement so that a search can become its job. `targets` lists them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from search.jobs.job import Job, Locations, S
from search.jobs.settings import declared, flag_of

if TYPE_CHECKING:
    from pathlib import Path

    from search.driver.options import RunOptions
    from trainer.families.family import Source


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that a cluster accepted: what is needed to find it later."""

    study: str
    to: str  # the name of its target
    id: str
    submitted: str  # when, by the clock of the machine that submitted it
    address: str | None = None  # of a Ray cluster's job server
    namespace: str | None = None  # of Kubernetes
    log: str | None = None  # the file of a Slurm job


class Target(ABC, Generic[S]):
    """A kind of cluster that accepts jobs.

    No text that it writes contains a secret: a token or a database's password reaches the job through its environment,
    or through the cluster's own mechanism for secrets.
    """

    name: ClassVar[str]
    """The value of `--to`, also in the record of a job."""
    title: ClassVar[str]
    """Its name in the help of `--to`, within a sentence."""
    settings: type[S]
    """A dataclass with its settings. A field made by `setting` is an option of `tinysearch submit`."""

    def settings_from(self, given: Mapping[str, Any]) -> S:
        """Its settings, with defaults for those not given. Raises ValueError for those that it does not have."""
        known = declared(self.settings)
        if wrong := [flag_of(name) for name in given if name not in known]:
            raise ValueError(f"--to {self.name}: {', '.join(wrong)} means nothing there")
        return self.settings(**given)

    def check(self, job: Job[S]) -> None:
        """Raises ValueError, naming every fault, for a job that the cluster would refuse or misread."""
        faults = [*self.faults(job), *(f"{word!r} has a zero byte in it" for word in job.command if "\0" in word)]
        if faults:
            raise ValueError("\n".join(faults))

    @abstractmethod
    def locations(self, options: RunOptions, settings: S) -> Locations:
        """Where the job finds its space, its text and its studies. Raises ValueError for what it could not reach.

        Also raises ValueError for a database whose password would have to be written down.
        """

    def family_files(self, family: Source, space: Path) -> dict[str, str]:
        """The files, name and text, that the job takes along for the user's own family; empty if it finds them there.

        Raises ValueError if the family's file would be missing in the job.
        """
        return {}

    @abstractmethod
    def faults(self, job: Job[S]) -> list[str]:
        """What the cluster would refuse or misread, a sentence each."""

    @abstractmethod
    def text(self, job: Job[S]) -> str:
        """What `--dry-run` prints: a script, a manifest, or a command line."""

    @abstractmethod
    def submit(self, job: Job[S], *, storage: str | None, submitted: str) -> Submission:
        """Hand the job to the cluster. Raises ClusterError if the cluster refuses it; then nothing of it remains."""

    @abstractmethod
    def state(self, submission: Submission) -> str:
        """The state of a job in the cluster's own words. Raises ClusterError if the cluster does not answer."""

    @abstractmethod
    def log_command(self, submission: Submission, *, is_followed: bool) -> list[str]:
        """The program that prints a job's output. Raises ClusterError if there is none yet."""

    @abstractmethod
    def stop(self, submission: Submission) -> str:
        """End a job so that its trials stop at their next checkpoint; returns what was done. The study remains.

        Raises ClusterError if the cluster does not stop it.
        """
