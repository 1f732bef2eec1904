"""Korean and English prose written from a seed: text to train and test on where there is no network and no corpus.

Words and frames are data (ko/, en/: plain text, whose first lines say how to read it), grammar is rule (korean.py,
english.py). What a document must not contradict itself in, such as sums and dates, is drawn in facts.py; generator.py
puts it all together. questions.py asks about the same world, for conversations to fine-tune on.
"""
