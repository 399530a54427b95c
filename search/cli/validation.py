"""The result of `tinysearch validate`: what a space holds, how much of it is feasible, and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.driver.options import RunOptions
from search.driver.preparing import prepare_space
from search.report.sentences import few_line, fixed_line, same_line
from search.space.configurations import same_presets
from search.space.space import Space, rungs_of
from search.space.spec import BudgetSpec
from search.strategy.feasibility import Assessment, Feasibility, unestimated
from search.strategy.reference import left_out
from search.study.comparable import incomparable
from trainer.checks import counted


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A valid space, narrowed by a budget and the command line."""

    path: Path
    space: Space
    budget: BudgetSpec
    assessment: Assessment
    warnings: list[str]
    left_out: dict[str, str]  # presets that may not be launched, and why

    @classmethod
    def of(cls, options: RunOptions) -> Validation:
        """Raises SpaceError or ValueError if there is nothing to search."""
        assert options.space is not None
        space, budget, assessment = prepare_space(options)
        found = incomparable(space, budget, budget_name=options.budget or "", metrics=options.metrics)
        doubts = [f"run refuses this for text: {doubt}" for doubt in found]
        notes = filter(None, [assessment.reference_note, assessment.warning])
        warnings = [*doubts, *unestimated(space, budget), *notes]
        feasibility = Feasibility.of(space, budget)
        why = {name: left_out(feasibility, preset) for name, preset in space.presets.items()}
        return cls(
            path=options.space,
            space=space,
            budget=budget,
            assessment=assessment,
            warnings=warnings,
            left_out={name: reason for name, reason in why.items() if reason},
        )

    @property
    def _reference(self) -> dict[str, Any]:
        assert self.space.reference is not None
        values = self.space.complete(self.space.reference.values)
        return {"preset": self.space.reference.name, "parameters": values}

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        space, assessment = self.space, self.assessment
        return {
            "space": str(self.path),
            "family": space.spec.family,
            "searched": list(space.searched),
            "rules": len(space.rules),
            "presets": [name for name in space.spec.presets if name in space.presets],
            "presets_left_out": self.left_out,
            "reference": None if space.reference is None or space.reference.name in self.left_out else self._reference,
            "goals": list(space.spec.goals),
            "rungs": list(rungs_of(self.budget)),
            "set": self.budget.set,
            "same_presets": same_presets(space),
            "feasible_share": assessment.share,
            "configurations": assessment.num_launchable,
            "sampled": assessment.num_sampled,
            "rejected": assessment.reasons,
            "warning": "\n".join(self.warnings) or None,
        }

    def lines(self) -> Iterator[str]:
        """For people, without the warnings."""
        space, assessment = self.space, self.assessment
        yield (
            f"{self.path} is valid: family {space.spec.family}, {counted(len(space.searched), 'parameter')} searched, "
            f"{counted(len(space.rules), 'rule')},"
        )
        yield f"  presets {', '.join(space.spec.presets) or 'none'}; goals {', '.join(space.spec.goals) or 'none'}"
        yield f"  rungs at {', '.join(f'{rung:,}' for rung in rungs_of(self.budget))} tokens"
        for name, reason in self.left_out.items():
            yield f"  not launched: {name!r}: {reason}"
        if self.budget.set:
            yield f"  {fixed_line(self.budget)}"
        for preset, other in same_presets(space).items():
            if preset in self.left_out:
                continue
            yield f"  {same_line(preset, other, space.whose)}"
        yield f"{assessment.share:.1%} of {assessment.num_sampled:,} configurations drawn at random may be launched"
        for reason in assessment.reasons:
            asked = assessment.asked.get(reason)
            of = "" if asked is None else f" (of the {asked:,} it applies to)"
            yield f"  rejected {assessment.rate(reason):6.1%}  {reason}{of}"
        if few := few_line(assessment.num_launchable, self.budget.trials):
            yield few
