"""``json`` and ``diff``: a machine as text, and the changes between two releases of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..machine import Machine
from ..machine.evolution import diff_machines
from ..operations.lookup import machine_at
from .output import JsonOption, print_json, print_text, tell
from .status import Status
from .targets import MachineArgument

_HELP = "A file that `json` wrote, or a machine: shop.models:Order.state, shop.models:machine"


def json_(
    target: MachineArgument,
) -> None:
    """Print a machine as JSON, to keep it with a release, compare it by `diff`, or give it to `op.enforce_machine`.

    The same machine gives the same text. The expressions of guards and effects are not in it.
    """
    machine, _ = machine_at(target)
    print_text(machine.to_json())


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_HELP, show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", help=_HELP, show_default=False)],
    is_json: JsonOption = False,
) -> None:
    """List the changes from one release of a machine to the next, and the phases that deploy each safely.

    The exit status is 0 when both machines do the same, 1 when something changed, 2 when the call is wrong.
    """
    changes = diff_machines(_machine(old), _machine(new))
    if is_json:
        print_json(
            [
                {
                    "kind": change.kind,
                    "what": change.what,
                    "phases": [{"kind": phase.kind, "what": phase.what} for phase in change.phases],
                }
                for change in changes
            ]
        )
    else:
        tell("\n".join(map(str, changes)) or "Nothing changed.")
    if changes:
        raise typer.Exit(Status.REFUSED)


def _machine(source: str) -> Machine:
    """The machine that *source* names, a file or a target."""
    path = Path(source)
    if not path.is_file() and path.suffix != ".json":
        return machine_at(source)[0]
    try:
        return Machine.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{source} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{source}: {error}") from error
