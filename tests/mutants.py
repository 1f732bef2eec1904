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
        "sllm/export/push.py",
        "tests/export/test_push.py",
        (
            "what is to be private goes where it is public",
            "if private and not api.model_info(name).private:",
            "if False:",
        ),
        ("a private repository that is public", "private=private or None", "private=None"),
        ("a token in the message", '.replace(token, "…")', ""),
        (
            "a token that no header can hold in the message",
            're.sub("Bearer .*", "Bearer …", ',
            're.sub("Bearer$", "Bearer …", ',
        ),
        ("hidden files of the folder", '[".*", "*/.*", MANIFEST]', "[MANIFEST]"),
        ("a name that is looked at after the model", "    check_name(name)\n    from hugging", "    from hugging"),
    ),
    *of(
        "sllm/card/text.py",
        "tests/card/test_card.py",
        ("a card that is not written again for a model that came meanwhile", "range(MANY)", "range(1)"),
        ("a licence where nobody can say", '"other" if any', '"mit" if any'),
        (
            "the folder of what the training began with",
            'NOT_TOLD = ("init_from", "profile", "checkpoint")',
            "NOT_TOLD = ()",
        ),
    ),
    *of(
        "sllm/card/facts.py",
        "tests/card/test_card.py",
        (
            "the figures of another step's model",
            'return results if results.get("step", step) == step else {}',
            "return results",
        ),
        ("the last validation, of whatever step", '== ("validation", step)', '!= ("", step)'),
        (
            "a source that could not be had among the corpora",
            "if documents and source.name not in documents:",
            "if False:",
        ),
    ),
    *of(
        "sllm/card/markdown.py",
        "tests/card/test_card.py",
        ("a bar ends the cell", "<>|#~", "<>#~"),
        ("a tag in a text", "\\[\\]<>|", "\\[\\]|"),
        ("a fence that the text can end", "max(3, 1 + max(", "max(3, 0 + max("),
    ),
    *of(
        "sllm/manifests.py",
        "tests/card/test_card.py",
        ("a card that is part of the model", "others = {MANIFEST, CARD,", "others = {MANIFEST,"),
        (
            "a card that was edited is replaced",
            'manifest.get("card")) and card == sha256(directory / CARD)',
            'manifest.get("card"))',
        ),
        ("an export whose card is somebody's file", "listed.add(CARD)", "pass"),
    ),
    *of(
        "sllm/evaluation/text.py",
        "tests/evaluation/test_text.py",
        ("windows that overlap less", "end - context) : end]], end - done", "done) : end]], end - done"),
        ("windows without the first token", "yield [first, *ids[", "yield [*ids["),
        (
            "a window's first token counted again",
            "asked[row, len(ids) - 1 - new : len(ids) - 1]",
            "asked[row, : len(ids) - 1]",
        ),
        ("a special token in a text is one", "split_special_tokens=True", "split_special_tokens=False"),
        ("the pickle beside the model", "use_safetensors=True", "use_safetensors=None"),
        (
            "a text as it is in the file",
            "yield from map(normalise, read_file(file, text_field))",
            "yield from read_file(file, text_field)",
        ),
        (
            "what is left in the pool is not read",
            "            waiting = 0\n    read_pool()\n",
            "            waiting = 0\n",
        ),
    ),
    *of(
        "sllm/artifacts.py",
        "tests/model/test_storage.py::test_a_checkpoint_of_an_earlier_version_takes_the_tokenizer_that_was_submitted",
        (
            "the keys of today for what a run was submitted with",
            "return cls(load_experiment(run.config), keys)",
            "return cls(load_experiment(run.config))",
        ),
    ),
    *of(
        "sllm/artifacts.py",
        "tests/jobs/test_keys.py",
        (
            "precision taken for operational",
            'OPERATIONAL = {"checkpoint", "compile", "activation_checkpointing", "profile"}',
            'OPERATIONAL = {"checkpoint", "compile", "activation_checkpointing", "profile", "precision"}',
        ),
        (
            "cosines of two lengths are taken for one training",
            'if train.get("decay") else 0',
            'if train.get("decay") else train["max_steps"]',
        ),
        (
            "two trainings go on as one where a phase of one of them has begun",
            "    return min([*parts, *rates])\n",
            "    return max([*parts, *rates])\n",
        ),
        ("the phases are not in the training's key", '        "phases": phases,\n', '        "phases": [],\n'),
        (
            "the longer of two trainings says where they part",
            "else map(_constant_steps, (old, new))",
            "else [max(map(_constant_steps, (old, new)))]",
        ),
        (
            "activation checkpointing changes the key",
            'OPERATIONAL = {"checkpoint", "compile", "activation_checkpointing", "profile"}',
            'OPERATIONAL = {"checkpoint", "compile"}',
        ),
        (
            "the version of a format is not in the key",
            '{"version": VERSIONS[stage], **content, "needs": parents}',
            '{**content, "needs": parents}',
        ),
        (
            "the seed is not in the key of the download",
            'add("download", [], data=text.data, seed=e["seed"], files=text.files)',
            'add("download", [], data=text.data, files=text.files)',
        ),
        ("the weights of the sources are not in the training's key", '        "weights": weights,\n', ""),
        (
            "what the best model is chosen on is not in the training's key",
            'for name in ("every", "tokens")}',
            'for name in ("every",)}',
        ),
        (
            "packed tokens do not depend on the tokenizer",
            'add("pack", ["download", "tokenizer"])',
            'add("pack", ["download"])',
        ),
    ),
    *of(
        "sllm/speed.py",
        "tests/test_speed.py::test_generation_is_measured_token_by_token",
        ("only one row of a batch is counted as written", "batch * len(rest) / sum(rest)", "len(rest) / sum(rest)"),
        ("reading the prompt counts as decoding", "        rest += times[1:]\n", "        rest += times\n"),
    ),
    *of(
        "sllm/speed.py",
        "tests/test_speed.py::test_training_is_measured_when_it_is_warm",
        ("warm-up is measured", "times[WARMUP_STEPS:]", "times"),
    ),
    *of(
        "sllm/speed.py",
        "tests/test_speed.py::test_the_steps_that_are_measured_are_those_of_a_training",
        ("the compilation is measured", "        warm_up(trainer)\n", ""),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/test_crash.py::test_a_kill_or_a_power_cut_leaves_the_old_or_the_new",
        (
            "prune takes the newest too",
            "        for step in steps:\n            if step in self._damaged or step in set(good) - keep:",
            "        for step in steps:\n            if step in self._damaged or step in good:",
        ),
    ),
    *of(
        "sllm/model/storage.py",
        "tests/training/test_training.py::test_a_best_model_that_is_gone_does_not_count",
        (
            "a damaged model is loaded",
            "        read_manifest(directory, checksums=True)\n        about",
            "        read_manifest(directory)\n        about",
        ),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/training/test_training.py::test_a_damaged_checkpoint_is_passed_over",
        (
            "a checkpoint with a flipped byte is resumed",
            "                about, weights, *optimizer = read_whole(self.path(step), STATE, WEIGHTS, *parts)\n",
            (
                "                files = [self.path(step) / name for name in (STATE, WEIGHTS, *parts)]\n"
                "                about, weights, *optimizer = [file.read_bytes() for file in files]\n"
            ),
        ),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/training/test_training.py::test_an_attempt_prunes_what_it_superseded_or_found_damaged",
        (
            "a checkpoint that a disk cannot read now is deleted",
            ("                if isinstance(error, CorruptError):\n                    self._damaged.add(step)\n"),
            "                self._damaged.add(step)\n",
        ),
        (
            "checkpoints above the newest count as the newest",
            "        good = [step for step in steps if step <= newest and step not in self._damaged]\n",
            "        good = [step for step in steps if step not in self._damaged]\n",
        ),
    ),
    *of(
        "sllm/config/section.py",
        "tests/config/test_config.py",
        (
            "unknown keys are ignored",
            'model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)',
            'model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)',
        ),
    ),
    *of(
        "sllm/config/training.py",
        "tests/config/test_config.py",
        (
            "a warm-up as long as the training",
            "if self.warmup_steps >= self.max_steps:",
            "if self.warmup_steps > self.max_steps:",
        ),
    ),
    *of(
        "sllm/config/yaml_text.py",
        "tests/config/test_config.py::test_a_key_that_begins_with_x_holds_what_is_merged",
        (
            "what is only there to be merged is a setting",
            ' for key in values if not key.startswith("x-")',
            " for key in values",
        ),
    ),
    *of(
        "sllm/config/yaml_text.py",
        "tests/config/test_config.py::test_a_file_that_is_not_there_is_looked_for_nearby",
        (
            "any file is suggested for a mistyped experiment",
            ' if entry.is_dir() or entry.suffix in ("", ".yaml", ".yml")',
            "",
        ),
    ),
    *of(
        "sllm/model/size.py",
        "tests/model/test_size.py",
        ("half of attention's FLOPs", "    return 6.0 * n + 12.0", "    return 6.0 * n + 6.0"),
        (
            "the output layer's FLOPs are left out",
            "[1] + vocab_size * model.d_model\n",
            "[1]\n",
        ),
    ),
    *of(
        "sllm/data/check.py",
        "tests/data/test_check.py",
        (
            "documents that are missing are no problem",
            "checked.documents != expected:",
            "checked.documents > expected:",
        ),
        ("everything above Hangul counts as Hangul", "(codes >= 0xAC00) & (codes <= 0xD7A3)", "(codes >= 0xAC00)"),
    ),
    *of(
        "sllm/artifacts.py",
        "tests/jobs/test_keys.py::test_what_is_wrong_with_a_fine_tuning_is_told_before_it_runs",
        (
            "files of conversations are told as those of text",
            "@names_of_finetune()\ndef _tuning(",
            "def _tuning(",
        ),
        ("a question that is none waits for the training", "enumerate(experiment.finetune.validate_.prompts)", "[]"),
    ),
    *of(
        "sllm/data/check.py",
        "tests/jobs/test_corpus.py::test_conversations_come_with_the_text",
        ("the names of roles count as English", "texts_of(text) if talks else text", "text"),
    ),
    *of(
        "jobs/cli/stages.py",
        "tests/jobs/test_corpus.py::test_conversations_come_with_the_text",
        (
            "conversations are left to the compute node",
            "[run_single(name, experiment), *also(experiment)]",
            "[run_single(name, experiment)]",
        ),
    ),
    *of(
        "sllm/card/facts.py",
        "tests/card/test_tuned_card.py::test_what_stands_beside_the_base_was_measured_as_the_base",
        ("a tuned model is compared by other answers than the base", 'if not answers["overall"]:', "if measured:"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_what_is_left_of_a_document_is_judged_again",
        (
            "what is left of a document is not judged again",
            "            if not lost:\n                break\n            text = kept\n",
            "            text = kept\n            break\n",
        ),
    ),
    *of(
        "sllm/data/personal_data.py",
        "tests/data/test_clean.py::test_personal_data_is_masked",
        (
            "the check digit of a foreigner's registration number is taken for a Korean's",
            "((13 if digits[6] >= 5 else 11) - total",
            "(11 - total",
        ),
        ("foreigners' registration numbers are not looked for", "-? ?[1-8][0-9]{6}", "-? ?[1-4][0-9]{6}"),
        (
            "numbers without a check digit begin nine months too early",
            "(year, month) >= (2020, 10)",
            "(year, month) >= (2020, 1)",
        ),
    ),
    *of(
        "sllm/data/personal_data.py",
        "tests/data/test_clean.py::test_every_wrong_digit_shows_in_a_card_number",
        ("Luhn's check takes a doubled 9 for 0", "2 * d - 9 if d > 4 else 2 * d", "2 * d % 9"),
    ),
    *of(
        "sllm/data/boilerplate.py",
        "tests/data/test_clean.py::test_what_only_speaks_of_it_stays",
        ("a line that begins like a notice goes whole", "_NOTICE.fullmatch(", "_NOTICE.match("),
        ("a paragraph that reads like a notice goes", "            and len(line) <= _LONGEST_NOTICE\n", ""),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_a_clean_document_is_clean",
        (
            "a document that masks made longer than the limit stays so",
            (
                "            if len(text) > self._config.max_characters:  # a mask may be longer than what "
                "it masks\n"
                "                continue\n"
            ),
            "",
        ),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_what_is_masked_counts_where_it_stood",
        (
            "what was masked counts again in each document of a long text",
            "                    masked = Counter()\n",
            "",
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
        "tests/data/test_download.py::test_no_validation_document_says_which_fraction_has_one",
        (
            "the validation documents are those of the other end",
            "position < validation_fraction else",
            "position > 1 - validation_fraction else",
        ),
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
        "sllm/data/clean.py",
        "tests/data/test_clean.py::test_documents_are_dropped_for_a_reason",
        ("short texts are judged by their phrases", "if found.words >= MIN_WORDS and (", "if ("),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_an_item_is_found_wherever_it_stands",
        (
            "anchors are too far apart for an n-gram",
            "words - least + 1, length - least + 1)",
            "words - least + 1, length - least + 2)",
        ),
        ("an n-gram is looked for only where it begins", "range(first, i + 1)", "range(i, i + 1)"),
        ("capital letters are others", "ord(lower) if len(lower) == 1 else code", "code"),
        ("a short item is not looked for", "least <= words < length or", "False or"),
        ("signs are letters", "if character.isalnum():", "if not character.isspace():"),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_thirteen_words_are_eight_eojeol",
        ("seven eojeol are enough", '{"ko": 8, "en": 13}', '{"ko": 7, "en": 13}'),
        ("any sentence counts", '{"ko": 5, "en": 8}', '{"ko": 5, "en": 7}'),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_one_word_less_is_not_an_item",
        (
            "some of a short item is enough",
            "_hashes(prefix, min(words, length))",
            "_hashes(prefix, least if words < length else length)",
        ),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_signs_and_what_follows_do_not_matter",
        (
            "a word of one letter is another at the end",
            "uint64(letters[min(codes[starts[word]], _LAST)]), uint64(1)",
            "uint64(letters[min(codes[starts[word]], _LAST)]), uint64(0)",
        ),
        ("the sketch takes signs for letters", "            if letter:\n", "            if True:\n"),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_what_is_found_is_what_the_rule_says",
        ("a word ends at a sign", "int64(letter != 1)", "is_letter"),
        ("what stands before the anchor is forgotten", "first = max(0, i - (most - least))", "first = i"),
    ),
    *of(
        "sllm/data/contamination.py",
        "tests/data/test_contamination.py::test_what_stands_in_many_items_is_of_the_prompt",
        ("what all items have is of each", "keys[is_item], of_keys[first[is_item]]", "keys, of_keys[first]"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_contamination.py::test_an_item_across_the_end_of_a_piece_takes_both",
        ("the rest of an item stays", "shared.start < end and shared.end > start", "start <= shared.start < end"),
    ),
    *of(
        "sllm/data/clean.py",
        "tests/data/test_contamination.py::test_a_contaminated_piece_repeats_nothing",
        ("what goes was there before", "elif not reasons[number] and number not in lost:", "elif not reasons[number]:"),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_contamination.py::test_other_items_are_another_store",
        ("text that was compared with other items is taken", "seed, tasks and tasks.name]", "seed]"),
    ),
    *of(
        "sllm/data/compared.py",
        "tests/data/test_contamination.py::test_what_it_is_compared_with_is_settled_at_its_beginning",
        ("each attempt compares with what is there", "settled = _settled(partial, tables)", "settled = None"),
    ),
    *of(
        "jobs/corpus.py",
        "tests/data/test_contamination.py::test_what_it_is_compared_with_is_settled_at_its_beginning",
        ("--force leaves what was compared", "for tasks in tables]", "for tasks in [None]]"),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_dedup.py::test_what_is_nearly_equal_is_dropped_and_what_is_equal_counts_as_that",
        ("only the first band is looked at", "for table in range(count) for", "for table in range(min(count, 2)) for"),
        ("documents are counted from each shard's first", "start += len(documents)", "start += 0"),
        (
            "equal documents count as nearly equal too",
            "np.flatnonzero(near[start:end] & ~equal[start:end])",
            "np.flatnonzero(near[start:end])",
        ),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_download.py::test_a_job_array_shares_the_work",
        ("what a task hashed is hashed again", "    if path.exists():\n        return path\n", ""),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_download.py::test_a_job_array_shares_the_work",
        ("each task of an array brings everything", "parts[share[0] :: share[1]]", "parts"),
        ("a task deletes what another one is writing", "list(filter(part.wrote, temporary))", "temporary"),
        (
            "a task hashes nothing for near duplicates",
            "[path for part in parts for path in part.shards()]",
            "[]",
        ),
    ),
    *of(
        "sllm/data/parts.py",
        "tests/data/test_download.py::test_a_part_is_brought_by_one_process_at_a_time",
        ("two processes bring a part at the same time", "with alone_with(part.journal, check):", "with suppress():"),
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
        ("some ranges of keys are compared by nobody", "for part in range(parts)]", "for part in range(0, parts, 2)]"),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_download.py::test_other_settings_in_the_same_data_directory_give_what_a_fresh_one_gives",
        (
            "store: cleaning rules are no part of its key",
            'exclude={"sources", "near_duplicates", "phases"})',
            'exclude={"sources", "near_duplicates", "phases", "clean"})',
        ),
        (
            "store: a file that changed is not noticed",
            "described, cleaning, files, seed,",
            "described, cleaning, [name for name, *_ in files], seed,",
        ),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_download.py::test_another_version_of_the_readers_reads_again",
        (
            "store: the version of the readers is no part of its key",
            'content = [VERSIONS["download"], described',
            "content = [described",
        ),
    ),
    *of(
        "sllm/data/corpus.py",
        "tests/data/test_download.py::test_a_shard_that_is_cut_short_or_gone_is_no_part_of_a_corpus",
        (
            "store: a shard cut short is linked into a corpus",
            'if not path.is_file() or path.stat().st_size != file["bytes"]:',
            "if not path.is_file():",
        ),
    ),
    *of(
        "sllm/data/parts.py",
        "tests/data/test_hub_download.py::test_stopped_at_any_document_it_goes_on_from_the_last_shard",
        (
            "going on: the last document is not read again, and the next one is lost",
            "Position(file, row - 1), check)",
            "Position(file, row), check)",
        ),
        (
            "going on: a position counts from where reading began",
            "enumerate(texts, first + 1):",
            "enumerate(texts, 1):",
        ),
        (
            "going on: a shard is written over another",
            'first = {split: sum(line["shards"][split] for line in lines) for split in SPLITS}',
            'first = {split: sum(line["shards"][split] for line in lines[-1:]) for split in SPLITS}',
        ),
    ),
    *of(
        "sllm/data/parts.py",
        "tests/data/test_hub_download.py::test_a_limit_takes_beginnings_spread_over_the_files",
        (
            "going on: a limit counts from the last shard",
            'part.limit - sum(line["read"] for line in lines)',
            "part.limit",
        ),
    ),
    *of(
        "sllm/data/plan.py",
        "tests/data/test_hub_download.py::test_a_limit_takes_beginnings_spread_over_the_files",
        ("limit: each part takes all of it", "        limit = -(-limit // count)\n", ""),
    ),
    *of(
        "sllm/data/parts.py",
        "tests/data/test_hub_download.py::test_what_has_changed_since_is_not_mixed",
        (
            "going on: a file that changed is mixed in",
            '        if _digest(next(texts, (None, None))[1]) != lines[-1]["last"]:',
            "        if next(texts, (None, None)) and False:",
        ),
    ),
    *of(
        "sllm/data/find.py",
        "tests/data/test_find.py",
        (
            "find: files come in no order",
            "path: self.found[path] for path in sorted(files.values())",
            "path: self.found[path] for path in files.values()",
        ),
        (
            "find: an optional set that cannot be read is left out in silence",
            "    return not search.found and not search.problems\n",
            "    return not search.found\n",
        ),
    ),
    *of(
        "sllm/data/formats.py",
        "tests/data/test_sources.py",
        ("formats: what pzstd wrote is refused", ' or head[1:4] == b"\\x2a\\x4d\\x18"', ""),
    ),
    *of(
        "sllm/data/hub.py",
        "tests/data/test_hub.py::test_a_network_that_fails_on_the_way_costs_nothing_but_time",
        (
            "hub: failures are not forgotten after progress",
            "                    row += 1\n                    failures = 0\n",
            "                    row += 1\n",
        ),
        (
            "hub: after a fault rows are read again from where the call began",
            "                    row += 1\n                    failures = 0\n",
            "                    failures = 0\n",
        ),
        (
            "hub: after a fault one row twice",
            "read(handle, where, row):",
            "read(handle, where, max(row - 1, start)):",
        ),
        (
            "hub: waits do not double",
            "min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1))",
            "min(LONGEST_WAIT, FIRST_WAIT)",
        ),
        ("hub: 429 is final", "status in (408, 429)", "status in (408,)"),
    ),
    *of(
        "sllm/data/hub.py",
        "tests/data/test_hub.py::test_it_gives_up_in_one_line",
        ("hub: gives up one try early", "    if failures >= ATTEMPTS:", "    if failures >= ATTEMPTS - 1:"),
    ),
    *of(
        "sllm/data/hub.py",
        "tests/data/test_hub.py::test_a_branch_that_moves_meanwhile_changes_nothing",
        (
            "hub: the files are asked for by the branch, not by the commit",
            "        revision=revision,\n        data_files",
            "        revision=source.revision,\n        data_files",
        ),
    ),
    *of(
        "sllm/data/hub.py",
        "tests/data/test_hub.py::test_a_stop_ends_a_wait",
        (
            "hub: a stop does not end a wait",
            "    while (left := until - time.monotonic()) > 0:\n        check()\n",
            "    while (left := until - time.monotonic()) > 0:\n",
        ),
    ),
    *of(
        "sllm/data/measures.py",
        "tests/data/test_measures.py",
        (
            "characters in two repeated phrases count twice",
            "covered += ends[i + n] - ends[max(i, until)]",
            "covered += ends[i + n] - ends[i]",
        ),
        (
            "rules and brackets count as lines that repeat",
            "            if letters > letters_before:  # a line of signs alone (a rule, a bracket) may repeat\n",
            "            if line_size:\n",
        ),
        ("of equally frequent phrases the shortest is taken", "n_size > best_size", "n_size < best_size"),
        ("four words in a row are not yet prose", "        if row >= PROSE:", "        if row > PROSE:"),
    ),
    *of(
        "sllm/data/minhash.py",
        (
            "tests/data/test_dedup.py::test_bands_meet_as_often_as_they_should "
            "tests/data/test_dedup.py::test_what_is_nearly_equal_is_dropped_and_what_is_equal_counts_as_that"
        ),
        ("near duplicates are nearly equal only from 0.9 on", "BANDS, ROWS = 14, 8", "BANDS, ROWS = 7, 16"),
        ("an n-gram is all that came before", " - window[n % CHARACTERS] * leaving", ""),
    ),
    *of(
        "sllm/data/minhash.py",
        "tests/data/test_dedup.py::test_texts_of_less_than_an_n_gram_are_alike_only_if_they_are_equal",
        (
            "all short texts are alike",
            (
                "    if n < CHARACTERS:\n"
                "        _lower(signature, uint32(mix(rolling) >> uint64(32)), offsets, factors)\n"
            ),
            "",
        ),
    ),
    *of(
        "sllm/data/pack.py",
        "tests/data/test_pack.py::test_token_files_hold_what_the_tokenizer_says",
        (
            "documents of the second shard begin where those of the first do",
            "(starts + np.uint64(tokens)).astype(POSITION_DTYPE)",
            "starts.astype(POSITION_DTYPE)",
        ),
        (
            "the largest id of a vocabulary of 65,537 wraps",
            'return "<u2" if vocab_size <= 65_536',
            'return "<u2" if vocab_size <= 65_537',
        ),
    ),
    *of(
        "sllm/data/pack.py",
        "tests/data/test_pack.py::test_what_other_input_left_is_not_taken",
        (
            "parts of another corpus are taken up",
            'fingerprint([manifest["files"], tokenizer.fingerprint])',
            "fingerprint([tokenizer.fingerprint])",
        ),
        (
            "parts of another tokenizer are taken up",
            'fingerprint([manifest["files"], tokenizer.fingerprint])',
            'fingerprint([manifest["files"]])',
        ),
    ),
    *of(
        "sllm/data/pack.py",
        "tests/test_crash.py::test_what_is_packed_is_the_same_whenever_the_first_try_ended",
        (
            "half a manifest of a killed pack gets into the packed data",
            '    for name in ("parts", "files"):\n        remove_leftovers(work / name)\n',
            '    remove_leftovers(work / "parts")\n',
        ),
        (
            "the journal knows tokens that are not on the disk",
            "                        out.flush()\n                        os.fsync(out.fileno())",
            "                        out.flush()",
        ),
        (
            "tokens beyond the journal are not cut off",
            "                tokens_out.truncate(tokens * np.dtype(dtype).itemsize)\n",
            "",
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_seeds_and_epochs_differ_and_other_sources_do_not_matter",
        (
            "the mixing ignores the seed",
            '            np.broadcast_to(round_keys(self.seed, "block", block), (self.block, ROUNDS)),\n',
            '            np.broadcast_to(round_keys("block", block), (self.block, ROUNDS)),\n',
        ),
        (
            "all sources have the same order",
            '            round_keys(self.seed, "epoch", self._names[source], epoch)\n',
            '            round_keys(self.seed, "epoch", epoch)\n',
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_every_source_shows_each_window_once_in_each_of_its_epochs",
        (
            "every epoch has the same order",
            '            round_keys(self.seed, "epoch", self._names[source], epoch)\n',
            '            round_keys(self.seed, "epoch", self._names[source])\n',
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_every_source_shows_each_window_once_in_each_of_its_epochs",
        (
            "a phase shows again what the one before it has shown",
            "        return self.before + np.array(counts)\n",
            "        return np.array(counts)\n",
        ),
        (
            "the part of a block that is before a phase is shown again in it",
            "last.counts(first - last.start) + shown",
            "last.counts(first - last.start)",
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_a_phase_has_its_own_shares_and_changes_nothing_before_it",
        ("a phase begins at its step of one sample each", "step * global_batch, 0, np.zeros", "step, 0, np.zeros"),
        ("a block goes on into the next phase", "block, before = cut + 1, ", "block, before = cut, "),
    ),
    *of(
        "sllm/config/data.py",
        "tests/config/test_config.py::test_phases",
        (
            "a source that a phase does not name is left out",
            "{**own, **phase.weights} for phase",
            "{**dict.fromkeys(own, 0.0), **phase.weights} for phase",
        ),
        (
            "a phase's begin is rounded down",
            "    return round(share * max_steps)\n",
            "    return int(share * max_steps)\n",
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_an_epoch_of_batches_predicts_every_token_once",
        (
            "the last window is left out",
            '(self.tokens("train") - self.overlap) // (context_length',
            '(self.tokens("train") - context_length) // (context_length',
        ),
    ),
    *of(
        "sllm/data/embedded/questions.py",
        "tests/data/test_questions.py",
        (
            "only the first question is kept from what is held out",
            'if any(is_held_out(message["content"]) for message in messages if message["role"] == "user"):',
            'if is_held_out(next(message["content"] for message in messages if message["role"] == "user")):',
        ),
        (
            "who one speaks to is held out",
            "digest()[0] % 10 == 7",
            "digest()[0] % 10 == 8",
        ),
        (
            "another question has the answer of the first",
            'say("assistant", question.answer)',
            'say("assistant", topic.questions[0].answer)',
        ),
    ),
    *of(
        "sllm/data/conversations/layouts.py",
        "tests/data/test_conversation_layouts.py::test_layouts",
        (
            "what a question is about is left out",
            "for name in (*QUESTIONS, *MORE) if name in said",
            "for name in QUESTIONS if name in said",
        ),
        (
            "a prompt hides messages",
            "    found = first(LISTS)\n    if not found and",
            "    found = first(LISTS)\n    if",
        ),
        ("two systems speak", " and (not found or found[0][0] != SYSTEM)", ""),
        ("a system that says nothing", ' or message["content"].strip()]', " or True]"),
    ),
    *of(
        "sllm/data/conversations/read.py",
        "tests/data/test_conversation_layouts.py",
        ("a file without a layout is all dropped", "        if number == 0:\n", "        if False:\n"),
        ("three who speak are user and assistant", "if len(speakers) == 2 else {}", "if len(speakers) > 1 else {}"),
        ("whoever speaks twice has two turns", "in groupby(said, key=itemgetter(0))]", "in groupby(said, key=id)]"),
        (
            "columns that nobody asked for are read",
            "    return found\n\n\ndef _line",
            "    return names\n\n\ndef _line",
        ),
    ),
    *of(
        "sllm/data/conversations/clean.py",
        "tests/data/test_conversation_cleaning.py",
        ("a question that nobody answers", 'found[-1]["role"] in (USER, SYSTEM)', 'found[-1]["role"] in (SYSTEM,)'),
        (
            "a token that becomes one when it is clean",
            "for content in contents):",
            "for content in contents if content.isascii()):",
        ),
        ("the repetitions of a question count", 'if message["role"] == ASSISTANT]', "]"),
        ("personal data stays", "if self._config.clean.personal_data:", "if False:"),
        (
            "the characters of JSON count",
            'sum(len(message["content"]) for message in messages)',
            "len(to_line(messages))",
        ),
    ),
    *of(
        "sllm/data/conversations/rows.py",
        "tests/data/test_conversation_rows.py",
        (
            "a window that is not full enough is lost",
            "        if place < len(room):",
            "        if place < len(room) - 1:",
        ),
        ("the emptiest is done", "room.pop(0)[1]", "room.pop()[1]"),
        ("the last windows are lost", "    yield from filled.values()\n", ""),
        (
            "first fit",
            "bisect_left(room, (length, 0))",
            "next((i for i, (left, w) in enumerate(room[::-1]) if left >= length), len(room))",
        ),
    ),
    *of(
        "sllm/data/conversations/stage.py",
        "tests/data/test_conversations.py",
        (
            "a conversation of a whole window is too long",
            "encoded.lengths <= self._width",
            "encoded.lengths < self._width",
        ),
        (
            "conversations are named as they stand in the windows",
            "[number for row in block for number in row]",
            "range(sum(map(len, block)))",
        ),
        ("bytes of all that is said", "filled[:, 1:][said]", "filled[:, 1:]"),
        ("what is too long is not counted", "}, len(fits) - kept", "}, 0"),
        (
            "settings are named as those of text",
            "@names_of_finetune()\ndef bring_conversations(",
            "def bring_conversations(",
        ),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_conversations.py::test_what_a_kill_left_of_a_directory_goes_with_the_next_call",
        (
            "a corpus that a kill cut off stays for good",
            '        remove_leftovers(output.parent, f".{output.name}.*")\n',
            "",
        ),
        (
            "a corpus that another run writes is taken away",
            'remove_leftovers(output.parent, f".{output.name}.*")',
            "remove_leftovers(output.parent)",
        ),
    ),
    *of(
        "sllm/data/conversations/stage.py",
        "tests/data/test_conversations.py::test_what_a_kill_left_of_a_directory_goes_with_the_next_call",
        (
            "windows that a kill cut off stay for good",
            '        remove_leftovers(output.parent, f".{output.name}.*")\n',
            "",
        ),
    ),
    *of(
        "sllm/data/corpus.py",
        "tests/data/test_conversations.py::test_what_is_wrong_with_a_source_names_its_setting",
        ("settings are said to keep roles out of order", "if dropped.keys() & set(FORM)", "if not dropped"),
        ("conversations of another language cannot be kept", "if not ways or dropped.keys()", "if not dropped.keys()"),
        ("conversations are told as documents", "talks = isinstance(config, ConversationsConfig)", "talks = False"),
    ),
    *of(
        "sllm/artifacts.py",
        "tests/jobs/test_pipeline.py::test_a_section_finetune_adds_stages_to_a_finished_run",
        ("a new section is told with all in it", "if old is None and isinstance(new, dict):", "if False:"),
        ("a section that is gone is told with all in it", "if new is None and isinstance(old, dict):", "if False:"),
    ),
    *of(
        "jobs/status/results.py",
        "tests/jobs/status/test_results.py",
        ("all answers, at every status", "            told.add(korean)\n", ""),
        ("an answer over many lines", ', no_wrap=True, overflow="ellipsis")', ")"),
        (
            "what a model says is read as markup",
            'table.add_row(Text(question), Text(answer, no_wrap=True, overflow="ellipsis"))',
            "table.add_row(question, answer)",
        ),
    ),
    *of(
        "sllm/data/sources.py",
        "tests/data/test_conversation_layouts.py::test_a_file_that_cannot_be_read",
        ("null by Python's name", 'found = "null" if record is None else', "found ="),
    ),
    *of(
        "sllm/data/download.py",
        "tests/data/test_conversations.py::test_files_read_as_text_and_as_conversations_are_kept_apart",
        (
            "text for conversations",
            '        content.append(["conversations", VERSIONS["conversations"]])\n',
            "        pass\n",
        ),
    ),
    *of(
        "sllm/data/losses.py",
        "tests/data/test_conversations.py::test_much_that_is_lost_is_told_with_the_way_out",
        ("roles out of order are told to be repetition", "    if reason in FORM:\n", "    if False:\n"),
        ("the settings of text are told for conversations", 'where = "finetune.data" if', 'where = "data" if'),
    ),
    *of(
        "sllm/data/plan.py",
        "tests/data/test_conversations.py::test_conversations_of_the_hub",
        (
            "conversations of the hub are looked for in a column of text",
            "parquet_conversations if isinstance(data, ConversationsConfig) else None",
            "None",
        ),
    ),
    *of(
        "sllm/data/dedup.py",
        "tests/data/test_conversations.py::test_near_duplicates_are_found_by_what_is_said",
        ("the keys of JSON make conversations alike", "band_keys(_shown(text, config))", "band_keys(text)"),
    ),
    *of(
        "sllm/config/finetune.py",
        "tests/data/test_conversation_layouts.py::test_text_field_means_nothing",
        ("a field that is not read", 'source.text_field != "text"', "False"),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_conversation_windows.py",
        ("windows of conversations begin like those of text", "index * (length + 1 - self.overlap)", "index * length"),
        ("the last row is left out", 'self.tokens("train") - self.overlap)', 'self.tokens("train") - 1)'),
        ("rows of validation share a token", "stride, stop) + self.overlap", "stride, stop) + 1"),
        (
            "a conversation is named by its place in the windows",
            "if self.overlap == 0:\n            number",
            "if False:\n            number",
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_windows_of_trillions_of_tokens_take_no_memory_that_stays",
        (
            "windows are read through a map",
            "        return np.frombuffer(content, self.dtype)\n",
            "        return self.tokens(split, source)[index * length : (index + 1) * length + 1]\n",
        ),
    ),
    *of(
        "sllm/records.py",
        "tests/test_records.py::test_of_metrics_that_are_long_little_is_in_memory",
        (
            "all lines are held at once",
            "    for line in _whole_lines(path, offset):",
            "    for line in list(_whole_lines(path, offset)):",
        ),
    ),
    *of(
        "sllm/records.py",
        "tests/test_records.py::test_a_line_that_another_process_is_writing_is_not_cut_off",
        ("two processes append at a time", "        _wait_for_lock(file)\n", ""),
    ),
    *of(
        "jobs/ledger.py",
        "tests/jobs/test_ledger.py::test_the_ledger_is_read_again_when_it_has_changed_and_not_before",
        ("what was read once holds", "status.st_ino, status.st_size, status.st_mtime_ns", "status.st_ino"),
        ("each share reads the whole ledger", "@lru_cache(maxsize=4)\n", ""),
    ),
    *of(
        "sllm/workers.py",
        "tests/test_workers.py::test_work_is_handed_out_little_by_little",
        ("all work is handed out at once", "islice(futures, AHEAD)", "futures"),
        ("what was not handed out at first never is", "islice(more, 1)", "islice(more, 0)"),
    ),
    *of(
        "sllm/tokenizer/training.py",
        "tests/tokenizer/test_tokenizer_stage.py::test_of_a_large_source_some_shards_are_read",
        ("every shard is read", "return [paths[i * len(paths) // count] for i in range(count)]", "return paths"),
        (
            "a sample from few shards is as many times smaller",
            "fraction = wanted * sum(map(sizes.__getitem__, paths)) / sum(map(sizes.__getitem__, chosen))",
            "fraction = wanted",
        ),
    ),
    *of(
        "sllm/data/parts.py",
        "tests/data/test_download.py::test_shards_without_a_line_in_the_journal_go_and_no_others",
        (
            "shards that are in the journal go too",
            'number = sum(line["shards"][split] for line in lines)',
            "number = 0",
        ),
        (
            "of the shards left behind one goes",
            "            number += 1\n        for path",
            "            break\n        for path",
        ),
    ),
    *of(
        "sllm/data/sampler.py",
        "tests/data/test_sampler.py::test_batches_are_the_windows_of_the_token_files",
        (
            "a window without its last target",
            "(length + 1) * size, start * size)",
            "length * size, start * size)",
        ),
    ),
    *of(
        "sllm/data/shards.py",
        "tests/data/test_shards.py",
        (
            "shards: the size is not counted anew",
            (
                "            self._digests = self._open.enter_context(atomic_file(sidecar(path, DIGESTS_SUFFIX)))\n"
                "            self.shards += 1\n"
                "            self._size = 0\n"
            ),
            (
                "            self._digests = self._open.enter_context(atomic_file(sidecar(path, DIGESTS_SUFFIX)))\n"
                "            self.shards += 1\n"
            ),
        ),
        ("shards: no checksum", "write_checksum=True", "write_checksum=False"),
    ),
    *of(
        "sllm/data/sources.py",
        "tests/data/test_sources.py::test_memory_does_not_grow_with_the_file",
        ("parquet: a row group is read at once", ", pre_buffer=False)", ")"),
    ),
    *of(
        "sllm/data/sources.py",
        "tests/data/test_sources.py::test_what_was_not_said_is_no_turn",
        (
            "AI Hub: an empty list hides the full one",
            "    for layout in present:  #",
            "    for layout in present[:1]:  #",
        ),
    ),
    *of(
        "sllm/data/sources.py",
        "tests/data/test_hub.py::test_files_and_rows",
        (
            "parquet: rows are miscounted after row groups that were passed over",
            "            row += parquet.metadata.row_group(group).num_rows\n            group += 1\n",
            "            group += 1\n",
        ),
    ),
    *of(
        "sllm/data/sources.py",
        "tests/data/test_sources.py",
        (
            "sources: all that speak are one",
            "chr(ord('A') + len(names) % 26)",
            "chr(ord('A'))",
        ),
    ),
    *of(
        "sllm/distributed.py",
        "tests/test_distributed.py::test_ranks_agree",
        (
            "a rank that is asked to stop stops alone",
            "        return self.sum([float(flag)])[0] > 0",
            "        return flag",
        ),
        ("each rank looks at the files that it sees", "[make() if self.main else None]", "[make()]"),
        (
            "what the first rank sees stays there",
            "if self.control is not None:  # not gathered",
            "if False:  # not gathered",
        ),
    ),
    *of(
        "sllm/export/transformers.py",
        "tests/export/test_transformers.py::test_the_logits_are_ours",
        (
            "linear weights are not turned",
            "layer.weight.t() if isinstance(layer, nn.Linear) else layer.weight",
            "layer.weight",
        ),
        ("embeddings are exported as they are trained", "if model.head is None else normed(table)", ""),
        ("gate and expansion change places", '"gate": "mlp.gate_proj"', '"gate": "mlp.up_proj"'),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_transformers_computes_our_logits_from_its_tensors",
        ("linear weights of a GPT-2 are not turned back", 'if family == "gpt2" and ".h." in theirs:', "if False:"),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_what_is_no_matrix_stays_as_it_is",
        ("the table of positions is quantized", ' or name == "position_embd.weight"', ""),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_rows_that_blocks_do_not_fill_are_f16",
        ("rows that blocks do not fill", "elif type == ", "elif False and type == "),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_its_settings",
        ("every head has keys of its own", "config.kv_heads", "config.n_heads"),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_its_tokenizer",
        ("special tokens are text", "[gguf.TokenType.CONTROL]", "[gguf.TokenType.NORMAL]"),
        ("no <bos> before a text", "add_add_bos_token(True)", "add_add_bos_token(False)"),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_a_tuned_model_comes_with_its_template_and_the_end_of_a_turn",
        ("a turn has no end", "        writer.add_eot_token_id(END_ID)\n", ""),
    ),
    *of(
        "sllm/export/gguf.py",
        "tests/export/test_gguf.py::test_what_is_no_gguf_file_is_not_replaced",
        ("any file is replaced", "if file.read(len(MAGIC)) == MAGIC:", "if True:"),
    ),
    *of(
        "sllm/export/transformers.py",
        "tests/export/test_transformers.py::test_an_export_of_an_earlier_version_is_replaced",
        ("an export of an earlier version is somebody's files", "FORMAT, FORMER_FORMAT)", "FORMAT)"),
    ),
    *of(
        "sllm/export/transformers.py",
        "tests/export/test_transformers.py::test_its_tokenizer_knows_all_special_tokens",
        (
            "the tokens for conversations are not named",
            '        "additional_special_tokens": list(tokenizer.special_tokens[4:]),\n',
            "",
        ),
    ),
    *of(
        "sllm/export/transformers.py",
        "tests/export/test_transformers.py::test_a_greedy_text_is_ours",
        (
            "special tokens in the text are special",
            '"split_special_tokens": not tuned,',
            '"split_special_tokens": False,',
        ),
    ),
    *of(
        "sllm/files.py",
        "tests/test_crash.py::test_a_kill_or_a_power_cut_leaves_the_old_or_the_new",
        (
            "a file gets its name before its bytes are on the disk",
            "            file.flush()\n            os.fsync(file.fileno())\n        require_ownership()",
            "            file.flush()\n        require_ownership()",
        ),
        (
            "a folder that was moved out of the way does not come back",
            (
                "        if replaced and not (place := directory / replaced[1]).exists():\n"
                "            path.rename(place)\n"
                "        elif"
            ),
            "        if",
        ),
    ),
    *of(
        "sllm/files.py",
        "tests/jobs/test_damaged.py",
        (
            "a JSON object without the keys is taken",
            "if not isinstance(value, dict) or not value.keys() >= set(keys):",
            "if not isinstance(value, dict):",
        ),
    ),
    *of(
        "sllm/manifests.py",
        "tests/test_crash.py::test_a_kill_or_a_power_cut_leaves_the_old_or_the_new",
        (
            "a manifest over files that are not on the disk",
            "                os.fchmod(handle.fileno(), mode)\n            os.fsync(handle.fileno())",
            "                os.fchmod(handle.fileno(), mode)",
        ),
        (
            "a committed folder's name is not flushed",
            "        raise\n    fsync_directory(path.parent)\n    if old:",
            "        raise\n    if old:",
        ),
        (
            "the old folder is deleted before the new one's name is on the disk",
            (
                "    fsync_directory(path.parent)\n"
                "    if old:  # only now: a power cut might spare the deletion and lose the renames\n"
                "        delete(old)\n"
            ),
            (
                "    if old:  # only now: a power cut might spare the deletion and lose the renames\n"
                "        delete(old)\n"
                "    fsync_directory(path.parent)\n"
            ),
        ),
        (
            "the old folder is deleted before the new one is in its place",
            "    if path.exists():\n        # rename(2)",
            "    if path.exists() and not delete(path):\n        # rename(2)",
        ),
    ),
    *of(
        "sllm/manifests.py",
        "tests/test_crash.py::test_a_fault_leaves_the_old_or_the_new_and_is_told",
        (
            "a failed exchange of folders leaves none",
            "        if old:\n            old.replace(path)\n        raise",
            "        raise",
        ),
    ),
    *of(
        "sllm/manifests.py",
        "tests/test_manifests.py tests/jobs/test_permissions.py",
        (
            "files that safetensors wrote stay readable by their owner alone",
            "                os.fchmod(handle.fileno(), mode)\n",
            "                pass\n",
        ),
    ),
    *of(
        "sllm/records.py",
        "tests/test_records.py",
        (
            "the second read of a growing file begins at the wrong byte",
            "    for line in _whole_lines(path, offset):\n        offset += len(line)\n",
            "    start, offset = offset, 0\n    for line in _whole_lines(path, start):\n        offset += len(line)\n",
        ),
        (
            "half a line is read",
            '            if line.endswith(b"\\n"):\n                yield line\n',
            "            yield line\n",
        ),
    ),
    *of(
        "sllm/records.py",
        "tests/tokenizer/test_tokenizer_stage.py::test_dropped_documents_are_neither_learnt_nor_measured",
        (
            "dropped documents are in the tokenizer's sample",
            "        if number not in dropped:\n            yield number + 1, line",
            "        if True:\n            yield number + 1, line",
        ),
    ),
    *of(
        "sllm/inference/sampling.py",
        "tests/inference/test_sampling.py::test_sampling_frequencies_are_the_probabilities",
        (
            "top_p leaves out the token that reaches it",
            "    return bits >= smallest\n",
            "    return bits > smallest\n",
        ),
    ),
    *of(
        "sllm/inference/sampling.py",
        "tests/inference/test_sampling.py::test_nothing_that_avoids_sorting_draws_another_token",
        (
            "a seed draws other tokens with top_k",
            "noise = noise.gather(-1, tokens)",
            "noise = noise[:, :top_k]",
        ),
        (
            "likeliest counts what begins otherwise",
            "mass.masked_fill(bits >> (shift + 10) != smallest, 0)",
            "mass",
        ),
    ),
    *of(
        "sllm/inference/sampling.py",
        "tests/inference/test_decode.py::test_texts_are_those_of_reading_them_anew",
        ("tokens of the text before are penalized", "        self.seen.zero_()\n", ""),
        ("a recorded choice is another tensor", "self.token.copy_(sample(", "self.token = (sample("),
    ),
    *of(
        "sllm/inference/decode.py",
        "tests/inference/test_decode.py::test_texts_are_those_of_reading_them_anew",
        ("every step writes at the place of the first", "        self._at += 1\n", ""),
        (
            "a ragged batch's padding is that of the batch before",
            "        self._begins.copy_(torch.tensor(gaps)[:, None])\n",
            "",
        ),
    ),
    *of(
        "sllm/inference/generator.py",
        "tests/inference/test_generator.py::test_two_streams_at_once_are_what_each_is_alone",
        (
            "two streams share a cache",
            "        decoder, self._kept = self._kept, None\n",
            "        decoder = self._kept\n",
        ),
    ),
    *of(
        "sllm/inference/generator.py",
        "tests/inference/test_generator.py::test_a_row_of_a_batch_is_what_it_is_alone",
        (
            "a row goes beyond its limit",
            "    rows = [row[:most] for row, most in zip(rows, limits, strict=True)]\n",
            "",
        ),
    ),
    *of(
        "sllm/inference/decode.py",
        "tests/inference/test_generator.py::test_complete_cuts_only_what_is_too_long",
        ("complete leaves the model in training", "        model.train(training)", "        model.train()"),
    ),
    *of(
        "sllm/inference/context.py",
        "tests/inference/test_conversation.py",
        ("the oldest exchange is left out without need", "first + len(ids) - place <= most", "len(ids) - place < 9"),
        (
            "the system message is forgotten",
            "    ids = ids[:first] + ids[begin:]\n",
            "    ids = ids[:1] + ids[begin:]\n",
        ),
        ("a reply begins after half an exchange", "users = [first, *ends[1::2]]", "users = [first, *ends]"),
        ("a conversation without room for a reply", "if len(ids) >= context_length:", "if len(ids) > context_length:"),
        (
            "an assistant's message is answered",
            "    if wrong := problem(messages, ends_with=USER):",
            '    if wrong := problem(messages[:1], ends_with=messages[0]["role"]):',
        ),
    ),
    *of(
        "sllm/inference/generator.py",
        "tests/inference/test_conversation.py",
        ("a base model answers", "        if not self.tuned:", "        if False:"),
        ("a reply goes on after its end", "(self.tokenizer.eos_id, *ends)", "(self.tokenizer.eos_id,)"),
        (
            "a reply that may not end",
            "return self.stream_ids(ids, limit, sampling, seed, ENDS)",
            "return self.stream_ids(ids, limit, sampling, seed)",
        ),
        ("a text takes the decoder of a reply over", "id(decoder.choice.utf8)", "id(utf8)"),
    ),
    *of(
        "sllm/inference/sampling.py",
        "tests/inference/test_conversation.py",
        ("the end of a reply within a character", "columns[tokenizer.eos_id].clone()", "0"),
    ),
    *of(
        "sllm/inference/chat.py",
        "tests/inference/test_conversation.py",
        ("/new forgets the system message", "            messages = beginning\n", "            messages = []\n"),
        ("a line without an answer stays", "if problem(answered, ends_with=ASSISTANT):", "if False:"),
        (
            "a reply that was stopped is forgotten",
            "            pass  # what was said so far stays",
            "            continue",
        ),
        ("an empty line is asked", "        if not line.strip():", "        if False:"),
    ),
    *of(
        "jobs/models.py",
        "tests/jobs/test_models.py",
        ("generate takes the tuned model", "if tuned and (best / CONFIG)", "if (best / CONFIG)"),
        ("any folder of a run is that of its finetuning", 'if path.name == "finetune" and training', "if training"),
    ),
    *of(
        "sllm/tokenizer/template.py",
        "tests/export/test_chat_template.py",
        (
            "Transformers takes an assistant who begins",
            "{% if loop.index0 >= first and message",
            "{% if loop.index0 > first and message",
        ),
        (
            "Transformers reads a text that forges a turn",
            "{% if token in message['content'] %}",
            "{% if token == message['content'] %}",
        ),
        ("Transformers takes a turn of white space", "message['content'] | trim %}", "message['content'] %}"),
    ),
    *of(
        "sllm/export/transformers.py",
        "tests/export/test_chat_template.py",
        (
            "the template's tokens are letters there",
            '"split_special_tokens": not tuned',
            '"split_special_tokens": True',
        ),
        ("an answer goes on there after its end", "list(ENDS) if tuned else tokenizer.eos_id", "tokenizer.eos_id"),
        ("a base model has a template", '({"chat_template": JINJA} if tuned else {})', '{"chat_template": JINJA}'),
        (
            "conversations are not compared",
            "for messages in CHECKED_CONVERSATIONS if tuned else ():",
            "for messages in ():",
        ),
    ),
    *of(
        "sllm/tokenizer/template.py",
        "tests/tokenizer/test_template.py",
        ("a text forges a turn", "if found := special_token_in(content):", 'if found := "<|end|>" in content and END:'),
        (
            "a system message in the middle",
            "expected = [ASSISTANT] if role == USER else [USER]",
            "expected = [ASSISTANT, SYSTEM] if role == USER else [USER]",
        ),
        ("a turn without text", "if not content.strip():", "if not content:"),
        ("a reply that nobody asked for", "return ids if last == ASSISTANT else [*ids,", "return [*ids,"),
        ("an old vocabulary's bytes as roles", "    require_template(tokenizer)\n    last", "    last"),
    ),
    *of(
        "sllm/data/masks.py",
        "tests/data/test_masks.py",
        ("the end of an answer is not learnt", "before = tokens[..., :-1]", "before = tokens[..., 1:]"),
        ("the filler is learnt", ", END_ID, Tokenizer.bos_id])", ", Tokenizer.bos_id])"),
        ("an answer cut by its window goes on in the next one", "END_ID, Tokenizer.bos_id])", "END_ID])"),
        ("filler sees nothing but itself", "tokens == Tokenizer.bos_id", "np.isin(tokens, [0, Tokenizer.bos_id])"),
    ),
    *of(
        "sllm/inference/chat.py",
        "tests/inference/test_chat.py::test_chat_reads_the_line_whatever_the_room",
        ("the chat forgets the newest turn", "        del turns[0]\n", "        del turns[-1]\n"),
    ),
    *of(
        "sllm/inference/chat.py",
        "tests/inference/test_chat.py::test_each_turn_of_a_chat_draws_anew_and_a_seed_repeats_all",
        ("each turn of a chat draws the same", "(seed + turn) % (LARGEST_SEED + 1)", "seed"),
    ),
    *of(
        "sllm/training/metrics.py",
        "tests/test_crash.py::test_a_kill_or_a_power_cut_leaves_the_old_or_the_new",
        ("metrics before a checkpoint are not flushed", "            os.fsync(file.fileno())\n", "            pass\n"),
        (
            "metrics are cut back in place",
            "        with atomic_file(path) as file:\n            file.writelines(",
            '        with path.open("wb") as file:\n            file.writelines(',
        ),
    ),
    *of(
        "sllm/model/first_weights.py",
        "tests/model/test_families.py",
        (
            "every head looks one token back",
            "zip(queries, itertools.cycle(LOOKS_BACK)",
            "zip(queries, itertools.cycle((1,))",
        ),
        (
            "tokens that are spelt alike start alike in one process only",
            "    return sorted(pieces)",
            "    return list(pieces)",
        ),
        ("heads look ahead", "] = -size * (angles", "] = size * (angles"),
        ("syllables are not taken apart", ' if "가" <= character <= "힣" else character', " if False else character"),
        (
            "the residual projections start as all others",
            "INIT_STD / math.sqrt(2 * config.n_layers) if into_residual else INIT_STD\n",
            "INIT_STD\n",
        ),
        (
            "with an output layer of its own, the residual projections start as all others",
            " and into_residual:\n            nn.init.zeros_",
            " and False:\n            nn.init.zeros_",
        ),
    ),
    *of(
        "sllm/model/shared.py",
        "tests/model/test_families.py",
        (
            "embeddings are not normed as they are looked up",
            "        x = normed(rows) if self.normed else rows\n",
            "        x = rows\n",
        ),
        (
            "the residual stream is fp16 under fp16",
            "return x.bfloat16() if dtype_of_products(x) == torch.bfloat16 else x",
            "return x.to(dtype_of_products(x))",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_profile.py",
        (
            "another step is profiled",
            "self.step + 1 == self.experiment.train.profile",
            "self.step == self.experiment.train.profile",
        ),
    ),
    *of(
        "sllm/model/attention.py",
        "tests/model/test_attention.py",
        ("tokens see the future", "return query >= key", "return query <= key"),
        ("dropout is left out", "or model.config.dropout or", "or"),
    ),
    *of(
        "sllm/model/shared.py",
        "tests/model/test_attention.py::test_a_model_that_does_not_train_uses_pytorchs_own",
        (
            "the mask of training is validation's too",
            "        elif self.training:\n",
            "        else:\n",
        ),
    ),
    *of(
        "sllm/training/trainer.py",
        "tests/training/test_exact.py::test_an_attention_that_fails_is_given_up_for_pytorchs_own",
        (
            "an attention that failed is tried again",
            "            self.attention = use_own(self.model)\n",
            '            self.attention = ""\n',
        ),
    ),
    *of(
        "sllm/model/loss.py",
        "tests/model/test_loss.py",
        (
            "the tokens of the last piece only",
            "                by_weight += gradient.T @ some",
            "                by_weight = gradient.T @ some",
        ),
        ("the scale is left out of the weights' gradient", "by_weight * factor,", "by_weight / len(by_hidden),"),
        (
            "the target's probability is not taken away",
            "p.new_full((len(targets), 1), -1.0)",
            "p.new_full((len(targets), 1), 0.0)",
        ),
    ),
    *of(
        "sllm/model/gpt2.py",
        "tests/model/test_families.py",
        ("no dropout of attention", "self.dropout if self.training else 0.0", "0.0"),
    ),
    *of(
        "sllm/model/qwen3.py",
        "tests/model/test_families.py",
        (
            "keys are not normed",
            "rotate(self.k_norm(k), positions)",
            "rotate(k, positions)",
        ),
        (
            "a head is turned the other way",
            "[a * cos - b * sin, b * cos + a * sin]",
            "[a * cos + b * sin, b * cos - a * sin]",
        ),
        (
            "positions count from the padding",
            "        positions = self.places(tokens.shape[1], at, begins)\n",
            "        positions = self.places(tokens.shape[1], at, None)\n",
        ),
    ),
    *of(
        "sllm/model/gpt2.py",
        "tests/evaluation/test_validation.py::test_leaves_the_model_as_it_was",
        (
            "attention drops in evaluation",
            "self.dropout if self.training else 0.0",
            "self.dropout",
        ),
    ),
    *of(
        "sllm/training/optim.py",
        "tests/training/test_optim.py",
        (
            "every group has the rate of the matrices",
            '            group["lr"] = group["peak"] * (rate / config.learning_rate)\n',
            '            group["lr"] = rate\n',
        ),
        ("the output layer is a matrix", 'part in ("embedding", "head")', 'part in ("embedding",)'),
        (
            "AdamW has the matrices too",
            '    muon = [groups.pop("matrices")] if',
            '    muon = [groups["matrices"]] if',
        ),
    ),
    *of(
        "sllm/training/optim.py",
        "tests/training/test_optim.py::test_muon_in_fp32_is_that_of_torch_but_for_the_rounding",
        ("Muon in fp32 has no Nesterov", 'parameter.grad.lerp(mean, group["momentum"])', "mean"),
        ("Muon in fp32 has one length for all shapes", " * math.sqrt(max(1, rows / columns))", ""),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/training/test_exact.py::test_any_number_of_ranks_and_any_change_of_it_is_the_same_training",
        (
            "a resume forgets Muon's state",
            "    for optimizer in optimizers:\n",
            "    for optimizer in optimizers[:1]:\n",
        ),
    ),
    *of(
        "sllm/training/optim.py",
        "tests/training/test_training_step.py::test_training_is_the_plain_loop",
        ("beta1 is ignored", "betas=(config.beta1, config.beta2)", "betas=(0.9, config.beta2)"),
        ("eps is ignored", "eps=config.eps, ", ""),
        (
            "everything decays",
            '        decay = config.weight_decay if group == "matrices" else 0.0\n',
            "        decay = config.weight_decay\n",
        ),
        ("decay is in the gradient, as in Adam", "        torch.optim.AdamW(", "        torch.optim.Adam("),
        (
            "warm-up begins at 0",
            "        return config.learning_rate * step / config.warmup_steps\n",
            "        return config.learning_rate * (step - 1) / config.warmup_steps\n",
        ),
        (
            "the cosine ignores the warm-up",
            "    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)\n",
            "    progress = step / config.max_steps\n",
        ),
        ("the lowest rate is ignored", "    return config.min_learning_rate + span * 0.5", "    return span * 0.5"),
    ),
    *of(
        "sllm/training/optim.py",
        "tests/training/test_optim.py::test_warm_up_then_nothing_then_a_line",
        (
            "the decay ends above the lowest rate",
            "left = (config.max_steps - step)",
            "left = (config.max_steps + 1 - step)",
        ),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/training/test_training.py::test_the_checkpoint_at_the_start_of_the_decay_is_kept",
        (
            "the checkpoint at the start of the decay goes like any other",
            "        keep = {*good[-self.config.keep_last :], self.kept_step}\n",
            "        keep = {*good[-self.config.keep_last :]}\n",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_the_checkpoint_at_the_start_of_the_decay_is_kept",
        (
            "no checkpoint at the start of the decay",
            "self.step in (self.branch, last))",
            "self.step == last)",
        ),
    ),
    *of(
        "sllm/training/saver.py",
        "tests/training/test_saver.py",
        (
            "a checkpoint is there before its metrics are",
            "        self._sync()  # a resume",
            "        # a resume",
        ),
        ("a stop waits for the checkpoint before", "        if self._cancelled.is_set():\n", "        if False:\n"),
    ),
    *of(
        "sllm/training/saver.py",
        "tests/training/test_training.py::test_ranks_that_do_not_see_the_disk_write_nothing",
        ("a rank writes where rank 0 will not find it", " if sees or rank == 0]", "]"),
    ),
    *of(
        "sllm/training/schedule.py",
        "tests/training/test_saver.py",
        ("a kill takes the two minutes and the write before them", "LOST - self._durable)", "LOST)"),
        ("a job that is stopped counts as a failure", '["last_step"] >= first', '["last_step"] + 1 >= first'),
    ),
    *of(
        "sllm/manifests.py",
        "tests/training/test_training.py::test_straight_run_learns_and_is_complete",
        (
            "the best model is a copy of the checkpoint's",
            "        (directory / name).hardlink_to(source / name)\n",
            "        shutil.copyfile(source / name, directory / name)\n",
        ),
    ),
    *of(
        "sllm/stop.py",
        "tests/test_stop.py",
        ("the last signal is the reason", "        if self._signal is None:  # what", "        if True:  # what"),
        (
            "SIGUSR2 ends the job",
            "SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)",
            "SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)",
        ),
    ),
    *of(
        "sllm/tokenizer/characters.py",
        "tests/tokenizer/test_characters.py::test_special_tokens_are_no_text",
        (
            "a reserved token may be generated between two characters",
            "    table = [broken] * n_special\n    table[eos_id]",
            "    table = [broken] * 3 + [bytes([BETWEEN]) + broken[1:]] * (n_special - 3)\n    table[eos_id]",
        ),
    ),
    *of(
        "sllm/tokenizer/codec.py",
        "tests/tokenizer/test_codec.py::test_a_tokenizer_of_before_stays_what_it_was",
        (
            "the fingerprint of an older tokenizer is another",
            "json.dumps([self.special_tokens, self.pattern",
            "json.dumps([SPECIAL_TOKENS, self.pattern",
        ),
    ),
    *of(
        "sllm/tokenizer/codec.py",
        "tests/tokenizer/test_codec.py::test_all_that_are_allowed_are_those_of_the_peers",
        (
            "a special token is gone where a mark follows it",
            "_split_at(allowed_special, text) if",
            "_split_at(allowed_special, nfc(text)) if",
        ),
    ),
    *of(
        "sllm/tokenizer/training.py",
        "tests/tokenizer/test_tokenizer_stage.py::test_the_sample_is_a_function_of_the_seed",
        (
            "the sample ignores the seed",
            'random.Random(f"{self._seed} {source} {path.name}")',
            'random.Random(f"{source} {path.name}")',
        ),
    ),
    *of(
        "sllm/tokenizer/training.py",
        "tests/tokenizer/test_tokenizer_stage.py::test_sources_of_one_language_share_what_is_measured",
        (
            "one source fills a language's figures",
            '        room = HELD_OUT_BYTES // languages[source["language"]]',
            "        room = HELD_OUT_BYTES",
        ),
    ),
    *of(
        "sllm/tokenizer/training.py",
        "tests/tokenizer/test_tokenizer_stage.py::test_a_signal_ends_the_stage_and_leaves_nothing",
        (
            "learning merges hears no stop",
            "            stop.check()\n    if FIRST_MERGE",
            "            pass\n    if FIRST_MERGE",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training_step.py::test_training_is_the_plain_loop",
        (
            "validation is in fp32, whatever training is in",
            "                precision=self.experiment.train.precision,\n",
            "",
        ),
        (
            "no checkpoint at the end",
            "self.step in (self.branch, last))",
            "self.step == self.branch)",
        ),
    ),
    *of(
        "sllm/training/trainer.py",
        (
            "tests/training/test_training_step.py::test_dropout_differs_between_steps_and_micro_batches_and_only"
            "_where_it_is_asked_for"
        ),
        (
            "every step has the same dropout",
            "_dropout_seed(self.experiment.seed, self.step + 1, micro_batch))",
            "_dropout_seed(self.experiment.seed, 1, micro_batch))",
        ),
        (
            "dropout is off in training",
            "        self.model.train()\n        rate",
            "        self.model.eval()\n        rate",
        ),
    ),
    *of(
        "sllm/training/trainer.py",
        "tests/training/test_training_step.py::test_training_is_the_plain_loop",
        (
            "the rate is late by a step",
            "        rate = learning_rate(self.step + 1, self.config)\n",
            "        rate = learning_rate(max(self.step, 1), self.config)\n",
        ),
        (
            "the schedule is ignored",
            "        set_learning_rate(self.optimizers, rate, self.config)\n",
            "",
        ),
        (
            "gradients are not clipped",
            "norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)",
            "norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf)",
        ),
        (
            "each micro-batch's loss is divided by the number of micro-batches",
            "            self.scaler.scale(loss).backward()",
            "            self.scaler.scale(loss / self.gradients.micro_batches).backward()",
        ),
        (
            "fp16: the norm is that of the scaled gradient",
            "            self.scaler.unscale_(optimizer)\n",
            "            pass\n",
        ),
        (
            "gradients add up over the steps",
            "        self.scaler.update()\n        self.model.zero_grad()\n",
            "        self.scaler.update()\n",
        ),
        (
            "the sources' weights are ignored",
            "            step: {name: weight for name, weight in weights.items() if name in names}\n",
            "            step: {name: 1.0 for name in weights if name in names}\n",
        ),
        (
            "the order ignores the seed",
            "phases[0], length, experiment.seed, global_batch",
            "phases[0], length, 0, global_batch",
        ),
        (
            "the start values ignore the seed",
            "        seed(world.device, experiment.seed)\n",
            "        seed(world.device, 0)\n",
        ),
        (
            "every micro-batch has the same samples",
            "        return (step - 1) * self.config.global_batch + micro_batch * self.config.micro_batch\n",
            "        return (step - 1) * self.config.global_batch\n",
        ),
        (
            "the norm is reported after clipping",
            '            "gradient_norm": finite(float(taken.figures[-1])),',
            '            "gradient_norm": finite(min(float(taken.figures[-1]), self.config.clip_norm)),',
        ),
    ),
    *of(
        "sllm/training/trainer.py",
        "tests/training/test_compile.py::test_signals_to_all_of_a_job_wait_until_it_is_compiled",
        ("compilers hear signals", "    with signals_blocked():\n", "    with contextlib.nullcontext():\n"),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_compile.py::test_nothing_compiles_after_the_first_step",
        (
            "validation compiles",
            '        with torch.compiler.set_stance("force_eager"):  # every',
            "        with contextlib.nullcontext():  # every",
        ),
    ),
    *of(
        "sllm/training/trainer.py",
        "tests/training/test_compile.py::test_nothing_compiles_after_the_first_step",
        (
            "on a CPU the first step compiles",
            '    if not compiles and trainer.world.device.type == "cpu":\n',
            '    if trainer.world.device.type == "cpu":\n',
        ),
        (
            "the sum of gradients compiles in the first step",
            "            self.gradients.add()  # which compiles too",
            "            self.model.zero_grad()  # which compiles too",
        ),
    ),
    *of(
        "jobs/launch/submit.py",
        "tests/slurm/test_environment.py::test_a_reader_that_leaves_takes_no_run_from_its_jobs",
        (
            "`sllm submit | head` takes the run back from its jobs",
            "    outlive_readers()  # else the lock would take the run back from jobs that are in the queue\n",
            "",
        ),
    ),
    *of(
        "jobs/launch/machine.py",
        "tests/jobs/test_pipeline.py::test_steps_that_are_left",
        ("a training that comes back begins anew", "RunDirectory(set_aside(run, key))", "run"),
    ),
    *of(
        "jobs/describe.py",
        "tests/jobs/test_disk_space.py tests/jobs/test_describe.py",
        ("the checkpoint before the decay takes no room", ' + (train.schedule == "wsd")', ""),
        ("tokens of a small vocabulary take four bytes", "<= 1 << 16 else 4", "< 1 else 4"),
    ),
    *of(
        "jobs/estimate.py",
        "tests/jobs/test_estimate.py",
        ("every run is estimated on one GPU", "tokens / speed / computing / 3600", "tokens / speed / 3600"),
        ("GPUs that are taken and idle cost nothing", "hours[0] * gpus[0][1]", "hours[0] * gpus[0][0]"),
        ("of a range only the fewest nodes are told", "sorted({counts[0], counts[-1]})", "[counts[0]]"),
        ("what was measured compiled holds for eager", "(gpu, train.compile)", "(gpu, row.compiled)"),
    ),
    *of(
        "jobs/failures.py",
        "tests/jobs/test_run.py::test_what_a_user_must_change_is_said",
        ("without a C++ compiler there is a traceback", '"No working C++ compiler found" in text or ', ""),
    ),
    *of(
        "sllm/training/wandb_mirror.py",
        "tests/training/test_wandb_mirror.py::test_a_signal_to_all_of_a_job_does_not_end_it_while_it_starts",
        ("the mirror hears signals while it starts", "    with signals_blocked():  # until", "    if True:  # until"),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_low_precision_trains_and_resumes_exactly",
        ("the scaler's state is not resumed", '            self.trainer.scaler.load_state_dict(state["scaler"])\n', ""),
        (
            "a resume forgets the optimizer's state",
            "            optimizer = self.world.tensors_from_main(found.optimizer if found else {})\n",
            "            optimizer: dict[str, torch.Tensor] = {}\n",
        ),
    ),
    *of(
        "sllm/training/best.py",
        "tests/training/test_training.py::test_the_best_model_stays_while_the_validation_gets_worse",
        (
            "the last model is taken for the best",
            "        if loss is None or (former is not None and loss >= former.loss):\n",
            "        if loss is None:\n",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_the_best_model_stays_while_the_validation_gets_worse",
        (
            "a resume forgets the best",
            "        self.best.known = self.world.from_main(lambda: self.best.on_disk(checksums=True))\n",
            "",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_a_best_model_that_is_gone_does_not_count",
        (
            "a flipped best counts at the resume",
            "        self.best.known = self.world.from_main(lambda: self.best.on_disk(checksums=True))\n",
            "        self.best.known = self.world.from_main(lambda: self.best.on_disk())\n",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_a_damaged_checkpoint_is_passed_over",
        (
            "metrics are not cut back at a resume",
            "        records = self.world.from_main(lambda: cut_back(self.run.metrics, self.step))\n",
            "        records = self.world.from_main(lambda: read_jsonl(self.run.metrics))\n",
        ),
    ),
    *of(
        "sllm/evaluation/loss.py",
        "tests/evaluation/test_validation.py::test_figures_are_those_of_a_plain_computation",
        ("bits per byte are nats per byte", "finite(nats / math.log(2) / text_bytes)", "finite(nats / text_bytes)"),
        (
            "bytes are those of the inputs, not of what is predicted",
            "token_bytes[targets].sum().double()",
            "token_bytes[tokens].sum().double()",
        ),
        ("a language is its first source", "data.sources]].sum(axis=0)", "data.sources]][0]"),
    ),
    *of(
        "sllm/evaluation/loss.py",
        "tests/evaluation/test_validation.py::test_two_ranks_find_what_one_finds",
        ("each rank reports its own figures", "world.sum(sums.flatten().tolist())", "sums.flatten().tolist()"),
        (
            "batches that do not go round the ranks are left out",
            "    # Every rank goes round equally often",
            (
                "    batches = batches[: len(batches) // world.size * world.size]\n"
                "    # Every rank goes round equally often"
            ),
        ),
    ),
    *of(
        "jobs/launch/submit.py",
        "tests/jobs/launch/test_submit.py",
        (
            "a submit with other settings does not set the former training aside",
            "    moves = swap_training(order.run, order.keys)\n",
            "    moves: list[object] = []\n",
        ),
        (
            "a second submit runs the code of the first",
            '    if order.where != "here":\n',
            '    if order.where != "here" and not order.run.code.exists():\n',
        ),
    ),
    *of(
        "jobs/launch/single.py",
        "tests/jobs/launch/test_submit.py",
        (
            "sllm train goes on from a training of other settings",
            "        if former is not None and former != key:\n            changed",
            "        if False:\n            changed",
        ),
    ),
    *of(
        "jobs/ledger.py",
        "tests/test_crash.py::test_an_attempt_that_ends_at_any_call_has_one_line_in_the_ledger",
        (
            "an attempt gets two lines",
            '    if attempt is None or any(line["token"] == attempt["token"] for line in attempts(run, stage)):',
            "    if attempt is None:",
        ),
    ),
    *of(
        "jobs/ledger.py",
        "tests/jobs/test_ledger.py",
        ("attempts are counted from the first submit on", "    newest = max((i for", "    newest = min((i for"),
        ("an attempt does not close the one before", "    close(run, stage)\n    run.progress", "    run.progress"),
        (
            "attempts of other settings are counted against a stage",
            'and fingerprint in (None, line["fingerprint"])',
            "",
        ),
        ("one attempt too few", "if cap is not None and count > cap:", "if cap is not None and count >= cap:"),
        (
            "preemptions of a stage without steps count as fruitless",
            'line["ended"] not in (PREEMPTED, NODE_FAILURE, SIGNALLED)',
            'line["ended"] not in (NODE_FAILURE, SIGNALLED)',
        ),
        (
            "a killed attempt has lasted until somebody looked",
            'silent_since = last_sign(run, stage, attempt["started"])',
            "silent_since = time.time()",
        ),
    ),
    *of(
        "sllm/origin.py",
        "tests/jobs/launch/test_origin.py::test_the_training_is_known_by_the_content_of_the_model "
        "tests/jobs/launch/test_origin.py::test_a_model_that_vanished_is_missed_only_where_it_is_needed",
        (
            "the training from one model is taken for that from another",
            '"weights": checksums[WEIGHTS][:16]',
            '"weights": WEIGHTS',
        ),
        (
            "a model that has vanished is missed where nothing of it is needed any more",
            "        if told in (known := _known(experiment)):\n",
            "        if (known := _known(experiment)) and not told:\n",
        ),
    ),
    *of(
        "jobs/launch/start.py",
        "tests/jobs/launch/test_origin.py::test_what_is_not_there_or_does_not_fit_is_a_line "
        "tests/jobs/launch/test_origin.py::test_damage_is_found_before_anything_is_written",
        (
            "a step after which two trainings are no longer the same is branched from",
            "    if origin.step <= shared:\n",
            "    if shared:\n",
        ),
        (
            "a model with other bytes than were written is started from",
            "            read_manifest(origin.directory, checksums=True)\n",
            "            read_manifest(origin.directory)\n",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/jobs/launch/test_origin.py::test_without_its_first_checkpoint_the_training_does_not_start_from_random_weights",
        (
            "a training whose model is lost begins with random weights",
            '        elif self.trajectory["train"].get("init_from"):\n',
            "        elif self.origin:\n",
        ),
    ),
    *of(
        "sllm/training/checkpoint.py",
        "tests/jobs/launch/test_origin.py::test_continued_pretraining_begins_where_the_model_was",
        (
            "the copy of the model that a training began with is kept for ever",
            "            keep.discard(0)",
            "            keep.add(0)",
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_pipeline.py",
        (
            "a stage that was done with other settings counts as done",
            '    if done["fingerprint"] != fingerprint(key):\n        return _changes(done["key"], key)\n',
            "",
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_pipeline.py::test_a_job_refuses_when_a_stage_before_it_is_not_done",
        (
            "the best model deleted: the training counts as done",
            (
                "    if stage.name in TRAININGS and not _whole(best := run.training(stage.name).best):\n"
                '        return [f"{best} is gone or damaged"]\n'
            ),
            "",
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_pipeline.py::test_any_whole_checkpoint_tells_whose_the_training_is",
        (
            "only the oldest checkpoint tells whose training it is",
            "    for step in reversed(checkpoint_steps(checkpoints)):",
            "    for step in checkpoint_steps(checkpoints)[:1]:",
        ),
    ),
    *of(
        "jobs/launch/prepare.py",
        "tests/jobs/launch/test_submit.py",
        (
            "a file that was edited is not copied again",
            "    if old == {name: sha256(file) for name, file in names.items()}:\n        return\n",
            "    if old.keys() == names.keys():\n        return\n",
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_branch.py::test_longer_and_longer",
        (
            "a longer training goes on from the decay of the shorter one",
            "furthest < step <= shared and _whole(",
            "furthest < step and shared and _whole(",
        ),
    ),
    *of(
        "jobs/branch.py",
        "tests/jobs/test_branch.py::test_longer_and_longer",
        (
            "the metrics of the former decay stay",
            "lines_up_to(source.metrics, branch.step)",
            "lines_up_to(source.metrics, branch.steps)",
        ),
        ("the best model of the former decay stays", '["step"] <= branch.step and not', '["step"] and not'),
        (
            "checkpoints are those of the former training still",
            '{**read_object(path / "state.json"), "trajectory": keys["pretrain"]}',
            'read_object(path / "state.json")',
        ),
    ),
    *of(
        "jobs/branch.py",
        "tests/jobs/test_branch.py::test_a_submit_that_is_refused_leaves_the_trainings_as_they_were",
        (
            "checkpoints of a submit that was refused stay",
            '        if step > record["before"]:\n',
            "        if False:\n",
        ),
    ),
    *of(
        "jobs/previous.py",
        "tests/jobs/test_pipeline.py::test_a_crash_at_each_rename_of_an_exchange_leaves_trainings_whole",
        (
            "checkpoints are the first to go: after a crash nobody knows whose the rest is",
            '"metrics.jsonl", *names, "checkpoints"]',
            '"metrics.jsonl", *names]\n        names.insert(0, "checkpoints")',
        ),
        (
            "checkpoints come back last: after a crash the rest is nobody's",
            "for name in names if move.changes else reversed(names):",
            "for name in names:",
        ),
        (
            "the run id of W&B does not move",
            '"wandb", "wandb.json", "metrics.jsonl"',
            '"wandb", "metrics.jsonl"',
        ),
    ),
    *of(
        "jobs/perform.py",
        "tests/jobs/test_pipeline.py::test_a_job_refuses_when_a_stage_before_it_is_not_done",
        (
            "a job does not look at the stages before it",
            "    require_parents(stage, run, keys, artifacts)\n    report_to(",
            "    report_to(",
        ),
        (
            "only the first stage before it is looked at",
            "[STAGES[name] for name in stage.needs if name in keys]",
            "[STAGES[name] for name in stage.needs[:1] if name in keys]",
        ),
    ),
    *of(
        "jobs/perform.py",
        "tests/jobs/test_pipeline.py::test_files_that_have_changed_since_the_submit_are_named",
        (
            "a share of the download takes files that have changed",
            'gets = stage.whole in ("download", "conversations")',
            'gets = stage.name in ("download", "conversations")',
        ),
    ),
    *of(
        "jobs/perform.py",
        "tests/jobs/test_pipeline.py::test_only_the_download_may_ask_the_hub_and_another_may_follow_in_the_same_process",
        (
            "every stage may ask the hub",
            "if gets else offline()",
            "if gets else contextlib.nullcontext()",
        ),
    ),
    *of(
        "sllm/data/offline.py",
        "tests/data/test_offline.py",
        ("a download after another stage finds no network", "        del os.environ[VARIABLE]\n", "        pass\n"),
        ("libraries stay offline", "        tell(in_hub, in_datasets)", "        tell(True, True)"),
    ),
    *of(
        "jobs/perform.py",
        "tests/jobs/test_pipeline.py::test_a_stage_is_done_when_its_own_job_has_ended_not_its_shares",
        ("a share marks itself done", "    if main and stage.name == stage.whole:", "    if main:"),
    ),
    *of(
        "jobs/run.py",
        ("tests/jobs/launch/test_launch.py::test_a_process_of_a_stage_is_held_to_the_device_that_the_profile_promises"),
        (
            "the device that the profile promises is not asked for",
            "adopt_device(attempt.resources(run, stage.name).promised_device if run.cluster.is_file() else None)",
            "adopt_device(None)",
        ),
    ),
    *of(
        "jobs/slurm/batch.py",
        "tests/jobs/slurm/test_sbatch.py",
        (
            "no report of a chain that failed",
            '"afterany" if ended else "afterok"',
            '"afterok"',
        ),
        (
            "a stage starts when the one before it has failed",
            '"afterany" if ended else "afterok"',
            '"afterany"',
        ),
    ),
    *of(
        "jobs/slurm/submit.py",
        "tests/jobs/slurm/test_sbatch.py",
        (
            "submitit sends a script of its own",
            "return self._text",
            "return super()._make_submission_file_text(command, uid)",
        ),
        ("the tasks of a job array find nothing to do", "in range(tasks or 0):", "in range(0):"),
    ),
    *of(
        "jobs/status/states.py",
        "tests/jobs/status/test_tables.py::test_the_time_of_a_stage_is_that_of_all_its_attempts",
        (
            "a stage has taken as long as its last attempt",
            'sum(line["seconds"] for line in self.attempts)',
            'sum(line["seconds"] for line in self.attempts[-1:])',
        ),
    ),
    *of(
        "jobs/status/states.py",
        (
            "tests/jobs/status/test_tables.py::test_what_was_done_and_tried_with_other_settings_is_passed_over"
            " tests/jobs/status/test_tables.py::test_a_job_that_gave_up_is_no_job_that_is_gone "
            "tests/jobs/status/test_tables.py::test_a_requeued_job_that_slurm_has_started_is_not_in_the_queue"
        ),
        (
            "done with other settings is shown as done",
            'done if done and done["fingerprint"] == expected else None',
            "done",
        ),
    ),
    *of(
        "jobs/slurm/cluster.py",
        "tests/jobs/slurm/test_cluster.py",
        (
            "of a range of nodes the most is left out",
            "range(int(fewest), int(most or fewest) + 1)",
            "range(int(fewest), int(most or fewest))",
        ),
        (
            "the fewest nodes may be more than the most",
            "not 1 <= fewest <= most <= MOST_NODES",
            "not 1 <= fewest or not 1 <= most <= MOST_NODES",
        ),
    ),
    *of(
        "jobs/slurm/batch.py",
        "tests/jobs/test_cli.py::test_a_range_of_nodes",
        (
            "of a range of nodes Slurm is told of the tasks of the fewest",
            '"ntasks-per-node": None if is_range else tasks',
            '"ntasks-per-node": tasks',
        ),
        ("an attempt on several nodes starts the ranks of one", "$(({tasks} * SLURM_NNODES))", "{tasks}"),
    ),
    *of(
        "jobs/launch/order.py",
        "tests/jobs/test_cli.py::test_one_line_and_nothing_written",
        ("of a range of nodes only the most is checked", "*resources.rank_counts)", "resources.rank_counts[-1])"),
    ),
    *of(
        "jobs/status/tables.py",
        "tests/jobs/status/test_tables.py::test_on_how_many_ranks_the_attempts_ran",
        ("numbers of ranks that did not change are told again", "in groupby(told)]", "in ((one, 0) for one in told)]"),
        (
            "an attempt that began before the ranks were written down breaks the table",
            'for line in attempts if line.get("ranks")]',
            "for line in attempts]",
        ),
    ),
    *of(
        "jobs/status/view.py",
        "tests/jobs/status/test_view.py",
        (
            "metrics that were cut back are read on from the old place",
            "if (inode := self._path.stat().st_ino) != self._inode:",
            "if (inode := self._path.stat().st_ino) != self._inode and not self._inode:",
        ),
    ),
    *of(
        "sllm/training/exact.py",
        "tests/training/test_exact.py",
        (
            "gradients are not rounded before they are added",
            "gradient.mul_(factor).round_().long()",
            "gradient.mul_(factor).long()",
        ),
        ("a sum may overflow", "self._unit * 2.0**63 / self.micro_batches", "self._unit * 2.0**63"),
        ("sums go on over the steps", "            total.zero_()\n", "            pass\n"),
        ("one overflow spoils every later step", "        self._worst.zero_()\n", ""),
        (
            "what does not fit is forgotten after its micro-batch",
            "        self._worst = torch.maximum(self._worst, largest)\n",
            "        self._worst = largest\n",
        ),
        (
            "an overflow before the last micro-batch of a rank is not told to the others",
            "self._too_large(torch.maximum(self._worst, self._largest))",
            "self._too_large(self._largest)",
        ),
        (
            "a digest does not see every bit",
            "tensor.detach().view(torch.int32).sum(dtype=torch.int64)",
            "(tensor.detach() * 0).view(torch.int32).sum(dtype=torch.int64)",
        ),
        (
            "ranks are added as floats",
            """        future = dist.all_reduce(total, group=self.group, async_op=True).get_future()
        return future.then(lambda _: gradients.copy_(self._mean(total[:-1], total[-1])))
""",
            """        gradients.copy_(self._mean(total[:-1], total[-1]))
        future = dist.all_reduce(gradients, group=self.group, async_op=True).get_future()
        return future.then(lambda _: gradients)
""",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_a_full_disk_costs_checkpoints_but_not_the_training",
        ("a training ends without its last checkpoint", "                training.require_last()\n", ""),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_training.py::test_a_signal_to_one_rank_stops_all_at_a_step_boundary",
        (
            "a checkpoint is saved before its last step is recorded",
            "        self.settle()\n        began = ",
            "        began = ",
        ),
    ),
    *of(
        "sllm/training/batches.py",
        "tests/training/test_batches.py",
        ("what was read ahead is given, whatever is wanted", "self._ahead[0] != sample", "False"),
        (
            "nothing is read ahead",
            "self._ahead = following, self._thread.submit(self._read, following)\n        return",
            "return",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_exact.py::test_a_bit_that_flips_on_one_rank_stops_all",
        (
            "a checkpoint is saved of ranks that differ",
            "        self.trainer.check_ranks_agree()\n        self.saved",
            "        self.saved",
        ),
    ),
    *of(
        "sllm/evaluation/loss.py",
        "tests/training/test_exact.py::test_any_number_of_ranks_and_any_change_of_it_is_the_same_training",
        ("a rank's batches are counted as another's", "sums[first + world.rank] = _sums(", "sums[first] = _sums("),
    ),
    *of(
        "jobs/tools/ranks.py",
        "tests/jobs/tools/test_drill.py",
        ("the drill on one rank asks for the GPUs of all", "return -(-gpus * tasks // most)", "return gpus"),
        (
            "the drill asks for more ranks on a node",
            "for count in range(1, most + 1)",
            "for count in range(1, ranks + 1)",
        ),
    ),
    *of(
        "jobs/tools/recovery.py",
        "tests/jobs/tools/test_drill.py",
        ("weights that are nowhere are the same", "    if own != right or own == MISSING:\n", "    if own != right:\n"),
        (
            "the drill's digest leaves the optimizer out",
            "    return fingerprint(tensors)[:12] if",
            '    return fingerprint({name: told for name, told in tensors.items() if "moment" not in name})[:12] if',
        ),
    ),
    *of(
        "sbatch/pipeline.sh",
        "tests/jobs/slurm/test_sbatch.py",
        (
            "pipeline.sh: a stage starts when the one before it has failed",
            "${when:-afterok}",
            "afterany",
        ),
        ("pipeline.sh: no report of a chain that failed", "when=afterany\n", ""),
        ("pipeline.sh: the joining job does not wait for the array", '    set -- "$job"\n', ""),
        ("pipeline.sh: Ctrl-C is not heard", '  if [ -n "$stopped" ]; then exit 130; fi\n', ""),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_pipeline.py::test_a_result_that_is_gone_or_damaged_is_made_again",
        (
            "the report is of what was there before",
            "if stage.after and not reasons and",
            "if False and not reasons and",
        ),
    ),
    *of(
        "jobs/launch/submit.py",
        "tests/slurm/test_chain.py::test_a_bug_is_tried_twice_and_its_dependents_are_cancelled",
        (
            "the report of a chain that failed keeps the next one away",
            "                give_way(order.run)\n",
            "                pass\n",
        ),
    ),
    *of(
        "jobs/slurm/chain.py",
        "tests/slurm/test_resume.py",
        ("the report does not wait for what is submitted anew", "missing.intersection(waits.get(name, ()))", "False"),
    ),
    *of(
        "sllm/report/markup.py",
        "tests/report/test_page.py::test_text_of_files_cannot_become_markup "
        "tests/report/test_page.py::test_a_builder_escapes_all_but_its_own",
        (
            "a quotation mark ends an attribute",
            "html.escape(visible(str(text)))",
            "html.escape(visible(str(text)), quote=False)",
        ),
        ("text may turn the page's direction round", "\\u2028-\\u202e", "\\u2028-\\u2029"),
        (
            "text that looks like markup is taken for it",
            "    if isinstance(text, Markup):",
            '    if str(text)[:1] == "<":',
        ),
    ),
    *of(
        "sllm/report/curves.py",
        "tests/report/test_page.py::test_a_thinned_curve_keeps_every_extreme "
        "tests/report/test_page.py::test_steps_that_stand_there_twice_count_once "
        "tests/report/test_page.py::test_a_run_that_trains_has_the_steps_so_far "
        "tests/report/test_page.py::test_hours_are_those_of_the_steps_and_tokens_those_up_to_them",
        ("a spike is lost where it is thinned", "np.fmax.reduceat(y, starts), width)", "mean, width)"),
        (
            "gaps count as zeros in a mean",
            "    counts = np.add.reduceat(there.astype(float), starts)",
            "    counts = np.diff(np.append(starts, len(x)))",
        ),
        (
            "of steps that stand there twice the first count",
            "return np.asarray(steps < later)",
            "return np.append(True, steps[1:] > np.fmax.accumulate(steps)[:-1])",
        ),
        ("half a line at the end is told as damaged", 'if line.endswith(b"\\n"):', "if line:"),
        ("hours are those of one step", 'np.nancumsum(self.train["seconds"]) / 3600', 'self.train["seconds"] / 3600'),
    ),
    *of(
        "sllm/report/data.py",
        "tests/report/test_page.py::test_a_damaged_ledger_leaves_the_curves "
        "tests/report/test_page.py::test_a_run_of_another_version_shows_what_can_be_read",
        (
            "a damaged ledger leaves no page",
            "(UserError, OSError, KeyError, TypeError, ValueError) as error:",
            "KeyError as error:",
        ),
        ("a run of another version has no page", "except (UserError, OSError) as error:", "except OSError as error:"),
    ),
    *of(
        "sllm/report/figures.py",
        "tests/report/test_page.py::test_it_is_one_file_that_may_ask_for_nothing "
        "tests/report/test_page.py::test_ids_are_unique_and_what_is_referred_to_is_there "
        "tests/report/test_browser.py::test_one_language_is_seen_and_nothing_is_wider_than_the_screen",
        ("pictures stay light in the dark", 'text = text.replace(colour, f"var(--{variable})")', "pass"),
        ("the words of a picture are English only", "enumerate(LANGUAGES):", "enumerate(LANGUAGES[:1]):"),
        ("ids of two pictures are the same", '"svg.hashsalt": name', '"svg.hashsalt": ""'),
    ),
    *of(
        "sllm/report/page.py",
        "tests/report/test_page.py::test_it_is_one_file_that_may_ask_for_nothing "
        "tests/report/test_page.py::test_a_run_of_another_version_shows_what_can_be_read",
        (
            "a part whose file is of another version ends the page",
            "AttributeError, LookupError,",
            "LookupError,",
        ),
        ("a page may ask others", "default-src 'none';", "default-src *;"),
    ),
    *of(
        "sllm/report/style.py",
        "tests/report/test_browser.py",
        ("a wide table moves the page", ".scroll{overflow-x:auto;", ".scroll{"),
        (
            "paper is black in the dark",
            "@media screen and (prefers-color-scheme:dark)",
            "@media (prefers-color-scheme:dark)",
        ),
        ("both languages are seen", ":root:has(#language-en:checked) .ko,", ".never,"),
    ),
    *of(
        "jobs/presets.py",
        "tests/jobs/test_cli.py::test_an_experiment_began_as_the_preset_it_is_most_like",
        ("the first preset is every experiment's", "key=lambda name: len(changes(", "key=lambda name: bool(changes("),
    ),
    *of(
        "sllm/report/settings.py",
        "tests/report/test_page.py::test_a_whole_run_has_every_part_and_no_note_but_of_what_it_lacks",
        ("sources are compared as one list", "if isinstance(value, list) and value and", "if False and"),
    ),
    *of(
        "sllm/report/life.py",
        "tests/report/test_life.py",
        ("steps that were taken twice are of use", "(steps - lost) / steps", "1"),
        ("a device counts as much as eight", 'seconds["training"] * ranks for', 'seconds["training"] for'),
        ("an attempt begins when Python does", "self.end - self.launched", "self.end - self.started"),
        ("only the attempt that follows takes steps again", "min(first - 1, kept)", "first - 1"),
        ("what no checkpoint holds is kept", "            kept = saved\n", "            kept = None\n"),
        (
            "the queue is paid for",
            "return self._lost + self.before_next + self.until_step",
            "return self._lost + self.until_step",
        ),
        ("trainings with former settings count", 'if line["fingerprint"] == present]', "]"),
        ("who is gone keeps its devices for ever", "if now - sign < SIGN_OF_LIFE else", "if True else"),
    ),
    *of(
        "bench/exact.py",
        "tests/test_exact_bench.py",
        (
            "the other way of adding takes other steps",
            "lambda loss: loss / len(self._micro_batches())",
            "lambda loss: loss",
        ),
    ),
    *of(
        "bench/gpu.py",
        "tests/test_gpu_bench.py::test_a_training_passes_only_if_it_is_equal_to_the_last_bit "
        "tests/test_gpu_bench.py::test_a_training_passes_only_if_it_was_interrupted_where_it_should_be "
        "tests/test_gpu_bench.py::test_fp16_passes_only_if_it_skipped_steps_at_the_start_and_after_the_last_resume",
        (
            "the optimizer of a training on a GPU is not compared",
            "unequal = [name for name in tensors | others if",
            'unequal = [name for name in tensors | others if not name.startswith("m.") and',
        ),
        ("a training that nothing happened to passes", "starts(run)[-1] < STEPS)", "True)"),
        ("steps that were skipped before a resume are enough", "steps[-1] > starts(run)[-1], {", "True, {"),
    ),
    *of(
        "bench/gpu.py",
        "tests/test_gpu_bench.py::test_qwen3_and_muon_killed_end_on_two_ranks_in_the_same_bits",
        (
            "the modern training is the other one",
            "write_experiment(place, name, course.model,",
            "write_experiment(place, name, {},",
        ),
        ("every training must skip steps", "if course.fp16 and name != course.like", "if name != course.like"),
    ),
    *of(
        "sllm/model/size.py",
        "tests/model/test_size.py",
        ("a grouped model's keys are counted in full", "(model.n_heads + model.kv_heads)", "(2 * model.n_heads)"),
    ),
    *of(
        "sllm/model/shared.py",
        "tests/inference/test_decode.py",
        (
            "queries of a group meet the keys of another",
            "q.reshape(B, groups, H // groups, D)",
            "q.reshape(B, H // groups, groups, D).transpose(1, 2)",
        ),
        (
            "activations are bf16 where the table is",
            "self.entry(rows.to(self.positions.dtype), places)",
            "self.entry(rows, places)",
        ),
    ),
    *of(
        "sllm/evaluation/harness.py",
        "tests/evaluation/test_tasks.py::test_scores_are_those_of_their_model_on_our_export",
        ("no token before a context", "return [*first, *given], ", "return given, "),
        ("a long context loses its end", "[-self._length - 1 : -1]", "[: self._length]"),
        (
            "a shared row has the answer of its first request",
            "questions += zip(range(end - len(following), end), following, strict=True)",
            "questions += zip(range(end - len(following), end), asked[row][0][1], strict=False)",
        ),
        ("answers in the order of the batches", "answers[owner] = answer", "answers[done] = answer"),
    ),
    *of(
        "sllm/evaluation/harness.py",
        "tests/evaluation/test_tasks.py::test_how_it_goes_on_is_what_their_model_says",
        ("a prompt that is too long loses its end", "[-(self._length - most) :]", "[: self._length - most]"),
        ("what ends a text stays in it", "text.index(end) for end", "text.index(end) + len(end) for end"),
    ),
    *of(
        "sllm/evaluation/harness.py",
        "tests/evaluation/test_tasks.py::test_a_conversation_is_the_templates_own_tokens",
        (
            "a turn is read off a text that nobody had spelled",
            "([self.tokenizer.bos_id], context) if known is None else (known, begun)",
            "(known or [self.tokenizer.bos_id], begun)",
        ),
        ("what is said of an answer is forgotten", "return text + begun", "return text"),
    ),
    *of(
        "sllm/evaluation/harness.py",
        "tests/evaluation/test_tasks.py::test_an_answer_ends_where_the_turn_does",
        (
            "an answer goes on after its turn",
            "if token in ENDS",
            "if token == ENDS[0]",
        ),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_examples_are_turns_before_the_question",
        ("examples are one turn with the question", "fewshot_as_multiturn=template,", "fewshot_as_multiturn=False,"),
    ),
    *of(
        "sllm/evaluation/loss.py",
        "tests/evaluation/test_answers.py::test_answers_are_measured_as_if_each_conversation_were_alone",
        ("conversations see those before them", "model.hidden(inputs, begins=begins)", "model.hidden(inputs)"),
        ("questions are measured, too", "[learnt], targets[learnt]", ".flatten(0, 1), targets.flatten()"),
    ),
    *of(
        "sllm/evaluation/loss.py",
        "tests/evaluation/test_answers.py",
        ("a reply may not end its turn", "utf8_table(tokenizer, device, ENDS)", "utf8_table(tokenizer, device)"),
    ),
    *of(
        "sllm/evaluation/validation.py",
        "tests/evaluation/test_answers.py",
        (
            "the base model's answers are the tuned one's",
            "complete(base.model, base.tokenizer",
            "complete(tuned.model, base.tokenizer",
        ),
        ("what was forgotten is the base's", "figures(tuned, tuned.data,", "figures(base, tuned.data,"),
    ),
    *of(
        "sllm/report/tuning_section.py",
        "tests/report/test_page.py::test_a_fine_tuning_has_a_section_of_its_own",
        (
            "answers are those of the base model twice",
            'for model in ("base", "tuned")',
            'for model in ("base", "base")',
        ),
        ("filler is that of the training alone", "percent(_sum(splits,", "percent(_sum(splits[:1],"),
    ),
    *of(
        "sllm/report/life.py",
        "tests/report/test_page.py::test_a_fine_tuning_has_a_section_of_its_own",
        ("measuring is counted with each training", "in MEASURING and stage == PRETRAIN]", "in MEASURING]"),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_what_was_measured_of_the_bare_text_is_measured_anew_by_the_template",
        (
            "results of the bare text stand for the template's",
            'how = ["template"] if template else []',
            "how = list[str]()",
        ),
    ),
    *of(
        "sllm/card/facts.py",
        "tests/card/test_tuned_card.py",
        (
            "what was measured of another step is told",
            'get("tuned", {}), facts.step)\n        facts.measured',
            'get("tuned", {}), None)\n        facts.measured',
        ),
        (
            "a base model's card has the tuned one's figures",
            "facts.measured = measured or _figures(found)",
            "facts.measured = _figures(found.get('tuned', found))",
        ),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_the_standard_error_of_a_mean_and_of_anything_else",
        ("the standard error of all there is", "statistics.stdev(values) /", "statistics.pstdev(values) /"),
        ("the standard deviation for the standard error", " / math.sqrt(len(values))", ""),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_what_was_measured_otherwise_is_measured_anew",
        ("results of another model", "fingerprint([model_key, name,", "fingerprint([name,"),
        ("results of other few-shot", "config.task_limit, config.few_shot, version", "config.task_limit, version"),
        ("results of fewer items", "items, config.task_limit, config.few", "items, config.few"),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_a_group_is_the_mean_of_its_items",
        ("a group's score counts each task the same", "sizes if _weighted(name) else", "sizes if False else"),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_a_task_without_items_costs_that_task_only",
        ("a task without items ends them all", "if lost := [part for", "if False and [part for"),
    ),
    *of(
        "sllm/evaluation/tasks.py",
        "tests/evaluation/test_tasks.py::test_what_is_measured",
        (
            "the items are looked for on the hub",
            '"custom_dataset": lambda **_: _datasets(directory / part, splits),',
            "",
        ),
    ),
    *of(
        "sllm/data/tasks.py",
        "tests/data/test_task_items.py",
        ("a task that has come is still missing", "note.unlink(missing_ok=True)", "pass"),
        ("what could not be had counts as never tried", "and not why_missing(directory, part)", ""),
        ("the texts of few-shot's examples", "manifest['splits'][0]}", "manifest['splits'][-1]}"),
    ),
    *of(
        "sllm/data/lm_eval_tasks.py",
        "tests/data/test_task_items.py::test_any_task_of_lm_eval_with_a_plain_home "
        "tests/evaluation/test_tasks.py::test_the_catalogue_is_what_lm_eval_has",
        (
            "the validation split is scored where there is a test split",
            'entry.get("test_split") or entry.get("validation_split")\n',
            'entry.get("validation_split") or entry.get("test_split")\n',
        ),
    ),
    *of(
        "sllm/config/tasks.py",
        "tests/evaluation/test_tasks.py::test_the_catalogue_is_what_lm_eval_has",
        (
            "a task is scored on what its examples are from",
            'for split in ("test", "train")}\n    dataset',
            'for split in ("train", "test")}\n    dataset',
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_task_stages.py::test_items_are_tried_once_and_again_when_told",
        ("items that nobody asked the hub for", 'if stage.name == "download" and (missing', "if False and (missing"),
    ),
    *of(
        "sllm/artifacts.py",
        "tests/jobs/test_task_stages.py::test_items_are_tried_once_and_again_when_told",
        (
            "a task more is another corpus",
            'seed=e["seed"], files=text.files)',
            'seed=e["seed"], files=text.files, tasks=e["benchmark"]["tasks"])',
        ),
    ),
    *of(
        "jobs/pipeline.py",
        "tests/jobs/test_task_stages.py::test_from_the_hub_to_a_score",
        ("what can be measured now is left as it was", 'if stage.name == "benchmark" and (now', "if False and (now"),
    ),
    *of(
        "sllm/benchmark.py",
        "tests/jobs/test_task_stages.py::test_from_the_hub_to_a_score",
        (
            "measured tasks are kept where the next attempt does not look",
            'place / "tasks",',
            'place / results["device"] / "tasks",',
        ),
    ),
    *of(
        "jobs/previous.py",
        "tests/jobs/test_pipeline.py::test_a_tuning_of_other_settings_is_set_aside_and_comes_back_alone",
        ("with a tuning the pretraining moves", '    if move.stage == "pretrain":\n', "    if True:\n"),
        ("a tuning stays when its settings change", "        names.append(move.stage)\n", "        pass\n"),
    ),
    *of(
        "sllm/training/trainer.py",
        "tests/training/test_tuning_step.py",
        (
            "each micro-batch is divided by a mean of answers that is not the batch's",
            "return total * self.config.micro_batch / self.config.global_batch",
            "return total / self.config.global_batch",
        ),
    ),
    *of(
        "sllm/training/batches.py",
        "tests/training/test_tuning_step.py",
        (
            "questions are learnt too",
            "torch.from_numpy(np.flatnonzero(answers(windows)))",
            "torch.from_numpy(np.flatnonzero(answers(windows) | True))",
        ),
        (
            "conversations of a window see each other",
            "torch.from_numpy(beginnings(windows[:, :-1]))",
            "torch.from_numpy(0 * beginnings(windows[:, :-1]))",
        ),
    ),
    *of(
        "sllm/training/loop.py",
        "tests/training/test_tuning_step.py",
        (
            "a tuning begins with random weights",
            "            self._begin_with(self.whole_run.best)\n",
            "            pass\n",
        ),
    ),
    *of(
        "sllm/model/shared.py",
        "tests/model/test_several_texts.py",
        (
            "positions are counted from the window's beginning",
            "index = at if begins is None else at - begins",
            "index = at if begins is None else at - 0 * begins",
        ),
        (
            "the mean is over the part, not over the batch",
            "dtype_of_products(weight), count or len(hidden)",
            "dtype_of_products(weight), len(hidden)",
        ),
    ),
    *of(
        "jobs/launch/order.py",
        "tests/jobs/test_cli.py::test_what_does_not_fit_the_cluster_of_a_fine_tuning_is_told_by_its_own_names",
        (
            "a batch of the fine-tuning is told as one of the pretraining",
            "checks.append(names_of_finetune()(own) if",
            "checks.append(own if",
        ),
    ),
]


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


def files_of(tests: str) -> str:
    return " ".join(dict.fromkeys(test.partition("::")[0] for test in tests.split()))


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

        # Tests of the same files run together here: what they share is made once.
        by_files: dict[str, dict[str, None]] = {}
        for mutant in mutants:
            by_files.setdefault(files_of(mutant.tests), {}).update(dict.fromkeys(mutant.tests.split()))
        usual = {files: pool.submit(test, " ".join(tests), None, 3600.0) for files, tests in by_files.items()}
        seconds = {files: future.result().seconds for files, future in usual.items()}
        bad = [f"{files}: {usual[files].result().by}" for files in usual if usual[files].result().state != "SURVIVED"]
        if bad:
            raise BrokenError("\n".join(["without a mutant these tests fail, or none runs:", *bad]))
        print(f"without a mutant the tests pass, in {sum(seconds.values()):.0f} s", flush=True)
        # The slow ones first, so that the last to end is none of them.
        order = sorted(mutants, key=lambda mutant: -seconds[files_of(mutant.tests)])
        running = {
            pool.submit(test, mutant.tests, mutant, limit(seconds[files_of(mutant.tests)])): mutant for mutant in order
        }
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
