"""From the user's text to the batches of a training step.

    document      one text of one source; an `Iterator[str]` that holds one at a time       sources.py, embedded/
      ↓ cleaned, counted, kept once, on the train or the validation side                    clean.py
    shard         documents of one source and split, `.jsonl.zst`, of bounded size          shards.py, parts.py
      ↓ encoded, <bos> … <eos> around each document, one after the other
    token file    all tokens of one source and split, flat, uint16 or uint32                pack.py
      ↓ cut every `context_length` tokens
    window        `context_length` + 1 tokens: the inputs, and the targets one further      sampler.py
      ↓ sources mixed by weight, each shuffled, nothing drawn twice in an epoch
    batch         int64 (sequences, context_length + 1)                                     sampler.py

The download stage makes the shards, the pack stage the token files; both directories appear whole, with a manifest,
or not at all. While training nothing is encoded and nothing is kept but open files: which windows make up batch s is
computed from (seed, s), so there is no state to save and nothing that depends on the number of ranks.
"""
