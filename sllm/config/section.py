"""What the sections of an experiment and of a cluster profile are made of: the base class, types of values that several
share, and the keys that a section has."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LARGEST = 2**63 - 1
"""Of all integers here, seeds too: what torch, NumPy and numba take."""

Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
WIDEST = 2**20
"""Of a model or a batch: above it there is a slip of the finger, and no machine."""
Width = Annotated[int, Field(gt=0, le=WIDEST)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


def _folder(path: str) -> str:
    # By hand: pydantic's own constraints refuse names that are not UTF-8, which a file system may hold.
    if not path or "\0" in path:
        raise ValueError("a path has at least one character, and no NUL")
    return path


Folder = Annotated[str, AfterValidator(_folder)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=128)]


class Section(BaseModel):
    """Keys of an experiment or of a cluster profile. One that stands there empty has the defaults of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kinds = fields(cls)
        return {key: {} if value is None and is_section(kinds.get(key)) else value for key, value in values.items()}

    def _fit(self, **defaults: Any) -> None:
        """Give keys that the user has not set another default: one that goes with what is set."""
        for name, value in defaults.items():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, value)  # the section is frozen for everybody else


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def combined(value: T, problems: list[str]) -> T:
    if problems:
        raise CombinationError("\n".join(problems))
    return value


class CombinationError(ValueError):
    """Values that cannot stand together; a line each, `key: value …`, the key below the section that raises it."""


def listed(values: list[Any]) -> str:
    shown = values if len(values) <= 12 else [*values[:11], "…", values[-1]]
    return ", ".join(map(str, shown))


# --- the keys of a section ------------------------------------------------------------------------


def fields(section: type[BaseModel]) -> dict[str, Any]:
    """Each key of a section, as it stands in a file, with its type."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def alternatives(annotation: Any) -> list[Any]:
    """The types that a type allows: of a union each."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for argument in get_args(annotation) for kind in alternatives(argument)]
    return [annotation]


def below(kind: Any, part: int | str) -> list[Any]:
    if is_section(kind):
        return alternatives(fields(kind).get(str(part)))
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    return alternatives(arguments[-1]) if arguments else []


def all_keys(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted keys of a section and of those in it; 0 stands for every position in a list."""
    for name, annotation in fields(section).items():
        yield above + name
        for kind in alternatives(annotation):
            items = [(kind, ".")] if is_section(kind) else [(item, ".0.") for item in below(kind, 0)]
            for item, dot in items:
                if is_section(item):
                    yield from all_keys(item, above + name + dot)
