"""The Lua that Redis runs for the lease and for each guarded write: text, and how to read its errors. No I/O.

Every script declares exactly one key (a Redis Cluster routes by it); the others travel in ARGV and lie on the
same node, for a cluster has one shard. ``lease_rules`` holds the same rules in Python, compared by a test.
"""

from __future__ import annotations

import re

from rayward.store.resp import ReplyError

HISTORY_LENGTH = 200
AUDIT_LENGTH = 1_000_000

# Errors of redis.call arrive wrapped ("@user_script: 1: -READONLY ..."), in Redis 6 with a second wrapper.
_WRAPPED = re.compile(r"@user_script: ?\d+: -?(?P<inner>.*)", re.DOTALL)
_CODE = re.compile(r"^[A-Z]{2,}\b")
# A right that is missing inside a script has no code in Redis 6, and ERR in Redis 7.
_NO_RIGHT = "The user executing the script can't"


def inner_error(error: ReplyError) -> ReplyError:
    """The error that a command *inside* a script met, with its own code first (``READONLY ...``).

    An error that is not wrapped comes back as it is.
    """
    text = str(error)
    found = _WRAPPED.search(text)
    while found is not None:
        text = found["inner"]
        found = _WRAPPED.search(text)
    bare = text[len("ERR ") :] if text.startswith("ERR ") else text
    if bare.startswith(_NO_RIGHT):
        text = f"NOPERM {bare}"
    return ReplyError(text) if _CODE.match(text) else error


def guarded_write(audit: bool, fenced: bool) -> str:
    """The script that carries one write of a GCS.

    KEYS[1]: the key that is written. ARGV: the lease key, the writer's name, with ``audit`` the audit
    stream, then the command and its words after the key (about 7,900 at the most, Lua's bound). While the
    lease names another writer nothing is written and the answer is the error ``FENCED`` with what was found,
    ``released`` (nobody holds the lease) or ``none`` (there is no lease: the store came back empty). Without
    ``fenced`` nothing is compared. An error of the command itself comes back with its own code first, as if
    it had been sent without a script.
    """
    command = 4 if audit else 3
    parts = [_FENCE] if fenced else []
    parts.append(f"local done = redis.pcall(ARGV[{command}], KEYS[1], unpack(ARGV, {command + 1}))\n")
    parts.append(_FAILED)
    if audit:
        parts.append(_AUDIT)
    parts.append("return done\n")
    return "".join(parts)


_FENCE = """\
local writer = redis.call('HGET', ARGV[1], 'writer')
if writer ~= ARGV[2] then
  if not writer then return redis.error_reply('FENCED none') end
  if writer == '' then return redis.error_reply('FENCED released') end
  return redis.error_reply('FENCED ' .. writer)
end
"""

_FAILED = f"""\
if type(done) == 'table' and done.err then
  local words = string.gsub(done.err, '^@user_script: ?%d+: %-?', '')
  local bare = string.gsub(words, '^ERR ', '')
  if string.sub(bare, 1, {len(_NO_RIGHT)}) == "{_NO_RIGHT}" then words = 'NOPERM ' .. bare end
  return redis.error_reply(words)
end
"""

# A status reply ({ok=...}) must go back as such, so the entry is added beside it.
_AUDIT = f"""\
redis.call('XADD', ARGV[3], 'MAXLEN', '~', '{AUDIT_LENGTH}', '*',
  'e', ARGV[2], 'c', ARGV[4], 'k', KEYS[1], 'f', ARGV[5] or '')
"""

# KEYS[1] lease. ARGV: members, incarnation, control, own uid, member, its entry, the old hash, its prefix,
# Ray's tables. A head of another cluster only looks: its name could be that of one of this cluster's members.
# The name of the old hash is outside rayward's rights (pcall: then it is not there).
OBSERVE = """\
local owner = redis.call('HGET', ARGV[2], 'cluster')
local before = redis.call('HGET', ARGV[1], ARGV[5])
if ARGV[5] ~= '' and (not owner or owner == ARGV[4]) then
  redis.call('HSET', ARGV[1], ARGV[5], ARGV[6])
end
local data = 0
for place = 9, #ARGV do
  data = data + redis.call('EXISTS', ARGV[place])
end
if data == 0 and redis.pcall('TYPE', ARGV[7]).ok == 'hash' then
  local field = (redis.pcall('HSCAN', ARGV[7], '0', 'COUNT', '10')[2] or {})[1]
  if field and string.sub(field, 1, #ARGV[8]) == ARGV[8] then data = 1 end
end
return {
  redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', ARGV[2]),
  redis.call('HGETALL', ARGV[1]), redis.call('HGETALL', ARGV[3]), data, before or '',
}
"""

# KEYS[1] lease. ARGV: seen epoch ('' for no lease), instance, seq, state; the new epoch, member, instance,
# record; history, its entry; incarnation, its id ('' when it does not matter); control, or '' for one who
# takes the lease under a pause as well.
ACQUIRE = f"""\
local now = redis.call('HMGET', KEYS[1], 'epoch', 'instance', 'seq', 'state')
local same = not now[1] and ARGV[1] == ''
if now[1] then
  same = now[1] == ARGV[1] and now[2] == ARGV[2] and now[3] == ARGV[3] and now[4] == ARGV[4]
    and tonumber(ARGV[5]) > tonumber(now[1])
end
if not same then return {{'CHANGED', redis.call('HGETALL', KEYS[1])}} end
if ARGV[12] ~= '' and redis.call('HGET', ARGV[11], 'id') ~= ARGV[12] then
  return {{'OTHER_STORE', redis.call('HGETALL', KEYS[1])}}
end
if now[4] == 'held' and ARGV[13] ~= '' and redis.call('HGET', ARGV[13], 'paused') == '1' then
  return {{'PAUSED', redis.call('HGETALL', KEYS[1])}}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[5], 'writer', ARGV[5] .. ':' .. ARGV[7], 'holder', ARGV[6],
  'instance', ARGV[7],
  'seq', '1', 'state', 'held', 'record', ARGV[8], 'successor', '')
redis.call('RPUSH', ARGV[9], ARGV[10])
redis.call('LTRIM', ARGV[9], '-{HISTORY_LENGTH}', '-1')
return {{'ACQUIRED', redis.call('HGETALL', KEYS[1])}}
"""

_STILL_OURS = """\
local now = redis.call('HMGET', KEYS[1], 'epoch', 'instance', 'state', 'seq', 'holder')
if not now[1] then return {'LOST_STORE', {}} end
if now[1] ~= ARGV[1] or now[2] ~= ARGV[2] or now[3] ~= 'held' or now[5] ~= ARGV[3] then
  return {'PREEMPTED', redis.call('HGETALL', KEYS[1])}
end
"""

# KEYS[1] lease. ARGV: epoch, instance, member; the last seq that was acknowledged, record; members, own
# entry; control, incarnation. A seq that is lower than the acknowledged one: the store forgot writes.
RENEW = (
    _STILL_OURS
    + """\
local seq = math.max(tonumber(now[4]), tonumber(ARGV[4])) + 1
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq), 'record', ARGV[5])
redis.call('HSET', ARGV[6], ARGV[3], ARGV[7])
return {
  'RENEWED', redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', ARGV[6]),
  redis.call('HGETALL', ARGV[8]), redis.call('HGETALL', ARGV[9]), now[4],
}
"""
)

# KEYS[1] lease. ARGV: epoch, instance, member, successor. No writer: gateways refuse from here on.
RELEASE = (
    _STILL_OURS
    + """\
local seq = string.format('%.0f', tonumber(now[4]) + 1)
redis.call('HSET', KEYS[1], 'state', 'released', 'writer', '', 'seq', seq, 'successor', ARGV[4])
return {'RELEASED', redis.call('HGETALL', KEYS[1])}
"""
)

# KEYS[1] lease. ARGV: incarnation; new id, uid, cluster name, time; the uid whose data is taken over ('' for
# none). Somebody else's is taken over only while that uid stands there still.
CLAIM = """\
local owner = redis.call('HGET', ARGV[1], 'cluster')
local unowned = redis.call('EXISTS', ARGV[1]) == 0
if unowned or (ARGV[6] ~= '' and owner == ARGV[6]) then
  redis.call('HSET', ARGV[1], 'id', ARGV[2], 'cluster', ARGV[3], 'cluster_name', ARGV[4], 'created', ARGV[5])
  if not unowned and redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'state', 'released', 'writer', '', 'successor', '')
  end
end
return redis.call('HGETALL', ARGV[1])
"""

# KEYS[1] lease. ARGV: incarnation; new id, uid, cluster name, time; epoch floor, member; history, its entry
# without the epoch. Nobody holds the lease afterwards, and whoever wrote before is refused.
ADOPT = f"""\
local epoch = math.max(tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0, tonumber(ARGV[6])) + 1
local text = string.format('%.0f', epoch)
redis.call('HSET', ARGV[1], 'id', ARGV[2], 'cluster', ARGV[3], 'cluster_name', ARGV[4], 'created', ARGV[5])
redis.call('HSET', KEYS[1], 'epoch', text, 'writer', '', 'holder', ARGV[7], 'instance', '', 'seq', '1',
  'state', 'released', 'record', '{{}}', 'successor', '')
redis.call('RPUSH', ARGV[8], '{{"epoch": ' .. text .. ', ' .. string.sub(ARGV[9], 2))
redis.call('LTRIM', ARGV[8], '-{HISTORY_LENGTH}', '-1')
return text
"""
