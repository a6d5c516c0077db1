"""`health`."""

from protocol import names
from protocol.methods import health
from worker.dispatch import CallContext, handles
from worker.sessions import reads


@handles(health.HEALTH)
def answer(call: CallContext, params: health.HealthParams) -> health.HealthResult:
    """Say how this worker is. A store that is not open yet counts as empty unless probed."""
    services = call.services
    started = services.clock.monotonic()
    counts = reads.Counts(0, 0, 0)
    if params.probe or services.sessions.is_open:
        counts = reads.counts(services.sessions.read())
    ended = services.clock.monotonic()
    refusal = services.gate.reason or services.sessions.refusal
    return health.HealthResult(
        ok=True,
        tenant=services.spec.tenant,
        ts=services.clock.now_ms(),
        uptime_ms=round((ended - services.started_at) * 1000),
        duration_ms=round((ended - started) * 1000, 3),
        generation=services.spec.generation,
        default_agent_id=names.DEFAULT_AGENT_ID,
        sessions=health.HealthSessions(
            count=counts.sessions, turns_running=counts.running, turns_queued=counts.queued
        ),
        storage=health.HealthStorage(writable=refusal is None, reason=refusal),
    )
