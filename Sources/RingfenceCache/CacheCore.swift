// SPDX-License-Identifier: Apache-2.0
//
// What all calls of one cache share: the layout in force with a connection to each of its nodes, the writer's clock,
// the hints that wait to be sent. The layout is replaced as a whole, when a node or the coordinator shows a newer one.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

/// A layout, and the way to each of its nodes.
final class CachePlacement: Sendable {
    let map: CacheMap
    /// By place in `map.ids`; nil for an address that cannot be read.
    let nodes: [CacheNode?]

    init(_ map: CacheMap, _ nodes: [CacheNode?]) {
        self.map = map
        self.nodes = nodes
    }

    /// Whether a node is better not waited for.
    func isSlow(_ node: Int) -> Bool { nodes[node].map { $0.isSlow || !$0.isConnected } ?? true }
}

final class CacheCore: Sendable {
    private struct State {
        var placement: CachePlacement
        var clock: HybridClock
        var isClosed = false
        var isRenewing = false
        var waiting: [@Sendable () -> Void] = []
        /// By keeper and target.
        var hints: [[Int]: Set<HintedKey>] = [:]
        var hintsStamp = CacheStamp.none
        var isFlushing = false
        /// To be sent to the rest of their nodes.
        var late: [CacheWrite] = []
    }

    struct HintedKey: Hashable {
        var key: String
        static func == (one: Self, other: Self) -> Bool { one.key.hasSameBytes(as: other.key) }
        func hash(into hasher: inout Hasher) { hasher.combineBytes(of: key) }
    }

    let name: String
    let options: CacheOptions
    let group: Group
    let client: RingfenceClient
    let scripts: CacheScripts
    let metrics: CacheMetrics
    let logger: Logger
    private let layouts: CacheLayouts
    private let state: Mutex<State>

    init(
        name: String, options: CacheOptions, group: Group, client: RingfenceClient, layouts: CacheLayouts,
        map: CacheMap, writer: UInt64
    ) {
        self.name = name
        self.options = options
        self.group = group
        self.client = client
        self.layouts = layouts
        var logger = client.logger
        logger[metadataKey: LoggingKeys.group] = "\(name)"
        self.logger = logger
        metrics = CacheMetrics()
        scripts = CacheScripts(
            prefix: client.keyPrefix, group: name, freshness: options.freshness, hintLimit: options.hintLimit)
        state = Mutex(
            State(placement: CachePlacement(map, map.ids.map { _ in nil }), clock: HybridClock(writer: writer)))
        place(map)
    }

    var eventLoop: any EventLoop { client.eventLoop }
    var placement: CachePlacement { state.withLock { $0.placement } }
    var isClosed: Bool { state.withLock { $0.isClosed } }

    // MARK: Versions

    /// A version above all that was seen, and above `other`.
    func nextVersion(above other: CacheVersion? = nil) -> CacheVersion {
        state.withLock { state in
            if let other { state.clock.saw(other) }
            return state.clock.next(wallMilliseconds: Moment.wallMilliseconds)
        }
    }

    func saw(_ version: CacheVersion) { state.withLock { $0.clock.saw(version) } }

    // MARK: The layout

    /// Takes a layout into force if it is newer, and goes to where its nodes are now. `isAtNodes`: one that nodes were
    /// told of takes the place of another of the same epoch, too.
    func adopt(_ layout: CacheLayout, isAtNodes: Bool = false) {
        guard isNews(layout, isAtNodes: isAtNodes) else { return }
        guard let map = try? CacheMap(layout) else {
            return logger.error("a layout of which no ring can be made")
        }
        place(map)
    }

    private func isNews(_ layout: CacheLayout, isAtNodes: Bool) -> Bool {
        let stamp = placement.map.stamp
        return layout.epoch > stamp.epoch || (isAtNodes && layout.epoch == stamp.epoch && layout.change != stamp.change)
    }

    /// Follows members that have another address now.
    func follow() { place(placement.map) }

    private func place(_ map: CacheMap) {
        var addresses: [[UInt8]: String] = [:]
        for member in map.layout.everybody { addresses[Array(member.id.utf8)] = member.address }
        for member in group.snapshot.members where !member.address.isEmpty {
            let id = Array(member.id.utf8)
            if addresses[id] != nil { addresses[id] = member.address }
        }
        let gone = state.withLock { state -> [CacheNode] in
            guard !state.isClosed, map.layout.epoch >= state.placement.map.layout.epoch else { return [] }
            let before = state.placement.nodes.compactMap { $0 }
            let nodes = map.ids.map { id -> CacheNode? in
                let address = addresses[Array(id.utf8)] ?? ""
                if let node = before.first(where: { $0.id.hasSameBytes(as: id) && $0.address == address }) {
                    return node
                }
                return made(id, address)
            }
            state.placement = CachePlacement(map, nodes)
            return before.filter { old in !nodes.contains { $0 === old } }
        }
        for node in gone { Task { await node.close() } }
    }

    private func made(_ id: String, _ address: String) -> CacheNode? {
        do {
            let node = try CacheNode(
                id: id, address: address, options: options, scripts: scripts, eventLoop: eventLoop, logger: logger)
            Task { await node.checkEviction() }
            return node
        } catch {
            logger.error(
                "a node of a cache has an address that cannot be read",
                metadata: [LoggingKeys.member: "\(id)", LoggingKeys.error: "\(error)"])
            return nil
        }
    }

    /// A node said that the layout in force here is history. `completion` comes when another one may be in force.
    func renew(_ json: [UInt8]?, completion: @escaping @Sendable () -> Void) {
        if let layout = json.flatMap({ CacheLayout(json: $0) }), isNews(layout, isAtNodes: true) {
            adopt(layout, isAtNodes: true)
            return completion()
        }
        let isFirst = state.withLock { state in
            state.waiting.append(completion)
            defer { state.isRenewing = true }
            return !state.isRenewing
        }
        guard isFirst else { return }
        layouts.exchange { [self] word in
            if let layout = word?.layout { adopt(layout) }
            let waiting = state.withLock { state in
                defer { (state.isRenewing, state.waiting) = (false, []) }
                return state.waiting
            }
            for completion in waiting { completion() }
        }
    }

    /// Stores a layout if it is the next; tells the layout then in force, nil if there is no answer.
    func publish(_ layout: CacheLayout, completion: @escaping @Sendable (CacheLayout?) -> Void) {
        layouts.exchange(layout) { [self] word in
            if let current = word?.layout { adopt(current) }
            completion(word?.layout)
        }
    }

    /// Tells the process that repairs the cache that a member is gone for good.
    func forget(_ id: String) async throws { try await layouts.exchange(gone: id) }

    /// Looks whether there is a newer layout, and puts this one back if the coordinator has lost it.
    /// - Returns: the members said to be gone for good.
    func refreshLayout() async throws -> [String] {
        let word = try await layouts.exchange(placement.map.layout)
        if let layout = word.layout { adopt(layout) }
        return word.gone
    }

    // MARK: Writes that are sent to some nodes yet

    /// In a moment.
    func sendLater(_ write: CacheWrite) {
        let isFirst = state.withLock { state in
            state.late.append(write)
            return state.late.count == 1
        }
        if isFirst { eventLoop.scheduleTask(in: .milliseconds(1)) { [self] in sendRest() } }
    }

    private func sendRest() {
        let writes = state.withLock { state in
            defer { state.late = [] }
            return state.late
        }
        CacheLate.send(writes.flatMap { $0.rest() })
    }

    // MARK: Hints

    /// `nodes` lack a key; other nodes must remember that.
    func hint(_ key: String, missing nodes: [Int], on placement: CachePlacement) {
        guard options.hintLimit > 0 else { return }
        let keepers = placement.map.hintKeepers(of: key).filter {
            !nodes.contains($0) && placement.nodes[$0]?.isConnected == true
        }
        guard let keeper = keepers.first else { return }
        let isFirst = state.withLock { state in
            let stamp = placement.map.stamp
            // Places are of a layout; hints of the one before are late, and not needed.
            if state.hintsStamp != stamp { (state.hintsStamp, state.hints) = (stamp, [:]) }
            for node in nodes { state.hints[[keeper, node], default: []].insert(HintedKey(key: key)) }
            defer { state.isFlushing = true }
            return !state.isFlushing
        }
        guard isFirst else { return }
        // One call for many: while a node is away every write makes a hint.
        eventLoop.scheduleTask(in: .milliseconds(10)) { [self] in flushHints() }
    }

    private func flushHints() {
        let (hints, placement) = state.withLock { state in
            defer { (state.isFlushing, state.hints) = (false, [:]) }
            return (state.hintsStamp == state.placement.map.stamp ? state.hints : [:], state.placement)
        }
        for (pair, keys) in hints {
            let target = placement.map.ids[pair[1]]
            metrics.hints.increment(by: Int64(keys.count))
            placement.nodes[pair[0]]?.call(
                .hint(target: target, keys: keys.map(\.key)), stamp: placement.map.stamp
            ) { [metrics] result in
                guard case .success(let answer) = result, case .done(let refused) = answer.result else { return }
                if refused > 0 { metrics.hintsDropped.increment(by: refused) }
            }
        }
    }

    // MARK: End

    func close() async {
        sendRest()
        let nodes = state.withLock { state in
            state.isClosed = true
            return state.placement.nodes.compactMap { $0 }
        }
        for node in nodes { await node.close() }
    }
}

/// The stored layout, and the members said to be gone for good.
struct CacheLayouts: Sendable {
    /// What is there.
    struct Word: Sendable {
        /// nil: none.
        var layout: CacheLayout?
        var gone: [String]
    }

    private static let script = RedisScript(String(decoding: PackageResources.cachelayout_lua, as: UTF8.self))

    let client: RingfenceClient
    let key: String
    let goneKey: String
    private let absentKey: String

    init(client: RingfenceClient, group: String) {
        self.client = client
        let name = "\(group.utf8.count):\(group)"
        key = client.keyPrefix + "cachelayout:" + name
        goneKey = client.keyPrefix + "cachegone:" + name
        absentKey = client.keyPrefix + "absent"
    }

    /// Returns what is stored, nil if there is no answer. Stores `layout` before, if it is the next.
    func exchange(_ layout: CacheLayout? = nil, _ completion: @escaping @Sendable (Word?) -> Void) {
        client.run(call(layout, gone: "")) { result in
            completion((try? result.get()).flatMap { try? Self.word($0) })
        }
    }

    /// The same for a task; `gone`: a member to report as gone for good.
    /// - Throws: `RingfenceError` if Redis does not answer.
    @discardableResult
    func exchange(_ layout: CacheLayout? = nil, gone: String = "") async throws -> Word {
        let reply: RedisReply
        do { reply = try await client.result(of: call(layout, gone: gone)).get() } catch {
            throw RingfenceError(error, "asking for the layout of a cache")
        }
        return try Self.word(reply)
    }

    private func call(_ layout: CacheLayout?, gone: String) -> ScriptCall {
        ScriptCall(script: Self.script, keys: 3, arguments: 3) { [key, goneKey, absentKey] writer in
            writer.argument(key)
            writer.argument(goneKey)
            writer.argument(absentKey)
            writer.argument(layout?.epoch ?? 0)
            writer.argument(layout?.json ?? [])
            writer.argument(gone)
        }
    }

    private static func word(_ reply: RedisReply) throws -> Word {
        guard let list = reply.array, let bytes = list.first?.bytes else { throw RingfenceError.unexpected(reply) }
        let gone = list.dropFirst().compactMap(\.text)
        guard !bytes.isEmpty else { return Word(layout: nil, gone: gone) }
        guard let layout = CacheLayout(json: bytes) else {
            throw RingfenceError(
                .coordinatorRefused, effect: .none,
                "the layout of the cache cannot be read: a newer version wrote it, or a hand")
        }
        return Word(layout: layout, gone: gone)
    }
}
