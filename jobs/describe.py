"""What an experiment amounts to, before anything runs: parameters, tokens, bytes."""

from rich.filesize import decimal as readable_bytes

from sllm.config import (
    Experiment,
    checkpoint_bytes,
    parameter_count,
    training_memory_bytes,
    write_experiment,
)


def describe_experiment(experiment: Experiment) -> str:
    """The resolved experiment as YAML, and its size as comments below: the whole is a valid experiment file."""
    model, train, vocab_size = experiment.model, experiment.train, experiment.tokenizer.vocab_size
    parameters, without_embeddings = parameter_count(model, vocab_size)
    step_tokens = train.global_batch * model.context_length
    figures = {
        "parameters": f"{parameters:,} ({without_embeddings:,} without embeddings)",
        "tokens per step": f"{step_tokens:,}",
        "tokens in all": f"{step_tokens * train.max_steps:,}",
        "one checkpoint": readable_bytes(checkpoint_bytes(model, vocab_size)),
        "memory per GPU": f"about {readable_bytes(training_memory_bytes(model, train, vocab_size))}",
    }
    width = max(map(len, figures))
    return write_experiment(experiment) + "".join(f"# {name:<{width}}  {value}\n" for name, value in figures.items())
