"""`sllm check-data` counts what is there, and compares it with what the manifest says."""

import json
import re
from pathlib import Path

from small_corpora import downloaded, sentences

from sllm.data.check import check_corpus
from sllm.data.shards import read_shard
from sllm.manifests import MANIFEST
from sllm.stop import StopFlag

TEXTS = {
    "ko": [f"{text} 힣 日本 ㄱㄴ ﾊﾝ 😀 END of {number}" for number, text in enumerate(sentences(40, "ko"))],
    "en": [f"{text} [THE End] Ünë 가나 Zz@`{{" for text in sentences(40)],
}


def test_letters_and_documents_are_counted(tmp_path: Path) -> None:
    made, corpus = downloaded(tmp_path, TEXTS)
    for source, checked in zip(TEXTS, check_corpus(made, corpus, StopFlag(), workers=1), strict=True):
        texts = [text for path in corpus.glob(f"{source}/*.zst") for text in read_shard(path)]
        assert checked.problems == []
        assert checked.documents == len(texts) == 40
        assert checked.hangul == len(re.findall("[가-힣]", "".join(texts)))
        assert checked.latin == len(re.findall("[a-zA-Z]", "".join(texts)))
        mine = checked.hangul if source == "ko" else checked.latin
        assert checked.share == mine / (checked.hangul + checked.latin) < 1
        assert set(checked.samples) <= set(read_shard(next(corpus.glob(f"{source}/train-*.zst"))))


def test_a_manifest_that_says_otherwise(tmp_path: Path) -> None:
    made, corpus = downloaded(tmp_path, TEXTS)
    manifest = json.loads((corpus / MANIFEST).read_text(encoding="utf-8"))
    for documents in (39, 41):
        manifest["sources"]["en"]["documents"] = documents
        (corpus / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        ko, en = check_corpus(made, corpus, StopFlag(), workers=1)
        assert not ko.problems
        assert en.problems[0] == f"40 documents are there, the manifest says {documents}"
    del manifest["sources"]["ko"]
    (corpus / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    ko, _ = check_corpus(made, corpus, StopFlag(), workers=1)
    assert ko.problems[0] == "it is not in the corpus"
