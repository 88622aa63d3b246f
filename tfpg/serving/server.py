"""The program that serves: opens its ports on this machine alone, looks for new versions, and ends when it is asked to."""

import asyncio
import concurrent.futures
import signal
from pathlib import Path
from typing import Any

from tfpg.config import Config
from tfpg.errors import RunFault, UsageError
from tfpg.serving.model import Shelf

HOST = "127.0.0.1"
EVERY = 1.0  # seconds between two looks for a new version
PATIENCE = 5.0  # seconds that requests under way have left when the server is asked to end
WORKERS = 2


def _parts(config: Config) -> tuple[Any, Any]:
    """The two protocols; gRPC's definitions are only needed with --grpc_port. Raises: UsageError if a package is missing."""
    try:
        from tfpg.serving import rest

        if not config.grpc_port:
            return rest, None
        from tfpg.serving import rpc
    except ImportError as error:
        raise UsageError(f"--mode=serve needs a package that is missing ({error.name}). pip install 'tfpg[serve]' brings it.") from None
    return rest, rpc


def say(text: str) -> None:
    """To the screen, at once."""
    print(text, flush=True)


async def _watch(shelf: Shelf) -> None:
    """Looks for new versions, on a thread of its own: requests do not wait for one that is being loaded."""
    with concurrent.futures.ThreadPoolExecutor(1) as own:
        while True:
            await asyncio.sleep(EVERY)
            await asyncio.get_running_loop().run_in_executor(own, shelf.look)


async def _serve(config: Config, shelf: Shelf, workers: concurrent.futures.Executor) -> None:
    """Serves until a signal comes, answers what is under way, and ends."""
    (rest, rpc), stop = _parts(config), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = rest.Limits(config.max_rows, config.max_bytes, config.request_timeout)
    runner = rest.web.AppRunner(rest.application(shelf, limits, workers), access_log=None, shutdown_timeout=PATIENCE)
    await runner.setup()
    remote, watching = None, [asyncio.create_task(task) for task in (_watch(shelf), rest.hang_up(runner, EVERY))]
    try:
        site = rest.web.TCPSite(runner, HOST, config.port)
        try:
            await site.start()
            if rpc:
                remote = rpc.server(shelf, limits, workers, f"{HOST}:{config.grpc_port}")
                await remote.start()
        except OSError as error:
            raise RunFault(f"--port={config.port}, --grpc_port={config.grpc_port}: {error.strerror or error}.") from None
        port = runner.addresses[0][1]
        say(f"Serving {shelf.model.path}. Ask for an action with:")
        say(f"  curl -d '{{\"instances\": [...]}}' http://{HOST}:{port}/v1/models/{rest.NAME}:predict")
        if remote:
            say(f"gRPC listens on {HOST}:{config.grpc_port}. Ctrl-C or SIGTERM ends both.")
        await stop.wait()
        say("Ending: requests under way are answered.")
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(runner.cleanup(), *([remote.stop(PATIENCE)] if remote else []))


def serve(config: Config) -> int:
    """Serves the policy that --policy names. Returns the exit code, 0 once it was asked to end."""
    _parts(config)
    shelf = Shelf(Path(config.policy or config.workdir), config.trust, say)
    workers = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        asyncio.run(_serve(config, shelf, workers))
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    return 0
