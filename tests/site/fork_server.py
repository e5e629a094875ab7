"""Runs ``mmpref`` command lines in forks of one process that has the installed mmpref and its libraries loaded.

A fork begins in milliseconds where the command by itself needs seconds to load torch, so that every command of the
pages can be executed. The arguments, the environment, the working directory and the three streams are those of the
shell that asks. This file imports nothing of the repository: it is started by the interpreter of the environment that
the wheel was installed into.

    python -I fork_server.py SOCKET [MODULE ...]
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
from typing import Any


def main(address: str, modules: list[str]) -> None:
    from mmpref.process import notices

    notices.install()  # as the installed command does before anything else
    for name in modules:
        module, _, attribute = name.partition(":")
        loaded = importlib.import_module(module)
        if attribute:
            getattr(loaded, attribute)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)  # noqa: T201 (whoever started this reads it)
        while True:
            asker, _ = server.accept()
            message, descriptors, _, _ = socket.recv_fds(asker, 1 << 20, 3)
            if not message:  # the tests are over
                return
            child = os.fork()
            if child == 0:
                server.close()
                asker.close()
                _run(json.loads(message), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            threading.Thread(target=_tell, args=(asker, child), daemon=True).start()


def _tell(asker: socket.socket, child: int) -> None:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with asker:
        asker.sendall(str(code if code >= 0 else 128 - code).encode())


def _run(asked: dict[str, Any], descriptors: list[int]) -> None:
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(str(asked["folder"]))
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.argv = ["mmpref", *asked["argv"]]
        from mmpref.cli.main import entry_point

        try:
            entry_point()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
