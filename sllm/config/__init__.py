"""The experiment: typed, frozen, strict. One YAML file plus dotted overrides (`train.max_steps=500`)."""

from sllm.config.data import DataConfig, phase_step, phase_weights
from sllm.config.finetune import ConversationsConfig, FinetuneConfig, names_of_finetune
from sllm.config.loading import load_experiment, write_experiment
from sllm.config.problems import validate
from sllm.config.schema import BenchmarkConfig, Experiment, ModelConfig, TokenizerConfig
from sllm.config.section import LARGEST, NonNegative, Positive, Section, Strings, all_keys, combined
from sllm.config.sources import SOURCES, AihubSource, EmbeddedSource, FilesSource, HubSource, Language, Source
from sllm.config.training import (
    DECAY,
    CheckpointConfig,
    TrainConfig,
    ValidateConfig,
    check_world_size,
    decay_start,
    fits_world_size,
)
