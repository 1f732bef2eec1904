"""What an experiment may say of its data: sources, cleaning, and how the sources are mixed."""

from typing import Annotated

from pydantic import Field, model_validator

from sllm.config.section import Positive, Section, combined, listed
from sllm.config.sources import Source


class CleanConfig(Section):
    """Which documents stay, and what of them; the rules and their sources are in `sllm.data.clean` and docs/data.md."""

    min_hangul: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A document of a Korean source with a smaller share of Hangul among its letters is dropped; Latin letters of code
    and names do not count."""
    min_latin: Annotated[float, Field(ge=0, le=1)] = 0.8
    """A document of an English source with a smaller share of Latin letters among all letters is dropped."""
    repetition: bool = True
    """Drop documents, and parts of long ones, that mostly repeat themselves."""
    boilerplate: bool = True
    """Remove lines such as copyright notices and cookie banners."""
    personal_data: bool = True
    """Mask resident registration numbers, phone and card numbers, and e-mail addresses."""
    contamination: bool = True
    """Drop documents, and parts of long ones, that share long n-grams with items of benchmark tasks: with all that this
    program knows, whichever `benchmark.tasks` names."""


class Phase(Section):
    """From a share of the training's steps on sources have other weights."""

    from_: Annotated[float, Field(alias="from", gt=0, lt=1)]
    """The share of train.max_steps before it, rounded to whole steps: 0.85."""
    weights: Annotated[dict[str, Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=1)]
    """By name of the source; 0 leaves it out. One that is not named has its own weight, whatever the phase before."""


class DataConfig(Section):
    """Which documents there are, and which of them stay."""

    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """The list of sources, or the name of a YAML file that holds it, relative to the experiment's folder."""
    min_characters: Positive = 20
    """Shorter documents are dropped; not above max_characters if not set."""
    max_characters: Positive = 1_000_000
    """Longer documents become several, cut at the end of a paragraph where there is one."""
    clean: CleanConfig = CleanConfig()
    near_duplicates: bool = False
    """Drop documents that are nearly equal to another of any source, not only those that are equal."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    """Documents that are held out of training, to validate on."""
    shard_megabytes: Annotated[int, Field(gt=0, le=4096)] = 64
    """Uncompressed text in one .jsonl.zst shard."""
    limit_megabytes: Positive | None = None
    """Text to take from each source, at most: a few megabytes for a try."""
    phases: Annotated[tuple[Phase, ...], Field(strict=False)] = ()
    """Other weights of sources from some step on, such as the best text last."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        self._fit(min_characters=min(type(self).model_fields["min_characters"].default, self.max_characters))
        problems = []
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"sources: two are named {name!r}; give each its own name")
        if self.min_characters > self.max_characters:
            problems.append(
                f"min_characters: {self.min_characters} is above max_characters ({self.max_characters}); lower it"
            )
        return combined(self, problems + self._phase_problems())

    def _phase_problems(self) -> list[str]:
        problems, before = [], 0.0
        weights = {source.name: source.weight for source in self.sources}
        required = {source.name for source in self.sources if not getattr(source, "optional", False)}
        for i, phase in enumerate(self.phases):
            problems += [
                f"phases.{i}.weights.{name}: no source has this name; valid: {listed(list(weights))}"
                for name in phase.weights
                if name not in weights
            ]
            if phase.from_ <= before:
                problems.append(f"phases.{i}.from: {phase.from_} is not above that of the phase before ({before})")
            before = phase.from_
            left = {name for name, weight in {**weights, **phase.weights}.items() if weight and name in weights}
            if not left:
                problems.append(f"phases.{i}.weights: all are 0; give a source a weight")
            elif left < weights.keys() and not left & required:
                problems.append(
                    f"phases.{i}.weights: no text if {listed(sorted(left))} cannot be had: the others are 0; set "
                    f"optional: false, or give another a weight"
                )
        return problems


def phase_step(share: float, max_steps: int) -> int:
    """The last step before the phase that begins after this share of them."""
    return round(share * max_steps)


def phase_weights(data: DataConfig, max_steps: int) -> dict[int, dict[str, float]]:
    """What each source weighs, by the number of steps before: from 0 on, and from each phase on."""
    own = {source.name: source.weight for source in data.sources}
    return {0: own, **{phase_step(phase.from_, max_steps): {**own, **phase.weights} for phase in data.phases}}
