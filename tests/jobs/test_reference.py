"""docs/configuration.md says what the schema says."""

from pathlib import Path
from typing import get_args

import pytest

from jobs.reference import docstrings, reference
from jobs.slurm.cluster import Cluster
from sllm.config import SOURCES, Experiment, Section

DOCS = Path(__file__).parents[2] / "docs"


def sections(section: type[Section]) -> set[type[Section]]:
    annotations = [field.annotation for field in section.model_fields.values()]
    inner = {kind for annotation in annotations for kind in (annotation, *get_args(annotation))}
    found = {kind for kind in inner if isinstance(kind, type) and issubclass(kind, Section)}
    return {section}.union(*map(sections, found))


def test_the_page_is_current() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "write it again: sllm config --reference > docs/configuration.md"


ALL = sections(Experiment) | sections(Cluster) | set(SOURCES.values())


@pytest.mark.parametrize("section", sorted(ALL, key=lambda section: section.__name__), ids=lambda s: s.__name__)
def test_every_key_is_told(section: type[Section]) -> None:
    """It has a docstring in the schema and a row on the page, unless it is a section, which has both of its own."""
    keys = {field.alias or name for name, field in section.model_fields.items() if field.annotation not in ALL}
    meanings = docstrings(section)
    assert meanings.keys() == keys
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for key, meaning in meanings.items():
        assert meaning
        assert f"{key}` |" in page
