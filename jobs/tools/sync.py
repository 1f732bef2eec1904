"""`sllm sync`: what training could not send to W&B, because compute nodes have no network, is sent from here."""

from collections.abc import Iterator

from jobs.runs import RUNS, find_run, runs_in
from sllm.config import load_experiment
from sllm.errors import UserError
from sllm.files import CorruptError
from sllm.training.wandb_mirror import obstacle, send, wandb_name


def sync(names: list[str]) -> Iterator[str]:
    """Send what W&B lacks of the named runs, or of every run that is to be there; yields a line a run.

    Raises:
        UserError: W&B cannot be used from here, or, once every run had its turn, the problems that there were.
    """
    problems = []
    runs = []
    for run in [find_run(name) for name in names] or runs_in(RUNS):
        try:
            experiment = load_experiment(run.config)
        except UserError as error:
            problems.append(str(error))
            continue
        if experiment.wandb.mode != "disabled":
            runs.append((run, experiment))
            if experiment.finetune and (tuned := run.training("finetune")).metrics.is_file():
                runs.append((tuned, experiment.tuning()))
        elif names:
            problems.append(f"{run.name}: has wandb.mode: disabled in {run.config}; nothing of it goes to W&B")
    if not runs and not problems:
        raise UserError("no run under runs/ is to be at W&B: nothing to sync")
    if runs and (reason := obstacle()):
        raise UserError("\n".join([*problems, f"W&B: {reason}"]))
    for run, experiment in runs:
        try:
            sent, last = send(experiment, run)
        except BlockingIOError:
            yield f"{wandb_name(run)}: is being sent by its training, or by another sync"
        except UserError as error:
            problems.append(str(error))
        except (OSError, CorruptError) as error:
            problems.append(f"{wandb_name(run)}: {error}")
        else:
            has = f"W&B has every step up to {last:,}" if last else "it has no steps yet"
            yield f"{wandb_name(run)}: {f'sent {sent:,} steps' if sent else 'nothing to send'}; {has}"
    if problems:
        raise UserError("\n".join(problems))
