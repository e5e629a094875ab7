"""How busy ``mmpref sample generate`` keeps a server, and what a request costs the client.

    python scripts/bench_sampling_server.py [--requests 1024] [--concurrency 64] [--seconds 1.0] [--image-kib 100]

A real server in another process answers every request after about ``--seconds`` (half to one and a half of them, at
random) and counts how many it has at the same time. The client is this process, on one core, with an image in every
prompt. ``in_flight`` is the mean over the time from the first request to the last reply that is followed by another
request; ``client_cpu_ms`` is processor time of the whole run, the start left out, divided by requests. Loads no torch.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmpref.data.prompt_source import read_prompts
from mmpref.generation.api_server import Server
from mmpref.sampling.generate import GenerateSettings, generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--n", type=int, default=4, help="samples a prompt")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="mean time of a reply")
    parser.add_argument("--image-kib", type=int, default=100, help="size of the images")
    print(json.dumps(_measure(parser.parse_args()), indent=2))


def _measure(asked: argparse.Namespace) -> dict[str, Any]:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, asked.seconds), daemon=True)
    server.start()
    port = here.recv()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        source = read_prompts(_write_prompts(root, asked))
        settings = GenerateSettings(n=asked.n)
        at = Server(url=f"http://127.0.0.1:{port}", model="m", concurrency=asked.concurrency)
        begun, cpu = time.perf_counter(), time.process_time()
        generate("m", source, root / "out", servers=[at], settings=settings)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    here.send("end")
    found = here.recv()
    server.join()
    return {
        "asked": vars(asked),
        "in_flight": round(found["in_flight"], 1),
        "most_in_flight": found["most"],
        "requests": found["requests"],
        "wall_s": round(wall, 2),
        "client_cpu_ms": round(1000 * cpu / found["requests"], 2),
        "client_busy": round(cpu / wall, 3),
    }


def _write_prompts(root: Path, asked: argparse.Namespace) -> Path:
    """Prompts with an image each: noise, of about the size that was asked for."""
    from PIL import Image

    side = max(16, int((asked.image_kib * 1024 / 3) ** 0.5))
    rows = []
    for number in range(-(-asked.requests // asked.n)):
        name = f"{number % 32}.png"
        if number < 32:
            Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side)).save(root / name)
        rows.append({"id": str(number), "image": name, "question": f"What is number {number}?"})
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root / "prompts.jsonl"


def _serve(pipe: Connection, seconds: float) -> None:
    """Answer until the pipe says that all is asked, and say how many requests were there at once."""
    changes: list[tuple[float, int]] = []
    draw = random.Random(0)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            is_chat = head.startswith(b"POST")
            lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lines[0].split(b":")[1]) if lines else 0)
            if is_chat:
                changes.append((time.perf_counter(), 1))
                await asyncio.sleep(seconds * draw.uniform(0.5, 1.5))
                changes.append((time.perf_counter(), -1))
            body = json.dumps(_reply(f"text {len(changes)}") if is_chat else {"data": [{"id": "m"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def run() -> None:
        listening = await asyncio.start_server(speak, "127.0.0.1", 0, limit=2**26, backlog=512)
        pipe.send(listening.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(run())
    pipe.send(_at_once(changes))


def _at_once(changes: list[tuple[float, int]]) -> dict[str, Any]:
    """Mean and most requests at once, from the first request to the last one that came."""
    last = max(moment for moment, change in changes if change > 0)
    total, there, most = 0.0, 0, 0
    for (moment, change), (then, _) in itertools.pairwise(changes):
        there += change
        most = max(most, there)
        total += there * max(0.0, min(then, last) - moment)
    return {"in_flight": total / (last - changes[0][0]), "most": most, "requests": len(changes) // 2}


def _reply(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}


if __name__ == "__main__":
    main()
