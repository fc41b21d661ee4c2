"""What a paper printed: by table, data set and row, to stand beside our own figures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import ValidationError, model_validator

from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

ROUNDING = 0.005
"""Figures are printed with two decimals."""


class Printed(Model):
    """One figure, and its standard deviation where one is printed; read from `mean` or `[mean, sd]`."""

    mean: float
    sd: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return {"mean": value}
        if isinstance(value, list) and len(value) == 2:
            return {"mean": value[0], "sd": value[1]}
        return value


class PrintedSize(Model):
    """A row of a table of data sets."""

    users: int
    items: int
    interactions: int


Rows = Mapping[str, Mapping[str, Printed]]
"""By row label, then by measure, such as `ndcg@10`."""


class Published(Model):
    """The figures of one paper."""

    schema_version: Literal[1]
    source: str
    datasets: dict[str, PrintedSize]
    same_as: dict[str, str]
    """Exhibits that show another one's figures."""
    tables: dict[str, dict[str, dict[str, dict[str, Printed]]]]
    """By exhibit id, data set, row label and measure."""

    def rows(self, exhibit: str, dataset: str) -> Rows:
        """Return the rows that the paper has for a data set in one of its tables; none where it has none."""
        return self.tables.get(self.same_as.get(exhibit, exhibit), {}).get(dataset, {})

    def find(self, exhibit: str, dataset: str, row: str, measure: str) -> Printed | None:
        """Return one figure; None where the paper does not have it."""
        return self.rows(exhibit, dataset).get(row, {}).get(measure)


@cache
def load_published(name: str = "rpp") -> Published:
    """Load a paper's figures.

    Raises:
        InputError: there is no such paper, or its file is damaged.
    """
    files = resources.files("promptailor.evals.published")
    resource = files.joinpath(f"{name}.yaml")
    if not resource.is_file():
        known = sorted(file.name.removesuffix(".yaml") for file in files.iterdir() if file.name.endswith(".yaml"))
        raise InputError(f"published {name!r}: unknown; there are {', '.join(known)}")
    try:
        return Published.model_validate(yaml.safe_load(resource.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise InputError(f"{name}.yaml: {error}") from None


def contradictions(published: Published, dataset: str) -> list[str]:
    """Say which figures of Tables 2 and 3 no set of rankings can have together, rounding allowed for.

    With one relevant item, HR@5 counts what NDCG@5 discounts, NDCG@5 falls more gently than MRR@5, and MRR@5 is at
    least NDCG@1, for every user and so in the mean.
    """
    found = []
    for row, measures in published.rows("table-3", dataset).items():
        of_table_2 = published.rows("table-2", dataset).get(row, {})
        value = {name: printed.mean for name, printed in {**measures, **of_table_2}.items()}
        for larger, smaller in (("hr@5", "ndcg@5"), ("ndcg@5", "mrr@5"), ("mrr@5", "ndcg@1")):
            if value[larger] < value[smaller] - 2 * ROUNDING:
                found.append(
                    f"{row}, {dataset}: {larger.upper()} {value[larger]:.2f} is below"
                    f" {smaller.upper()} {value[smaller]:.2f}"
                )
    return found
