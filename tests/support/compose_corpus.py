"""Compose files in the shapes that teams have: six frameworks, each in a dozen shapes, with only `x-tidegate` added.

`FILES` has a folder for each: the names and texts of its files. `compose.yaml` comes first, then what is given as further
`-f`. `NOTED` and `REFUSED` say by the shape which keys get a note or are refused; every other key is honoured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PROJECT = "corpus"
OWN = "x-tidegate: {health: {path: /health}}"


@dataclass(frozen=True)
class Framework:
    """What differs between the frameworks."""

    name: str
    image: str
    port: int
    command: str  # as it stands in the file
    database: str
    database_image: str
    data: str  # where the database has its data
    check: str
    variables: Mapping[str, str]

    @property
    def environment(self) -> str:
        """As a mapping in the flow style."""
        return "{" + ", ".join(f'{name}: "{value}"' for name, value in self.variables.items()) + "}"

    @property
    def listed(self) -> str:
        """As a list in the block style, below `environment:`."""
        return "\n".join(f"      - {name}={value}" for name, value in self.variables.items())


POSTGRES = ("db", "postgres:16-alpine", "/var/lib/postgresql/data", "pg_isready -U app")
MYSQL = ("mysql", "mysql:8.4", "/var/lib/mysql", "mysqladmin ping -h localhost")
FRAMEWORKS = (
    Framework(
        "django",
        "registry.example/shop/django",
        8000,
        "gunicorn --bind 0.0.0.0:8000 --workers 3 shop.wsgi:application",
        *POSTGRES,
        {"DJANGO_SETTINGS_MODULE": "shop.settings.production", "DATABASE_URL": "postgres://app:app@db:5432/app"},
    ),
    Framework(
        "rails",
        "registry.example/shop/rails",
        3000,
        '["bundle", "exec", "puma", "-C", "config/puma.rb"]',
        *POSTGRES,
        {"RAILS_ENV": "production", "RAILS_LOG_TO_STDOUT": "1", "DATABASE_URL": "postgresql://app@db/app"},
    ),
    Framework(
        "node",
        "ghcr.io/example/storefront",
        3000,
        "node --enable-source-maps dist/main.js",
        "mongo",
        "mongo:7",
        "/data/db",
        "mongosh --quiet --eval 'db.runCommand({ping: 1})'",
        {"NODE_ENV": "production", "MONGO_URL": "mongodb://mongo:27017/app"},
    ),
    Framework(
        "spring",
        "registry.example:5000/bank/ledger",
        8080,
        '["java", "-XX:MaxRAMPercentage=75", "-jar", "/app/app.jar"]',
        *POSTGRES,
        {"SPRING_PROFILES_ACTIVE": "prod", "SPRING_DATASOURCE_URL": "jdbc:postgresql://db:5432/app"},
    ),
    Framework(
        "go",
        "example/linkshort",
        9000,
        "/linkshort -listen :9000",
        "redis",
        "redis:7-alpine",
        "/data",
        "redis-cli ping | grep -q PONG",
        {"REDIS_ADDR": "redis:6379", "LOG_LEVEL": "info"},
    ),
    Framework(
        "php",
        "registry.example/blog/php",
        80,
        "apache2-foreground",
        *MYSQL,
        {"APP_ENV": "prod", "DATABASE_URL": "mysql://app:app@mysql:3306/app"},
    ),
)

Folder = dict[str, str]


def _database(framework: Framework, more: str = "") -> str:
    """The service that `docker compose` runs as before; `more` are further lines of it."""
    return f"""\
  {framework.database}:
    image: {framework.database_image}
{more}    restart: unless-stopped
    volumes: ["dbdata:{framework.data}"]
    healthcheck:
      test: ["CMD-SHELL", "{framework.check}"]
      interval: 10s
      retries: 5
"""


def desk(framework: Framework) -> Folder:
    """A developer's file: built here, the source mounted, the port published."""
    return {
        "compose.yaml": f"""\
version: "3.8"
services:
  web:
    build: .
    image: {framework.image}
    container_name: {framework.name}-web
    command: {framework.command}
    volumes: [".:/app", "./config:/app/config:ro"]
    ports: ["{framework.port}:{framework.port}"]
    environment: {framework.environment}
    {OWN}
"""
    }


def with_database(framework: Framework) -> Folder:
    """The most common one: a web service and its database."""
    return {
        "compose.yaml": f"""\
services:
  web:
    image: {framework.image}:1.4.2
    restart: always
    ports:
      - "127.0.0.1:8010:{framework.port}"
    environment:
{framework.listed}
    depends_on:
      {framework.database}:
        condition: service_healthy
    volumes:
      - media:/srv/media
    {OWN}
{_database(framework)}volumes:
  media:
  dbdata:
"""
    }


def with_worker(framework: Framework) -> Folder:
    """A worker of the same image, by an anchor."""
    return {
        "compose.yaml": f"""\
x-app: &app
  image: {framework.image}:latest
  env_file: [app.env]
  restart: unless-stopped
  depends_on: [{framework.database}, queue]
services:
  web:
    <<: *app
    command: {framework.command}
    expose: ["{framework.port}"]
    stop_grace_period: 30s
    {OWN.replace("{health", "{listen: 127.0.0.1:8011, health")}
  worker:
    <<: *app
    command: work --queue default
  queue:
    image: redis:7-alpine
{_database(framework)}volumes: {{dbdata: {{}}}}
""",
        "app.env": "\n".join(f"{name}={value}" for name, value in framework.variables.items()) + "\nQUEUE=redis://queue\n",
    }


def with_own_proxy(framework: Framework) -> Folder:
    """The file's own nginx publishes the port; the web service has neither `ports` nor `expose`."""
    return {
        "compose.yaml": f"""\
services:
  proxy:
    image: nginx:1.27
    ports: ["80:80", "443:443"]
    volumes: ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
    networks: [front]
    depends_on: [web]
  web:
    image: {framework.image}:2
    command: {framework.command}
    environment: {framework.environment}
    networks:
      front: {{aliases: [backend]}}
      back:
    depends_on: [{framework.database}]
    {OWN.replace("{health", "{listen: 127.0.0.1:8012, health")}
{_database(framework, "    networks: [back]" + chr(10))}networks:
  front:
  back:
volumes:
  dbdata:
"""
    }


def stack(framework: Framework) -> Folder:
    """A stack of Swarm."""
    return {
        "compose.yaml": f"""\
version: "3.9"
services:
  web:
    image: {framework.image}:stable
    ports:
      - target: {framework.port}
        published: "8013"
        protocol: tcp
        mode: host
    environment: {framework.environment}
    networks: [public]
    secrets: [app_key]
    configs:
      - source: settings
        target: /etc/app/settings.ini
        mode: 0440
    deploy:
      mode: replicated
      replicas: 3
      labels:
        - traefik.enable=true
      placement:
        constraints: [node.role == worker]
      restart_policy: {{condition: on-failure, delay: 5s, max_attempts: 3}}
      rollback_config: {{parallelism: 1, order: stop-first}}
      update_config: {{parallelism: 2, delay: 10s, order: start-first, failure_action: rollback}}
      resources:
        limits: {{cpus: "0.50", memory: 256M}}
        reservations: {{cpus: "0.25", memory: 128M}}
    {OWN}
networks:
  public: {{driver: overlay, attachable: true}}
secrets:
  app_key: {{file: ./secrets/app_key}}
configs:
  settings: {{file: ./settings.ini}}
""",
        "secrets/app_key": "not-a-real-key\n",
        "settings.ini": "[app]\ndebug = false\n",
    }


def behind_traefik(framework: Framework) -> Folder:
    """Labels of a proxy that reads them, and a network of somebody else."""
    return {
        "compose.yaml": f"""\
services:
  web_app:
    image: {framework.image}:${{TAG:-7}}
    container_name: web_app
    labels:
      - "traefik.enable=true"
      - "traefik.http.routers.{framework.name}.rule=Host(`{framework.name}.example.com`)"
      - "traefik.http.services.{framework.name}.loadbalancer.server.port={framework.port}"
    networks: [traefik, default]
    expose: [{framework.port}]
    environment: {framework.environment}
    links: ["{framework.database}:database"]
    depends_on:
      - {framework.database}
    {OWN.replace("{health", "{listen: 127.0.0.1:8014, health")}
{_database(framework)}networks:
  traefik: {{external: {{name: traefik_proxy}}}}
volumes:
  dbdata:
    labels: [backup=daily]
"""
    }


def with_override(framework: Framework) -> Folder:
    """A file for all places, and one that production merges over it."""
    return {
        "compose.yaml": f"""\
services:
  web:
    build: {{context: ., args: [COMMIT]}}
    command: {framework.command}
    ports: ["{framework.port}:{framework.port}"]
    environment:
{framework.listed}
      - DEBUG=1
    depends_on: [{framework.database}]
    {OWN}
{_database(framework)}volumes:
  dbdata:
""",
        "compose.prod.yaml": f"""\
services:
  web:
    image: {framework.image}:3.1
    ports: !override ["8015:{framework.port}"]
    environment:
      DEBUG: "0"
    restart: always
    deploy: {{replicas: 2}}
    logging:
      driver: json-file
      options: {{max-size: 50m}}
""",
    }


def with_variables(framework: Framework) -> Folder:
    """Nearly everything comes from `.env`."""
    return {
        "compose.yaml": f"""\
name: ${{COMPOSE_PROJECT_NAME:-{PROJECT}}}
services:
  web:
    image: "{framework.image}:${{APP_VERSION:?set APP_VERSION}}"
    ports: ["${{BIND:-127.0.0.1}}:${{WEB_PORT}}:{framework.port}"]
    environment:
      SECRET_KEY: ${{SECRET_KEY}}
      FEATURES: ${{FEATURES-none}}
      MAIL_FROM: "shop@${{DOMAIN}}"
      PRICE: "5$$"
      PATTERN: ^a.*z$
      RELEASE:
    deploy:
      replicas: ${{WEB_REPLICAS:-1}}
    {OWN}
""",
        ".env": "APP_VERSION=2026.1\nWEB_PORT=8016\nSECRET_KEY='s3cr$t'\nDOMAIN=example.com\nWEB_REPLICAS=2\n"
        "RELEASE=${APP_VERSION}-a\n",
    }


def hardened(framework: Framework) -> Folder:
    """Limits, rights and a file system that is not written to."""
    return {
        "compose.yaml": f"""\
services:
  web:
    image: {framework.image}@sha256:{"1a2b3c4d" * 8}
    user: "10001:10001"
    read_only: true
    init: true
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    security_opt: ["no-new-privileges:true"]
    tmpfs: ["/tmp:size=64m,mode=1777"]
    ulimits: {{nofile: {{soft: 4096, hard: 8192}}}}
    mem_limit: 512m
    cpus: 1.5
    pids_limit: 200
    hostname: {framework.name}
    dns: [1.1.1.1]
    extra_hosts: ["host.docker.internal:host-gateway"]
    expose: ["{framework.port}/tcp"]
    environment: {framework.environment}
    healthcheck:
      test: ["CMD", "wget", "-q", "-O-", "http://127.0.0.1:{framework.port}/health"]
      interval: 15s
      timeout: 3s
      retries: 3
      start_period: 20s
    logging: {{driver: local, options: {{max-size: 10m}}}}
    x-tidegate: {{listen: 8017}}
"""
    }


def with_migration(framework: Framework) -> Folder:
    """A job that must be over before the web service starts, and tools behind a profile."""
    return {
        "compose.yaml": f"""\
services:
  migrate:
    image: {framework.image}:9
    command: migrate --yes
    environment: {framework.environment}
    depends_on: {{{framework.database}: {{condition: service_healthy}}}}
    restart: "no"
  web:
    image: {framework.image}:9
    environment: {framework.environment}
    ports: ["8018:{framework.port}"]
    depends_on:
      migrate: {{condition: service_completed_successfully}}
      {framework.database}: {{condition: service_healthy, restart: true}}
    restart: on-failure
    {OWN}
  adminer:
    image: adminer
    profiles: [tools]
    ports: ["8099:8080"]
{_database(framework)}volumes:
  dbdata: {{driver: local}}
"""
    }


def with_base_files(framework: Framework) -> Folder:
    """A common base, extended, and the database in a file of its own."""
    return {
        "compose.yaml": f"""\
include:
  - db/compose.yaml
services:
  web:
    extends:
      file: common/base.yaml
      service: app
    image: {framework.image}:5
    ports: ["8019:{framework.port}"]
    environment: {{MODE: web}}
    depends_on: [{framework.database}]
    {OWN}
""",
        "common/base.yaml": f"""\
services:
  app:
    env_file: base.env
    environment: {framework.environment}
    labels: {{team: {framework.name}}}
    stop_signal: SIGQUIT
    ulimits: {{nofile: 65536}}
""",
        "common/base.env": "BASE=1\nMODE=base\n",
        "db/compose.yaml": f"""\
services:
{_database(framework)}volumes:
  dbdata:
""",
    }


def with_several_ports(framework: Framework) -> Folder:
    """Traffic at one port, metrics and a debugger at others."""
    return {
        "compose.yaml": f"""\
services:
  web:
    image: {framework.image}:1
    command: {framework.command}
    ports:
      - "8020:{framework.port}"
      - "127.0.0.1:9229:9229"
      - 9100
    tty: true
    scale: 2
    platform: linux/amd64
    pull_policy: build
    sysctls: {{net.core.somaxconn: 1024}}
    x-tidegate:
      port: {framework.port}
      health: {{path: /health}}
"""
    }


#: By shape: the keys of the service with a note, and those that are refused.
NOTED: dict[Callable[[Framework], Folder], set[str]] = {
    desk: {"build", "container_name", "ports", "profiles"},
    with_database: {"ports", "profiles"},
    with_worker: {"profiles"},
    with_own_proxy: {"networks", "profiles"},
    stack: {
        "deploy.labels",
        "deploy.placement",
        "deploy.resources.reservations.cpus",
        "deploy.restart_policy",
        "deploy.rollback_config",
        "networks.public",
        "ports",
        "profiles",
    },
    behind_traefik: {"container_name", "labels", "links", "profiles"},
    with_override: {"build", "ports", "profiles"},
    with_variables: {"ports", "profiles"},
    hardened: {"profiles"},
    with_migration: {"depends_on.DATABASE.restart", "ports", "profiles", "restart"},
    with_base_files: {"ports", "profiles"},
    with_several_ports: {"platform", "ports", "profiles", "pull_policy"},
}
REFUSED = {
    "host network": ("network_mode: host", "network_mode"),
    "privileged": ("privileged: true", "privileged"),
    "host processes": ("pid: host", "pid"),
    "secret of Swarm": ("secrets: [token]", "secrets.token.external"),
    "graphics processor": ("gpus: all", "gpus"),
    "every host": ("deploy: {mode: global}", "deploy.mode"),
}


def _files() -> dict[str, Folder]:
    made = {f"{framework.name}, {shape.__name__}": shape(framework) for shape in NOTED for framework in FRAMEWORKS}
    for name, (line, _) in REFUSED.items():
        text = f"services:\n  web:\n    image: shop:1\n    expose: ['80']\n    {line}\n    {OWN}\n"
        made[f"refused, {name}"] = {"compose.yaml": text + "secrets:\n  token: {external: true}\n"}
    return made


FILES = _files()
