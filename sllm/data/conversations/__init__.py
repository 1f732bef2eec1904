"""Conversations: from the rows of any common layout to windows that a model learns to answer from.

`layouts` makes messages of a row, `read` goes through the files of a source, `clean` decides what stays, and the
download stage does with them all that it does with text. `stage` encodes what it brought, and `rows` says which
conversations share a window.
"""
