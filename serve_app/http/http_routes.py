"""The HTTP interface as one ASGI application: routes, admission, errors, what is logged after.

Knows nothing of Ray; how a request is answered is `recommender`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from recsys.errors import RecsysError, RequestError
from recsys.events import CatalogueChange, Outcome, new_event_id
from recsys.settings import Settings
from serve_app.answers import answer_json, impression_of
from serve_app.asks import Answer
from serve_app.assignment import AssignedArm
from serve_app.door.admission import Refused, Seat, Wish, admission_of
from serve_app.door.body_intake import BodyIntake
from serve_app.door.front_door import RECOMMEND_PATH, SEAT, pass_door
from serve_app.door.shed_report import SHED, report_refused
from serve_app.http.caller_deadline import DEADLINE_HEADER, within_deadline
from serve_app.http.docs_page import DOCS_PAGE
from serve_app.http.event_requests import parse_events, parse_item, parse_item_delete
from serve_app.http.http_exchange import (
    ClientGone,
    Exchange,
    HttpReply,
    Receive,
    Scope,
    Send,
    answer_lifespan,
    header,
    request_id_of,
    send_reply,
    wall_clock_ms,
)
from serve_app.http.openapi import openapi_document
from serve_app.http.problems import NotReady, not_allowed, problem_reply, reason_of
from serve_app.http.recommend_requests import (
    RecommendRequest,
    parse_recommend_body,
    parse_recommend_query,
)
from serve_app.log_writer import LogWriter
from serve_app.recommender import Recommender
from serve_app.residents.residency import stable_arm
from serve_app.security.access import Access
from serve_app.security.secured_interface import with_security
from serve_app.telemetry import Telemetry

logger = logging.getLogger("ray.serve")

ITEMS_PREFIX = "/v1/items/"
HTML_TYPE = b"text/html; charset=utf-8"


@dataclass(slots=True)
class _Told:
    """What became of a request, for the log."""

    request: RecommendRequest | None = None
    arm: AssignedArm | None = None
    answer: Answer | None = None


Route = Callable[[Exchange, _Told], Awaitable[HttpReply]]


class HttpApp:
    """The gateway's ASGI application.

    Args:
        adds_request_id: False where the server in front puts `x-request-id` on responses itself.
        after: called with each answer once it was sent, and the bundle that was to give it.
        access: who is let in.
    """

    def __init__(
        self,
        recommender: Recommender,
        log: LogWriter,
        settings: Settings,
        telemetry: Telemetry,
        *,
        adds_request_id: bool,
        after: Callable[[Answer, str], None],
        access: Access,
        clock_ms: Callable[[], int] = wall_clock_ms,
        new_id: Callable[[], str] = new_event_id,
    ) -> None:
        self._recommender = recommender
        self._log = log
        self._settings = settings.serve
        self._telemetry = telemetry
        self._adds_request_id = adds_request_id
        self._after = after
        self._clock_ms = clock_ms
        self._new_id = new_id
        self.admission = admission_of(settings.serve)
        """Who is let in; a server in front may ask it before this application is called."""
        self._bodies = BodyIntake()
        self._access = access
        self._openapi = msgspec.json.encode(
            with_security(openapi_document(settings.serve), demands_keys=access.demands_keys)
        )
        self._routes: dict[str, dict[str, Route]] = {
            RECOMMEND_PATH: {"POST": self._recommend_post, "GET": self._recommend_get},
            "/v1/events": {"POST": self._events},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/openapi.json": {"GET": self._openapi_json},
            "/docs": {"GET": self._docs},
        }
        self._item_routes: dict[str, Route] = {"PUT": self._put_item, "DELETE": self._delete_item}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        if SEAT in scope:
            await self._answer(scope, receive, send)
            return
        request_id = request_id_of(scope, self._new_id) if self._adds_request_id else None
        await pass_door(self.admission, self._answer, scope, receive, send, request_id)

    def tell_refused(self) -> None:
        """Report whom the door refused since the last call; they are not reported one by one."""
        outcomes = report_refused(
            self.admission,
            self._telemetry,
            self._recommender.assign,
            self._clock_ms(),
            self._new_id,
        )
        for outcome in outcomes:
            self._log.offer(outcome)
        self._telemetry.set_level("flywheel_concurrency_limit", self.admission.limit)
        self._telemetry.set_level("flywheel_slates_inside", self.admission.n_inside)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        seat: Seat = scope[SEAT]
        request_id = request_id_of(scope, self._new_id)
        exchange = Exchange(scope, receive, request_id, self._clock_ms(), seat, seat.entered_s)
        told = _Told()
        error: Exception | None = None
        try:
            reply = await self._dispatch(exchange, told)
        except ClientGone:
            return
        except Exception as caught:
            error = caught
            if not isinstance(caught, RecsysError):
                logger.exception("request %s failed", exchange.request_id)
            reply = problem_reply(caught)
        latency_ms = exchange.elapsed_ms
        await send_reply(send, reply, exchange.request_id if self._adds_request_id else None)
        self._record(exchange, told, reply.status, error, latency_ms)

    async def _dispatch(self, exchange: Exchange, told: _Told) -> HttpReply:
        path: str = exchange.scope["path"]
        method: str = exchange.scope["method"]
        self._access.check(exchange.scope)
        methods = self._routes.get(path)
        if methods is None and path.startswith(ITEMS_PREFIX):
            methods = self._item_routes
        if methods is None:
            raise RequestError(f"there is nothing at {path}; see /docs", status=404)
        route = methods.get(method)
        if route is None:
            return not_allowed(method, tuple(methods))
        return await route(exchange, told)

    async def _recommend_post(self, exchange: Exchange, told: _Told) -> HttpReply:
        body = await self._bodies.read(exchange, self._settings.max_body_bytes)
        return await self._recommend(parse_recommend_body(body), exchange, told)

    async def _recommend_get(self, exchange: Exchange, told: _Told) -> HttpReply:
        request = parse_recommend_query(exchange.scope.get("query_string", b""))
        return await self._recommend(request, exchange, told)

    async def _recommend(
        self, request: RecommendRequest, exchange: Exchange, told: _Told
    ) -> HttpReply:
        told.request = request
        told.arm = self._recommender.assign(request.user_id)
        default_ms = self._settings.deadline_ms
        deadline = header(exchange.scope, DEADLINE_HEADER)
        timed = within_deadline(request, deadline, exchange.received_at_ms, default_ms)
        wish = Wish.of(timed, default_ms)
        with exchange.seat as seat:
            seat.admit(wish)
            told.answer = answer = await self._recommender.recommend(timed, exchange, told.arm)
            # A slow canary must not lower what is let in for everybody.
            plan = self._recommender.plan
            is_stable = plan is not None and answer.bundle_id == stable_arm(plan).bundle_id
            seat.teaches = is_stable and not wish.is_bulk
        return HttpReply(HTTPStatus.OK, answer_json(answer))

    async def _events(self, exchange: Exchange, told: _Told) -> HttpReply:
        limit = self._settings.max_events_body_bytes
        body = await self._bodies.read(exchange, limit)
        events = parse_events(body, exchange.received_at_ms, self._new_id)
        await self._log.append(events)
        accepted = {"accepted": len(events), "event_ids": [event.event_id for event in events]}
        return HttpReply(HTTPStatus.ACCEPTED, msgspec.json.encode(accepted))

    async def _put_item(self, exchange: Exchange, told: _Told) -> HttpReply:
        body = await self._bodies.read(exchange, self._settings.max_body_bytes)
        item_id = exchange.scope["path"].removeprefix(ITEMS_PREFIX)
        change = parse_item(item_id, body, exchange.received_at_ms, self._new_id)
        return await self._change_item(change)

    async def _delete_item(self, exchange: Exchange, told: _Told) -> HttpReply:
        item_id = exchange.scope["path"].removeprefix(ITEMS_PREFIX)
        change = parse_item_delete(item_id, exchange.received_at_ms, self._new_id)
        return await self._change_item(change)

    async def _change_item(self, change: CatalogueChange) -> HttpReply:
        await self._log.append([change])
        body = {"item_id": change.item_id, "event_id": change.event_id, "deleted": change.deleted}
        return HttpReply(HTTPStatus.ACCEPTED, msgspec.json.encode(body))

    async def _healthz(self, exchange: Exchange, told: _Told) -> HttpReply:
        return HttpReply(HTTPStatus.OK, b'{"status":"alive"}')

    async def _readyz(self, exchange: Exchange, told: _Told) -> HttpReply:
        reason = self._recommender.why_not_ready()
        plan = self._recommender.plan
        if reason is not None or plan is None:
            raise NotReady(reason or "no traffic plan yet")
        body = {"status": "ready", "plan_epoch": plan.epoch, "bundle_ids": plan.bundle_ids}
        body |= self._log.health().document()
        return HttpReply(HTTPStatus.OK, msgspec.json.encode(body))

    async def _openapi_json(self, exchange: Exchange, told: _Told) -> HttpReply:
        return HttpReply(HTTPStatus.OK, self._openapi)

    async def _docs(self, exchange: Exchange, told: _Told) -> HttpReply:
        return HttpReply(HTTPStatus.OK, DOCS_PAGE, HTML_TYPE)

    def _record(
        self,
        exchange: Exchange,
        told: _Told,
        status: int,
        error: Exception | None,
        latency_ms: float,
    ) -> None:
        """Count the request and log what it showed; runs after the response was sent."""
        path = exchange.scope["path"]
        is_item = path.startswith(ITEMS_PREFIX)
        route = path if path in self._routes else "/v1/items" if is_item else "other"
        self._telemetry.count("flywheel_requests", route=route, status=str(status))
        if isinstance(error, Refused):
            self._telemetry.count(SHED, reason=error.reason)
        if told.request is None:
            return
        answer = told.answer
        if answer is not None:
            self._log.offer(impression_of(answer, self._new_id()))
            self._telemetry.observe(
                "flywheel_request_latency_ms", latency_ms, variant=answer.ask.variant
            )
            if told.arm is not None:
                self._after(answer, told.arm.bundle_id)
            if not answer.degraded:
                return
        reason = reason_of(error) if error is not None else "degraded"
        self._log.offer(self._outcome(exchange, told, status, reason, latency_ms))

    def _outcome(
        self, exchange: Exchange, told: _Told, status: int, reason: str, latency_ms: float
    ) -> Outcome:
        answer, arm = told.answer, told.arm
        if answer is not None:
            reason = "; ".join((reason, *answer.degraded))
        return Outcome(
            event_id=self._new_id(),
            request_id=exchange.request_id,
            user_id=told.request.user_id if told.request else "",
            timestamp_ms=exchange.received_at_ms,
            bundle_id=answer.bundle_id if answer else arm.bundle_id if arm else "",
            variant=answer.ask.variant if answer else arm.variant if arm else "",
            status=status,
            reason=reason,
            latency_ms=round(latency_ms, 3),
            experiment=answer.ask.experiment if answer else arm.experiment if arm else None,
        )
