"""The path of somebody who has only the README, and then the tutorial: a fresh clone, an environment, a server.

``./dev newcomer`` runs every command of both in an empty folder, and their Python in the environment that they made. Where
the usual tests pass over ``git clone`` and ``pip install``, here they are what is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sybil import Example

from tests.docs.pages import PROJECT, Page, commands
from tests.servers import own_database, servers

PAGES = (PROJECT / "README.md", PROJECT / "docs" / "tutorial.md")
# The project's own chores have steps of their own in .ci/run.
CHORES = ("./dev ",)


class Newcomer(Page):
    """The page, with nothing installed but Python and git."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Neither the environment of these tests nor the source tree may help.
        here = str(Path(sys.executable).parent)
        path = [part for part in os.environ["PATH"].split(os.pathsep) if part != here]
        self.environment |= {"PATH": os.pathsep.join(path)}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self.environment.pop(name, None)

    def evaluate(self, mark: str, example: Example) -> None:
        if mark.startswith("python") and not example.parsed.startswith("# "):
            # In the order of the page: what it has said so far, and this.
            script = self.folder / "page.py"
            with script.open("a", encoding="utf-8") as file:
                file.write(self.placed(example.parsed) if "server" in mark else str(example.parsed))
            if "server" in mark:
                self.run_command("python page.py")
            return
        super().evaluate(mark, example)

    def type_in(self, text: str, line: int) -> None:
        for command, _ in commands(text):
            if command.startswith(". "):
                folder = self.folder / Path(command[2:]).parent
                self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"
            elif command.startswith("export "):
                super().type_in(f"$ {command}\n", line)
            elif not command.startswith(CHORES):
                self.run_command(command.replace("REPOSITORY", str(PROJECT)))

    def run_command(self, command: str) -> None:
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            ["bash", "-c", self.placed(command)],
            check=False,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
        # The tutorial shows how a refusal ends a program.
        if done.returncode and "first.py" not in command:
            sys.exit(f"{self.where}: $ {command} ended with {done.returncode}")


def main() -> None:
    server = servers()[0]
    print(f"server: {server.name} {server.version}")
    for page in PAGES:
        begin = time.monotonic()
        url = server.url.set(drivername=f"{server.url.get_backend_name()}+pymysql")
        with tempfile.TemporaryDirectory() as folder, own_database(url) as own:
            Newcomer(page, Path(folder), own).run()
        print(f"{page.name}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
