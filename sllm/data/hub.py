"""The Hugging Face hub: which parquet files a dataset has, and their rows from any row on, through a bad network.

`datasets` says which files make up a configuration and split. They are read as it does in streaming mode, by range
requests on the hub's file system, but not through its IterableDataset: what that gives as the state of a stream has
been wrong after a second resume (huggingface/datasets#8308) and after map (#8145), and going on means reading again
from the start of a file. A file and a row are a position that cannot be misunderstood, and parquet finds a row by
reading the footer.
"""

import json
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeVar

from sllm.config import HubSource
from sllm.data.sources import parquet_texts
from sllm.errors import Stopped, UserError
from sllm.stop import Check, no_check

T = TypeVar("T")
ReadParquet = Callable[[Any, str, int], Iterator[str | None]]
"""The texts of an open parquet file, whose place for a person is given, from a row on; None for one that is not valid
UTF-8."""
Tell = Callable[[str], None]
"""Shows one line to the user at once."""


def tell_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


ATTEMPTS = 8
"""Failures in a row, each after the client's own retries, until we give up."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds; the wait doubles from one to the other, times a number drawn from 0.5 to 1.5."""
FIRST_PATIENCE, LONGEST_PATIENCE = 1.5, 12.0
"""Seconds that the first try to reach the hub may take, and that later ones may: a user without a network should hear
of it at once, one with a slow network not at the cost of the download."""


HTTP_PACKAGES = ("httpx", "httpx2", "httpcore", "httpcore2")

BLOCK = 8 << 20
"""Bytes asked for in one request."""


@dataclass(frozen=True)
class HubFiles:
    """The files of one split, in their order; `revision` is the commit they belong to."""

    revision: str
    files: tuple[str, ...]
    sizes: tuple[int, ...]


def wait_for_hub(check: Check = no_check, tell: Tell = tell_stderr) -> None:
    """Return when the hub answers. Each try that fails is told, and when the next one is.

    The client itself would be silent for up to half a minute: it connects with no limit to looking up a name, and
    repeats by itself. `check` is called while waiting, and may raise.

    Raises:
        UserError: it could not be reached.
    """
    for attempt in count(1):
        if (endpoint := _endpoint()) is None:
            return  # what needs it says so
        try:
            _knock(endpoint, min(LONGEST_PATIENCE, FIRST_PATIENCE * 2 ** (attempt - 1)), check)
            return
        except Exception as error:
            way = "where there is a network: on a login node, say, or behind a proxy with HTTPS_PROXY set"
            _wait_or_give_up(error, attempt, endpoint, check, tell, way)


def why_no_hub(check: Check = no_check) -> str:
    """Why the hub cannot be reached, after one quick try; nothing if it answers."""
    try:
        if (endpoint := _endpoint()) is None:
            return "HF_HUB_OFFLINE is set"
        _knock(endpoint, 2 * FIRST_PATIENCE, check)
        return ""
    except Stopped:
        raise
    except Exception as error:
        return f"the hub cannot be reached: {reason_of(error)}"


def _endpoint() -> str | None:
    """The hub's address, or None if it is not to be asked; its client keeps quiet from now on."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as client_logging

    client_logging.disable_propagation()  # it has a handler of its own
    for package in HTTP_PACKAGES:
        logging.getLogger(package).setLevel(logging.WARNING)  # else a line for each request
    if constants.HF_HUB_OFFLINE:
        return None
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        raise UserError(f"HF_ENDPOINT is {constants.ENDPOINT}; set it to an address such as https://huggingface.co")
    return str(constants.ENDPOINT)


def _knock(endpoint: str, seconds: float, check: Check) -> None:
    """Ask the hub for anything; any answer will do. In a thread, because looking up a name can be neither limited nor
    interrupted."""
    from huggingface_hub.utils import get_session

    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(get_session().head(endpoint, timeout=seconds))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    until = time.monotonic() + seconds
    while not wait([answer], timeout=0.1).done:
        check()
        if time.monotonic() > until:
            raise TimeoutError(f"no answer for {seconds:g} s")
    answer.result()


def hub_files(source: HubSource, check: Check = no_check, read: ReadParquet | None = None) -> HubFiles:
    """Ask the hub for the files of `source`, and look into the first for what `read` wants, by default its text column.

    `check` is called while waiting, and may raise.

    Raises:
        UserError: the dataset, configuration, split or column does not exist; it wants a login or consent; it is not
            parquet; or the hub cannot be reached.
    """
    return _patiently(
        lambda: _hub_files(source, read or _texts(source)), f"data.sources: {source.name}: {source.dataset}", check
    )


def hub_texts(
    source: HubSource, file: str, start: int, check: Check = no_check, read: ReadParquet | None = None
) -> Iterator[str | None]:
    """What `read` finds, by default the texts, in a file that `hub_files` named, from row `start` on. A connection that
    fails is taken up again at the row that was reached."""
    read = read or _texts(source)
    where = f"data.sources: {source.name}: {file}"
    row = start
    failures = 0
    while True:
        try:
            with _file_system().open(file, "rb", block_size=BLOCK) as handle:
                for text in read(handle, where, row):
                    yield text
                    row += 1
                    failures = 0
            return
        except Exception as error:
            failures += 1
            _wait_or_give_up(error, failures, where, check)


def _texts(source: HubSource) -> ReadParquet:
    return partial(parquet_texts, text_field=source.text_field)


def _patiently(call: Callable[[], T], where: str, check: Check) -> T:
    failures = 0
    while True:
        try:
            return call()
        except Exception as error:
            failures += 1
            _wait_or_give_up(error, failures, where, check)


def _wait_or_give_up(
    error: Exception,
    failures: int,
    where: str,
    check: Check,
    tell: Tell = tell_stderr,
    way: str = "from the last whole shard",
) -> None:
    """Sleep if trying again may help, or raise what tells the user."""
    if not _may_pass(error):
        # The client's errors hold a connection and cannot go from process to process: only their text does.
        if isinstance(error, OSError):
            raise UserError(f"{where}: {reason_of(error)}") from None
        raise error
    if failures >= ATTEMPTS:
        raise UserError(
            f"{where}: given up after {failures} failures in a row ({reason_of(error)}); the same command goes on {way}"
        ) from None
    seconds = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)
    tell(f"{where}: {reason_of(error)}; try {failures} of {ATTEMPTS}, the next in {seconds:.0f} s")
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.5))


def _may_pass(error: Exception) -> bool:
    """Whether an error is the network's. HTTP libraries have changed under the hub's client (requests, httpx, httpx2);
    their errors are told by the name of the package. A file that ends early is an error of Arrow's."""
    import pyarrow
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, UserError | OfflineModeIsEnabled | FileNotFoundError):
        return False
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        return status is None or status in (408, 429) or status >= 500
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | pyarrow.ArrowException) or package in HTTP_PACKAGES


def reason_of(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _file_system() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def _hub_files(source: HubSource, read: ReadParquet) -> HubFiles:
    try:
        return _ask(source, read)
    except Exception as error:
        if why := explained(error, source):
            raise UserError(f"data.sources: {source.name}: {why}") from None
        raise


CONVERTED = "if the hub has converted it, set revision: refs/convert/parquet and files: CONFIG/SPLIT/*.parquet"


def _ask(source: HubSource, read: ReadParquet) -> HubFiles:
    import datasets
    from huggingface_hub import HfApi

    where, dataset = f"data.sources: {source.name}", source.dataset
    datasets.disable_progress_bars()
    # First of all the commit: a branch may move while we read.
    revision = HfApi().dataset_info(dataset, revision=source.revision, timeout=10).sha
    builder = datasets.load_dataset_builder(
        dataset,
        source.config,
        revision=revision,
        data_files={source.split: source.files} if source.files else None,
    )
    found = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    if source.split not in found:
        raise UserError(f"{where}: {dataset} has no split {source.split!r}; set split to one of {', '.join(found)}")
    files = tuple(found[source.split])
    if other := next((file for file in files if not file.endswith(".parquet")), None):
        raise UserError(f"{where}: {dataset} is not parquet ({other.rpartition('/')[2]}); {CONVERTED}")
    system = _file_system()
    with system.open(files[0], "rb") as handle:
        next(read(handle, f"{where}: {files[0]}", 0), None)
    return HubFiles(str(revision), files, tuple(system.info(file)["size"] for file in files))


def explained(error: Exception, source: HubSource) -> str:
    """What an error of the hub's client, or of `datasets`, means for the user; nothing for one that we do not know."""
    from huggingface_hub import constants, errors

    dataset = source.dataset
    login = "log in with `hf auth login` on this machine, or set HF_TOKEN"
    match error:
        case errors.OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set; unset it to download {dataset}"
        case errors.GatedRepoError():
            return _gated(dataset, login)
        case errors.RevisionNotFoundError():
            return f"{dataset} has no revision {source.revision!r}; correct it, or use main"
        case errors.RepositoryNotFoundError():
            return f"the hub has no dataset {dataset}, or it is private: correct its id, or {login}"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"the hub refuses {dataset} ({error.response.status_code}): {login}"
        case errors.HfHubHTTPError():
            return ""
        case FileNotFoundError():
            if "gated" in str(error):  # `datasets` has made a DatasetNotFoundError of it
                return _gated(dataset, login)
            what = f"files that match {source.files}" if source.files else "data files"
            return f"{dataset} has no {what} at revision {source.revision}; correct it"
        case RuntimeError() if "scripts are no longer supported" in str(error):
            return f"{dataset} is a loading script, which is never run; {CONVERTED}"
        case json.JSONDecodeError():
            return (
                f"what answers at {constants.ENDPOINT} is not the hub: log in to the network if it wants that, or "
                f"correct HF_ENDPOINT"
            )
        case ValueError():  # a configuration that does not exist, or none named where there are several
            names = re.findall(r"'([^']*)'", str(error).partition("[")[2].partition("]")[0])
            given = f"has no configuration {source.config!r}" if source.config else "has several configurations"
            return f"{dataset} {given}; set config to one of {', '.join(names)}" if names else ""
    return ""


def _gated(dataset: str, login: str) -> str:
    return f"{dataset} is gated: accept its conditions on https://huggingface.co/datasets/{dataset}, then {login}"
