"""Two examples for each command, with which its help ends."""

from __future__ import annotations

import typer

#: By the command's words. Both can be pasted; a test parses them.
EXAMPLES: dict[str, tuple[str, str]] = {
    "import": (
        "tidegate import production/shop -f compose.yaml -p books --listen 127.0.0.1:18080",
        "tidegate import production/worker -f compose.yaml -p books",
    ),
    "release": (
        "tidegate release production/shop",
        'tidegate release production/shop -m "back to Compose"',
    ),
    "init": ("tidegate init compose.yaml", "tidegate init compose.yaml shop --port 8080 --health /health --yes"),
    "lint": ("tidegate lint compose.yaml --set VERSION=v2", "tidegate lint deploy/*.yaml -o json"),
    "plan": (
        "tidegate plan production/shop -f compose.yaml --set VERSION=v2",
        "tidegate plan production/shop --image registry.example.com/shop:v2 -o json",
    ),
    "deploy": (
        "tidegate deploy production/shop -f compose.yaml --set VERSION=v2",
        "tidegate deploy production/shop -f compose.yaml --set VERSION=v2 --plan 6a1c3f0d5b2e47 --until end",
    ),
    "verify": ("tidegate verify production/shop", "tidegate verify 6a1c3f0d5b2e47 -o json"),
    "promote": (
        'tidegate promote production/shop -m "looks good"',
        'tidegate promote 6a1c3f0d5b2e47 --full -m "tested in staging"',
    ),
    "rollback": ("tidegate rollback production/shop", 'tidegate rollback production/shop --to v1-1 -m "orders are lost"'),
    "restart": ("tidegate restart production/shop", 'tidegate restart production/shop --no-wait -m "memory leak"'),
    "retry": ("tidegate retry production/shop", 'tidegate retry 6a1c3f0d5b2e47 --force -m "the database was down"'),
    "pause": ("tidegate pause production/shop", 'tidegate pause 6a1c3f0d5b2e47 -m "looking into errors"'),
    "resume": ("tidegate resume production/shop", "tidegate resume 6a1c3f0d5b2e47"),
    "watch": ("tidegate watch production/shop", "tidegate watch 6a1c3f0d5b2e47 -o json"),
    "scale": ("tidegate scale production/shop 8", 'tidegate scale production/shop 12 -m "the sale begins"'),
    "repair": ("tidegate repair production/shop", "tidegate repair production/shop --no-wait"),
    "remove": ("tidegate remove staging/shop", 'tidegate remove staging/shop --yes -m "end of the project"'),
    "status": ("tidegate status", "tidegate status production/shop"),
    "events": ("tidegate events production/shop", "tidegate events 6a1c3f0d5b2e47 --after 20 -o json"),
    "logs": ("tidegate logs production/shop --follow", "tidegate logs production/shop --release v2-4 --lines 500"),
    "exec": (
        "tidegate exec production/shop -- sh",
        "tidegate exec production/shop --release v2-4 -- env",
    ),
    "report": ("tidegate report production/shop", "tidegate report 6a1c3f0d5b2e47 --file report.json"),
    "services": ("tidegate services", "tidegate services -o json"),
    "rollouts": ("tidegate rollouts --service production/shop", "tidegate rollouts --phase failed --limit 5"),
    "history": ("tidegate history production/shop", "tidegate history production/shop --limit 50 -o json"),
    "environments": ("tidegate environments", "tidegate environments -o json"),
    "apply": (
        "tidegate apply production/shop -f compose.yaml --set VERSION=v2",
        "tidegate apply staging/shop -f compose.yaml -f compose.staging.yaml",
    ),
    "analysis replay": (
        "tidegate analysis replay production/shop",
        "tidegate analysis replay 6a1c3f0d5b2e47 --set false_abort=5%",
    ),
    "analysis simulate": (
        "tidegate analysis simulate --grid grid.toml",
        "tidegate analysis simulate --grid grid.toml --replicates 1000",
    ),
    "quarantine list": ("tidegate quarantine list", "tidegate quarantine list production/shop -o json"),
    "quarantine lift": (
        'tidegate quarantine lift production/shop v2-4 --reason "the errors came from the database"',
        'tidegate quarantine lift staging/shop v7-9 --reason "tested by hand" -o json',
    ),
    "freeze": (
        'tidegate freeze production --reason "holidays" --hours 72',
        'tidegate freeze staging --reason "load test"',
    ),
    "thaw": ("tidegate thaw production", "tidegate thaw staging"),
    "freezes": ("tidegate freezes", "tidegate freezes -o json"),
    "audit": ("tidegate audit production/shop", "tidegate audit --limit 200 -o json"),
    "serve": (
        "tidegate serve --settings /etc/tidegate.toml --with-engine",
        "tidegate serve --settings /etc/tidegate.toml",
    ),
    "engine": (
        "tidegate engine --settings /etc/tidegate.toml",
        "TIDEGATE_SETTINGS=/etc/tidegate.toml tidegate engine",
    ),
    "prune": (
        "tidegate prune --settings /etc/tidegate.toml --dry-run",
        "tidegate prune --settings /etc/tidegate.toml",
    ),
    "check": (
        "tidegate check --settings /etc/tidegate.toml",
        "tidegate check --settings /etc/tidegate.toml -o json",
    ),
    "db migrate": (
        "tidegate db migrate --settings /etc/tidegate.toml",
        "TIDEGATE_SETTINGS=/etc/tidegate.toml tidegate db migrate",
    ),
    "db after-restore": (
        "tidegate db after-restore --settings /etc/tidegate.toml",
        "TIDEGATE_SETTINGS=/etc/tidegate.toml tidegate db after-restore",
    ),
    "token create": (
        "tidegate token create admin --local --scope admin --settings /etc/tidegate.toml",
        "tidegate token create jenkins --scope deploy --scope promote --service 'production/*'",
    ),
    "token list": ("tidegate token list", "tidegate token list -o json"),
    "token drop": ("tidegate token drop 1a2b3c4d", "tidegate token drop 9f8e7d6c"),
    "man": ("tidegate man ~/.local/share/man/man1", "tidegate man /usr/local/share/man/man1"),
}


def add_examples(app: typer.Typer, words: str = "") -> None:
    """Give each command of the app, and of the apps in it, its examples: as paragraphs, so that no lines are joined."""
    for command in app.registered_commands:
        name = f"{words} {command.name or (command.callback.__name__ if command.callback else '')}".strip()
        command.epilog = "\n\n".join(("Examples:", *EXAMPLES[name.replace("_", "-")]))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, f"{words} {group.name}".strip())
