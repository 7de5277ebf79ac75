#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ringfence's hash ring, version 1, written from its specification (RingSpecification.md) and that of XXH3 alone.

It shares nothing with the Swift implementation and uses nothing but Python: where the two agree, the specification says
enough. Slow and short on purpose: a list of points, and loops.

    ring.py answer FILE    answers the questions in FILE, a line each (see `answer`)
    ring.py vectors        prints vectors.json
"""

import json
import sys

MASK = 2**64 - 1

# ---------------------------------------------------------------------------------------------------------------- XXH3-64

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
PRIME_MX1, PRIME_MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25


def u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def swap(value, size):
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def rotate(value, by):
    return (value << by | value >> (64 - by)) & MASK


def fold(a, b):
    """The 128-bit product, its halves xored."""
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche64(h):
    h = (h ^ h >> 33) * PRIME64_2 & MASK
    h = (h ^ h >> 29) * PRIME64_3 & MASK
    return h ^ h >> 32


def avalanche(h):
    h = (h ^ h >> 37) * PRIME_MX1 & MASK
    return h ^ h >> 32


def mix16(data, at, secret_at, seed):
    return fold(
        u64(data, at) ^ (u64(SECRET, secret_at) + seed & MASK),
        u64(data, at + 8) ^ (u64(SECRET, secret_at + 8) - seed & MASK),
    )


def xxh3(data, seed=0):
    """XXH3_64bits_withSeed."""
    size = len(data)
    if size == 0:
        return avalanche64(seed ^ u64(SECRET, 56) ^ u64(SECRET, 64))
    if size <= 3:
        combined = data[0] << 16 | data[size >> 1] << 24 | data[size - 1] | size << 8
        return avalanche64(combined ^ ((u32(SECRET, 0) ^ u32(SECRET, 4)) + seed & MASK))
    if size <= 8:
        seed ^= swap(seed & 0xFFFFFFFF, 4) << 32
        keyed = u32(data, size - 4) + (u32(data, 0) << 32) ^ ((u64(SECRET, 8) ^ u64(SECRET, 16)) - seed & MASK)
        h = keyed ^ rotate(keyed, 49) ^ rotate(keyed, 24)
        h = h * PRIME_MX2 & MASK
        h = (h ^ (h >> 35) + size) * PRIME_MX2 & MASK
        return h ^ h >> 28
    if size <= 16:
        low = u64(data, 0) ^ ((u64(SECRET, 24) ^ u64(SECRET, 32)) + seed & MASK)
        high = u64(data, size - 8) ^ ((u64(SECRET, 40) ^ u64(SECRET, 48)) - seed & MASK)
        return avalanche(size + swap(low, 8) + high + fold(low, high) & MASK)
    if size <= 128:
        h = size * PRIME64_1
        for i in range((size - 1) // 32, -1, -1):
            h += mix16(data, 16 * i, 32 * i, seed) + mix16(data, size - 16 * (i + 1), 32 * i + 16, seed)
        return avalanche(h & MASK)
    if size <= 240:
        h = size * PRIME64_1
        for i in range(8):
            h += mix16(data, 16 * i, 16 * i, seed)
        h = avalanche(h & MASK)
        for i in range(8, size // 16):
            h += mix16(data, 16 * i, 16 * (i - 8) + 3, seed)
        return avalanche(h + mix16(data, size - 16, 136 - 17, seed) & MASK)
    return xxh3_long(data, seed)


def xxh3_long(data, seed):
    size = len(data)
    secret = b"".join(
        (u64(SECRET, i) + seed & MASK).to_bytes(8, "little") + (u64(SECRET, i + 8) - seed & MASK).to_bytes(8, "little")
        for i in range(0, 192, 16)
    )
    lanes = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1]

    def accumulate(at, secret_at):
        for i in range(8):
            word = u64(data, at + 8 * i)
            key = word ^ u64(secret, secret_at + 8 * i)
            lanes[i ^ 1] = lanes[i ^ 1] + word & MASK
            lanes[i] = lanes[i] + (key & 0xFFFFFFFF) * (key >> 32) & MASK

    blocks = (size - 1) // 1024
    for block in range(blocks):
        for stripe in range(16):
            accumulate(1024 * block + 64 * stripe, 8 * stripe)
        for i in range(8):
            lanes[i] = (lanes[i] ^ lanes[i] >> 47 ^ u64(secret, 128 + 8 * i)) * PRIME32_1 & MASK
    for stripe in range((size - 1 - 1024 * blocks) // 64):
        accumulate(1024 * blocks + 64 * stripe, 8 * stripe)
    accumulate(size - 64, 192 - 64 - 7)
    h = size * PRIME64_1
    for i in range(0, 8, 2):
        h += fold(lanes[i] ^ u64(secret, 11 + 8 * i), lanes[i + 1] ^ u64(secret, 19 + 8 * i))
    return avalanche(h & MASK)


# ------------------------------------------------------------------------------------------------------------------- Ring


class Ring:
    """`members`: (id, weight, zone), ids and zones as bytes."""

    def __init__(self, members, seed=0, pointsPerWeight=256):
        self.seed, self.pointsPerWeight = seed, pointsPerWeight
        self.members = sorted(members)
        self.weights = {id: weight for id, weight, _ in members}
        self.zones = {id: zone for id, _, zone in members}
        # Tuples sort by position first and then by id, byte by byte: the tie-break.
        self.points = sorted(
            (self.point(id, j), id) for id, weight, _ in members for j in range(weight * pointsPerWeight)
        )

    def point(self, id, j):
        z = xxh3(id, self.seed) + (j + 1) * 0x9E3779B97F4A7C15 & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31

    def position(self, key):
        if isinstance(key, int):
            key = key.to_bytes(8, "little")
        return xxh3(key, self.seed)

    def first(self, position):
        """The index of the first point at or after `position`."""
        low, high = 0, len(self.points)
        while low < high:
            middle = (low + high) // 2
            if self.points[middle][0] < position:
                low = middle + 1
            else:
                high = middle
        return low % len(self.points)

    def owner(self, position):
        return self.points[self.first(position)][1] if self.points else None

    def preference(self, position, count):
        live = sum(1 for _, weight, _ in self.members if weight > 0)
        ranked, in_zone, met = [], {}, set()
        at = self.first(position) if self.points else 0
        while len(met) < live:
            id = self.points[at][1]
            at = (at + 1) % len(self.points)
            if id in met:
                continue
            met.add(id)
            rank = in_zone.get(self.zones[id], 0)
            in_zone[self.zones[id]] = rank + 1
            ranked.append((rank, len(ranked), id))
        return [id for _, _, id in sorted(ranked)[:count]]

    def shares(self):
        shares = {id: 0 for id, _, _ in self.members}  # in the order of the members
        for i, (position, id) in enumerate(self.points):
            shares[id] += (position - self.points[i - 1][0]) & MASK
        if self.points and self.points[0][0] == self.points[-1][0]:
            shares[self.points[0][1]] = 2**64
        return shares

    def digest(self):
        records = [b"ringfence ring v1" + self.seed.to_bytes(8, "little") + self.pointsPerWeight.to_bytes(4, "little")]
        for id, weight, zone in self.members:
            records.append(
                len(id).to_bytes(4, "little") + id + len(zone).to_bytes(4, "little") + zone
                + weight.to_bytes(4, "little")
            )
        high, low = (sum(xxh3(record, lane) for record in records) & MASK for lane in (1, 2))
        return f"{high:016x}{low:016x}"

    def changed(self, joining, leaving):
        members = {member[0]: member for member in self.members if member[0] not in leaving}
        members.update({member[0]: member for member in joining})
        return Ring(members.values(), self.seed, self.pointsPerWeight)

    def moves(self, other):
        """[after, through, giver, taker]: maximal ranges, by their ends."""
        ends = sorted({position for position, _ in self.points + other.points})
        moves = []
        for i, end in enumerate(ends):
            giver, taker = self.owner(end), other.owner(end)
            if giver == taker:
                continue
            if moves and moves[-1][1:] == [ends[i - 1], giver, taker]:
                moves[-1][1] = end
            else:
                moves.append([ends[i - 1], end, giver, taker])
        if moves and moves[-1][1] == moves[0][0] and moves[-1][2:] == moves[0][2:]:
            if len(moves) > 1:
                moves[0][0] = moves.pop()[0]
            if moves[0][0] == moves[0][1]:
                moves[0][:2] = [MASK, MASK]
        return moves


# --------------------------------------------------------------------------------------------------------------- Questions


def answer(path):
    """Questions and answers are lines of words; texts and keys are in hexadecimal behind an x."""

    def text(word):
        return bytes.fromhex(word[1:])

    def word(id):
        return "nobody" if id is None else "x" + id.hex()

    ring, members, joining, leaving, keys, count = None, [], [], [], [], 1
    seed = pointsPerWeight = 0
    with open(path) as lines:
        for line in lines:
            kind, *words = line.split()
            if kind == "ring":
                seed, pointsPerWeight, count = map(int, words)
            elif kind == "member":
                members.append((text(words[0]), int(words[1]), text(words[2])))
            elif kind == "join":
                joining.append((text(words[0]), int(words[1]), text(words[2])))
            elif kind == "leave":
                leaving.append(text(words[0]))
            elif kind == "key":
                keys.append(text(words[0]))
            elif kind == "number":
                keys.append(int(words[0]))
            else:
                sys.exit(f"unknown line: {line}")
    ring = Ring(members, seed, pointsPerWeight)
    other = ring.changed(joining, leaving)
    for name, ring_ in ("before", ring), ("after", other):
        print(name, ring_.digest(), len(ring_.points))
        for id, share in sorted(ring_.shares().items()):
            print("share", word(id), share)
        for key in keys:
            position = ring_.position(key)
            preference = ring_.preference(position, count) if count > 1 else []
            print("key", f"{position:016x}", word(ring_.owner(position)), *map(word, preference))
    for after, through, giver, taker in ring.moves(other):
        print("move", f"{after:016x}", f"{through:016x}", word(giver), word(taker))


# ----------------------------------------------------------------------------------------------------------------- Vectors

# Found by inverting XXH3 for eight bytes: five of their first eight points are the same under seed 0.
TIE_IDS = ("nj-0Nz/H", "tie-149")


def vectors():
    pattern = bytes(i * 131 + 7 & 0xFF for i in range(3000))
    sizes = [0, 1, 2, 3, 4, 7, 8, 9, 16, 17, 20, 32, 33, 64, 65, 96, 97, 128, 129, 144, 239, 240, 241, 512, 1024, 1025, 2999]
    hashes = [
        {"bytes": pattern[:size].hex(), "seed": f"{seed:016x}", "hash": f"{xxh3(pattern[:size], seed):016x}"}
        for size in sizes
        for seed in (0, 1, 0x9E3779B97F4A7C15)
    ]

    def member(id, weight=1, zone=""):
        return (id.encode(), weight, zone.encode())

    def shown(id):
        return None if id is None else id.decode()

    def described(members):
        return [{"id": id.decode(), "weight": weight, "zone": zone.decode()} for id, weight, zone in members]

    def case(name, members, seed, pointsPerWeight, joining=(), leaving=(), keys=()):
        ring = Ring(members, seed, pointsPerWeight)
        other = ring.changed(joining, [id.encode() for id in leaving])
        shown_keys = []
        for key in keys:
            position = ring.position(key if isinstance(key, int) else key.encode())
            shown_keys.append(
                {
                    ("number" if isinstance(key, int) else "text"): str(key),
                    "position": f"{position:016x}",
                    "owner": shown(ring.owner(position)),
                    "preference": [id.decode() for id in ring.preference(position, 5)],
                }
            )
        return {
            "name": name,
            "seed": f"{seed:016x}",
            "pointsPerWeight": pointsPerWeight,
            "members": described(members),
            "digest": ring.digest(),
            "firstPoints": [
                {"id": id.decode(), "positions": [f"{ring.point(id, j):016x}" for j in range(min(2, weight * pointsPerWeight))]}
                for id, weight, _ in ring.members
            ],
            "shares": [{"id": id.decode(), "positions": str(share)} for id, share in ring.shares().items()],
            "keys": shown_keys,
            "change": {
                "joining": described(joining),
                "leaving": list(leaving),
                "digest": other.digest(),
                "moves": [
                    {"after": f"{after:016x}", "through": f"{through:016x}", "giver": shown(giver), "taker": shown(taker)}
                    for after, through, giver, taker in ring.moves(other)
                ],
            },
        }

    keys = ["", "a", "account/4711", "txn:0000001234567890", "Zürich/\u00e9", "Zürich/e\u0301", 0, 1, 4711, MASK, "x" * 300]
    zoned = [member("node-1", 1, "a"), member("node-2", 1, "a"), member("node-3", 2, "b"), member("node-4", 1, "c"),
             member("node-5", 0, "c"), member("node-6", 1, "")]
    rings = [
        case("nobody joins, then one", [], 0, 4, [member("first")], [], keys[:2]),
        case("one member, one point, and it leaves", [member("only")], 0, 1, [], ["only"], keys[:2]),
        case("one member takes over from another", [member("old")], 9, 3, [member("new")], ["old"], keys[:2]),
        case("three without zones", [member("alpha"), member("beta"), member("gamma")], 1, 8, [member("delta")], [], keys),
        case("zones, weights and a drained member", zoned, 0x0123456789ABCDEF, 4,
             [member("node-3", 1, "b"), member("node-7", 1, "d")], ["node-1"], keys),
        case("ids are bytes", [member("e\u0301"), member("\u00e9"), member("Ω"), member("z" * 512, 1, "Z" * 64)], MASK, 2,
             [member("\u00e9", 2)], ["Ω"], keys),
        case("a zone changes", zoned, 5, 4, [member("node-2", 1, "b")], [], keys[:5]),
        case("two members share a point", [member(TIE_IDS[0]), member(TIE_IDS[1]), member("other")], 0, 8, [],
             [TIE_IDS[0]], keys[:3]),
    ]
    print(json.dumps({"version": 1, "hashes": hashes, "rings": rings}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "answer":
        answer(sys.argv[2])
    elif sys.argv[1:] == ["vectors"]:
        vectors()
    else:
        sys.exit(__doc__)
