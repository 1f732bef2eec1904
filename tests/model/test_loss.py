"""The loss in pieces, against PyTorch's over all logits at once."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from small_models import each_kind, random_model
from torch import Tensor

from sllm.model import loss as module
from sllm.model.loss import PiecewiseLoss, differentiated

TOKENS, WIDTH, VOCABULARY = 50, 24, 96


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(TOKENS, WIDTH, dtype=dtype), torch.randn(VOCABULARY, WIDTH, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(VOCABULARY, (TOKENS,))


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    logits = hidden.to(dtype) @ weight.to(dtype).T
    return F.cross_entropy(logits if dtype == torch.float64 else logits.float(), targets)


def in_pieces(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    found: Tensor = PiecewiseLoss.apply(hidden, weight, targets, len(hidden), dtype, differentiated)
    return found


@pytest.fixture(params=[1, 7, 25, 1000])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tokens of a piece: one, some with a rest, some without, and all of them at once."""
    monkeypatch.setitem(module.LOSS_AT_ONCE, "cpu", request.param)
    return int(request.param)


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"),
    [
        (torch.float64, 3.0, 1e-13),
        (torch.float32, 1.0, 1e-6),
        (torch.bfloat16, 1.0, 1e-2),
        (torch.float16, 2.0**16, 1e-3),
    ],
)
def test_loss_and_gradients_are_those_of_all_logits_at_once(
    rows: int, dtype: torch.dtype, scale: float, tolerance: float
) -> None:
    drawn_in = torch.float64 if dtype == torch.float64 else torch.float32
    found = []
    for way in (plain, in_pieces):
        hidden, weight, targets = drawn(drawn_in)
        loss = way(hidden, weight, targets, dtype)
        (loss * scale).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        assert hidden.grad.dtype == weight.grad.dtype == drawn_in
        found.append((loss, hidden.grad / scale, weight.grad / scale))
    for expected, piecewise in zip(*found, strict=True):
        torch.testing.assert_close(piecewise, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def test_a_scale_that_fp16_needs_meets_no_product_in_fp16() -> None:
    """Small or large, it multiplies what is already summed up: no gradient is lost, and none overflows."""
    gradients = []
    for scale in (2.0**-16, 1.0, 2.0**40):
        hidden, weight, targets = drawn()
        (in_pieces(hidden, weight, targets, torch.float16) * scale).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        gradients.append((hidden.grad / scale, weight.grad / scale))
    for other in (gradients[0], gradients[2]):
        assert all(torch.equal(*pair) for pair in zip(other, gradients[1], strict=True))


def test_one_piece_after_the_other_is_differentiated(rows: int) -> None:
    seen = []

    def piece(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(hidden))
        return differentiated(hidden, weight, targets)

    PiecewiseLoss.apply(*drawn(), TOKENS, torch.float32, piece)
    assert seen == [min(rows, TOKENS - start) for start in range(0, TOKENS, rows)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_computes_the_same(dtype: torch.dtype) -> None:
    """Traced as for a compiler, and run without one."""
    hidden, weight, targets = drawn()
    pair = hidden.detach().to(dtype), weight.detach().to(dtype)
    torch._dynamo.reset()
    traced = torch.compile(differentiated, fullgraph=True, dynamic=False, backend="eager")
    for found, expected in zip(traced(*pair, targets), differentiated(*pair, targets), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@each_kind
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_a_models_loss_is_that_of_its_logits(kind: str, precision: torch.dtype | None) -> None:
    model = random_model(kind=kind).eval()
    tokens = torch.randint(model.vocab_size, (2, 33))
    found = []
    for whole in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            if whole:
                loss = F.cross_entropy(model(tokens[:, :-1]).float().flatten(0, 1), tokens[:, 1:].flatten())
            else:
                loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        found.append((loss.detach(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
    (expected, theirs), (loss, ours) = found
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert len(ours) == len(theirs) == len(list(model.parameters()))
    tolerance = 1e-5 if precision is None else 0.03
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.nn.functional as F
from sllm.model.loss import PiecewiseLoss, differentiated
torch.set_num_threads(1)
hidden, weight = torch.randn(4096, 32, requires_grad=True), torch.randn(16384, 32, requires_grad=True)
targets = torch.zeros(4096, dtype=torch.long)

def peak():  # of this program: ru_maxrss begins with that of the process that started it
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)

before = peak()
if sys.argv[1] == "pieces":
    PiecewiseLoss.apply(hidden, weight, targets, len(hidden), torch.float32, differentiated).backward()
else:
    F.cross_entropy(hidden @ weight.T, targets).backward()
print(peak() - before)
"""


def test_all_logits_never_exist_at_once() -> None:
    """They would be 268 MB, and twice that with their gradient."""
    megabytes = {}
    for way in ("pieces", "whole"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
        megabytes[way] = int(done.stdout) / 1000
    assert megabytes["whole"] > 500
    assert megabytes["pieces"] < 200
