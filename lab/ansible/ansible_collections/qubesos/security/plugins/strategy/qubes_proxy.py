# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code="misc, no-untyped-call, attr-defined, override"
"""The lab's stand-in for the strategy `qubesos.security.qubes_proxy`.

Behaves as QubesOS/qubes-ansible
ansible_collections/qubesos/security/plugins/strategy/qubes_proxy.py
(QubesPlayExecutor, StrategyModule) does: a play on dom0 runs as usual; a play on a qube runs in a
separate ansible-playbook that gets this one play, the roles that its `roles:` names, the host's
merged variables and its groups, and nothing else. Its exit status alone comes back: hosts don't
count as failed for the plays that follow.

Other than upstream's: that ansible-playbook runs in dom0, not in a disposable; one play can't have
both dom0 and qubes; there are no policy files to write.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml
from ansible import context
from ansible.errors import AnsibleError
from ansible.executor.play_iterator import PlayIterator
from ansible.inventory.host import Host
from ansible.parsing.yaml.dumper import AnsibleDumper
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.plugins.strategy.linear import StrategyModule as LinearStrategyModule
from ansible.utils.display import Display
from ansible.vars.reserved import get_reserved_names

DOCUMENTATION = """
name: qubes_proxy
short_description: Run plays on qubes apart from dom0's own ansible-playbook
description:
  - The lab's stand-in for the strategy that Qubes OS ships in dom0.
author: The qubes-dedup-backup authors (@qubes-dedup-backup)
"""

LOCAL = ("localhost", "dom0")
CONNECTION = "qubesos.core.qubes"
# Of Ansible's own variables, those that a user sets in the inventory; the others are made anew.
KEPT = (
    "ansible_connection",
    "ansible_host",
    "ansible_user",
    "ansible_pipelining",
    "ansible_python_interpreter",
)
FLAGS = ("check", "diff", "force_handlers", "flush_cache")


class StrategyModule(LinearStrategyModule):
    """Sends plays on qubes elsewhere."""

    def run(self, iterator: PlayIterator, play_context: PlayContext) -> int:
        """Run one play and return ansible-playbook's exit status for it."""
        play = iterator._play
        hosts = self._inventory.get_hosts(play.hosts)
        remote = [host for host in hosts if str(host) not in LOCAL]
        if not remote:
            return int(super().run(iterator, play_context))
        if len(remote) < len(hosts):
            raise AnsibleError("the lab's qubes_proxy can't mix dom0 and qubes in one play")
        statuses = [self._run_apart(play, host) for host in remote]
        return max(statuses)

    def _run_apart(self, play: Play, host: Host) -> int:
        name = str(host)
        with tempfile.TemporaryDirectory(prefix="qubes-ansible-") as folder:
            bundle = Path(folder)
            add_play(bundle, play, name)
            for role in play.get_roles():
                source = Path(role.get_role_path())
                shutil.copytree(source, bundle / "roles" / source.name)
            self._add_host_vars(bundle, play, host)
            add_inventory(bundle, host)
            status = run_playbook(bundle, name, play.get_name())
        self._tqm._stats.increment("ok" if status == 0 else "failures", name)
        return status

    def _add_host_vars(self, bundle: Path, play: Play, host: Host) -> None:
        merged = self._variable_manager.get_vars(play=play, host=host, include_hostvars=False)
        drop = get_reserved_names()
        kept = {
            key: value
            for key, value in merged.items()
            if key in KEPT or (key not in drop and not key.startswith("ansible_"))
        }
        write_yaml(bundle / "host_vars" / f"{host}.yaml", kept)


def add_play(bundle: Path, play: Play, name: str) -> None:
    """Write the one play, read again from its file."""
    path, _, line = play.get_path().rpartition(":")
    text = "\n".join(Path(path).read_text().splitlines()[int(line) - 1 :])
    content = yaml.safe_load(text)[0]
    write_yaml(bundle / "playbook.yaml", [{**content, "hosts": [name], "strategy": "linear"}])


def add_inventory(bundle: Path, host: Host) -> None:
    """Write the host's groups."""
    groups = [group.name for group in host.get_groups() if group.name not in ("all", "ungrouped")]
    sections = [
        f"[{group}]\n{host}\n\n[{group}:vars]\nansible_connection={CONNECTION}\n"
        for group in groups or ["appvms"]
    ]
    (bundle / "inventory").write_text("\n".join(sections))


def write_yaml(path: Path, content: object) -> None:
    """Write YAML, with Ansible's own types."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.dump(content, Dumper=AnsibleDumper, default_flow_style=False))


def run_playbook(bundle: Path, name: str, play: str) -> int:
    """Run the bundle, show what it prints, and return its exit status."""
    arguments = context.CLIARGS
    argv = ["ansible-playbook", "-i", "inventory"]
    if arguments.get("verbosity"):
        argv.append("-" + "v" * arguments["verbosity"])
    for option, values in (
        ("-t", arguments.get("tags")),
        ("--skip-tags", arguments.get("skip_tags")),
    ):
        for value in values or ():
            argv += [option, value]
    argv += [f"--{flag.replace('_', '-')}" for flag in FLAGS if arguments.get(flag)]
    # As in the disposable: none of this side's settings.
    env = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    done = subprocess.run(
        [*argv, "playbook.yaml"], cwd=bundle, env=env, capture_output=True, text=True, check=False
    )
    display = Display()
    display.banner(f"LAB [{name}: PLAY {play}]")
    for output, colour in ((done.stderr, "red"), (done.stdout, "bright blue")):
        if output:
            display.display(output, colour)
    return done.returncode
