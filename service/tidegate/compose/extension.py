"""Reading the `x-tidegate` keys of the deployment: preview, weights, control, hooks, compare, probe, group, … Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tidegate.compose import reader as compose_reader
from tidegate.compose.reader import Reader, boolean, image, integer, one_of, pairs
from tidegate.compose.units import parse_duration, parse_share
from tidegate.core.hooks import HOOKS, Hook, ReleaseRole
from tidegate.core.model import Order, Service, Strategy
from tidegate.core.probes import MIN_INTERVAL_SECONDS, Probe, public_url
from tidegate.core.routing import PREVIEW_HEADER, Preview, split_listen
from tidegate.openapi_diff.result import CompareOptions, OnBreaking

MAX_PROBE_SECONDS = 60.0
MAX_WAIT_SECONDS = 86_400.0  # the meaning of `long_lived: wait`

#: A preview header that clients send by themselves would lead their requests to a release that nobody has approved.
ORDINARY_HEADER = re.compile(
    "accept(-.*)?|authorization|cache-control|connection|content-.*|cookie|date|dnt|expect|forwarded|from|host|if-.*"
    "|keep-alive|max-forwards|origin|pragma|priority|proxy-.*|range|referer|sec-.*|te|trailer|transfer-encoding|upgrade.*"
    "|user-agent|via|x-forwarded-.*|x-real-ip|x-requested-with",
    re.IGNORECASE,
)


def read_image(root: Reader, own: Reader, instead: str) -> str:
    """The image to deploy: that of the request, of `x-tidegate`, or of the service."""
    written, chosen = root.take("image", image, ""), own.take("image", image, "")
    result = instead or chosen or written
    if not result and "image" not in root and "image" not in own:
        advice = "; set image or x-tidegate.image, pass --image, or use tidegate deploy --build" if "build" in root else ""
        root.complain("image", f"is required{advice}")
    root.tolerate("build")
    if "build" in root and not instead:
        root.note("build", f"ignored: {result or 'the image'} is deployed; tidegate deploy --build builds it first")
    return result


def read_preview(own: Reader) -> tuple[Preview | None, float]:
    """How to reach the new release before it takes traffic (None: not at all), and its bake time there in seconds."""
    reader = own.inner("preview")
    if "preview" not in own:
        return None, 0.0
    preview = Preview(reader.take("listen", parse_listen, ""), reader.take("header", _header, ""))
    bake = reader.take("bake", parse_duration, 0.0)
    reader.finish()
    if not any(key in reader for key in ("listen", "header")):
        own.complain("preview", "needs listen (an address of its own), header (such as X-Preview: blue), or both")
    return preview, bake


def parse_listen(value: object) -> str:
    """An address for the proxy to listen on."""
    try:
        if isinstance(value, str | int) and re.fullmatch(r"([0-9.]+:|\*:|\[[0-9A-Fa-f:.]+\]:)?[0-9]{1,5}", str(value)):
            _, port = split_listen(str(value))
            if 1 <= port <= 65535:
                return str(value)
    except ValueError:
        pass
    raise ValueError("a port such as 8001, or an address and a port such as 127.0.0.1:8001 or [::1]:8001")


def _header(value: object) -> str:
    match = PREVIEW_HEADER.fullmatch(value) if isinstance(value, str) else None
    if match and ORDINARY_HEADER.fullmatch(match[1]):
        raise ValueError(f"a header such as 'X-Preview: blue', which no client sends by itself; {match[1]} is sent by them")
    if match:
        return f"{match[1]}: {match[2]}"
    rule = "a name of letters, digits and -, a value of these and . _ ~ + / = : @"
    raise ValueError(f"a header such as 'X-Preview: blue': {rule}")


def read_keep_old(own: Reader, strategy: Strategy) -> float:
    """Seconds for which the old release is kept running after the switch."""
    duration = own.take("keep_old", parse_duration, 0.0)
    if duration and strategy is not Strategy.BLUE_GREEN:
        own.complain("keep_old", "applies only to strategy blue_green, which keeps the old release running for this time")
    return duration


def read_control(own: Reader, service: Service) -> int:
    """How many old instances stay in the route until the last bake is over. By default one where there is something to
    compare and room for it."""
    has_room = service.strategy is Strategy.ROLLING and service.order is Order.START_FIRST
    control = own.take("control", integer(0, 1), int(has_room and service.replicas > 1 and bool(service.checks)))
    if control and service.strategy is not Strategy.ROLLING:
        own.complain("control", "applies only to strategy rolling; blue_green moves all traffic in one switch")
    elif control and not has_room:
        own.complain("control", "cannot be used with order stop-first, which has no room for one more instance")
    return control


def read_weights(own: Reader) -> tuple[float, ...]:
    """The new release's shares of the traffic, one for each of the first batches."""
    return own.take("weights", _shares, ())


def _shares(value: object) -> tuple[float, ...]:
    shares = tuple(parse_share(share) for share in value) if isinstance(value, list) and value else ()
    if shares and all(0 < share < 1 for share in shares) and list(shares) == sorted(shares):
        return shares
    raise ValueError("a list of non-decreasing shares between 0% and 100%, such as [5%, 25%]")


def read_compare(own: Reader) -> CompareOptions | None:
    """The options of the OpenAPI comparison; None: no comparison."""
    reader = own.inner("compare")
    if "compare" not in own:
        return None
    path = reader.take("openapi", parse_path, "")
    if "openapi" not in reader:
        reader.complain("openapi", "is required: the path of the OpenAPI document, such as /openapi.json")
    options = CompareOptions(path, reader.take("on_breaking", one_of(OnBreaking, OnBreaking), OnBreaking.FAIL))
    reader.finish()
    return options


def parse_path(value: object) -> str:
    """The path of a request."""
    if isinstance(value, str) and re.fullmatch(r"/[!-~]*", value):
        return value
    raise ValueError("a path such as /health or /openapi.json")


def read_probe(own: Reader, listen: str) -> Probe | None:
    """The options of probing during a rollout; None: no probing."""
    reader = own.inner("probe")
    if "probe" not in own:
        return None
    base = Probe("")
    url = reader.take("url", _url, "") or (public_url(listen, reader.take("path", parse_path, "/")) if listen else "")
    reader.take("path", parse_path, "/")
    if not url:
        reader.complain(
            "url", "is required if the service has no `listen`: the URL to probe, such as http://10.0.0.5:8001/"
        )
    probe = Probe(
        url=url,
        interval_seconds=reader.take("every", _probe_interval, base.interval_seconds),
        timeout_seconds=reader.take("timeout", _probe_timeout, base.timeout_seconds),
        slow_seconds=reader.take("slow", parse_duration, base.slow_seconds),
        header=reader.take("header", parse_header_name, ""),
    )
    reader.finish()
    return probe


def _probe_interval(value: object) -> float:
    interval = parse_duration(value)
    if interval < MIN_INTERVAL_SECONDS:
        raise ValueError("a duration of at least 100ms")
    return interval


def _probe_timeout(value: object) -> float:
    timeout = parse_duration(value)
    if not 0 < timeout <= MAX_PROBE_SECONDS:
        raise ValueError("a duration of at most 1m")
    return timeout


def _url(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"http://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?", value):
        return value
    raise ValueError("an address such as http://10.0.0.5:8001/health")


def parse_header_name(value: object) -> str:
    """The name of a header."""
    if isinstance(value, str) and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", value):
        return value
    raise ValueError("a header's name, such as X-Version")


def read_long_lived(own: Reader) -> float | None:
    """How long to wait for long-lived connections, in seconds; None: as long as for requests."""
    if isinstance(own.values.get("long_lived"), str):
        return own.take("long_lived", one_of(lambda _: MAX_WAIT_SECONDS, ["wait"]), None)
    reader = own.inner("long_lived")
    duration: float | None = reader.take("close_after", parse_duration, None)
    if "long_lived" in own and "close_after" not in reader:
        reader.complain("close_after", "is required, such as 10m; or write `long_lived: wait`")
    reader.finish()
    return duration


def read_group(own: Reader) -> bool:
    """Whether the service is rolled out in one group with the other services of its file that set `group`."""
    return own.take("group", boolean, False)


def group_members(document: object, service: str) -> tuple[str, ...]:
    """The other services of the document that are in the group."""
    return tuple(name for name in _services(document) if name != service and is_in_group(document, name))


def is_in_group(document: object, service: str) -> bool:
    """Whether the service of the document sets `group`."""
    body = _services(document).get(service)
    own = body.get("x-tidegate") if isinstance(body, Mapping) else None
    try:
        return isinstance(own, Mapping) and boolean(own.get("group"))
    except ValueError:
        return False  # reported with the mistakes of that service


def _services(document: object) -> Mapping[str, object]:
    services = document.get("services") if isinstance(document, Mapping) else None
    return {str(name): body for name, body in services.items()} if isinstance(services, Mapping) else {}


def read_hooks(own: Reader) -> Mapping[str, Hook]:
    """The hooks, by name."""
    reader = own.inner("hooks")
    result = {name: _hook(reader, name) for name in HOOKS if name in reader}
    for name in HOOKS:
        reader.inner(name) if name not in result else None
    reader.finish()
    return result


def _hook(hooks: Reader, name: str) -> Hook:
    """One hook: a command, or a mapping of options."""
    if not isinstance(hooks.values[name], Mapping):
        return Hook(hooks.take(name, _command, ()))
    reader = hooks.inner(name)
    if "command" not in reader:
        reader.complain("command", "is required: text, or a list of words")
    base = Hook(())
    hook = Hook(
        command=reader.take("command", _command, ()),
        entrypoint=reader.take("entrypoint", compose_reader.command, None),
        release=reader.take("release", one_of(ReleaseRole, ReleaseRole), base.release),
        image=reader.take("image", image, ""),
        environment=reader.take("environment", pairs, {}, secret=True),
        timeout_seconds=reader.take("timeout", parse_duration, base.timeout_seconds),
        host_network=reader.take("network", one_of(lambda word: word == "host", ["host", "service"]), False),
    )
    reader.finish()
    return hook


def _command(value: object) -> tuple[str, ...]:
    words = compose_reader.command(value)
    if not words:
        raise ValueError("text, or a list of words; not an empty one")
    return words
