"""The real client against a hub on loopback: what is asked wrongly is told in one line, and no fault of the network
loses a row or gives one twice."""

import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import pyarrow as pa
import pytest
from hub import Fault, Handler, Hub, add_dataset, cut, fails, hangs, hub, reset, truncated, use, write_parquet
from huggingface_hub import constants

import sllm.data.hub
import sllm.data.sources
from sllm.config import HubSource
from sllm.data.hub import hub_files, hub_texts, wait_for_hub
from sllm.errors import Stopped, UserError

__all__ = ["hub"]

TEXTS = [f"문서 {number}: {random.Random(number).randbytes(100 * (number % 5)).hex()}" for number in range(250)]


def source(**changes: Any) -> HubSource:
    values = {"name": "web", "language": "ko", "dataset": "us/news", "config": "ko", **changes}
    return HubSource(kind="hub", **values)


@pytest.fixture
def news(hub: Hub) -> Hub:
    add_dataset(
        hub.root,
        "us/news",
        {"ko": {"train": [TEXTS, ["하나", "둘"]], "validation": [["셋"]]}, "en": {"train": [["one"]]}},
    )
    return hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No one sleeps; how long they would have."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(sllm.data.hub, "FIRST_WAIT", 1e-3)
    monkeypatch.setattr(sllm.data.hub, "LONGEST_WAIT", 4e-3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    return found


def read(start: int = 0) -> list[str | None]:
    return list(hub_texts(source(), hub_files(source()).files[0], start))


def test_files_and_rows(news: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sllm.data.hub, "BLOCK", 1)
    found = hub_files(source())
    assert [file.rpartition("/")[2] for file in found.files] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert found.revision == news.commit("us/news")
    assert all(found.revision in file for file in found.files)
    assert found.sizes[0] == (news.root / "us/news/ko/train-00000-of-00002.parquet").stat().st_size
    sent = {}
    for start in (0, 1, 99, 100, 101, 249, 250):  # row groups have 100 rows
        news.sent = 0
        assert list(hub_texts(source(), found.files[0], start)) == TEXTS[start:]
        sent[start] = news.sent
    assert sent[249] < sent[0]  # a row group that is not needed is not sent
    assert [list(hub_texts(source(), file, 0)) for file in hub_files(source(split="validation")).files] == [["셋"]]


def test_a_branch_that_moves_meanwhile_changes_nothing(news: Hub) -> None:
    old = news.keep("us/news")

    def move(path: str) -> None:
        if "/us/news/" in path and not path.endswith("/revision/main"):  # which asks for the commit
            add_dataset(news.root, "us/news", {"ko": {"train": [["another"], TEXTS[1:], ["of three"]]}})

    news.before = move
    found = hub_files(source())
    assert news.commit("us/news") != old == found.revision
    assert [text for file in found.files for text in hub_texts(source(), file, 0)] == [*TEXTS, "하나", "둘"]


def test_files_can_be_named_where_no_configuration_is(hub: Hub) -> None:
    write_parquet(hub.root / "us/wiki/a-raw/train/0000.parquet", ["one"], "page")
    write_parquet(hub.root / "us/wiki/b-raw/train/0000.parquet", ["two"], "page")
    wiki = source(dataset="us/wiki", config=None, files="b-raw/train/*.parquet", text_field="page")
    (file,) = hub_files(wiki).files
    assert list(hub_texts(wiki, file, 0)) == ["two"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "kr"}, "us/news has no configuration 'kr'; set config to one of ko, en"),
        ({"config": None}, "us/news has several configurations; set config to one of ko, en"),
        ({"split": "test"}, "us/news has no split 'test'; set split to one of train, validation"),
        ({"revision": "v3"}, "us/news has no revision 'v3'; correct it, or use main"),
        (
            {"text_field": "body"},
            r"no field 'body'; set text_field \(of a source, or --text-field\) to one that is there: id, text",
        ),
        ({"text_field": "number"}, r"no field 'number'"),
        ({"dataset": "us/olds"}, "the hub has no dataset us/olds, or it is private: .*`hf auth login`"),
        ({"dataset": "us/secret"}, "the hub has no dataset us/secret, or it is private: .*`hf auth login`"),
        ({"dataset": "us/gated"}, "us/gated is gated: accept its conditions on https://.*us/gated, .*`hf auth login`"),
        ({"dataset": "us/script"}, "us/script is a loading script, which is never run; .*refs/convert/parquet"),
        ({"dataset": "us/csv", "config": None}, r"us/csv is not parquet \(a.csv\); .*refs/convert/parquet"),
        ({"dataset": "us/empty", "config": None}, "us/empty has no data files"),
        ({"files": "fr/*.parquet"}, "us/news has no files that match fr/"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(news: Hub, changes: dict[str, Any], message: str) -> None:
    for name in ("secret", "gated", "script"):
        add_dataset(news.root, f"us/{name}", {"ko": {"train": [["x"]]}})
    (news.root / "us/empty").mkdir()
    (news.root / "us/secret/.private").touch()
    (news.root / "us/gated/.gated").touch()
    (news.root / "us/script/script.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    (news.root / "us/csv").mkdir()
    (news.root / "us/csv/a.csv").write_text("text\nx\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        hub_files(source(**changes))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.sources: web: ")


def test_offline_is_told(news: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; unset it to download us/news"):
        hub_files(source())
    assert not news.requests


FAULTS: dict[str, Fault] = {
    "500": fails(500),
    "502": fails(502),
    "503": fails(503, Retry_After="0"),
    "504": fails(504),
    "429": fails(429),
    "cut": cut,
    "reset": reset,
    "truncated": truncated,
    "timeout": hangs(0.3),
}


class Clock:
    """The time of the code under test, which passes only while that sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waits of their true length, in no time."""
    found = Clock()
    monkeypatch.setattr(sllm.data.hub, "time", found)
    for name, value in (("FIRST_WAIT", 1.0), ("LONGEST_WAIT", 60.0)):
        monkeypatch.setattr(sllm.data.hub, name, value)
    return found


def test_a_network_that_fails_on_the_way_costs_nothing_but_time(
    news: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """More often than one would try in a row, in the middle of a file, for an instant or for a minute. The client
    repeats what fails by itself: what reaches us is what outlasts that."""
    monkeypatch.setattr(sllm.data.hub, "BLOCK", 1)  # little is asked for at once, so that faults are met on the way
    monkeypatch.setattr(sllm.data.sources, "PARQUET_BUFFER", 1024)
    monkeypatch.setattr(sllm.data.sources, "PARQUET_ROWS", 4)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    met: list[str] = []

    def outage(kind: str, seconds: float) -> Fault:
        end = clock.now + seconds

        def fault(handler: Handler, content: bytes) -> bool:
            if clock.now > end:
                return False
            met.append(kind)
            return FAULTS[kind](handler, content)

        return fault

    write_parquet(news.root / "us/often/train.parquet", TEXTS, rows=4)
    often = source(dataset="us/often", config=None)
    (file,) = hub_files(often).files
    outages = [(kind, 0.0) for kind in FAULTS] + [("503", 60.0), ("reset", 60.0)]
    rows = hub_texts(often, file, 0)
    found, lost = [], []
    for kind, seconds in outages:
        found += islice(rows, 10)
        news.faults = [outage(kind, seconds)] * 1000
        start = clock.now
        found += islice(rows, 10)  # it is met before these are there
        lost.append(clock.now - start)
        news.faults = []
    assert found + list(rows) == TEXTS
    assert set(met) == set(FAULTS)
    instants, minutes = lost[: len(FAULTS)], lost[len(FAULTS) :]
    assert all(0.5 <= seconds <= 1.5 for seconds in instants)
    assert len(set(instants)) > 1  # or all that read would ask again at once
    assert all(60 < seconds < 160 for seconds in minutes)
    told = re.findall(r"data\.sources: web: hf://.*; try (\d) of 8, the next in (\d+) s\n", capfd.readouterr().err)
    assert [attempt for attempt, _ in told].count("1") == len(outages)
    assert sum(int(seconds) for _, seconds in told) == pytest.approx(clock.now, abs=len(told))


def test_retry_after_is_obeyed(news: Hub, waits: list[float]) -> None:
    news.faults = [fails(429, Retry_After="17"), fails(503, Retry_After="23")]
    assert read() == TEXTS
    assert [wait for wait in waits if wait > 10] == [18.0, 24.0]  # the client adds one second


def test_it_gives_up_in_one_line(news: Hub, clock: Clock) -> None:
    (file, _) = hub_files(source()).files
    news.faults = [fails(503)] * 1000
    with pytest.raises(
        UserError, match=r"given up after 8 failures in a row \(.*503.*\); the same command goes on"
    ) as e:
        list(hub_texts(source(), file, 0))
    assert "\n" not in str(e.value)
    assert len(news.faults) == 1000 - 8 * 6  # the client itself tries six times
    assert 60 < clock.now < 190  # 1 + 2 + … + 60 seconds, each as much as half longer or shorter


def test_access_that_is_withdrawn_on_the_way(news: Hub, waits: list[float]) -> None:
    (file, _) = hub_files(source()).files
    news.faults = [fails(403)]
    with pytest.raises(UserError, match=r"data\.sources: web: hf://.*: .*403") as e:
        list(hub_texts(source(), file, 0))
    assert "\n" not in str(e.value)
    assert not waits


def test_a_file_that_is_damaged_on_the_hub(news: Hub, waits: list[float]) -> None:
    path = news.root / "us/news/ko/train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="given up after 8 failures in a row"):
        hub_files(source())


def test_a_stop_ends_a_wait(news: Hub, clock: Clock) -> None:
    (file, _) = hub_files(source()).files
    news.faults = [fails(503)] * 6

    def stop() -> None:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        list(hub_texts(source(), file, 0, stop))
    assert clock.now == 0.0


def test_texts_that_are_not_utf8_or_null(hub: Hub) -> None:
    column = pa.array([b"good", b"\xff\xfe", None, "끝".encode()]).view(pa.string())
    write_parquet(hub.root / "us/mixed/train.parquet", column)
    mixed = source(dataset="us/mixed", config=None)
    (file,) = hub_files(mixed).files
    assert list(hub_texts(mixed, file, 0)) == ["good", None, "", "끝"]
    assert list(hub_texts(mixed, file, 2)) == ["", "끝"]


# --- a hub that cannot be reached -----------------------------------------------------------------


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and answers nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_hub_that_answers_is_not_spoken_of(news: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    wait_for_hub(tell=told.append)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://not-asked.invalid")
    wait_for_hub(tell=told.append)
    assert told == []


def test_each_try_is_told_and_when_the_next_is(
    news: Hub, refusing: str, silent: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sllm.data.hub, "FIRST_PATIENCE", 0.25)
    addresses = [refusing, silent, "http://no-such-host.invalid"]
    told: list[str] = []
    times = []

    def tell(text: str) -> None:
        told.append(text)
        times.append(time.monotonic())
        monkeypatch.setattr(constants, "ENDPOINT", [*addresses, news.url][len(told)])

    monkeypatch.setattr(constants, "ENDPOINT", refusing)
    wait_for_hub(tell=tell)
    assert told[0] == f"{refusing}: [Errno 111] Connection refused; try 1 of 8, the next in 0 s"
    assert re.fullmatch(rf"{silent}: (no answer for 0\.5 s|timed out); try 2 of 8, the next in 0 s", told[1])
    assert re.fullmatch(r"http://no-such-host\.invalid: .+; try 3 of 8, the next in 0 s", told[2])
    assert len(told) == 3
    assert times[1] - times[0] >= 0.5  # more patience than at first


def test_one_that_is_never_reached_is_given_up(
    refusing: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(constants, "ENDPOINT", refusing)
    with pytest.raises(
        UserError, match=rf"{refusing}: given up after 8 failures in a row \(.* refused\); .* where there is a network"
    ) as caught:
        wait_for_hub(tell=told.append)
    assert "\n" not in str(caught.value)
    assert [re.sub(".*; (.*),.*", r"\1", text) for text in told] == [f"try {number} of 8" for number in range(1, 8)]


def test_what_is_no_hub_is_told(news: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class LoginPage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>" if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), LoginPage) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        use(f"http://127.0.0.1:{server.server_port}", news.root.parent / "hf", monkeypatch)
        wait_for_hub()
        with pytest.raises(UserError, match=r"web: what answers at http://.* is not the hub: log in"):
            hub_files(source())
        server.shutdown()
    monkeypatch.setattr(constants, "ENDPOINT", "huggingface.co")
    with pytest.raises(UserError, match=r"HF_ENDPOINT is huggingface\.co; set it to an address such as https://"):
        wait_for_hub()


def test_a_stop_ends_the_wait_for_an_answer(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sllm.data.hub, "FIRST_PATIENCE", 1e9)
    monkeypatch.setattr(sllm.data.hub, "LONGEST_PATIENCE", 1e6)
    monkeypatch.setattr(constants, "ENDPOINT", silent)

    def stop() -> None:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        wait_for_hub(stop)
