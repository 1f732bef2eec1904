"""A model of ours as lm-eval asks it: how likely a text is after another, and how one goes on.

As in training `<bos>` stands in front. What is too long loses its beginning, as with lm-eval's own model `hf`.

lm-eval asks a tuned model by conversations: it has them spelled by `apply_chat_template`, and asks how that text goes
on. What it spells is looked up when it comes back, so that the tokens are the template's own.

Shapes: B rows, T time, C width, N places whose next token is asked for, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sllm.evaluation.loss import LOGITS_AT_ONCE
from sllm.inference.decode import Decoder
from sllm.inference.generator import next_tokens
from sllm.inference.sampling import Sampling, seeded
from sllm.model.shared import LanguageModel
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import ASSISTANT, END, ENDS, ROLES, conversation_ids

Pair = tuple[list[int], list[int]]
"""Token ids that are given, at least one, and those that are to follow, at least one."""

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
"""In a forward pass, padding too; enough to keep the device busy, and no more memory than a training step takes."""

GENERATED_AT_ONCE = 32
"""Texts that are continued side by side."""
LOOK_EVERY = 8
"""Tokens after which we look whether a continuation has said what ends it."""

NEW_TOKENS = 256
"""Of a continuation, where the task does not say how many; lm-eval's own figure."""


class Harness:
    """An `lm_eval.api.model.LM` but for its base class: lm-eval need not be there to import this file.

    `after` is called between two batches with the share of the requests that have been answered, and may raise.
    """

    rank, world_size = 0, 1
    """lm-eval's own way to share requests among processes is not used."""
    tokenizer_name = "sllm"
    """Of what lm-eval keeps on disk if it is told to."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, after: Callable[[float], None] = lambda share: None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._after = after
        self._length = model.config.context_length
        self._device = model.positions.device
        self._conversations: dict[str, list[int]] = {}

    # --- conversations ---

    def apply_chat_template(self, chat_history: list[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as text, up to where the model goes on: in an answer of its own or, without `add_generation_prompt`,
        in the last message.

        Raises:
            UserError: messages that the template does not take.
        """
        given, begun = (chat_history, "") if add_generation_prompt else (chat_history[:-1], chat_history[-1]["content"])
        turns = [f"{ROLES[message['role']]}{message['content']}{END}" for message in given]
        text = "".join(["<bos>", *turns, ROLES[ASSISTANT]])
        self._conversations[text] = conversation_ids(self.tokenizer, given)
        return text + begun

    def _read(self, context: str) -> tuple[list[int], str]:
        """The tokens of the conversation that a text spells, and what is said of the answer; of any other `<bos>`, and
        the text."""
        before, mark, begun = context.rpartition(ROLES[ASSISTANT])
        known = self._conversations.get(before + mark)
        return ([self.tokenizer.bos_id], context) if known is None else (known, begun)

    # --- how likely ---

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation) the nats (at most 0) of the continuation, and whether each of its tokens is
        the likeliest."""
        return self._likely([self._pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The nats of whole texts, however long: each token after as many of those before it as there is room for in
        windows that follow each other."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tokenizer.encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.tokenizer.bos_id, self._length, 1)
            pairs += [make_disjoint_window(window) for window in windows]
            owners += [number] * (len(pairs) - len(owners))
        sums = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._likely(pairs), strict=True):
            sums[owner] += nats
        return sums

    def _pair(self, context: str, continuation: str) -> Pair:
        """The space between the two belongs to the continuation, as it does in a text. Encoded together: tokens of the
        continuation may depend on what stands before."""
        first, text = self._read(context)
        given = self.tokenizer.encode(text.rstrip())
        return [*first, *given], self.tokenizer.encode(text + continuation)[len(given) :]

    def _likely(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Requests with the same input share a row: such as answers of one token to one question."""
        asked: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for number, (given, following) in enumerate(pairs):
            if not following:  # a text that adds nothing to the one before is certain
                continue
            read = (given + following)[-self._length - 1 : -1]
            asked.setdefault(tuple(read), []).append((number, following[-len(read) :]))
        answers = [(0.0, True)] * len(pairs)
        done = 0
        for rows in self._batches(sorted(asked, key=len, reverse=True)):
            found = self._ask(rows, [following for row in rows for _, following in asked[row]], asked)
            owners = [number for row in rows for number, _ in asked[row]]
            for owner, answer in zip(owners, found, strict=True):
                answers[owner] = answer
            done += len(owners)
            self._after(done / len(pairs))
        return answers

    def _batches(self, rows: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Of rows that are sorted, the longest first, so that batches have little padding."""
        first = 0
        while first < len(rows):
            count = max(1, TOKENS_AT_ONCE[self._device.type] // len(rows[first]))
            yield rows[first : first + count]
            first += count

    @torch.inference_mode()
    def _ask(
        self,
        rows: list[tuple[int, ...]],
        followings: list[list[int]],
        asked: dict[tuple[int, ...], list[tuple[int, list[int]]]],
    ) -> list[tuple[float, bool]]:
        """Nats of what is to follow each row, and whether it is the likeliest, request by request."""
        longest = len(rows[0])
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        places: list[int] = []  # (N,), in the flattened batch
        questions: list[tuple[int, int]] = []  # which place, which token
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor(row)  # padding at the right is after all that is asked for
            most = max(len(following) for _, following in asked[row])
            end = len(places) + most
            places += range(number * longest + len(row) - most, number * longest + len(row))
            for _, following in asked[row]:
                questions += zip(range(end - len(following), end), following, strict=True)
        hidden = self.model.hidden(tokens.to(self._device)).flatten(0, 1)[torch.tensor(places, device=self._device)]
        place, token = torch.tensor(questions, device=self._device).T
        nats, likeliest = self._next(hidden, place, token)
        lengths = [len(following) for following in followings]
        return [
            (float(some.double().sum()), bool(best.all()))
            for some, best in zip(nats.cpu().split(lengths), likeliest.cpu().split(lengths), strict=True)
        ]

    def _next(self, hidden: Tensor, place: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of tokens at these of N places, and whether they are the likeliest; logits of some places at a time."""
        nats = torch.zeros(len(token), device=self._device)
        likeliest = torch.zeros(len(token), dtype=torch.bool, device=self._device)
        count = max(1, LOGITS_AT_ONCE // self.model.vocab_size)
        for first in range(0, len(hidden), count):
            logits = self.model.logits(hidden[first : first + count]).float()
            here = ((place >= first) & (place < first + count)).nonzero().flatten()
            row = place[here] - first
            nats[here] = logits[row, token[here]] - logits.logsumexp(dim=-1)[row]
            likeliest[here] = logits.argmax(dim=-1)[row] == token[here]
        return nats, likeliest

    # --- how it goes on ---

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The continuation of each (context, settings), up to `<eos>` or `<|end|>`, the first of the texts `until`, or
        `max_gen_toks` tokens, half the model's context at most."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        done = 0
        for numbers in groups.values():
            settings = requests[numbers[0]].args[1]
            read = {n: self._read(requests[n].args[0]) for n in numbers}
            prompts = {n: [*first, *self.tokenizer.encode(text)] for n, (first, text) in read.items()}
            numbers = sorted(numbers, key=lambda n: -len(prompts[n]))
            for first in range(0, len(numbers), GENERATED_AT_ONCE):
                some = numbers[first : first + GENERATED_AT_ONCE]
                for number, text in zip(some, self._continue([prompts[n] for n in some], settings), strict=True):
                    texts[number] = text
                done += len(some)
                self._after(done / len(requests))
        return texts

    def _continue(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[str]:
        until = settings.get("until") or []
        ends = [until] if isinstance(until, str) else list(until)
        most = max(1, min(int(settings.get("max_gen_toks", NEW_TOKENS)), self._length // 2))
        temperature = float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0
        sampling = Sampling(temperature, top_p=float(settings.get("top_p", 1.0)), valid_utf8=False)
        prompts = [prompt[-(self._length - most) :] for prompt in prompts]
        decoder = Decoder(self.model, len(prompts), max(map(len, prompts)) + most, sampling)
        rows: list[list[int]] = [[] for _ in prompts]
        generator = seeded(0, self._device)
        for step, column in enumerate(next_tokens(self.model, prompts, most, sampling, generator, None, decoder), 1):
            for row, token in zip(rows, column.tolist(), strict=True):
                row.append(token)
            if step % LOOK_EVERY == 0 and all(self._is_done(row, ends) for row in rows):
                break
        return [self._said(row, ends) for row in rows]

    def _is_done(self, row: list[int], ends: list[str]) -> bool:
        return self._end(row) < len(row) or any(end in self.tokenizer.decode(row) for end in ends)

    def _end(self, row: list[int]) -> int:
        """Where a token ends what is said."""
        return next((place for place, token in enumerate(row) if token in ENDS), len(row))

    def _said(self, row: list[int], ends: list[str]) -> str:
        text = self.tokenizer.decode(row[: self._end(row)])
        return text[: min((text.index(end) for end in ends if end and end in text), default=len(text))]
