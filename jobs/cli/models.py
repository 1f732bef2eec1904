"""`sllm generate, chat, evaluate, export, push`: what a trained model is for."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.cli.options import MODELS, examples, offer_models

if TYPE_CHECKING:
    from sllm.inference.generator import TextGenerator
    from sllm.inference.sampling import Sampling

app = typer.Typer()

Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=offer_models,
        help="A run, whose best model is taken, or a directory with a model.",
    ),
]
TunedModel = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=offer_models,
        help="A run, whose tuned model is taken where it has one, else its best, or a directory with a model.",
    ),
]
TokenizerFile = Annotated[Path | None, typer.Option(help="tokenizer.json, if not the one beside the model.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens that together reach this probability.")]
Penalty = Annotated[float, typer.Option(help="Above 1 makes tokens that were used before less likely.")]
Seed = Annotated[int | None, typer.Option(metavar="NUMBER", help="Equal seeds give equal text.")]


@app.command(rich_help_panel=MODELS, epilog=examples("sllm generate 'In the morning' --model smoke --temperature 0.7"))
def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="Texts to continue.")],
    model: Model,
    tokenizer: TokenizerFile = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens of prompt and continuation together, at most. 256 if not given; never more than the context.",
        ),
    ] = None,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
) -> None:
    """Continue texts with a trained model."""
    settings = (temperature, top_k, top_p, repetition_penalty)
    generator, sampling = _load(model, tokenizer, settings, seed)
    _tell_limit(generator, "--max-length", max_length)
    texts = generator.generate(prompts, max_length or 256, **asdict(sampling), seed=seed)
    for prompt, text in zip(prompts, texts, strict=True):
        print(prompt + text)


@app.command(
    rich_help_panel=MODELS,
    epilog=examples("sllm chat --model smoke", "sllm chat --model smoke --system 'Answer in one sentence.'"),
)
def chat(
    model: TunedModel,
    tokenizer: TokenizerFile = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What a tuned model is told before the conversation.")
    ] = None,
    reply_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of one reply, at most. 256 if not given, 128 of a base model; never more than the context.",
        ),
    ] = None,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
) -> None:
    """Talk with a tuned model, or write a text together with a base model, turn by turn."""
    settings = (temperature, top_k, top_p, repetition_penalty)
    generator, sampling = _load(model, tokenizer, settings, seed, tuned=True)
    _tell_limit(generator, "--reply-tokens", reply_tokens)
    from jobs.models import keyboard
    from sllm.inference.chat import chat as talk

    talk(generator, system=system, read=keyboard(), reply_tokens=reply_tokens, sampling=sampling, seed=seed)


def _load(
    name: str,
    tokenizer: Path | None,
    settings: tuple[float, int | None, float, float],
    seed: int | None,
    *,
    tuned: bool = False,
) -> tuple["TextGenerator", "Sampling"]:
    """Everything that was typed is checked before the model is loaded."""
    from jobs.models import find_model

    directory = find_model(name, tokenizer, tuned=tuned)
    from sllm.inference.generator import TextGenerator
    from sllm.inference.sampling import Sampling, check_seed

    sampling = Sampling(*settings)
    check_seed(seed)
    return TextGenerator(directory, tokenizer), sampling


def _tell_limit(generator: "TextGenerator", option: str, asked: int | None) -> None:
    context_length = generator.model.config.context_length
    if asked is not None and asked > context_length:
        print(f"sllm: {option} {asked}: the model's context, and so every text, ends at {context_length} tokens",
              file=sys.stderr)  # fmt: skip


@app.command(
    rich_help_panel=MODELS,
    epilog=examples(
        "sllm evaluate --model smoke --text notes/*.txt",
        "sllm evaluate --model smoke --model exported --text corpus/ --text more.jsonl.zst",
    ),
)
def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            autocompletion=offer_models,
            help="A run, whose best model is taken, or a directory with a model, which may be one of Transformers "
            "(safetensors). Several times, to compare.",
        ),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="Text in .txt (a document), .jsonl, .jsonl.zst or .parquet; a pattern in quotes, or a folder.",
        ),
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="More files, as a shell makes of *.")] = None,
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="Key (jsonl) or column (parquet) that holds the text.")
    ] = "text",
    context: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", min=2, help="Read no more at a time than this; default, what each model can."),
    ] = None,
) -> None:
    """Measure how well models predict texts: bits per byte, perplexity, accuracy."""
    from jobs.models import find_model

    directories = [find_model(name, theirs=True) for name in model]
    from rich.console import Console

    from sllm.evaluation.text import evaluate_texts, table

    results = evaluate_texts(directories, [*text, *(more or ())], text_field=text_field, context=context)
    for row, name in zip(results["models"], model, strict=True):
        row["model"] = name  # as it was typed
    Console().print(table(results))


@app.command(
    rich_help_panel=MODELS,
    epilog=examples(
        "sllm export --model smoke --output exported",
        "sllm export --model smoke --format gguf --type q8_0 --output smoke.gguf",
    ),
)
def export(
    model: TunedModel,
    output: Annotated[Path, typer.Option(help="Directory to write, or FILE.gguf; a former export there is replaced.")],
    tokenizer: TokenizerFile = None,
    format: Annotated[
        Literal["transformers", "gguf"],
        typer.Option(help="transformers: a directory, for vLLM too; gguf: a file for llama.cpp."),
    ] = "transformers",
    type: Annotated[
        Literal["f16", "q8_0"] | None,
        typer.Option(help="Of a GGUF file's matrices: 16 bits a number (if not given), or 8.5."),
    ] = None,
) -> None:
    """Write a trained model for other programs: a Transformers directory, whose logits and text are checked to be the
    same there, or a GGUF file."""
    from jobs.models import find_model
    from sllm.errors import UserError

    if type and format != "gguf":
        raise UserError(f"--type {type}: is for --format gguf; leave it out")
    directory = find_model(model, tokenizer, tuned=True)
    if format == "gguf":
        from sllm.export.gguf import HOW_IT_READS
        from sllm.export.gguf import export as export_gguf

        export_gguf(directory, output, tokenizer, type=type or "f16")
        print(f"{output}: {output.stat().st_size / 1e6:,.1f} MB. {HOW_IT_READS}")
        return
    from sllm.export.transformers import export as export_model

    difference = export_model(directory, output, tokenizer)
    checked = (
        "not checked: Transformers is not installed"
        if difference is None
        else f"the same text from Transformers, logits differ by at most {difference:.1e}"
    )
    print(f"{output}: {checked}")


@app.command(rich_help_panel=MODELS, epilog=examples("sllm push smoke my-name/my-model --private"))
def push(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=offer_models,
            help="A run, whose tuned model is taken where it has one, else its best, a directory with a model, or an "
            "export.",
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="What it is called on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload a model to the Hugging Face hub, as a Transformers directory with its card."""
    from jobs.models import find_model

    directory = find_model(model, tuned=True, theirs=True, option="")
    from sllm.export.push import push as push_model

    print(push_model(directory, name, private=private))
