"""Small mistakes that an engineer could make, put into a copy of the tree one at a time: do the tests notice?

    make mutants                                  all of them
    .venv/bin/python tests/mutants.py WORD …      those whose file, tests or description hold one of the words

Whoever adds a mechanism adds its mutants to MUTANTS below: what would be wrong, the text of the file to replace, which
must stand in it once, and the fewest tests that should fail then. Prefer a mistake whose result looks right.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    what: str
    file: str
    old: str
    new: str
    tests: str
    """Test files, or tests in them as pytest names them, with spaces between."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def of(file: str, tests: str, *mutants: tuple[str, str, str]) -> list[Mutant]:
    """Mutants of one file, each (what it is, old text, new text)."""
    return [Mutant(what, file, old, new, tests) for what, old, new in mutants]


MUTANTS: list[Mutant] = [
    *of(
        "sllm/benchmark.py",
        "tests/test_benchmark.py",
        (
            "only one row of a batch is counted as read",
            "batch * prompt_tokens / statistics.median(first)",
            "prompt_tokens / statistics.median(first)",
        ),
        ("only one row of a batch is counted as written", "batch * len(rest) / sum(rest)", "len(rest) / sum(rest)"),
        ("reading the prompt counts as decoding", "        rest += times[1:]\n", "        rest += times\n"),
        ("warm-up is measured", "times[WARMUP_STEPS:]", "times"),
        ("the optimizer is not measured", "        scaler.step(optimizer)\n", ""),
        ("median and 99th percentile are exchanged", "torch.tensor([0.5, 0.99])", "torch.tensor([0.99, 0.5])"),
        (
            "the MFU counts the forward pass alone",
            "tokens_per_second * flops_per_token(config, vocab_size) / peak",
            "tokens_per_second * flops_per_token(config, vocab_size) / 3 / peak",
        ),
        (
            "tokens are those of the global batch",
            "train.micro_batch * config.context_length / seconds",
            "train.global_batch * config.context_length / seconds",
        ),
    ),
    *of(
        "sllm/data/check.py",
        "tests/data/test_check.py",
        (
            "a shard that was changed is no problem",
            '    if sha256(path) != file["sha256"]:\n        return _Found(f"{path} does not match its checksum")\n',
            "",
        ),
        (
            "documents that are missing are no problem",
            "checked.documents != expected:",
            "checked.documents > expected:",
        ),
        ("everything above Hangul counts as Hangul", "(codes >= 0xAC00) & (codes <= 0xD7A3)", "(codes >= 0xAC00)"),
        ("capital letters are no letters", "lower = codes | 0x20", "lower = codes"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_personal_data_is_masked",
        (
            "the check digit of a foreigner's registration number is taken for a Korean's",
            "((13 if digits[6] >= 5 else 11) - total",
            "(11 - total",
        ),
        ("foreigners' registration numbers are not looked for", "-? ?[1-8][0-9]{6}", "-? ?[1-4][0-9]{6}"),
        (
            "foreigners are all born from 2000 on",
            "1900 if digits[6] in (1, 2, 5, 6) else 2000",
            "1900 if digits[6] in (1, 2) else 2000",
        ),
        (
            "numbers without a check digit begin nine months too early",
            "(year, month) >= (2020, 10)",
            "(year, month) >= (2020, 1)",
        ),
        (
            "what stands before a number is not looked at",
            "start = max(done, long.start() - 2)",
            "start = max(done, long.start())",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_a_clean_document_is_clean",
        (
            "what a mask frees beside it is not masked",
            "    while text != before:\n        before = text\n",
            "    for _ in range(1):\n",
        ),
        (
            "a document that masks made longer than the limit stays so",
            (
                "            if len(text) > self._config.max_characters:  # a mask may be longer than what "
                "it masks\n"
                "                continue\n"
            ),
            "",
        ),
        (
            "what is left of a document is not judged again",
            "            if not lost:\n                break\n            text = kept\n",
            "            text = kept\n            break\n",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_every_wrong_digit_shows_in_a_card_number",
        ("Luhn's check takes a doubled 9 for 0", "2 * d - 9 if d > 4 else 2 * d", "2 * d % 9"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_what_only_speaks_of_it_stays",
        ("a line that begins like a notice goes whole", "_NOTICE.fullmatch(", "_NOTICE.match("),
        ("a line that holds a notice goes whole", "_NOTICE.fullmatch(", "_NOTICE.search("),
        ("a paragraph that reads like a notice goes", "            and len(line) <= _LONGEST_NOTICE\n", ""),
        (
            "code that reads like navigation goes",
            '            and line[:1] not in (" ", "\\t")  # an indented line is code\n',
            "",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        ("tests/data/test_clean.py::test_boilerplate_goes tests/data/test_clean.py::test_a_clean_document_is_clean"),
        (
            "what is left of a text without its notices is not in the normal form",
            '    return _tidy("\\n".join(kept)), "\\n".join(removed)',
            '    return "\\n".join(kept), "\\n".join(removed)',
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_examples",
        (
            "texts are not composed (NFC)",
            '_tidy(nfc("\\n".join([line.rstrip() for line in lines])))',
            '_tidy("\\n".join([line.rstrip() for line in lines]))',
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_a_file_in_one_line",
        (
            "of a large file all but the first part is lost",
            "for start, end in cut(text, AT_ONCE * self._config.max_characters):",
            "for start, end in [(0, AT_ONCE * self._config.max_characters)]:",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_the_side_depends_on_the_text_alone",
        (
            "the validation documents are those of the other end (sides change with every format)",
            "position < self._config.validation_fraction else",
            "position > 1 - self._config.validation_fraction else",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_documents_are_dropped_for_a_reason",
        ("characters may repeat", "    if found.runs > MOST_RUNS:", "    if found.runs >= 1.0:"),
        ("short texts are judged by their phrases", "if found.words >= MIN_WORDS and (", "if ("),
        (
            "a text with one Latin letter is English",
            "return latin >= self._rules.min_latin * max(letters, 1)",
            "return latin > 0",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_phrases_that_come_again",
        ("the most frequent phrase may be any share of a text", "any(map(gt, found.top, MOST_TOP)) or any", "any"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_three_words_that_come_again_are_a_phrase_in_korean_alone",
        ("phrases may repeat if none is frequent", " or any(map(gt, found.repeated, MOST_REPEATED))", ""),
        ("Korean is judged by phrases as long as English ones", '{"ko": 3, "en": 5}', '{"ko": 5, "en": 5}'),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_paragraphs_that_come_again",
        (
            "paragraphs may repeat (their number)",
            "max(found.lines, found.paragraphs) > MOST_LINES",
            "found.lines > MOST_LINES",
        ),
        (
            "paragraphs may repeat (their characters)",
            "max(found.line_characters, found.paragraph_characters) > MOST_LINE_CHARACTERS",
            "found.line_characters > MOST_LINE_CHARACTERS",
        ),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_dedup.py::test_what_is_nearly_equal_is_dropped_and_what_is_equal_counts_as_that",
        ("only the first band is looked at", "for band in range(BANDS))", "for band in range(1))"),
        ("only the last band counts", "near |= _repeated(keys, stop)", "near = _repeated(keys, stop)"),
        (
            "equal documents count as nearly equal too",
            "np.flatnonzero(near[start:end] & ~equal[start:end])",
            "np.flatnonzero(near[start:end])",
        ),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_dedup.py::test_examples_of_what_is_dropped_show_no_personal_data",
        (
            "an example that ends in the middle of a number shows half of it",
            "mask_personal_data(text[: 2 * EXAMPLE_CHARACTERS])[0][:EXAMPLE_CHARACTERS]",
            "mask_personal_data(text[:EXAMPLE_CHARACTERS])[0]",
        ),
        (
            "the examples in a report show personal data",
            "mask_personal_data(text[: 2 * EXAMPLE_CHARACTERS])[0][:EXAMPLE_CHARACTERS]",
            "text[:EXAMPLE_CHARACTERS]",
        ),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_dedup.py::test_the_first_of_equal_documents_stays",
        ("documents of train stay, those of validation go", "key=_is_train)", "key=str)"),
        (
            "what an earlier run dropped stays dropped",
            "        path.unlink(missing_ok=True)\n        return removed\n",
            "        return removed\n",
        ),
        ("parts overlap", ">> np.uint64(32) == part)", ">> np.uint64(32) >= part)"),
        ("the last of equal documents stays", "order = np.lexsort(together.T)", "order = np.lexsort(together.T)[::-1]"),
    ),
    *of(
        "sllm/data/measures.py",
        "tests/data/test_measures.py",
        ("runs begin at the third character", "            if run > 3:", "            if run > 2:"),
        (
            "characters in two repeated phrases count twice",
            "covered += ends[i + n] - ends[max(i, until)]",
            "covered += ends[i + n] - ends[i]",
        ),
        (
            "shares are of all characters, white space among them",
            "shares[1], shares[3], shares[4] = shares[1] / size, shares[3] / size, in_runs / size",
            "shares[1], shares[3], shares[4] = shares[1] / length, shares[3] / length, in_runs / length",
        ),
        (
            "rules and brackets count as lines that repeat",
            "            if counts[2] > letters_before:  # a line of signs alone (a rule, a bracket) may repeat\n",
            "            if line_size:\n",
        ),
        (
            "the share of a phrase is of words, not of characters",
            "            shares[3 + n] = best * best_size / size",
            "            shares[3 + n] = best / n_words",
        ),
        ("of equally frequent phrases the shortest is taken", "n_size > best_size", "n_size < best_size"),
        ("four words in a row are not yet prose", "        if row >= PROSE:", "        if row > PROSE:"),
        ("the last syllables are not Hangul", "0xAC00, 0xD7A3", "0xAC00, 0xCFFF"),
        (
            "letters of other scripts are not letters",
            "            elif kind == OTHER_LETTER:\n                counts[2] += 1\n",
            "",
        ),
        (
            "the shortest repeated phrase is not looked at",
            "        if n >= first:\n            shares[8 + n - first]",
            "        if n > first:\n            shares[8 + n - first]",
        ),
        (
            "the 4-grams are not counted where little repeats",
            "if covered == 0 or (n >= max(first, 4) and",
            "if covered == 0 or (n >= max(first, 3) and",
        ),
    ),
    *of(
        "sllm/data/minhash.py",
        (
            "tests/data/test_dedup.py::test_bands_meet_as_often_as_they_should "
            "tests/data/test_dedup.py::test_what_is_nearly_equal_is_dropped_and_what_is_equal_counts_as_that"
        ),
        ("near duplicates are nearly equal only from 0.9 on", "BANDS, ROWS = 14, 8", "BANDS, ROWS = 7, 16"),
        (
            "a band's key does not depend on the order of its rows",
            "keys[i // ROWS] = mix(",
            "keys[i // ROWS] += mix(uint64(signature[i])) + uint64(0) * (",
        ),
        (
            "all short texts are alike",
            (
                "    if n < CHARACTERS:\n"
                "        _lower(signature, uint32(mix(rolling) >> uint64(32)), offsets, factors)\n"
            ),
            "",
        ),
        ("an n-gram is all that came before", " - window[n % CHARACTERS] * leaving", ""),
    ),
    *of(
        "sllm/data/pack.py",
        "tests/data/test_pack.py",
        (
            "documents of the second shard begin where those of the first do",
            "(starts + np.uint64(tokens)).astype(POSITION_DTYPE)",
            "starts.astype(POSITION_DTYPE)",
        ),
        (
            "bos stands after a document",
            "file.write(bos + ids.astype(dtype).tobytes() + eos)",
            "file.write(ids.astype(dtype).tobytes() + eos + bos)",
        ),
        (
            "the largest id of a vocabulary of 65,537 wraps",
            'return "<u2" if vocab_size <= 65_536',
            'return "<u2" if vocab_size <= 65_537',
        ),
        (
            "what a killed call wrote of a shard stays in the file",
            "tokens_out.truncate(tokens * np.dtype(dtype).itemsize)",
            "pass",
        ),
        (
            "parts of another corpus are taken up",
            '    if path.exists() and path.read_text(encoding="utf-8") != key:\n        shutil.rmtree(work)\n',
            "",
        ),
        ("shares leave shards out", "[share[0] :: share[1]]", "[share[0] : share[1]]"),
        (
            "parts of another tokenizer are taken up",
            'fingerprint([manifest["files"], tokenizer.fingerprint])',
            'fingerprint([manifest["files"]])',
        ),
        ("joined shards are joined again", "for shard in group[len(lines) :]:", "for shard in group:"),
    ),
    *of(
        "sllm/files.py",
        "tests/data/test_dedup.py::test_a_document_in_two_unicode_forms_stays_once",
        (
            "the tokenizer learns from documents that were dropped",
            "        if number not in dropped:\n            yield number + 1, line",
            "        yield number + 1, line",
        ),
    ),
    *of(
        "sllm/validation.py",
        "tests/test_validation.py::test_figures_are_those_of_a_plain_computation",
        ("bits per byte are nats per byte", "finite(nats / math.log(2) / text_bytes)", "finite(nats / text_bytes)"),
        (
            "bytes are those of the inputs, not of what is predicted",
            "token_bytes[targets].sum().double()",
            "token_bytes[tokens].sum().double()",
        ),
        (
            "bytes are characters",
            "[len(token) for token in tokenizer.token_bytes]",
            "[len(token.decode(errors='replace')) for token in tokenizer.token_bytes]",
        ),
        (
            "the entropy is that of the inputs",
            "counts += torch.bincount(tokens[:, 1:]",
            "counts += torch.bincount(tokens[:, :-1]",
        ),
        ("a language is its first source", "data.sources]].sum(axis=0)", "data.sources]][0]"),
        ("accuracy is by byte", '"accuracy": right / tokens', '"accuracy": right / text_bytes'),
        ("the loss is in bits", '"loss": finite(loss)', '"loss": finite(loss / math.log(2))'),
    ),
    *of(
        "sllm/validation.py",
        "tests/test_validation.py::test_leaves_the_model_as_it_was",
        ("dropout is on in the validation", "    model.eval()\n", ""),
    ),
    *of(
        "sllm/validation.py",
        "tests/test_validation.py::test_a_last_window_shorter_than_the_context_counts",
        (
            "the last window of a source does not count",
            "        batches += [(number, [window]) for window in windows[len(whole) :]]\n",
            "",
        ),
    ),
    *of(
        "sllm/validation.py",
        "tests/test_validation.py::test_two_ranks_find_what_one_finds",
        ("each rank reports its own figures", "world.sum(sums.flatten().tolist())", "sums.flatten().tolist()"),
        (
            "batches that do not go round the ranks are left out",
            "dtype=torch.float64, device=world.device)\n    dtype",
            (
                "dtype=torch.float64, device=world.device)\n"
                "    batches = batches[: len(batches) // world.size * world.size]\n"
                "    dtype"
            ),
        ),
    ),
]


# --- one copy of the tree -------------------------------------------------------------------------


class BrokenError(Exception):
    """Mutants that do not fit the tree, or tests that fail without one."""


@dataclass(frozen=True)
class Outcome:
    state: str
    """noticed, SURVIVED, or BROKEN: it says nothing about the tests."""
    by: str
    """The test that failed first, or what else happened."""
    seconds: float


class Copy:
    """A copy of a tree with a virtual environment of its own, so that whatever a test starts finds the copy too."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.tree, self.temporary = directory / "tree", directory / "tmp"
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = 0
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(None, subprocess.check_output(command, text=True).split("\0")):
            if os.path.lexists(root / name):  # not one that was deleted
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.tree / name, follow_symlinks=False)
        environment = self.tree / ".venv"
        venv.create(environment, symlinks=True)
        packages = next(environment.glob("lib/python*/site-packages"))
        theirs = [path for path in sys.path if path.endswith("-packages")]
        (packages / "copy.pth").write_text("\n".join([str(self.tree), *theirs, ""]), encoding="utf-8")
        for name in ("sllm", "torchrun"):
            script = environment / "bin" / name
            theirs_text = Path(sysconfig.get_path("scripts"), name).read_text(encoding="utf-8")
            script.write_text(
                theirs_text.replace(theirs_text.split("\n")[0], f"#!{environment}/bin/python", 1), encoding="utf-8"
            )
            script.chmod(0o755)
        self.python = environment / "bin" / "python"
        found = self.run([str(self.python), "-c", "import sllm; print(sllm.__file__)"], 120)[1].strip()
        if not Path(found).is_relative_to(self.tree):
            raise BrokenError(f"the copy {self.tree} imports {found}")

    def end(self) -> None:
        """End the tests that run."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def run(self, command: Sequence[str], seconds: float) -> tuple[int | None, str]:
        """Exit code, None where it did not end in time, and output."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS", "NUMBA_CACHE_DIR")
        }
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "TMPDIR": str(self.temporary)}
        output = self.temporary.with_name("output")
        with output.open("wb") as file:
            self._process = process = subprocess.Popen(
                command,
                cwd=self.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            self.end()  # and what the tests left running
            process.wait()
            self._process = None
        return code, output.read_text(encoding="utf-8", errors="replace")

    def test(self, tests: str, seconds: float) -> Outcome:
        started = time.monotonic()
        command = [str(self.python), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--color=no", *tests.split()]
        code, output = self.run(command, seconds)
        taken = time.monotonic() - started
        last = output.strip().rpartition("\n")[2]
        if code == 0 and " passed" in last:
            return Outcome("SURVIVED", last, taken)
        if code in (0, 2, 4, 5):  # nothing ran, or a test file cannot be imported
            return Outcome("BROKEN", last, taken)
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return Outcome("noticed", failed[1] if failed else "no end" if code is None else last, taken)

    @contextmanager
    def with_mutant(self, mutant: Mutant) -> Iterator[None]:
        path = self.tree / mutant.file
        source, status = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutated(source, mutant), encoding="utf-8")
        # Neither Python nor numba may take for this file what was compiled of another of the same size and second.
        self._changed += 1
        changed = int(status.st_mtime) + self._changed
        os.utime(path, (changed, changed))
        compiles = "@compiled" in source
        if compiles:
            self._forget_compiled()
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            if compiles:
                self._forget_compiled()

    def _forget_compiled(self) -> None:
        """What numba compiled, of other files too: they may call what has changed."""
        for path in self.tree.rglob("*.nb[ic]"):
            path.unlink()


def mutated(source: str, mutant: Mutant) -> str:
    if source.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise BrokenError(f"{mutant}: {mutant.old!r} stands {source.count(mutant.old)} times in the file")
    return source.replace(mutant.old, mutant.new)


# --- all of them ----------------------------------------------------------------------------------


def patience(usual: float) -> float:
    """Seconds after which tests that took `usual` hang, which is noticed too."""
    return 60 + 4 * usual


def outcomes(
    root: Path, mutants: Sequence[Mutant], jobs: int, limit: Callable[[float], float] = patience
) -> Iterator[tuple[Mutant, Outcome]]:
    """What became of each, as they end.

    Raises:
        BrokenError: the text of one is not in its file, or its tests fail, or do not run, without it.
    """
    for mutant in mutants:
        mutated((root / mutant.file).read_text(encoding="utf-8"), mutant)
    with ExitStack() as stack:
        copies = queue.SimpleQueue[Copy]()
        directories = [
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True))
            for _ in range(jobs)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        for directory in directories:
            copy = Copy(root, Path(directory))
            copies.put(copy)
            stack.callback(copy.end)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)

        def test(tests: str, mutant: Mutant | None, seconds: float) -> Outcome:
            copy = copies.get()
            try:
                with copy.with_mutant(mutant) if mutant else nullcontext():
                    return copy.test(tests, seconds)
            finally:
                copies.put(copy)

        selections = dict.fromkeys(mutant.tests for mutant in mutants)
        usual = {tests: pool.submit(test, tests, None, 3600.0) for tests in selections}
        seconds = {tests: future.result().seconds for tests, future in usual.items()}
        bad = [f"{tests}: {usual[tests].result().by}" for tests in usual if usual[tests].result().state != "SURVIVED"]
        if bad:
            raise BrokenError("\n".join(["without a mutant these tests fail, or none runs:", *bad]))
        print(f"{len(usual)} selections of tests pass without a mutant, in {sum(seconds.values()):.0f} s", flush=True)
        # The slow ones first, so that the last to end is none of them.
        order = sorted(mutants, key=lambda mutant: -seconds[mutant.tests])
        running = {pool.submit(test, mutant.tests, mutant, limit(seconds[mutant.tests])): mutant for mutant in order}
        for future in as_completed(running):
            yield running[future], future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="copies; default, one for each CPU"
    )
    options = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in f"{mutant} {mutant.tests}" for word in options.words)
    ]
    if not chosen:
        parser.error("no mutant holds that")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    started = time.monotonic()
    unnoticed = []
    try:
        for number, (mutant, outcome) in enumerate(outcomes(ROOT, chosen, options.jobs), 1):
            if outcome.state != "noticed":
                unnoticed.append((mutant, outcome))
            print(f"{number:3} {outcome.state:8} {outcome.seconds:4.0f} s  {mutant}  [{outcome.by}]", flush=True)
    except BrokenError as error:
        sys.exit(f"error: {error}")
    minutes = (time.monotonic() - started) / 60
    print(f"\n{len(chosen) - len(unnoticed)} of {len(chosen)} noticed, in {minutes:.1f} minutes")
    for mutant, outcome in unnoticed:
        print(f"{outcome.state} {mutant}\n    - {mutant.old!r}\n    + {mutant.new!r}\n    {mutant.tests}: {outcome.by}")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
