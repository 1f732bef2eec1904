"""The command line: `sllm …`. Reads arguments, calls one function, prints; decides nothing.

Nothing heavy is imported before a command runs, so that `sllm --help` answers at once.
"""

import contextlib
import errno
import glob
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sllm.errors import Stopped, UserError, storage_as_user_error
from sllm.utf8 import as_typed, set_up_streams, start_in_utf8_mode

if TYPE_CHECKING:
    from sllm.config import Experiment


def examples(*commands: str) -> str:
    """The last lines of a help page."""
    return "\n\n".join(["Examples:", *(f"  {command}" for command in commands)])


# What the shell offers when Tab is pressed.


def _experiments(incomplete: str) -> list[str]:
    from jobs.presets import preset_names

    presets = [name for name in preset_names() if name.startswith(incomplete)]
    return presets + [path for path in _paths(incomplete) if path.endswith((".yaml", "/"))]


def _paths(incomplete: str) -> list[str]:
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))  # noqa: PTH207 - as typed, ./ and all
    return [f"{path}/" if Path(path).is_dir() else path for path in paths]


def _profiles(incomplete: str) -> list[str]:
    from jobs.presets import profile_names

    return [name for name in profile_names() if name.startswith(incomplete)]


def _runs(incomplete: str) -> list[str]:
    from jobs.runs import RUNS, runs_in

    return [run.name for run in runs_in(RUNS) if run.name.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    return _runs(incomplete) + [path for path in _paths(incomplete) if path.endswith(("/", ".safetensors"))]


def _stages(incomplete: str) -> list[str]:
    from jobs.pipeline import STAGES

    return [name for name in STAGES if name.startswith(incomplete)]


def _experiment(name: str) -> Path:
    from jobs.presets import find_experiment

    return find_experiment(name)


def _print_version(wanted: bool) -> None:
    if wanted:
        from jobs.prepare import commit
        from sllm import __version__

        print(f"sllm {__version__}" + (f" (commit {known})" if (known := commit()) else ""))
        raise typer.Exit


def _print_reference(wanted: bool) -> None:
    if wanted:
        from jobs.reference import reference

        print(reference(), end="")
        raise typer.Exit


app = typer.Typer(
    name="sllm",
    help="Train a Korean-English small language model from scratch, on one machine or on a Slurm cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("sllm submit smoke", "sllm status", "sllm generate 'In the morning' --model smoke"),
)

SCRIPTS = (Path(__file__).parent / "sbatch").resolve()
PROFILE = (Path(__file__).parent / "configs" / "cluster" / "h100.yaml").resolve()

RUNNING, STAGES, MODEL = "Runs", "One stage, in this process", "Models"

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        parser=_experiment,
        autocompletion=_experiments,
        help="Experiment: a file, or one that comes with sllm (smoke, small, default, my-files).",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: train.max_steps=500", metavar="KEY=VALUE")
]
PROFILE_HELP = "Cluster profile: a file, or one that comes with sllm (laptop, h100, dev)."
Profile = Annotated[str | None, typer.Option(metavar="PROFILE", autocompletion=_profiles, help=PROFILE_HELP)]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", autocompletion=_runs, help="Name of a run under runs/, or a path.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL", autocompletion=_models, help="A run, whose best model is taken, or a directory with a model."
    ),
]
TokenizerFile = Annotated[Path | None, typer.Option(help="tokenizer.json, if not the one beside the model.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens that together reach this probability.")]
Penalty = Annotated[float, typer.Option(help="Above 1 makes tokens that were used before less likely.")]
Seed = Annotated[int | None, typer.Option(metavar="NUMBER", help="Equal seeds give equal text.")]


def main() -> None:
    """Entry point. A UserError is printed, one line a problem, without a traceback; exit code 2."""
    start_in_utf8_mode()
    set_up_streams()
    sys.argv[1:] = map(as_typed, sys.argv[1:])
    try:
        with storage_as_user_error():
            app()
    except UserError as error:
        for line in str(error).split("\n"):
            print(f"sllm: {line}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a path that was typed; what a stage runs into is told in its log
        if error.errno not in (errno.ENAMETOOLONG, errno.EACCES):
            raise
        print(f"sllm: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


# --- runs -----------------------------------------------------------------------------------------


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples(
        "sllm submit smoke",
        "sllm submit my.yaml train.max_steps=500 name=short --until pretrain",
        f"cp {PROFILE} my-cluster.yaml  # and edit it",
        "sllm submit default --on slurm --cluster my-cluster.yaml --dry-run",
    ),
)
def submit(
    config: Config,
    overrides: Overrides = None,
    on: Annotated[
        Literal["here", "local", "slurm"] | None,
        typer.Option(
            help="here: in this process; local: as processes of this machine; slurm: as jobs. If not given: slurm with "
            "a profile for it, else where the run ran before, else local."
        ),
    ] = None,
    cluster: Profile = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", autocompletion=_stages, help="Stop after this stage.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and why; run nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on: submit what is missing, and refuse if a setting has changed.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Run every stage that is not done: download, tokenizer, pack, pretrain, validate, benchmark."""
    from rich.console import Console

    from jobs.launch import submit as launch
    from jobs.order import Order, destination
    from jobs.show import show_plan
    from sllm.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    where, profile, why = destination(experiment, on, cluster)
    console = Console()
    if why:
        console.print(f"On {where}: {why}; --on says otherwise", highlight=False, soft_wrap=True)
    order = Order(experiment, profile, where, until, resume, yes)
    if dry_run:
        show_plan(order, console)
    else:
        raise typer.Exit(launch(order, console))


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples(
        "sllm prepare smoke --cluster my-cluster.yaml",
        f"{SCRIPTS}/pipeline.sh smoke",
    ),
)
def prepare(
    config: Config,
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option(metavar="PROFILE", autocompletion=_profiles, help=PROFILE_HELP)] = "h100",
    yes: Yes = False,
) -> None:
    """Write the run directory for the scripts in sbatch/, and print its path."""
    from jobs.launch import prepare as prepare_run
    from jobs.order import Order
    from jobs.slurm.cluster import load_cluster
    from sllm.config import load_experiment

    order = Order(load_experiment(config, overrides or ()), load_cluster(cluster), "slurm", yes=yes)
    print(prepare_run(order).path)


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm status", "sllm status smoke --watch"))
def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", autocompletion=_runs, help="A run, or a folder of runs; all in runs/ if not given."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show where a run stands: stages, attempts, step, loss, speed, time left."""
    from rich.console import Console, RenderableType
    from rich.live import Live

    from jobs.runs import RUNS, find_run, runs_in
    from jobs.status import run_table, runs_table

    def table() -> RenderableType:
        if run is None or runs_in(Path(run)):
            return runs_table(Path(run) if run else RUNS)
        return run_table(find_run(run))

    if not watch:
        Console().print(table())
        return
    import time

    with Live(table(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(2)
                live.update(table(), refresh=True)
        except KeyboardInterrupt:
            return


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm logs smoke pretrain --follow"))
def logs(
    run: RunName,
    stage: Annotated[
        str | None, typer.Argument(autocompletion=_stages, help="The stage; the one that wrote last if not given.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the stage is over.")] = False,
) -> None:
    """Print the log of a stage, all its attempts."""
    from jobs.logs import follow as follow_log
    from jobs.logs import newest_log
    from jobs.pipeline import STAGES, whole_stage
    from jobs.runs import find_run

    directory = find_run(run)
    if stage is not None and whole_stage(stage) not in STAGES:
        raise UserError(f"{stage}: no such stage; valid: {', '.join(STAGES)}")
    name = stage or newest_log(directory)
    if follow:
        for text in follow_log(directory, name):
            print(text, end="", flush=True)
    elif directory.log(name).exists():
        sys.stdout.write(directory.log(name).read_text(encoding="utf-8", errors="replace"))
    else:
        raise UserError(f"{directory.log(name)}: {name} has not written a log yet")


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm cancel smoke"))
def cancel(run: RunName) -> None:
    """Stop a run: its stage saves a checkpoint and ends. The same submit goes on from there."""
    from jobs.busy import cancel as cancel_run
    from jobs.runs import find_run

    print(cancel_run(find_run(run)))


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm sync smoke"))
def sync(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", autocompletion=_runs, help="Runs; all if none is given.")
    ] = None,
) -> None:
    """Send to W&B the steps it does not have yet: of runs whose compute nodes have no network."""
    from jobs.tools.sync import sync as sync_runs

    for line in sync_runs(runs or []):
        print(line, flush=True)


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples("sllm config smoke model.d_model=256", "sllm config small > my.yaml", "sllm config --reference"),
)
def config(
    config: Config,
    overrides: Overrides = None,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", is_eager=True, callback=_print_reference, help="Print what each key means; no more."
        ),
    ] = False,
) -> None:
    """Print the resolved experiment, its parameters, tokens, checkpoint size and memory."""
    from jobs.describe import describe_experiment
    from sllm.config import load_experiment

    print(describe_experiment(load_experiment(config, overrides or ())), end="")


# --- single stages --------------------------------------------------------------------------------


SMALL_MEGABYTES = 4


@app.command(rich_help_panel=STAGES, epilog=examples("sllm download default --small", "sllm download default --korean"))
def download(
    config: Config,
    overrides: Overrides = None,
    small: Annotated[
        bool, typer.Option("--small", help=f"Only {SMALL_MEGABYTES} MB of each source: data.limit_megabytes.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="No limit, whatever data.limit_megabytes says.")] = False,
    korean: Annotated[bool, typer.Option("--korean", help="Only the Korean sources.")] = False,
    english: Annotated[bool, typer.Option("--english", help="Only the English sources.")] = False,
    source: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this source; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete what is on disk of these sources first.")] = False,
    yes: Yes = False,
) -> None:
    """Collect, clean and split the documents. Goes on where the last attempt was ended."""
    from jobs.corpus import choose, download_some, forget
    from sllm.config import load_experiment

    if small and everything:
        raise UserError("--small and --all exclude each other")
    limit = [f"data.limit_megabytes={SMALL_MEGABYTES if small else 'null'}"] if small or everything else []
    changes = [*(overrides or ()), *limit]
    experiment = load_experiment(config, changes)
    languages = [language for language, wanted in (("ko", korean), ("en", english)) if wanted]
    names = choose(experiment, languages, source or [])
    if force:
        for line in forget(experiment, names, yes=yes):
            print(line)
    if names is None:
        _run_stage("download", config, changes)
    else:
        try:
            print(download_some(experiment, names))
        except Stopped as stopped:
            print(f"download: outcome stopped ({stopped}); the same command goes on from here")
    if small:
        from jobs.hints import command

        print(f"for the stages after it: {limit[0]}, as in `{command('tokenizer', config, limit[0])}`")


@app.command("check-data", rich_help_panel=STAGES, epilog=examples("sllm check-data default --show-samples"))
def check_data(
    config: Config,
    overrides: Overrides = None,
    show_samples: Annotated[
        bool, typer.Option("--show-samples", help="Print some documents, and some that were dropped.")
    ] = False,
) -> None:
    """Verify the corpus against its checksums and say what is in it. Exit code 1 if something is missing or broken."""
    from rich.console import Console

    from jobs.corpus import show_corpus
    from sllm.config import load_experiment

    raise typer.Exit(show_corpus(load_experiment(config, overrides or ()), Console(), samples=show_samples))


@app.command(rich_help_panel=STAGES, epilog=examples("sllm tokenizer my.yaml tokenizer.vocab_size=16000"))
def tokenizer(config: Config, overrides: Overrides = None) -> None:
    """Learn the tokenizer."""
    _run_stage("tokenizer", config, overrides)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm pack my.yaml"))
def pack(config: Config, overrides: Overrides = None) -> None:
    """Turn the documents into token files."""
    _run_stage("pack", config, overrides)


@app.command(
    rich_help_panel=STAGES,
    epilog=examples("sllm train my.yaml", "torchrun --nproc-per-node 2 -m jobs.cli train my.yaml"),
)
def train(config: Config, overrides: Overrides = None) -> None:
    """Train the model; goes on from the newest checkpoint. Under torchrun: data-parallel."""
    from jobs.run import leave

    _run_stage("pretrain", config, overrides)
    leave(0)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm validate my.yaml"))
def validate(config: Config, overrides: Overrides = None) -> None:
    """Measure the best model on the validation documents."""
    _run_stage("validate", config, overrides)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm benchmark my.yaml benchmark.batches=[1,32]"))
def benchmark(config: Config, overrides: Overrides = None) -> None:
    """Measure the speed and memory of generation and training."""
    _run_stage("benchmark", config, overrides)


def _run_stage(name: str, config: Path, overrides: list[str] | None) -> None:
    from jobs.single import run_single
    from jobs.slurm.commands import without_foreign_variables
    from sllm.config import load_experiment

    experiment: Experiment = load_experiment(config, overrides or ())
    # Only a training has ranks.
    with contextlib.nullcontext() if name == "pretrain" else without_foreign_variables():
        try:
            outcome = run_single(name, experiment)
        except Stopped as stopped:
            outcome = f"{name}: outcome stopped ({stopped}); the same command goes on from here"
        if int(os.environ.get("RANK", "0")) == 0:
            print(outcome)


# --- models ---------------------------------------------------------------------------------------


@app.command(rich_help_panel=MODEL, epilog=examples("sllm generate 'In the morning' --model smoke --temperature 0.7"))
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
    from jobs.models import find_model

    directory = find_model(model, tokenizer)
    from sllm.inference.generator import TextGenerator
    from sllm.inference.sampling import Sampling, check_seed

    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    check_seed(seed)
    generator = TextGenerator(directory, tokenizer)
    _tell_limit("--max-length", max_length, generator.model.config.context_length)
    texts = generator.generate(prompts, max_length or 256, **asdict(sampling), seed=seed)
    for prompt, text in zip(prompts, texts, strict=True):
        print(prompt + text)


@app.command(rich_help_panel=MODEL, epilog=examples("sllm chat --model smoke"))
def chat(
    model: Model,
    tokenizer: TokenizerFile = None,
    reply_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of one reply, at most. 128 if not given; never more than the context."),
    ] = None,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
) -> None:
    """Write a text together with a trained model, turn by turn."""
    from jobs.models import find_model, keyboard

    directory = find_model(model, tokenizer)
    from sllm.inference.chat import chat as talk
    from sllm.inference.generator import TextGenerator
    from sllm.inference.sampling import Sampling, check_seed

    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    check_seed(seed)
    generator = TextGenerator(directory, tokenizer)
    _tell_limit("--reply-tokens", reply_tokens, generator.model.config.context_length)
    talk(generator, read=keyboard(), reply_tokens=reply_tokens or 128, sampling=sampling, seed=seed)


def _tell_limit(option: str, asked: int | None, context_length: int) -> None:
    if asked is not None and asked > context_length:
        print(f"sllm: {option} {asked}: the model's context, and so every text, ends at {context_length} tokens",
              file=sys.stderr)  # fmt: skip


@app.command(rich_help_panel=MODEL, epilog=examples("sllm export --model smoke --output exported"))
def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="Directory to write; a former export there is replaced.")],
    tokenizer: TokenizerFile = None,
) -> None:
    """Write a trained model as a Transformers directory, and check that its logits and its text are the same there."""
    from jobs.models import find_model

    directory = find_model(model, tokenizer)
    from sllm.export.transformers import export as export_model

    difference = export_model(directory, output, tokenizer)
    checked = (
        "not checked: Transformers is not installed"
        if difference is None
        else f"the same text from Transformers, logits differ by at most {difference:.1e}"
    )
    print(f"{output}: {checked}")


# --- the machine ----------------------------------------------------------------------------------


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm doctor", "sllm doctor default --cluster my-cluster.yaml"))
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            parser=_experiment,
            autocompletion=_experiments,
            help="Experiment whose checkpoints must fit.",
        ),
    ] = None,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE", autocompletion=_profiles, help="Cluster profile to examine, on its compute nodes too."
        ),
    ] = None,
) -> None:
    """Say what is fine, on this machine or cluster, what is not, and what the profile should say.

    Exit code 1 if something is broken."""
    from rich.console import Console

    from jobs.tools.doctor import examine
    from sllm.config import load_experiment

    experiment = load_experiment(config, overrides or ()) if config else None
    raise typer.Exit(examine(cluster, experiment, Console()))


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm drill --cluster my-cluster.yaml"))
def drill(
    cluster: Annotated[str, typer.Option(metavar="PROFILE", autocompletion=_profiles, help=PROFILE_HELP)],
    overrides: Overrides = None,
) -> None:
    """Train something tiny on the cluster, signal, requeue and kill it, and show what survived.

    How long that takes it says at its start."""
    from rich.console import Console

    from jobs.slurm.cluster import load_cluster
    from jobs.tools.drill import drill as run_drill

    _, problems = run_drill(load_cluster(cluster), overrides or (), Console())
    raise typer.Exit(1 if problems else 0)


dev_cluster = typer.Typer(help="A private Slurm on this machine, to try things on.", no_args_is_help=True)
app.add_typer(dev_cluster, name="dev-cluster", rich_help_panel=RUNNING)
ClusterDirectory = Annotated[Path, typer.Argument(help="Where it lives: a short path.")]


@dev_cluster.command(epilog=examples("sllm dev-cluster up /tmp/my-slurm"))
def up(directory: ClusterDirectory = Path("/tmp/sllm-slurm")) -> None:
    """Start it, unless it runs: two GPU nodes (declared, not real), a CPU node, partitions cpu, gpu and urgent."""
    from jobs.tools.dev_cluster import up_or_running

    cluster = up_or_running(directory)
    print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}")


@dev_cluster.command(epilog=examples("sllm dev-cluster down /tmp/my-slurm"))
def down(directory: ClusterDirectory = Path("/tmp/sllm-slurm")) -> None:
    """Stop it, its jobs included, and remove its files."""
    from jobs.tools.dev_cluster import down as stop

    stop(directory)


if __name__ == "__main__":
    main()
