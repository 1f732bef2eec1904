"""What the licence of a corpus says, in plain words. Told by the words in its name, and no more than they say."""

import re

NAMED = (
    ("unknown", r"unknown|not stated|unspecified"),
    ("terms", r"terms of use|no redistribution"),
    ("non_commercial", r"\bnc\b|non-?commercial"),
    ("no_derivatives", r"\bnd\b|no-?deriv"),
    ("share_alike", r"\bsa\b|share-?alike|gfdl|\bgpl"),
    ("attribution", r"\bby\b|attribution"),
    ("free", r"cc0|public domain|pddl|\bmit\b|apache|\bbsd\b"),
)
"""Kinds of licences, the narrowest first, and what their names hold."""

MEANING: dict[str, dict[str, str]] = {
    "en": {
        "own": "written by this program's own generator; nobody else has a claim to it.",
        "unknown": (
            "no licence is known. The text may be under somebody's copyright, and nobody has given leave here."
        ),
        "terms": (
            "had by terms of use that forbid passing it on. The text is not in this folder, but a model can "
            "repeat passages that it has seen."
        ),
        "non_commercial": (
            "allows non-commercial use only. Whether that reaches a model trained on it, the licence does not "
            "say: find out before you earn money with the model."
        ),
        "no_derivatives": (
            "does not allow adapted versions to be passed on. Whether a model is one, the licence does not say."
        ),
        "share_alike": (
            "asks that adapted versions be passed on under the same licence, and the source be named. Whether a "
            "model is one, the licence does not say: who wants to be safe passes the model on under it."
        ),
        "attribution": "asks that the source be named, as the table does; who passes the model on keeps that.",
        "free": "asks for nothing, or that its notice be kept.",
        "other": "see the licence itself.",
    },
    "ko": {
        "own": "이 프로그램의 생성기가 쓴 글이며, 다른 사람의 권리가 없습니다.",
        "unknown": (
            "이용 허락이 알려져 있지 않습니다. 누군가의 저작권 아래 있을 수 있고, 여기서 허락을 받은 것은 아닙니다."
        ),
        "terms": (
            "재배포를 금지하는 이용 약관으로 받은 글입니다. 글 자체는 이 폴더에 없지만, 모델은 본 구절을 "
            "되풀이할 수 있습니다."
        ),
        "non_commercial": (
            "비영리 이용만 허락합니다. 이 조건이 그 글로 학습한 모델에도 미치는지는 라이선스에 쓰여 있지 "
            "않습니다. 모델로 수익을 내기 전에 확인하십시오."
        ),
        "no_derivatives": "변경한 것을 배포하지 못하게 합니다. 모델이 여기에 드는지는 라이선스에 쓰여 있지 않습니다.",
        "share_alike": (
            "변경한 것은 같은 라이선스로 배포하고 출처를 밝히라고 합니다. 모델이 여기에 드는지는 라이선스에 쓰여 "
            "있지 않습니다. 안전하게 하려면 모델도 같은 라이선스로 배포하십시오."
        ),
        "attribution": "출처를 밝히라고 합니다. 위 표가 출처이며, 모델을 배포할 때 함께 남기십시오.",
        "free": "조건이 없거나, 고지문을 남기라고만 합니다.",
        "other": "라이선스 원문을 보십시오.",
    },
}


def kinds(licence: str | None, *, own: bool = False) -> list[str]:
    """What kinds of conditions a licence has; several where it names several.

    >>> kinds("CC BY-NC-SA 4.0")
    ['non_commercial', 'share_alike']
    >>> kinds(None)
    ['unknown']
    """
    if own:
        return ["own"]
    if not licence or not licence.strip():
        return ["unknown"]
    name = licence.replace("_", " ")
    found = [kind for kind, words in NAMED if re.search(words, name, re.IGNORECASE)]
    if len(found) > 1 and "attribution" in found:
        found.remove("attribution")  # every CC licence asks for it, and so do the texts of the narrower ones
    return found or ["other"]
