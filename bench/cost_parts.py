"""What of a request each metered function, thread and process is: the words of the cost account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["numerics", "serialization", "http", "logging", "assembly", "control", "unexplained"]
"""`assembly` is the gateway's own work between the stages: batches, breakers, answers."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A function and the part of the account it counts for."""

    module: str
    function: str
    part: str
    kind: Kind
    thread: str = ""
    """The part of `THREADS` it runs in; empty for the event loop's."""


WRITER = "log: writer's thread"
_UVICORN = "uvicorn.protocols.http.httptools_impl"
_FRAMES = "serve_app.links.frames"
_LINK = "serve_app.links.link"
_LINK_SERVER = "serve_app.links.link_server"
_PIPELINE = "serve_app.pipeline"
_RETRIEVAL = "serve_app.stages.retrieval"

METERS: tuple[Meter, ...] = (
    Meter(_UVICORN, "HttpToolsProtocol.data_received", "http: uvicorn reads", "http"),
    Meter(_UVICORN, "RequestResponseCycle.run_asgi", "http: inside Serve", "http"),
    Meter(_UVICORN, "RequestResponseCycle.send", "http: uvicorn writes", "http"),
    Meter("serve_app.http.ingress_middleware", "IngressMiddleware.__call__", "http: own", "http"),
    Meter("serve_app.http.http_routes", "HttpApp.__call__", "http: own", "http"),
    Meter("serve_app.http.http_exchange", "send_reply", "http: own", "http"),
    Meter("serve_app.answers", "answer_json", "http: answer to JSON", "serialization"),
    Meter("serve_app.http.http_routes", "HttpApp._record", "log: records made", "logging"),
    Meter("serve_app.answers", "impression_of", "log: records made", "logging"),
    Meter("serve_app.log_writer", "LogWriter._write", "log: written", "logging", WRITER),
    Meter("serve_app.log_writer", "LogWriter.offer", "log: records made", "logging"),
    Meter(_RETRIEVAL, "excluded_rows", "candidates: lists", "numerics"),
    Meter("serve_app.stages.dropped_draws", "draw_for_log", "log: dropped drawn", "logging"),
    Meter("serve_app.telemetry", "RayMetrics.flush", "telemetry", "logging", "telemetry"),
    Meter("serve_app.telemetry", "Telemetry.count", "telemetry", "logging"),
    Meter("serve_app.telemetry", "Telemetry.observe", "telemetry", "logging"),
    Meter("serve_app.recommender", "Recommender.recommend", "batches and deadlines", "assembly"),
    Meter("serve_app.micro_batch", "MicroBatcher._drain", "batches and deadlines", "assembly"),
    Meter("serve_app.micro_batch", "MicroBatcher._answer", "batches and deadlines", "assembly"),
    Meter("serve_app.micro_batch", "MicroBatcher._finished", "batches and deadlines", "assembly"),
    Meter(_PIPELINE, "Pipeline.answer", "pipeline", "assembly"),
    Meter(_PIPELINE, "Pipeline._rank", "pipeline", "assembly"),
    Meter("serve_app.user_reads", "UserReads.read", "features: read", "numerics"),
    Meter("recsys.features", "history_arrays", "features: arrays", "numerics"),
    Meter("recsys.candidates", "merge_top_k", "candidates: shards merged", "numerics"),
    Meter(_RETRIEVAL, "merge_candidates", "candidates: lists", "numerics"),
    Meter("serve_app.residents.live_items", "LiveItems.rows", "candidates: lists", "numerics"),
    Meter("serve_app.answer_columns", "answers_of", "answers: arrays to items", "assembly"),
    Meter("serve_app.stages.placement", "try_stage", "stage calls", "assembly"),
    Meter("serve_app.links.link_pool", "LinkPool.ask", "stage calls", "assembly"),
    Meter(_FRAMES, "pack_note", "links: frames packed", "serialization"),
    Meter(_FRAMES, "open_frame", "links: frames opened", "serialization"),
    Meter(_FRAMES, "read_batch", "links: frames opened", "serialization"),
    Meter(_LINK, "Link.send", "links: sent and received", "serialization"),
    Meter(_LINK, "Link.buffer_updated", "links: sent and received", "serialization"),
    Meter(_LINK_SERVER, "_ServerLink.buffer_updated", "links: sent and received", "serialization"),
    Meter(_LINK_SERVER, "_ServerLink.write", "links: sent and received", "serialization"),
    Meter(_LINK_SERVER, "LinkServer._answer_next", "links: sent and received", "serialization"),
    Meter("recsys.served.served_tower", "ServedTower.encode", "encode", "numerics"),
    Meter("recsys.served.served_scorer", "ServedScorer.score", "score", "numerics"),
    Meter("recsys.item_successors", "ItemSuccessors.log_chances", "score: successors", "numerics"),
    Meter("recsys.stages", "ShardStage.__call__", "index searched", "numerics"),
    Meter("recsys.stages", "OrderingStage.__call__", "slates ordered", "numerics"),
)

LOOP_THREAD = "AsyncIO Thread:"
"""The thread of a replica that runs its event loop, as the kernel has its name."""
LOOP = "event loop, by subtraction"

THREADS: tuple[tuple[str, str], ...] = (
    ("event-log-write", WRITER),
    ("telemetry", "telemetry"),
    ("plan-watch", "plan and readiness"),
    ("bundle-loader", "plan and readiness"),
    ("", "Ray core"),
)
"""Begin of a thread's name in a replica of the request graph, and its part; the first that fits."""

PROCESSES: tuple[tuple[str, str], ...] = (
    ("ray::ServeReplica:recommend:", ""),
    ("ray::ServeReplica:workers:", "followers of the log"),
    ("ray::ServeReplica:control:", "rollout controller"),
    ("haproxy -", "http: HAProxy"),
    ("ray::HAProxyManager", "Serve's control"),
    ("ray::ServeController", "Serve's control"),
    ("ray::ProxyActor", "Serve's control"),
    ("cluster.local.supervisor", "supervisor"),
    ("gcs_server", "Ray's control"),
    ("raylet", "Ray's control"),
    ("ray::", "Ray's control"),
    ("ray/", "Ray's control"),
)
"""Words of a command line, and what the process is; the first that fits. Replicas of the request
graph are divided further."""


def part_of_thread(name: str) -> str:
    """The part of a thread other than the loop's of a request replica."""
    return next(part for begin, part in THREADS if name.startswith(begin))


def stage_of(command: str) -> str | None:
    """The deployment of a replica of the request graph, None for any other process."""
    begin = PROCESSES[0][0]
    return command.removeprefix(begin).split()[0] if command.startswith(begin) else None


def part_of_process(command: str) -> str | None:
    """What a process beside the request graph is; None where nobody has said."""
    return next((part for words, part in PROCESSES[1:] if words in command), None)
