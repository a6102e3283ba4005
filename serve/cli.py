"""`bintally serve`: a bundle over HTTP."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import click
import uvicorn

from bundle.counter import Counter
from bundle.engines.choose import ENGINES
from bundle.errors import ConfigError
from serve.app import make_app
from serve.batcher import Batcher
from serve.fetch import Fetcher
from serve.service import Service

_BACKLOG = 512
_MAX_CONNECTIONS = 4096
"""Far above what is worked on: a caller beyond `--max-inside` still gets an answer that says when to come back."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for everyone.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), help="Threads of the network.")
@click.option("--max-batch", type=click.IntRange(1, 64), default=8, show_default=True, help="Frames per call.")
@click.option(
    "--max-inside",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="Requests worked on or waiting; more get 503 at once.",
)
@click.option("--allow-host", "hosts", multiple=True, help="Fetch photos from this host (repeatable, *.example.org).")
def serve(  # noqa: PLR0913 - one parameter per option
    bundle: Path,
    *,
    host: str,
    port: int,
    engine: str,
    threads: int | None,
    max_batch: int,
    max_inside: int,
    hosts: tuple[str, ...],
) -> None:
    """Count photos over HTTP with BUNDLE.

    POST a JPEG or PNG to /count and get the count as JSON; the page at / tries it in a browser. /ping and /invocations
    are there for SageMaker. There is no authentication here: put a proxy in front that has it.

    \b
    Examples:
      bintally serve demo/bundle
      curl --data-binary @shelf.jpg -H "Content-Type: image/jpeg" localhost:8080/count
      bintally serve /opt/ml/model --host 0.0.0.0
    """
    counter = Counter.open(bundle, engine=engine, threads=threads)
    batcher = Batcher(counter, max_batch=max_batch, max_queue=max_inside)
    service = Service(counter, batcher, Fetcher(allowed_hosts=hosts))
    config = uvicorn.Config(
        make_app(service, max_inside=max_inside),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )
    try:
        with _listen(host, port) as listening:
            click.echo(f"{counter.bundle.label}; {counter.engine.reason}", err=True)
            click.echo(f"listening on http://{host}:{listening.getsockname()[1]}", err=True)
            # uvicorn stops gracefully and then raises the signal once more, which would end the process half-way.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        batcher.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; without, each answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}", got=exc.strerror, fix="Choose another --port or --host."
        ) from exc
    return listening
