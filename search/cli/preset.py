"""The configuration of one preset, to train without a search, Ray or a study."""

from __future__ import annotations

from pathlib import Path

from search.driver import hardware
from search.driver.options import RunOptions
from search.space.loading import load_space
from search.space.narrowing import narrow
from search.space.space import Space, rungs_of
from trainer.checks import unknown_name
from trainer.config import TrainConfig

SPACES = Path("spaces")
CHECKOUT = Path(__file__).resolve().parents[2] / "spaces"


def preset_config(preset: str, options: RunOptions) -> TrainConfig:
    """The training configuration of `space/preset`, such as hybrid/tiny, with the rungs of a budget of that space.

    An assignment `name=value` replaces the value of the preset; aliases of the name are accepted.
    Raises SpaceError, ConfigError or ValueError for mistakes that the user can fix.
    """
    space, name = _find(preset)
    budget = space.budget(options.budget)
    space = narrow(space, budget=budget, assignments=options.assignments)
    assigned = {space.aliases.get(key, key) for key in (text.partition("=")[0].strip() for text in options.assignments)}
    values = space.complete({key: value for key, value in space.presets[name].values.items() if key not in assigned})
    if against := space.faults_of(values):
        raise ValueError(f"{preset}: {'; '.join(against)}")
    precision = {} if "precision" in values else {"precision": hardware.precision(hardware.num_gpus())}
    return space.train_config(
        values,
        rungs=rungs_of(budget),
        eval_tokens=budget.eval_tokens,
        data=tuple(str(path.absolute()) for path in options.data),
        **options.reading,
        seed=options.seed,
        **precision,
    )


def _find(preset: str) -> tuple[Space, str]:
    """The space and preset that `space/preset` names: a file, or a space in ./spaces or in the checkout.

    Raises ValueError.
    """
    space_name, slash, name = preset.rpartition("/")
    if not slash or not space_name or not name:
        raise ValueError(f"--preset {preset}: write space/preset, such as hybrid/tiny or my/space.yaml/base")
    if (given := Path(space_name)).suffix in (".yaml", ".yml"):  # a file, by its path
        path: Path | None = given
    else:
        path = next((p for folder in (SPACES, CHECKOUT) if (p := folder / f"{space_name}.yaml").is_file()), None)
    if path is None:
        known = {p.stem for folder in (SPACES, CHECKOUT) for p in folder.glob("*.yaml")}
        raise ValueError(f"--preset {preset}: {unknown_name('space', space_name, known)}")
    space = load_space(path)
    if name not in space.presets:
        raise ValueError(f"--preset {preset}: {unknown_name('preset', name, space.presets)}")
    return space, name
