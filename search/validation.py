"""What `tinysearch validate` says of a space: what it holds, how much of it may be launched, and what is doubtful."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.comparable import incomparable
from search.configurations import same_presets
from search.feasibility import Assessment
from search.grammar import BudgetSpec
from search.launch import RunOptions, few_line, fixed_line, prepare_space, same_line
from search.space import Space, rungs_of


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A space that can be read, as a budget and the command line narrowed it."""

    path: Path
    space: Space
    budget: BudgetSpec
    assessment: Assessment
    warnings: list[str]

    @classmethod
    def of(cls, options: RunOptions) -> Validation:
        """Raises SpaceError or ValueError where there is nothing to search."""
        assert options.space is not None
        space, budget, assessment = prepare_space(options)
        asked = {"budget_name": options.budget or "", "metrics": options.metrics}
        doubts = [f"run refuses this for text: {doubt}" for doubt in incomparable(space, budget, **asked)]
        warnings = [*doubts, *filter(None, [assessment.warning])]
        return cls(path=options.space, space=space, budget=budget, assessment=assessment, warnings=warnings)

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        space, assessment = self.space, self.assessment
        return {
            "space": str(self.path),
            "family": space.family,
            "searched": list(space.searched),
            "rules": len(space.rules),
            "presets": list(space.presets),
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
        """For people; the warnings are not among them."""
        space, assessment = self.space, self.assessment
        yield (
            f"{self.path} is valid: family {space.family}, {len(space.searched)} parameters searched, "
            f"{len(space.rules)} rules,"
        )
        yield f"  presets {', '.join(space.presets) or 'none'}; goals {', '.join(space.spec.goals) or 'none'}"
        yield f"  rungs at {', '.join(f'{rung:,}' for rung in rungs_of(self.budget))} tokens"
        if self.budget.set:
            yield f"  {fixed_line(self.budget)}"
        for preset, other in same_presets(space).items():
            yield f"  {same_line(preset, other)}"
        yield f"{assessment.share:.1%} of {assessment.num_sampled:,} configurations drawn at random may be launched"
        for reason, count in assessment.reasons.items():
            yield f"  rejected {count / assessment.num_sampled:6.1%}  {reason}"
        if few := few_line(assessment.num_launchable, self.budget.trials):
            yield few
