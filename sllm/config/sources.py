"""The kinds of sources of text: `data.sources` is a list of them."""

from typing import Annotated, Literal

from pydantic import Field

from sllm.config.section import Folder, Name, Positive, Section

DATASET_PATTERN = r"^[\w.-]+/[\w.-]+$"

Language = Literal["ko", "en"]
Weight = Annotated[float, Field(gt=0, le=1e6)]


class EmbeddedSource(Section):
    """Text written by our own generator (`sllm.data.embedded`): needs no network and no files."""

    kind: Literal["embedded"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    megabytes: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    """Text to write."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class FilesSource(Section):
    """The user's own files: globs of .txt (one document a file), .jsonl, .jsonl.zst and .parquet."""

    kind: Literal["files"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    paths: Annotated[tuple[Folder, ...], Field(strict=False, min_length=1)]
    """Patterns, relative to the folder that sllm is run in; `**` looks in folders below. What they match is read, or
    named in an error; a folder of parquet parts is read whole."""
    text_field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    licence: str | None = None
    """For the reader, the report and the model card."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class HubSource(Section):
    """A dataset of the Hugging Face hub, in parquet; streamed into shards, never kept as it is there."""

    kind: Literal["hub"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    dataset: Annotated[str, Field(pattern=DATASET_PATTERN)]
    """Its id: owner/name."""
    config: str | None = None
    """The configuration (subset), where the dataset has several."""
    split: str = "train"
    """The split that is read."""
    files: str | None = None
    """A pattern of files in its repository, for one whose layout does not tell its configurations."""
    revision: str = "main"
    """A commit: a branch may move. The commit that was read is in the corpus manifest."""
    text_field: str = "text"
    """The column that holds the text."""
    limit_megabytes: Positive | None = None
    """Text to take, at most: the beginnings of files spread over the dataset. All of it if not set."""
    text_megabytes: Positive | None = None
    """About how much text it holds, for the reader and for the check of the disk."""
    licence: str | None = None
    """For the reader, the report and the model card."""
    optional: bool = False
    """Go on without it where it cannot be had."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class AihubSource(Section):
    """Conversation sets of AI Hub (aihub.or.kr), which a person with an account there has downloaded and unpacked."""

    kind: Literal["aihub"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Literal["ko"] = "ko"
    """Of the text."""
    folder: Folder
    """Every .json file in it, and in the folders below, is read, but for hidden ones."""
    licence: str | None = None
    """For the reader, the report and the model card."""
    optional: bool = False
    """Go on without it where the folder has no .json file."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


Source = Annotated[EmbeddedSource | FilesSource | HubSource | AihubSource, Field(discriminator="kind")]
SOURCES: dict[str, type[Section]] = {
    "embedded": EmbeddedSource,
    "files": FilesSource,
    "hub": HubSource,
    "aihub": AihubSource,
}
