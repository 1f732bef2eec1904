"""From 50 GB to 10 TB and from 1 to 64 GPUs: what grows, by formula, and the formulas beside small measurements.

    python bench/scale.py                 the tables on paper: stages, ranks, the all-reduce by link
    python bench/scale.py tokens metrics  these curves, measured here: each predicted from its first point
    python bench/scale.py all --json FILE

docs/scale.md explains the tables. A curve takes seconds to minutes; `ranks` starts up to 32 processes of 0.3 GB.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from side_by_side import shape

from sllm.config import ModelConfig
from sllm.files import read_json, write_json
from sllm.model.size import parameter_count

# --- on paper -------------------------------------------------------------------------------------

GB, TB = 10**9, 10**12
TEXTS = {"50 GB": 50 * GB, "500 GB": 500 * GB, "10 TB": 10 * TB}
RANKS = (1, 2, 4, 8, 16, 32, 64)
CORES, NODE = 16, 8
"""Of the node that a stage of the data runs on; GPUs of one that trains."""

BYTES_A_TOKEN, BYTES_A_DOCUMENT, ZSTD = 4.5, 4000, 0.4
"""Of text in UTF-8: a token's, as `sllm config` estimates; a document's, as FineWeb-Edu's; what zstd leaves."""
SOURCES = 9

MEASURED: dict[str, float] = {
    # MB of text a second of one core: docs/data.md, docs/tokenizer.md
    "clean": 16.5,
    "near": 52.0,
    "count": 6.5,
    "pack": 12.8,
    # `python bench/scale.py text digests`: MB a second; seconds of a document, and of a look into a shard
    "read": 78.0,
    "compare": 0.5e-6,
    "look": 80e-6,
    # one H100, `default`, 16 × 2,048 tokens: docs/benchmarks/gpu-2026-11-27.md
    "micro_batch": 0.225,
    # assumed, of a shared file system and a cluster's TCP: seconds of a byte copied, a byte hashed, an fsync, a message
    "copy": 1 / (1.0 * GB),
    "hash": 1 / (1.5 * GB),
    "fsync": 5e-3,
    "hop": 30e-6,
    "pin": 1 / (20 * GB),  # copied from a GPU to the host
}
"""What the tables rest on."""

LINKS = {  # bytes a second between nodes, or within one
    "NVLink 4, one node": 450 * GB,
    "8 × 400 Gb/s": 400 * GB,
    "8 × 200 Gb/s": 200 * GB,
    "400 Gb/s InfiniBand": 50 * GB,
    "200 Gb/s InfiniBand": 25 * GB,
    "100 Gb/s Ethernet": 12.5 * GB,
    "25 Gb/s Ethernet": 3.125 * GB,
}
REACHED = 0.8
"""Of a link's speed, by a large all-reduce."""
BUCKET = 25 * 2**20 // 4
"""Parameters of one of DDP's buckets."""


def stages(text: float, shard_megabytes: int = 64) -> dict[str, dict[str, float]]:
    """Seconds of cores that share the work, and of one alone; bytes of memory and disk; files. Of each stage over so
    much text."""
    m, tokens, documents = MEASURED, text / BYTES_A_TOKEN, text / BYTES_A_DOCUMENT
    shards = 2 * text / (shard_megabytes * 1e6)  # half of them small, of validation
    ranges = 15 * max(1.0, documents / 2**20)  # of digests and 14 bands
    names = 2 * shards  # a shard and its digests, in the store; and once more, as links, in the corpus
    read = min(text, 8 * 200e6 + SOURCES * 32 * 64e6)  # of the text, for the tokenizer's sample
    return {
        "download": {
            "shared": text / 1e6 / m["clean"],
            "alone": 2 * names * m["fsync"] + ZSTD * text * m["hash"] / CORES,  # the corpus' manifest
            "memory": CORES * 0.3 * GB + 700 * names,
            "disk": ZSTD * text + 16 * documents,
            "files": names,
        },
        "duplicates": {
            "shared": text / 1e6 / m["near"] + 15 * documents * m["compare"] + ranges * shards * m["look"],
            "alone": 0.0,
            "memory": CORES * 0.2 * GB + 2 * documents,
            "disk": 188 * documents,
            "files": shards,
        },
        "tokenizer": {
            "shared": 0.0,
            "alone": read / 1e6 / m["read"] + 200 / m["count"],
            "memory": 1.7 * GB,
            "disk": 0.0,
            "files": 3,
        },
        "pack": {
            "shared": text / 1e6 / m["pack"],
            "alone": 2 * tokens * (m["copy"] + m["hash"]) + 2 * shards * m["fsync"],
            "memory": CORES * 0.2 * GB + 300 * shards,
            "disk": 2 * tokens + 8 * documents,
            "files": 4 * SOURCES,
        },
    }


def training(ranks: int, link: float) -> dict[str, float]:
    """Seconds of a step of `default` on so many GPUs, and what of them is not computing. A global batch of 256
    sequences, or as many more as give each GPU a micro-batch of 16; a checkpoint every two minutes."""
    m, (model, vocabulary) = MEASURED, shape("default")
    parameters, _ = parameter_count(model, vocabulary)
    micro_batches = max(256 // (16 * ranks), 1)
    computing = micro_batches * m["micro_batch"]
    speed = LINKS["NVLink 4, one node"] if ranks <= NODE else link
    reducing, exposed = all_reduce(model, vocabulary, ranks, speed)
    agreeing = 2 * (ranks - 1) * m["hop"]
    saving = 12 * parameters / ranks * m["pin"] * (computing + exposed + agreeing) / 120  # of this step
    step = computing + exposed + saving + agreeing
    return {
        "computing": computing,
        "all-reduce": reducing,
        "exposed": exposed,
        "agreement": agreeing,
        "saving": saving,
        "efficiency": computing / step,
        "tokens": micro_batches * ranks * 16 * 2048 / step,
    }


def all_reduce(model: ModelConfig, vocabulary: int, ranks: int, speed: float) -> tuple[float, float]:
    """Seconds that the link is busy in a step, and those by which the step is longer.

    DDP fills its buckets in the order of the backward pass, which takes two thirds of a micro-batch, in proportion to
    the parameters but for the table of embeddings, which is ready at the end. Each goes as int64, one after the other.
    """
    parameters, blocks = parameter_count(model, vocabulary)
    table = vocabulary * model.d_model
    head = parameters - blocks - table
    buckets = [*([head] if head else []), *[BUCKET] * (blocks // BUCKET), blocks % BUCKET, table]
    backward = 2 / 3 * MEASURED["micro_batch"]
    free, ready, busy = 0.0, 0.0, 0.0
    for size in buckets:
        ready += backward * size / parameters
        seconds = 2 * (ranks - 1) / ranks * 8 * size / (REACHED * speed)
        free, busy = max(free, ready) + seconds, busy + seconds
    return busy, max(0.0, free - backward)


# --- printed --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def stage_rows() -> list[list[str]]:
    rows = []
    for stage in stages(TB):
        for name, text in TEXTS.items():
            found = stages(text)[stage]
            hours = [(found["shared"] / CORES + found["alone"]) / 3600, found["alone"] / 3600]
            sizes = [f"{found['memory'] / GB:.1f}", f"{found['disk'] / GB:,.0f}", f"{found['files']:,.0f}"]
            rows.append([stage, name, *(f"{h:,.1f}" for h in hours), *sizes])
    return rows


def training_rows(link: float) -> list[list[str]]:
    rows = []
    for ranks in RANKS:
        found = training(ranks, link)
        ms = [f"{1e3 * found[key]:,.1f}" for key in ("computing", "all-reduce", "exposed", "agreement", "saving")]
        days = [f"{text / BYTES_A_TOKEN / found['tokens'] / 86_400:,.1f}" for text in TEXTS.values()]
        rows.append([str(ranks), *ms, f"{found['efficiency']:.0%}", *days])
    return rows


def link_rows(ranks: int = 64) -> list[list[str]]:
    model, vocabulary = shape("default")
    rows = []
    for name, speed in LINKS.items():
        busy, exposed = all_reduce(model, vocabulary, NODE if "one node" in name else ranks, speed)
        shares = [exposed / (exposed + count * MEASURED["micro_batch"]) for count in (1, 4, 16)]
        rows.append([name, f"{1e3 * busy:,.0f}", f"{1e3 * exposed:,.0f}", *(f"{share:.0%}" for share in shares)])
    return rows


def print_paper() -> None:
    print(f"Stages, {CORES} cores\n")
    print(table(["stage", "text", "hours", "of one core", "memory, GB", "disk, GB", "files"], stage_rows()))
    print("A step of `default`, a micro-batch of 16 × 2,048 tokens, 64 GPUs or one node\n")
    print(table(["link of a node", "all-reduce, ms", "exposed, ms", "share: 1", "4", "16 micro-batches"], link_rows()))
    head = ["GPUs", "computing, ms", "all-reduce", "exposed", "agreement", "saving", "efficiency"]
    head += [f"days for {name}" for name in TEXTS]
    for name in ("8 × 400 Gb/s", "100 Gb/s Ethernet"):
        print(f"Nodes of {NODE} joined by {name}, a step\n")
        print(table(head, training_rows(LINKS[name])))


def main() -> None:
    from scale_curves import CURVES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"paper, all, {', '.join(CURVES)}")
    parser.add_argument("--json", type=Path, help="add the points to this file, in place of older ones of these curves")
    arguments = parser.parse_args()
    wanted = arguments.curves or ["paper"]
    if wanted == ["all"]:
        wanted = ["paper", *CURVES]
    if unknown := set(wanted) - {"paper", *CURVES}:
        parser.error(f"no such curve: {', '.join(sorted(unknown))}")
    if "paper" in wanted:
        print_paper()
        wanted.remove("paper")
    points = []
    for name in wanted:
        print(table(["curve", "size", "predicted", "measured", "ratio"], []), end="", flush=True)
        with tempfile.TemporaryDirectory(prefix="sllm-scale-") as directory:
            for point in CURVES[name](Path(directory)):
                points.append(point)
                figures = [f"{point.predicted:.4g}", f"{point.measured:.4g}", f"{point.ratio:.2f}"]
                print(f"| {point.curve}: {point.what} | {point.size:,} | {' | '.join(figures)} |", flush=True)
        print()
    if arguments.json:
        before = read_json(arguments.json) if arguments.json.exists() else {}
        write_json(arguments.json, before | {name: [asdict(p) for p in points if p.curve == name] for name in wanted})


if __name__ == "__main__":
    main()
