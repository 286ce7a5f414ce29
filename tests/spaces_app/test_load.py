"""Twenty people at once: nobody is turned away, all wait in turn, memory is bounded and no upload stays."""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from spaces_app.interface import build
from spaces_app.serving import serving
from tests.hub.clients import free_port
from tests.spaces_app.tiny_page import image_bytes, workbench

PEOPLE = 20
START = 120  # seconds that the server may take to start on a busy machine
LONGEST = 240  # seconds that a call may take
TOGETHER = 700 * 2**20  # bytes that twenty people may take above what the server held before them
GROWTH = 150 * 2**20  # bytes by which twenty others, who come later, may take more
KINDS = ("read", "where", "make", "find", "refused")


@dataclass(frozen=True)
class Call:
    """What a person asked for, how long it took, the places in the queue that were told, and the answer."""

    kind: str
    seconds: float
    places: tuple[int, ...]
    answer: object


def ask(client: Client, kind: str, film: Path, letter: Path, number: int) -> Call:
    """One call as a person makes it; what is refused answers with its sentence."""
    wanted = {
        "read": {"film": handle_file(film), "api_name": "/read_film"},
        "where": {"film": handle_file(film), "phrase": "left effusion", "api_name": "/where"},
        "make": {"impression": "Right pneumothorax.", "seed": number, "api_name": "/make"},
        "find": {"film": handle_file(film), "number": 3, "api_name": "/nearest_reports"},
        "refused": {"film": handle_file(letter), "api_name": "/read_film"},
    }[kind]
    begun, places = time.perf_counter(), []
    job = client.submit(**wanted)
    while not job.done():
        if (place := job.status().rank) is not None:
            places.append(place)
        time.sleep(0.02)
    try:
        answer = job.result(timeout=LONGEST)
    except AppError as refusal:
        answer = str(refusal)
    return Call(kind, time.perf_counter() - begun, tuple(dict.fromkeys(places)), answer)


def crowd(url: str, folder: Path, people: int, calls: int) -> list[Call]:
    """`people` sessions that each make `calls` calls, all beginning at once, no two with the same image."""
    folder.mkdir(exist_ok=True)
    begin = threading.Barrier(people)

    def person(number: int) -> list[Call]:
        film, letter = folder / f"image-{number}.png", folder / f"letter-{number}.png"
        film.write_bytes(image_bytes(number, 640))
        letter.write_bytes(f"This is letter {number}.".encode())
        client = Client(url, verbose=False, download_files=folder / f"answers-{number}")
        begin.wait(START)
        try:
            kinds = [KINDS[(number + turn) % len(KINDS)] for turn in range(calls)]
            return [ask(client, kind, film, letter, number) for kind in kinds]
        finally:
            client.close()

    with ThreadPoolExecutor(people) as pool:
        return [call for made in pool.map(person, range(people)) for call in made]


def check(calls: list[Call]) -> None:
    """Everybody got what they asked for."""
    for call in calls:
        if call.kind == "refused":
            assert "no picture" in call.answer and call.answer.endswith("."), call
        elif call.kind == "read":
            assert all(0 <= score <= 1 for scores in call.answer["scores"].values() for score in scores.values()), call
        elif call.kind == "where":
            assert Path(call.answer[0]).stat().st_size > 1000 and "highest" in call.answer[1], call
        elif call.kind == "make":
            assert len(call.answer[0]) == 1 and "labels" in call.answer[1][0], call
        else:
            assert len(call.answer) == 3, call


class Memory:
    """The most that a process holds within a `with`."""

    def __init__(self, pid: int):
        self.process = psutil.Process(pid)
        self.begun = self.most = self.process.memory_info().rss

    def __enter__(self) -> Memory:
        self.most, self.over = 0, threading.Event()
        self.watching = threading.Thread(target=self.watch)
        self.watching.start()
        return self

    def watch(self) -> None:
        while not self.over.wait(0.1):
            self.most = max(self.most, self.process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self.over.set()
        self.watching.join()


def left_over(uploads: Path, handed_in: Path) -> list[str]:
    """Files in the server's folder that hold what somebody handed in."""
    known = {hashlib.sha256(path.read_bytes()).hexdigest() for path in handed_in.glob("*-*.png")}
    assert known
    there = [path for path in uploads.rglob("*") if path.is_file()]
    return [path.name for path in there if hashlib.sha256(path.read_bytes()).hexdigest() in known]


def table(calls: list[Call]) -> str:
    lines = ["kind      calls   median s   longest s   farthest back in the queue"]
    for kind in KINDS:
        seconds = [call.seconds for call in calls if call.kind == kind]
        back = max((max(call.places, default=0) for call in calls if call.kind == kind), default=0)
        lines.append(f"{kind:9} {len(seconds):5} {statistics.median(seconds):10.2f} {max(seconds):11.2f} {back:10}")
    return "\n".join(lines)


def test_twenty_people_on_a_small_page(tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    page = build(workbench())
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **serving())
    try:
        calls = crowd(url, tmp_path / "people", PEOPLE, 2)
        assert len(calls) == 2 * PEOPLE and {call.kind for call in calls} == set(KINDS)
        check(calls)
        assert max(place for call in calls for place in call.places) > 0  # somebody waited, and was told so
        assert not left_over(uploads, tmp_path / "people")
    finally:
        page.close()


@pytest.mark.slow
def test_twenty_people_on_the_page_as_it_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    port = free_port()
    log = tmp_path / "log"
    begun = time.perf_counter()
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "spaces_app.app", "--port", str(port)]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/"
        started = None
        while started is None:
            assert server.poll() is None and time.perf_counter() - begun < START, log.read_text()
            try:
                started = httpx.get(url, timeout=60).status_code
            except httpx.ConnectError:
                time.sleep(0.2)
        assert started == 200
        print(f"\nfirst page after {time.perf_counter() - begun:.1f} s, load {psutil.getloadavg()[0]:.1f}")
        (uploads,) = tmp_path.glob("medsyn-space-*")

        server_memory = Memory(server.pid)
        print(f"the server held {server_memory.begun / 2**20:.0f} MB before them")
        rounds = []
        for turn in range(3):
            with server_memory:
                calls = crowd(url, tmp_path / f"round-{turn}", PEOPLE, len(KINDS))
            check(calls)
            rounds.append(server_memory.most)
            print(f"round {turn + 1}: the server held {server_memory.most / 2**20:.0f} MB at most\n{table(calls)}")
            assert max(place for call in calls for place in call.places) > 0
            assert not left_over(uploads, tmp_path / f"round-{turn}")
        assert rounds[0] < server_memory.begun + TOGETHER
        assert rounds[2] < max(rounds[:2]) + GROWTH
        assert "Traceback" not in log.read_text()
    finally:
        server.terminate()
        server.wait(30)
    assert not uploads.exists()
