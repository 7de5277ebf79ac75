// SPDX-License-Identifier: Apache-2.0
//
// The ring for users. All it computes is `Ring` in RingfenceCore; here it gets a face that does not know slots.
//
// Keys come in through one small protocol instead of a pile of overloads, so a caller's own key type can stand on the
// ring as it is. The generic entry points are inlinable and do nothing but hand the key's bytes on, so that they cost
// nothing in another module.

import RingfenceCore

/// Who owns which key: a consistent-hash ring, as an immutable snapshot.
///
/// A ring is a function of its members, its ``seed`` and its ``pointsPerWeight``, and of nothing else: every process
/// that knows the same members finds the same owners, in any language (<doc:RingSpecification>). When a member joins,
/// leaves or changes its weight, exactly the keys that must move do; no key moves between two members that did not
/// change, as first copy or as any other.
///
/// ```swift
/// let ring = try HashRing([
///     .init(id: "cache-1", zone: "a"),
///     .init(id: "cache-2", zone: "b", weight: 2),
///     .init(id: "cache-3", zone: "c"),
/// ])
/// let owner = ring.owner(of: "account/4711")
/// for id in ring.preferenceList(for: "account/4711", count: 3) { print(id) }
/// let plan = try ring.plan(leaving: ["cache-2"])
/// print(plan.share)  // the part of all keys that moves
/// ```
///
/// Looking up an owner takes the same time whatever the size of the ring. It allocates nothing and takes no lock;
/// neither does a preference list of up to eight members. A ring never changes: ``applying(joining:leaving:)`` makes a
/// new one.
public struct HashRing: Sendable {
    /// The number of points of a member of weight 1, unless another is given: 256.
    public static let defaultPointsPerWeight = 256

    let core: Ring

    init(core: Ring) { self.core = core }

    /// A ring of these members.
    /// - Parameters:
    ///   - members: in any order, each id once; at most 65,535.
    ///   - seed: separates rings from each other: two rings with different seeds place keys independently. Default 0.
    ///   - pointsPerWeight: the number of points for each unit of weight, 1 to 4096; default 256. More points even out
    ///     the shares, and take about 20 bytes each. It must be the same for everybody who builds this ring.
    /// - Throws: ``RingfenceError`` with `argument.invalid`, effect `none`, for an argument or a member outside its
    ///   limits, an id that is there twice, or a ring of more than 16,777,216 points.
    public init(_ members: [Member] = [], seed: UInt64 = 0, pointsPerWeight: Int = HashRing.defaultPointsPerWeight)
        throws
    {
        self.init(
            core: try checked { () throws(InvalidArgument) in
                try Ring(members.map(\.core), seed: seed, pointsPerWeight: pointsPerWeight)
            })
    }

    /// The seed all hashes of this ring are taken under.
    public var seed: UInt64 { core.seed }
    /// The number of points for each unit of weight.
    public var pointsPerWeight: Int { core.pointsPerWeight }
    /// The members in the order of the bytes of their ids, drained ones included.
    public var members: [Member] { core.members.map(Member.init(core:)) }
    /// The number of members, drained ones included.
    public var memberCount: Int { core.members.count }
    /// The number of points of all members together.
    public var pointCount: Int { core.pointCount }
    /// Whether no member owns anything: there is none, or all are drained.
    public var isEmpty: Bool { core.pointCount == 0 }
    /// The same for two rings with the same seed, points per weight and members (ids, weights and zones, drained ones
    /// included), and else different, as far as 128 bits can tell.
    public var digest: Digest { Digest(core: core.digest) }

    /// The member with this id; nil if there is none.
    public func member(_ id: String) -> Member? { core.index(of: id).map { Member(core: core.members[$0]) } }

    // MARK: Owners

    /// The id of the member that owns a key; nil when ``isEmpty``.
    @inlinable
    public func owner(of key: some Key) -> String? { key.withRingBytes { owner(ofBytes: $0) } }

    /// The place in ``members`` of the member that owns a key; nil when ``isEmpty``. The fastest question: not even a
    /// reference is counted.
    @inlinable
    public func ownerIndex(of key: some Key) -> Int? { key.withRingBytes { ownerIndex(ofBytes: $0) } }

    /// The members that hold the copies of a key, the owner first.
    ///
    /// All different, and as far as there are zones, from different ones: every zone has one copy before any has two.
    /// Drained members are skipped, and the list is shorter than `count` when there are not so many others. It is empty
    /// for a `count` below 1. A list of three is the beginning of the list of five.
    @inlinable
    public func preferenceList(for key: some Key, count: Int) -> PreferenceList {
        preferenceList(at: position(of: key), count: count)
    }

    /// Where on the circle of 2^64 positions a key stands.
    @inlinable
    public func position(of key: some Key) -> UInt64 { key.withRingBytes { position(ofBytes: $0) } }

    /// The id of the member that owns a position; nil when ``isEmpty``.
    public func owner(at position: UInt64) -> String? { core.owner(at: position) }

    /// The members that hold the copies of a position; see ``preferenceList(for:count:)``.
    public func preferenceList(at position: UInt64, count: Int) -> PreferenceList {
        PreferenceList(ring: core, slots: core.preference(at: position, count: count))
    }

    @usableFromInline
    func owner(ofBytes bytes: UnsafeRawBufferPointer) -> String? { core.owner(of: bytes) }

    @usableFromInline
    func ownerIndex(ofBytes bytes: UnsafeRawBufferPointer) -> Int? {
        let index = core.ownerIndex(of: bytes)
        return index >= 0 ? index : nil
    }

    @usableFromInline
    func position(ofBytes bytes: UnsafeRawBufferPointer) -> UInt64 { RingHash.position(of: bytes, seed: core.seed) }

    // MARK: Shares

    /// The exact number of the 2^64 positions that belong to a member: 0 for one that is drained or not there. This,
    /// like the shares below, looks at every point of the ring.
    public func positions(of id: String) -> UInt128 { core.index(of: id).map { core.shares[$0] } ?? 0 }

    /// The part of all keys that a member owns, 0 to 1.
    public func share(of id: String) -> Double { Double(positions(of: id)) / 0x1p64 }

    /// The parts of all keys that the members own, in the order of ``members``; together 1, or 0 when ``isEmpty``.
    public var shares: [Double] { core.shares.map { Double($0) / 0x1p64 } }

    // MARK: Change

    /// The ring after some members left, and others joined or, if their id is there already, changed. A member in both
    /// lists has changed.
    /// - Parameters:
    ///   - joining: new members, and members with a new weight or zone.
    ///   - leaving: ids of members.
    /// - Throws: ``RingfenceError`` with `argument.invalid`, effect `none`, for a member outside its limits, an id that
    ///   is twice in one list, one in `leaving` that is no member, or more members or points than a ring can have.
    public func applying(joining: [Member] = [], leaving: [String] = []) throws -> HashRing {
        HashRing(
            core: try checked { () throws(InvalidArgument) in
                try core.applying(joining: joining.map(\.core), leaving: leaving)
            })
    }

    /// What would move in ``applying(joining:leaving:)``, without doing it.
    /// - Throws: As ``applying(joining:leaving:)``.
    public func plan(joining: [Member] = [], leaving: [String] = []) throws -> Plan {
        let moves = try checked { () throws(InvalidArgument) in
            try core.plan(joining: joining.map(\.core), leaving: leaving)
        }
        return Plan(seed: seed, moves: moves)
    }

    /// What moves from this ring to another, however they differ.
    /// - Throws: ``RingfenceError`` with `argument.invalid` when their seeds differ: then every key stands elsewhere.
    public func diff(to other: HashRing) throws -> Plan {
        guard seed == other.seed else {
            throw RingfenceError(
                InvalidArgument("seed", "must be the same in both rings, not \(seed) and \(other.seed)"))
        }
        return Plan(seed: seed, moves: core.moves(to: other.core))
    }
}

extension HashRing: Hashable, CustomStringConvertible {
    /// Whether two rings have the same seed, pointsPerWeight and members, and so place every key alike.
    public static func == (one: HashRing, other: HashRing) -> Bool {
        one.core === other.core
            || (one.digest == other.digest && one.seed == other.seed && one.pointsPerWeight == other.pointsPerWeight
                && one.core.members == other.core.members)
    }

    /// Feeds the digest.
    public func hash(into hasher: inout Hasher) { hasher.combine(digest) }

    /// A line for logs.
    public var description: String {
        "HashRing(\(memberCount) members, \(pointCount) points, digest \(digest))"
    }
}

extension HashRing {
    /// A member as the ring sees it.
    public struct Member: Hashable, Sendable {
        var core: RingMember

        init(core: RingMember) { self.core = core }

        /// A member. It is checked when a ring is made of it.
        /// - Parameters:
        ///   - id: its name: 1 to 512 bytes of UTF-8 without control characters. Compared by bytes. (A group takes no
        ///     format characters either.)
        ///   - zone: what fails together with it: a rack, a data centre. At most 64 bytes, no control characters.
        ///     Members without one share a zone.
        ///   - weight: 0 to 1000; default 1. Its share is about that of a member of weight 1, times this. 0 drains it:
        ///     it stays a member, and owns nothing.
        public init(id: String, zone: String = "", weight: Int = 1) {
            core = RingMember(id: id, weight: weight, zone: zone)
        }

        /// The name of the member.
        public var id: String {
            get { core.id }
            set { core.id = newValue }
        }
        /// Its share in proportion to the others; 0 while it is drained.
        public var weight: Int {
            get { core.weight }
            set { core.weight = newValue }
        }
        /// What fails together with it; empty for none.
        public var zone: String {
            get { core.zone }
            set { core.zone = newValue }
        }
        /// Whether it owns nothing for now: its weight is 0.
        public var isDrained: Bool { core.weight == 0 }
    }

    /// 128 bits that tell two rings apart: if two processes have the same, they place keys alike. It finds accidents;
    /// it is no signature.
    public struct Digest: Hashable, Sendable, CustomStringConvertible {
        var core: RingDigest

        init(core: RingDigest) { self.core = core }

        /// The first 64 bits.
        public var high: UInt64 { core.high }
        /// The last 64 bits.
        public var low: UInt64 { core.low }
        /// 32 lowercase hexadecimal digits.
        public var description: String { core.text }
    }
}

/// Runs `body`; what it finds wrong with an argument becomes the library's error.
private func checked<Result>(_ body: () throws(InvalidArgument) -> Result) throws -> Result {
    do { return try body() } catch { throw RingfenceError(error) }
}
