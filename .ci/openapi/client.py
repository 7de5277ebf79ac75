# SPDX-License-Identifier: Apache-2.0
#
# Calls every operation of the service once at least, through a client that was generated from the document, as its users
# would: with what the client sends by itself left as it is. Arguments: the service's URL, a token, the document.
import importlib
import json
import sys
import time
import uuid

from ringfence_client import AuthenticatedClient, models

url, token, document = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True)
called = set()


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name).replace("open_a_p_i", "open_api")


def call(operation, *path, status=200, **arguments):
    """The parsed answer of an operation, which must have this status."""
    called.add(operation)
    module = importlib.import_module("ringfence_client.api.default." + snake(operation))
    answer = module.sync_detailed(*path, client=client, **arguments)
    assert answer.status_code == status, (operation, answer.status_code, answer.content)
    assert answer.parsed is not None, (operation, answer.content)
    return answer.parsed


def check(value, *words):
    assert value, words


# Locks. A name with all that a path could trip over.
name = f"client {uuid.uuid4()}/ä%2F?#"
hold = call("acquireLock", name, body=models.AcquireRequest(ttl_ms=60_000, owner="one"))
check(isinstance(hold, models.Hold) and hold.name == name and int(hold.fence) > 0 and hold.deadline_ms > 0)
busy = call("acquireLock", name, status=409, body=models.AcquireRequest(ttl_ms=60_000, wait_ms=20))
check(isinstance(busy, models.Problem) and busy.code == "lock.busy" and busy.holder.owner == "one")
renewed = call("renewLock", name, body=models.RenewRequest(token=hold.token, ttl_ms=60_000))
check(renewed.fence == hold.fence)
lock = call("inspectLock", name)
check(lock.holder.owner == "one" and lock.queue_length == 0 and lock.last_fence == hold.fence)
page = call("listLocks", prefix="client ")
check(any(entry.name == name for entry in page.locks) and page.next_ is None)
check(call("releaseLock", name, body=models.ReleaseRequest(token=hold.token)).released is True)
check(call("inspectLock", name).holder is None)
gone = call("renewLock", name, status=409, body=models.RenewRequest(token=hold.token, ttl_ms=60_000))
check(gone.code == "lock.notHeld")

alone = models.Confirm(replicas="all", within_ms=100)  # this Redis has no replica
refused = call("acquireLock", name, status=409, body=models.AcquireRequest(ttl_ms=60_000, confirm=alone))
check(refused.code == "lock.notConfirmed" and refused.effect == "none")

names = [f"client {uuid.uuid4()}" for _ in range(2)]
both = call("acquireLocks", body=models.AcquireAllRequest(names=names, ttl_ms=60_000))
check(both.names == names)
call("renewLocks", body=models.RenewAllRequest(names=names, token=both.token, ttl_ms=60_000))
call("releaseLocks", body=models.ReleaseAllRequest(names=names, token=both.token))
held = call("acquireLock", name, body=models.AcquireRequest(ttl_ms=60_000, owner="two"))
forced = call("forceReleaseLock", name, actor="ann", reason="a check")
check(forced.previous.owner == "two" and int(forced.fence) > int(held.fence))
check(call("forceReleaseLock", name, status=409, actor="ann").code == "lock.notHeld")
audit = call("listAudit")
check(audit.records[0].action == "force" and "ann" in audit.records[0].reason)

# A group with a primary.
group = f"pool/{uuid.uuid4()}"


sessions = {}


def beat(member, claim=None):
    body = models.MemberRequest(
        address=f"10.0.0.1:{member}", zone="a", ttl_ms=3_000, candidate=True,
        metadata=models.MemberRequestMetadata.from_dict({"version": "7"}),
    )
    if member in sessions:
        body.session = sessions[member]
    if claim:
        body.claim = claim
    grant = call("putMember", group, member, body=body)
    sessions[member] = grant.session
    return grant


def beat_both():
    return beat("2") and beat("1")


one = beat_both()
check(one.group == group and one.member == "1" and one.pace_ms > 0)
# One of them is elected, when it is known that there is no other.
while not one.primary or not one.primary.member:
    time.sleep(one.pace_ms / 1_000)
    one = beat_both()
leader = one.primary.member
beat(leader, models.MemberRequestClaim(state=models.MemberRequestClaimState.READY, epoch=one.primary.epoch))
check(any(entry.group == group for entry in call("listGroups").groups))
shown = call("getGroup", group)
check([member.id for member in shown.members] == ["1", "2"])
primary = call("getPrimary", group)
check(primary.primary.phase == "ready" and primary.member.id == leader)
check(len(call("listMembers", group).members) == 2)
check(call("listMembers", group, state=models.ListMembersState.UNHEALTHY).members == [])
check(len(call("getPlan", group).candidates) == 2)
check(call("getHistory", group).entries[-1].kind)
ring = call("getRing", group)
check(isinstance(ring, models.Ring) and len(ring.members) == 2)
owner = call("getRing", group, key="account/4711")
check(isinstance(owner, models.RingOwner) and owner.owner in ("1", "2") and len(owner.preference) == 2)
plan = call("planRing", group, body=models.RingPlanRequest(leaving=["1"]))
check(plan.share > 0)
check(call("planRing", group, status=404, body=models.RingPlanRequest(leaving=["x"])).code == "member.notFound")

# Calls to its members.
beat_both()
pick = call("pickMember", group)
check(pick.member in ("1", "2"))
pick = call("pickMember", group, body=models.PickRequest(policy=models.PickRequestPolicy.RINGHASH, key="k", track_ms=5_000))
ended = call("endCall", group, pick.call, body=models.OutcomeRequest(outcome=models.OutcomeRequestOutcome.SUCCESS))
check(ended.member == pick.member)
late = call(
    "endCall", group, pick.call, status=404, body=models.OutcomeRequest(outcome=models.OutcomeRequestOutcome.SUCCESS)
)
check(late.code == "call.notFound")

# Orders. Nobody answers for the members, so a switchover is taken back.
beat_both()
call("pauseGroup", group, body=models.PauseRequest(for_ms=60_000, actor="ann"))
call("resumeGroup", group, body=models.OrderRequest())
call("acknowledgeGroup", group, body=models.OrderRequest(reason="a check"))
other = "2" if leader == "1" else "1"
call("maintenanceGroup", group, body=models.MaintenanceRequest(member=other, on=True))
call("maintenanceGroup", group, body=models.MaintenanceRequest(member=other, on=False))
call("settingsGroup", group, body=models.SettingsRequest(max_lag=5))
state = models.Breaker.OPEN
call("breakerGroup", group, body=models.BreakerRequest(state=state, reason="a check"))
call("breakerGroup", group, body=models.BreakerRequest(state=models.Breaker.AUTOMATIC, reason="a check"))
back = call("switchoverGroup", group, status=409, body=models.SwitchoverRequest(to=other, timeout_ms=50))
check(back.code in ("switchover.aborted", "order.refused"), back)
call("abortSwitchover", group)
refused = call("failoverGroup", group, status=409, body=models.FailoverRequest(to="nobody", accepts_data_loss=True))
check(refused.code == "order.refused" and refused.reasons)
for member in ("1", "2"):
    check(call("removeMember", group, member, session=sessions[member]).removed)
# One that nobody led goes at once.
brief = f"brief {uuid.uuid4()}"
call("putMember", brief, "1", body=models.MemberRequest())
check(call("removeMember", brief, "1", actor="ann").removed)
call("removeGroup", brief, reason="a check")

# Events, and what needs no token.
events = call("listEvents", after="0:0", limit=1000)
check(any(event.type_ == "member.joined" and event.group == group for event in events.events))
check(call("live").status == "alive")
check(call("ready").status == "ready")
check("ringfence_" in call("metrics"))
check("paths" in call("openAPI").to_dict())

# Without its token nothing is told.
stranger = AuthenticatedClient(base_url=url, token="x" * 40)
inspect = importlib.import_module("ringfence_client.api.default.inspect_lock")
assert inspect.sync_detailed(name, client=stranger).status_code == 401

described = {
    operation["operationId"] for path in json.load(open(document))["paths"].values() for operation in path.values()
}
assert called == described, f"not called: {described - called}; unknown: {called - described}"
print(f"{len(called)} operations were called")
