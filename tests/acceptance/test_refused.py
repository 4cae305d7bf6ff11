"""What cannot be done is refused and changes nothing, what was corrected is deployed, and tags are resolved each time."""

from __future__ import annotations

import re
import urllib.request

import docker

from parts import DemoStack, PartFailed
from processes import free_port
from support.registry import registry

IMAGE = "tidegate-acceptance-refused"
COMPOSE = """\
services:
  NAME:
    image: ${IMAGE}
    expose: ["8080"]
    environment: {READY: "${READY:-}"}
    x-tidegate: {listen: "${LISTEN}", health: {path: "${HEALTH:-/health}"}, healthy_deadline: "${DEADLINE:-60s}"}
"""
NO_HEALTH = ("""health: {path: "${HEALTH:-/health}"}, """, "")
NO_LISTEN = ("""listen: "${LISTEN}", """, "")
WITH_NETWORK = ("    x-tidegate", "    networks: [nowhere]\n    x-tidegate")
WITH_VOLUME = ("    x-tidegate", '    volumes: ["data:/data"]\n    x-tidegate')


def deploy(
    stage: DemoStack, *change: str, name: str = "shop", image: str = f"{IMAGE}:v1", **values: str
) -> tuple[int, str]:
    """The exit code of a deployment that is followed to its end, and everything that is said of it."""
    file = stage.home / f"{name}.yaml"
    text = COMPOSE.replace("NAME", name).replace(*(change or ("", "")))
    text += "networks: {nowhere: {external: true}}\nvolumes: {data: {external: true, name: tidegate-nowhere}}\n"
    file.write_text(text)
    sets = [f"--set={key}={value}" for key, value in {"IMAGE": image, "LISTEN": stage.listen, **values}.items()]
    try:
        said = stage.tidegate("deploy", f"{stage.environment}/{name}", "-f", str(file), "--until", "end", *sets)
    except PartFailed as failed:
        code = re.search(r" ended with (\d+): ", str(failed))
        assert code is not None
        newest = stage.api("/v1/rollouts?limit=1")["rollouts"][0]
        return int(code[1]), f"{failed} {newest['phase']}: {newest['reason']}"
    return 0, said


def served(stage: DemoStack) -> str:
    """The version that answers."""
    with urllib.request.urlopen(f"http://{stage.listen}/", timeout=60) as response:
        return str(response.headers["X-Version"])


def ended(stage: DemoStack, outcome: str) -> float:
    """How many rollouts have ended like this, as an alert counts them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.state.ports['tidegate']}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("tidegate_rollouts_total{") and f'outcome="{outcome}"' in line
    )


def test_a_first_day_with_mistakes(stage: DemoStack) -> None:
    """In one stage, since starting it takes longer than the rest."""
    stage.start({f"{IMAGE}:{version}": {"VERSION": version} for version in ("v1", "v2")})
    deploy_corrected(stage)
    refuse_what_cannot_work(stage)
    deploy_a_tag_that_was_pushed_again(stage)


def deploy_corrected(shop: DemoStack) -> None:
    assert deploy(shop, HEALTH="/nowhere", DEADLINE="1s")[0] == 3, "on the first day"
    assert deploy(shop)[0] == 0, "the same image, corrected"
    assert deploy(shop, READY="never", DEADLINE="1s")[0] == 3
    assert "Nothing is new" in deploy(shop)[1], "the image is what is live all the time"


def refuse_what_cannot_work(shop: DemoStack) -> None:
    with registry() as source:
        refusals = (
            (deploy(shop, image=f"{source.address}/shop:typo"), "not found in the registry"),
            (deploy(shop, *NO_HEALTH), "Cannot determine readiness"),
            (deploy(shop, *NO_LISTEN), "listen"),
            (deploy(shop, *WITH_NETWORK), "Network nowhere not found"),
            (deploy(shop, *WITH_VOLUME), "Volume tidegate-nowhere not found"),
            (deploy(shop, name="cart"), f"{shop.environment}/shop listens on {shop.listen}"),
            (deploy(shop, name="cart", LISTEN=f"127.0.0.1:{shop.state.ports['prometheus']}"), "Choose another `listen`"),
        )
    for (code, said), reason in refusals:
        assert (code, reason in said) == (1, True), said
    assert ended(shop, "failed") == 0, "no alert"
    assert ended(shop, "refused") >= 4, "those that only the engine can know"
    assert deploy(shop, name="cart", LISTEN=f"127.0.0.1:{free_port()}")[0] == 0, "the same service, corrected"


def deploy_a_tag_that_was_pushed_again(shop: DemoStack) -> None:
    client = docker.from_env(timeout=60)
    try:
        with registry() as source:
            for version in ("v1", "v2"):
                source.push(client, f"{IMAGE}:{version}", "shop", "latest")
                assert deploy(shop, image=f"{source.address}/shop:latest")[0] == 0
                assert served(shop) == version
    finally:
        client.close()
