"""A model to the Hugging Face hub: a Transformers directory and its card, under a name of one's own."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sllm.errors import UserError
from sllm.export.transformers import export
from sllm.manifests import MANIFEST
from sllm.origin import is_theirs

NAME = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
"""An owner, or a model. Both together have 96 characters at most."""
LONGEST = 96

LOGIN = (
    "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens that may write"
)


def push(model_path: Path, name: str, *, private: bool = False) -> str:
    """Upload a model of ours as a Transformers export, or a directory that is one as it is, and make the repository if
    there is none. Returns its address.

    Args:
        model_path: as `export` takes it, or a directory with a Transformers model.
        name: owner/name.
        private: make a new repository private.

    Raises:
        UserError: a name that the hub does not take, no token or one that may not do this, no network, or what
            `export` raises.
    """
    check_name(name)
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise UserError(f"{name}: nobody is logged in to the hub here; {LOGIN}")
    api = HfApi(token=token)
    with _explained(name, token):
        api.whoami()  # before anything that takes long
    with contextlib.ExitStack() as stack:
        folder = model_path
        if not is_theirs(model_path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sllm-push-"))) / "exported"
            export(model_path, folder, hub_id=name)
        stack.enter_context(_explained(name, token))
        address = str(api.create_repo(name, private=private or None, exist_ok=True))
        if private and not api.model_info(name).private:
            raise UserError(f"{name}: is there already, and public; --private is for a new one: take another name")
        # Hidden files are nobody's model, and the manifest is for who exports to the same directory again.
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Upload of a model by sllm",
            ignore_patterns=[".*", "*/.*", MANIFEST],
        )
    return address


def check_name(name: str) -> None:
    """Raises UserError unless it is owner/name as the hub takes it."""
    parts = name.split("/")
    if len(parts) == 2 and len(name) <= LONGEST and all(NAME.fullmatch(part) for part in parts):
        return
    raise UserError(
        f"{name}: not a name on the hub, which is OWNER/NAME of Latin letters, digits, - _ and . (none of - and . "
        f"twice in a row or at an end, {LONGEST} characters at most); {_close_to(name)}, say"
    )


def _close_to(name: str) -> str:
    """What may have been meant: of an address its path, without what a name does not hold."""
    path = re.sub(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?", "", name).strip("/")
    found = []
    for part in path.split("/")[:2]:
        plain = re.sub(r"([-.])[-.]+", r"\1", re.sub(r"[^\w.-]+", "-", part, flags=re.ASCII))
        found.append(plain.removesuffix(".git").strip("-._")[:47].strip("-._"))
    owner, model = found if len(found) == 2 else ("", *found)
    return f"{owner or 'OWNER'}/{model or 'NAME'}"


@contextlib.contextmanager
def _explained(name: str, token: str) -> Iterator[None]:
    """What goes wrong between here and the hub, in a line that does not hold the token."""
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{name}: HF_HUB_OFFLINE is set; unset it to upload") from None
    except Exception as error:  # the client's, of the HTTP library under it (three so far), and of hf_xet
        while not isinstance(error, errors.HfHubHTTPError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # "Error while uploading": the reason is below
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise UserError(f"{name}: the hub does not take the token; {LOGIN}") from None
        if status == 403:
            raise UserError(
                f"{name}: the token may not write there; take a name of your own, or another token: {LOGIN}"
            ) from None
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # A token that no header can hold stands in the error, as Python writes it.
        reason = re.sub("Bearer .*", "Bearer …", " ".join(lines[:2]).replace(token, "…"))[:300]
        where = f"the hub at {constants.ENDPOINT}"
        told = f"{where} answers {status}" if status else f"{where} could not be reached, or broke off"
        raise UserError(f"{name}: {told} ({reason}); the same command goes on") from None
