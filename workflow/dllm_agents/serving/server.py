"""`dllm-agents serve`: claim the port, load the checkpoint, answer until told to stop."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

from dllm_agents import models
from dllm_agents.config import Backbone, Config, load
from dllm_agents.errors import StageError
from dllm_agents.lifeline import SERVER_KEY
from dllm_agents.models.checkpoints import checked_directory, resolve_model

GRACE_SECONDS = 1


def serve(
    config: Config | None,
    backbone: str | None,
    model: str | Path | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    dtype: str | None = None,
) -> None:
    """Serve a backbone of the configuration, or any checkpoint directory, until SIGTERM or SIGINT.

    A checkpoint directory alone is served in `dtype`, by default the one it is stored in. The bearer key, if any, is read from
    DLLM_AGENTS_API_KEY. Raises StageError for an unknown backbone, a port in use or a checkpoint that cannot be loaded.
    """
    settings, name = _settings(config, backbone, model)
    # The port is claimed first: a mistake there should not cost the loading of a model.
    listener = claim_port(host, port)
    directory = checked_directory(Path(model)) if model else resolve_model(settings)

    import uvicorn

    from dllm_agents.engine.engine import Engine
    from dllm_agents.serving.app import create_app

    loaded = models.load_model(directory, dtype or (settings.dtype if backbone else None))
    context = min(settings.context, loaded.context_length)
    app = create_app(
        Engine(loaded, utilisation=settings.memory_share),
        loaded.tokenizer,
        _names(name, settings, directory),
        settings.decoding,
        context,
        os.environ.get(SERVER_KEY) or None,
        settings.template_settings,
        settings.control_tokens,
        settings.bare_calls,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """First signal: stop listening, let requests finish for a while, then answer the rest with 503."""
            super().handle_exit(sig, frame)
            timer = threading.Timer(GRACE_SECONDS, app.state.backend.close)
            timer.daemon = True
            timer.start()

    options = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2 * GRACE_SECONDS)
    print(f"dllm-agents: {name} at http://{host}:{listener.getsockname()[1]}/v1", file=sys.stderr, flush=True)
    try:
        Server(options).run(sockets=[listener])
    finally:
        app.state.backend.close()


def _settings(config: Config | None, backbone: str | None, model: str | Path | None) -> tuple[Backbone, str]:
    if backbone is None or config is None:
        return Backbone(model=str(model), context=131072), Path(str(model)).resolve().name
    if backbone not in config.backbones:
        raise StageError(f"--backbone {backbone}: not in the configuration; it has {', '.join(sorted(config.backbones)) or 'none'}")
    return config.backbones[backbone], backbone


def _names(name: str, settings: Backbone, directory: Path) -> list[str]:
    """What the model answers to: its name first, then where it comes from and what a configuration calls it."""
    aliases = (name, settings.served_name, settings.model, str(directory), directory.name)
    return list(dict.fromkeys(alias for alias in aliases if alias))


def claim_port(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StageError when the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise StageError(f"--host {host} --port {port}: no such address ({error})") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = "port in use; stop what listens there or choose another --port" if error.errno == 98 else error.strerror
        raise StageError(f"{host}:{port}: {reason}") from None
    return listener


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", help="a name from the configuration")
    parser.add_argument("--model", metavar="DIR", help="a checkpoint directory; with --backbone, the one trained for it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of a checkpoint without --backbone; default: as it is stored")


def run(args: argparse.Namespace) -> None:
    if not args.backbone and not args.model:
        raise StageError("serve: give --backbone NAME or --model DIR")
    config = load(args.config) if args.backbone else None
    serve(config=config, backbone=args.backbone, model=args.model, host=args.host, port=args.port, dtype=args.dtype)
