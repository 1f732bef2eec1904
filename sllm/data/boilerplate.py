"""Lines of web pages that no author wrote: navigation, and notices about copyright, cookies and JavaScript."""

import re

from sllm.data.text import tidy

# Lines that are one of these, but for case, signs at their ends and spaces.
_NAVIGATION = {
    "share", "share this", "tweet", "log in", "login", "sign in", "sign up", "subscribe", "read more", "back to top",
    "skip to content", "skip to main content", "print this page", "leave a comment",
    "로그인", "회원가입", "공유하기", "구독하기", "본문 바로가기", "본문바로가기", "맨 위로", "맨위로", "이전 글",
    "이전글", "다음 글", "다음글", "더보기", "더 보기", "댓글 쓰기", "댓글쓰기", "인쇄하기", "스크랩하기", "목록으로",
    "페이스북", "트위터", "카카오톡", "카카오스토리", "네이버 블로그", "url 복사", "글자 크기", "기사 제보",
}  # fmt: skip
_LONGEST_NAVIGATION = max(map(len, _NAVIGATION)) + 4

# Short lines that hold one of the first strings, and match. (Texts without them are spared the rest.)
_NOTICES = (
    "opyright", "OPYRIGHT", "ights reserved", "ights Reserved", "IGHTS RESERVED",
    "avaScript", "avascript", "ookie", "무단", "저작권자", "자바스크립트", "쿠키",
)  # fmt: skip
_NOTICE = re.compile(
    r"\W*(?:copyright|copyrights) ?(?:©|ⓒ|\(c\)|[12][0-9]{3}|by\b).{0,60}"
    r"|.*\ball rights reserved\b.{0,20}"
    r"|(?:please |you (?:need|have) to |you must )?(?:enable|turn on|activate) (?:javascript|cookies)\b.*"
    r"|.*\b(?:javascript|cookies) (?:is|are|must be|needs? to be) (?:currently )?(?:disabled|enabled|required)\b.*"
    r"|(?:we|this (?:web)?site|our (?:web)?site) uses? cookies\b.*|by (?:continuing|using) .*\bcookies\b.*"
    r"|.*무단 ?(?:전재|복제|배포|도용).{0,20}(?:금지|금합니다|금함|불허).*|\W*저작권자 ?(?:©|ⓒ|\(c\)).*"
    r"|.*자바스크립트를? ?(?:활성화|사용하도록|허용).*|.*(?:사이트|홈페이지)[은는]? .{0,20}쿠키를 (?:사용|이용).*"
)
_LONGEST_NOTICE = 160


def remove_boilerplate(text: str) -> tuple[str, str]:
    """`text` without lines that are navigation, or notices about copyright, cookies or JavaScript; and those lines.

    The idea is C4's (Raffel et al. 2020, section 2.2); because the corpora hold programming manuals, which speak of
    JavaScript and cookies, a line must read like the notice.
    """
    notices = [word for word in _NOTICES if word in text]
    kept: list[str] = []
    removed: list[str] = []
    for line in text.split("\n"):
        if (
            len(line) <= _LONGEST_NAVIGATION
            and line[:1] not in (" ", "\t")  # an indented line is code
            and line.strip(" []|<>·▶▲▼»«:").casefold() in _NAVIGATION
        ) or (
            notices
            and len(line) <= _LONGEST_NOTICE
            and any(word in line for word in notices)
            and _NOTICE.fullmatch(line.casefold())
        ):
            removed.append(line)
        else:
            kept.append(line)
    if not removed:
        return text, ""
    return tidy("\n".join(kept)), "\n".join(removed)
