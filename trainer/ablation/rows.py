"""The rows of an ablation: recipes with changed settings."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from rgsud_core.errors import first_line
from rgsud_core.settings import Settings, read_yaml
from trainer.errors import TrainerError

DEFAULT = Path(__file__).with_name("rows.yaml")


class Row(Settings):
    """One run of each seed."""

    heading: str
    """Group and label, as `found rain: stage 1 alone`: rows of a group are drawn together."""
    recipe: str = "rain100l-mini"
    """Recipe that the settings change."""
    begins: str | None = None
    """Name of the first part that rows of one seed share. Default: the row shares nothing."""
    settings: tuple[str, ...] = ()
    """Changed settings, key=value each; `{truth}` and `{steps}` are filled in."""

    @property
    def label(self) -> str:
        """The heading without its group."""
        return self.heading.partition(": ")[2]


class _Table(Settings):
    sets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    rows: dict[str, Row]


def read_rows(path: Path = DEFAULT) -> dict[str, Row]:
    """The rows of a table in YAML, by name; names of `sets` among their settings are replaced.

    Raises:
        TrainerError: the table cannot be read; the message says why.
    """
    try:
        table = _Table.model_validate(read_yaml(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as problem:
        reason = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else first_line(problem)
        raise TrainerError(
            f"the rows {path} cannot be read ({reason}): see {DEFAULT} for the form."
        ) from None
    return {
        name: row.model_copy(
            update={"settings": tuple(s for one in row.settings for s in table.sets.get(one, (one,)))}
        )
        for name, row in table.rows.items()
    }
