"""docs/configuration.md: every key of an experiment and of a cluster profile, from the schema and its docstrings."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from jobs.slurm.cluster import Resources, Retries
from sllm.config import LARGEST, SOURCES, Experiment, Section
from sllm.config.section import alternatives, is_section
from sllm.config.yaml_text import dump_yaml

HEAD = """# Every setting

<!-- `sllm config --reference > docs/configuration.md` writes this page from the schema. -->

An experiment and a cluster profile are YAML files. A key that is not known, or a value that cannot be, is an error that
names both; everything wrong is said at once. `sllm config CONFIG` prints an experiment with all its values.

- A setting is changed on the command line by its dotted key: `train.max_steps=500`, `data.sources.0.weight=2`,
  `validate.prompts='[하나, two]'`. The value is YAML.
- Only `true` and `false` are booleans, and a number is written without leading zeros or colons; `010`, `2:00`, `on` and
  `2026-01-01` are text. `3e-4`, `1_000` and `0x1F` are numbers.
- `&name`, `*name` and `<<: *name` (merge keys) work. A key at the top that begins with `x-` is no setting: it may hold
  what is merged. No key stands twice. A section that stands empty has its defaults.
- Paths may begin with `~`; others are relative to the folder that sllm is run in.
- A default that depends on what else is set says so below. No integer is above 2⁶³ - 1.
"""

EXPERIMENT = "## The experiment"
CLUSTER = """## The cluster profile

`defaults` hold for every stage; a key under `stages.STAGE` (download, tokenizer, pack, pretrain, conversations,
finetune, validate, benchmark, report) takes the place of that default. conversations has what download has, and
finetune what pretrain has, where nothing else is said. The keys of both are the same. What is not set is left to the
cluster.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [HEAD, EXPERIMENT, *_section(Experiment, ""), CLUSTER]
    parts += ["### `defaults` and `stages.STAGE`", _table(Resources, "")]
    parts += ["### `retries`", *_about(Retries), _table(Retries, "retries.")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(section: type[Section], above: str) -> Iterator[str]:
    yield _table(section, above)
    for name, field in _fields(section).items():
        if name == "sources" and above == "data.":
            for kind, source in SOURCES.items():
                yield f"### `{above}{name}`, kind {kind}"
                yield from _about(source)
                yield _table(source, "")
        elif name == "sources":
            continue  # as those of text
        elif inner := _as_section(field.annotation):
            yield f"### `{above}{name}`"
            yield from _about(inner)
            yield from _section(inner, f"{above}{name}.")
        elif inner := _as_section((*get_args(field.annotation), None)[0]):
            yield f"### `{above}{name}`, each of them"
            yield from _about(inner)
            yield _table(inner, "")


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _as_section(annotation: Any) -> type[Section] | None:
    """Also one that may be left out."""
    kinds = [kind for kind in alternatives(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and is_section(kinds[0]) else None


def _about(section: type[Section]) -> list[str]:
    own = section.__dict__.get("__doc__")
    return [inspect.cleandoc(own)] if own else []


def _table(section: type[Section], above: str) -> str:
    meanings, schemas = docstrings(section), section.model_json_schema()["properties"]
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in _fields(section).items():
        if not is_section(field.annotation):
            default = "must be set" if field.is_required() else _code(field.get_default())
            cells = [f"`{above}{name}`", _value(schemas[name]), default, meanings.get(name, "")]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def docstrings(section: type[Section]) -> dict[str, str]:
    """The text below each key in the source, which pydantic would keep at the cost of reading it at every start; that
    of the section it is made of where it says nothing itself."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    (origin, *_) = section.__bases__
    inherited = docstrings(origin) if issubclass(origin, Section) and origin is not Section else {}
    aliases = {name: field.alias or name for name, field in section.model_fields.items()}
    return inherited | {
        aliases[ast.unparse(key.target)]: " ".join(text.value.value.split())
        for key, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(key, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _code(value: Any) -> str:
    if value is None:
        return "not set"
    text = dump_yaml([list(value) if isinstance(value, tuple) else value])
    return f"`{text.removeprefix('- ').strip()}`" if "\n" not in text.strip() else f"`{_flow(value)}`"


def _flow(value: Any) -> str:
    return "[" + ", ".join(_code(item).strip("`") for item in value) + "]"


def _value(schema: dict[str, Any]) -> str:
    """`integer, 1 to 1,024` for a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_value(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "section")
    if kind == "array":
        item = schema["items"]
        if "oneOf" in item or "$ref" in item:
            return f"list of {'sources' if 'oneOf' in item else 'sections'}"
        return f"list of: {_value(item)}"
    if kind == "object":
        names = ", ".join(f"`{name}`" for name in schema.get("propertyNames", {}).get("enum", ())) or "names"
        return f"section of {names}, each {_value(schema['additionalProperties'])}"
    if kind in ("integer", "number"):
        return f"{kind}{_bounds(schema)}"
    return {"string": "text", "boolean": "`true`, `false`", "section": "section"}[kind]


def _bounds(schema: dict[str, Any]) -> str:
    limits = dict(schema)
    if schema["type"] == "integer" and "exclusiveMinimum" in limits:
        limits["minimum"] = limits.pop("exclusiveMinimum") + 1
    if limits.get("maximum") == LARGEST:
        del limits["maximum"]
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {word} {_number(limits[name])}" for name, word in words.items() if name in limits)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and value < 1e15 else f"{value:g}"
