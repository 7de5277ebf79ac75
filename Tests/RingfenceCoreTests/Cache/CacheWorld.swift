// SPDX-License-Identifier: Apache-2.0
//
// A replicated cache in one thread: nodes that are the reference model, clients and repairers that run the real
// machines, a coordinator that keeps the layout, and a network between them. Everything is on one agenda in true time,
// every die is thrown by one seeded generator, so a seed is a whole story and can be told again:
//
//     RINGFENCE_SIMULATION_SEED=42 swift test --filter CacheSimulationTests
//
// A run has a storm, in which faults of the kinds this seed drew strike at random, and then a calm, at the end of which
// calls must succeed, the layout must be at rest, and all nodes of a key must have the same. In the storm any number of
// nodes may be out of reach, but the data of one at a time is lost, as is promised: until it is whole again, no other
// is touched. Should two be without their data all the same (a word that ran out while no repairer was there to renew
// it), the promise is over, and so is the run.
import RingfenceCacheCore
import RingfenceCore
import TestSupport

final class CacheWorld: SimulatedWorld {
    enum Fault: CaseIterable {
        case lose, late, again, cut, partition, freeze, pauseClient, pauseRepairer, killClient, killRepairer
        case restart, loseSecond, loseData, flush
        case stepClientClock, stepNodeClock
        case coordinatorAway, coordinatorLoses, coordinatorStepsBack
        case join, drain, leave
    }

    /// What is made wrong in the clients, for a control.
    struct Flaws {
        /// A node that lost data counts all the same.
        var countsUnwhole = false
        /// "There is something newer" is taken for done.
        var takesNewerForDone = false
        /// Quorums, whatever the seed says; they need not meet.
        var quorums: (copies: Int, writes: Int, reads: Int)?
        /// How long removals are remembered; ms.
        var life: Int64?
        /// So often as much happens to the others as it may at random.
        var mishaps: UInt64?
    }

    struct Settings {
        var copies = 3
        var writes = 2
        var reads = 2
        var callLimit: Nanos = .second
        /// As in the options, freshness is three quarters of it.
        var life: Int64 = 40_000
        var freshness: Int64 = 30_000
        var repairer: RepairMachine.Settings {
            RepairMachine.Settings(
                callLimit: callLimit, pace: 2000, lookEvery: 300 * .millisecond, replaceAfter: 5 * .second,
                freshness: freshness)
        }
    }

    /// No message comes later than this.
    static let latest: Nanos = 8 * .second
    /// So long after the storm calls may fail yet.
    static let grace: Nanos = 16 * .second
    /// So far may steps have put a node's clock forward within the life of a value.
    static let steps: Nanos = 4 * .second
    /// True time 0, by a right clock, in ms.
    static let epochOfClocks: Int64 = 1_790_000_000_000

    let faults: Set<Fault>
    let faultList: [Fault]
    let flaws: Flaws
    private let nodeFlaws: CacheNodeModel.Flaws
    var settings = Settings()
    var isCalm = false
    var isOver = false
    var isFinished = false
    var mustSucceed = false
    /// Of steps; some ten times what a storm takes.
    var limit = 2_000_000
    /// More was lost than is promised to do no harm.
    private(set) var isBeyondPromise = false

    var nodes: [String: CacheNode] = [:]
    var ids: [String] = []
    var present: [CacheMember] = []
    var goneForGood: Set<String> = []
    var clients: [CacheClient] = []
    var repairers: [CacheRepairer] = []
    var processes = 0
    var layout: CacheLayout
    var stored: CacheLayout?
    /// What was stored before.
    var before: CacheLayout?
    var isCoordinatorUp = true
    private var maps: [CacheStamp: CacheMap] = [:]
    private var hasBegun = false
    let keys: [String]
    /// Between two calls of a client, at most.
    let rest: Nanos
    let longestPause: Nanos
    let stormLength: Nanos
    /// Between two faults, at most.
    let unrest: Nanos
    private let mishaps: UInt64
    let checker = CacheChecker()
    var losses = 0
    var moves = 0
    private(set) var sweeps = 0
    /// Epochs that two layouts had.
    private(set) var splits = 0

    init(
        seed: UInt64, faults: [Fault]? = nil, nodeFlaws: CacheNodeModel.Flaws = .init(), flaws: Flaws = .init(),
        isTracing: Bool = false
    ) {
        self.flaws = flaws
        self.nodeFlaws = nodeFlaws
        var random = SplitMix64(seed: seed)
        let drawn = Fault.allCases.filter { _ in random.chance(35) }
        faultList = faults ?? drawn
        self.faults = Set(faultList)
        var settings = Settings()
        let (copies, writes, reads) = random.pick([
            (3, 2, 2), (3, 2, 2), (3, 2, 2), (3, 2, 2), (3, 2, 2), (3, 2, 2), (3, 3, 1), (3, 2, 3), (2, 2, 1),
            (4, 3, 2),
            (5, 3, 3),
        ])
        (settings.copies, settings.writes, settings.reads) = (copies, writes, reads)
        if let quorums = flaws.quorums {
            (settings.copies, settings.writes, settings.reads) = quorums
        }
        if let life = flaws.life { settings.life = life }
        self.settings = settings
        keys = (0..<Int(faults == nil ? random.pick(2...5) : 2)).map { "k\($0)" }
        rest = (faults == nil ? random.pick([60, 150, 400]) : 60) * .millisecond
        longestPause = random.pick([2, 5]) * .second
        // A control has a short and violent storm.
        let isControl = faults != nil
        stormLength = isControl ? 20 * .second : random.pick([20, 40, 150]) * .second
        unrest = isControl ? 500 * .millisecond : random.pick([900, 3000]) * .millisecond
        mishaps = flaws.mishaps ?? (isControl ? 80 : random.pick([5, 20, 50, 100]))
        let count = max(settings.copies, Int(random.pick(3...5)))
        present = (0..<count).map {
            CacheMember(id: "n\($0)", zone: random.chance(30) ? "z\($0 % 2)" : "", weight: 1)
        }
        layout = CacheLayout(
            copies: settings.copies, writes: settings.writes, reads: settings.reads, seed: seed, pointsPerWeight: 8,
            members: present, change: seed)
        super.init(seed: seed, random: random, isTracing: isTracing)
        checker.world = self
        for member in present { addNode(member.id) }
    }

    func run() throws {
        defer {
            end()
            (clients, repairers) = ([], [])
        }
        stored = layout
        startRepairer(isNew: true)
        waitForTheBeginning()
        try play(
            while: { !isBeyondPromise && !isFinished },
            afterEach: { if steps > limit { fail("\(steps) steps: it does not come to an end") } })
    }

    override func travelTime() -> Nanos {
        guard mishap(.late, 3) else { return random.pick(Nanos.millisecond / 20...4 * .millisecond) }
        // Often about as late as a call may take.
        return random.pick(0...(random.chance(50) ? 2 * .second : Self.latest))
    }

    /// Whether one of these happens to a message, or to who sends it.
    func mishap(_ fault: Fault, _ percent: UInt64) -> Bool {
        hasBegun && !isCalm && faults.contains(fault) && UInt64(random.pick(0...9999)) < percent * mishaps
    }

    private func waitForTheBeginning() {
        after(100 * .millisecond) {
            guard self.lacking.isEmpty else {
                if self.now > 10 * .second { self.fail("a new cache is not complete after 10 s") }
                return self.waitForTheBeginning()
            }
            self.hasBegun = true
            self.note(
                "all nodes are whole: N=\(self.settings.copies) W=\(self.settings.writes) R=\(self.settings.reads)")
            for _ in 0..<self.random.pick(2...4) { self.startClient() }
            self.snapshotAgain()
            self.strikeAgain()
            self.watchThePromise()
            self.after(self.stormLength) { self.becomeCalm() }
        }
    }

    // MARK: Processes

    func startClient() {
        guard let map = map(of: stored ?? layout) else { return }
        processes += 1
        let client = CacheClient(
            self, name: "c\(processes)", writer: UInt64(processes), map: map,
            wallOffset: random.pick(-4000...4000))
        clients.append(client)
        client.begin()
    }

    func startRepairer(isNew: Bool) {
        guard let map = map(of: stored ?? layout) else { return }
        processes += 1
        let repairer = CacheRepairer(self, name: "s\(processes)", map: map, isNew: isNew)
        repairers.append(repairer)
        repairer.begin()
    }

    /// Layouts of one epoch and one change are the same, or that is a fault.
    func map(of layout: CacheLayout) -> CacheMap? {
        if let map = maps[layout.stamp] {
            if map.layout == layout { return map }
            fail("two layouts have the stamp \(layout.stamp.text)")
            return nil
        }
        guard let map = try? CacheMap(layout) else {
            fail("no map can be made of \(layout)")
            return nil
        }
        maps[layout.stamp] = map
        if maps.count(where: { $0.key.epoch == layout.epoch }) == 2 { splits += 1 }
        return map
    }

    func heard(_ happening: RepairMachine.Notice) {
        switch happening {
        case .completed: sweeps += 1
        case .moved: moves += 1
        default: break
        }
    }

    // MARK: Nodes

    func addNode(_ id: String) {
        let offset = random.pick(-3_600_000...3_600_000) + Self.epochOfClocks
        let model = CacheNodeModel(
            clock: offset, freshness: settings.freshness, hintLimit: 4, page: Int(random.pick(1...3)), flaws: nodeFlaws)
        nodes[id] = CacheNode(id: id, model: model, clockOffset: offset)
        ids.append(id)
    }

    func execute(
        _ call: CacheCall, at node: CacheNode, stamp: CacheStamp, run: String, from process: CacheProcess,
        _ answered: @escaping (CacheAnswer) -> Void
    ) {
        guard node.isUp else { return }
        if node.isFrozen {
            node.unread.append { self.execute(call, at: node, stamp: stamp, run: run, from: process, answered) }
            return
        }
        node.model.clock = now / .millisecond + node.clockOffset
        let answer = node.model.call(call, stamp: stamp, run: run)
        note("    \(node.id) \(process.name) in \(stamp.text) \(Self.text(call)) -> \(Self.text(answer))")
        answered(answer)
    }

    /// What a node's clock says at a moment of true time, as somebody knows it who may be wrong by a second.
    func clock(of id: String, at time: Nanos) -> Int64 {
        time / .millisecond + (nodes[id]?.clockOffset ?? 0) + 1_000
    }

    static func text(_ members: [CacheMember]) -> String {
        members.map { "\($0.id):\($0.weight)" }.joined(separator: " ")
    }

    static func text(_ call: CacheCall) -> String {
        switch call {
        case .put(let items, let notAfter):
            "put \(items.map { "\($0.key) \($0.entry.version.text)" })\(notAfter.map { " not after \($0)" } ?? "")"
        case .raise: "raise"
        case .hello: "hello"
        default: "\(call)"
        }
    }

    static func text(_ answer: CacheAnswer) -> String {
        let result =
            switch answer.result {
            case .put(let newer): newer.allSatisfy { $0 == nil } ? "has it" : "newer \(newer.map { $0?.text ?? "" })"
            case .outdated: "outdated"
            case .hello: "hello"
            case .entries(let entries):
                "\(entries.map { $0.map { "\($0.version.text)\($0.payload == nil ? "x" : "")" } ?? "-" })"
            case .heads(let heads): "\(heads.map { $0?.text ?? "-" })"
            default: "\(answer.result)"
            }
        return "\(result) whole \(answer.wholeEpoch) now \(answer.now)"
    }

    /// Members whose data is not complete, by the layout that is in force.
    var lacking: [String] {
        var due: [String: Int64] = [:]
        if layout.step != .switching { for one in layout.members { due[one.id] = layout.membersSince } }
        if layout.step == .switching { for one in layout.target { due[one.id] = layout.targetSince } }
        return due.keys.sorted().filter { id in
            let node = nodes[id]!
            return !node.isUp || node.wholeEpoch(now: now) < due[id]!
        }
    }

    private func watchThePromise() {
        after(20 * .millisecond) {
            let lacking = self.lacking
            let isTooMuch = lacking.count > max(1, min(self.settings.writes - 1, 1))
            if isTooMuch {
                self.note("beyond what is promised: \(lacking) have lost their data")
                self.isBeyondPromise = true
            }
            if !self.isOver { self.watchThePromise() }
        }
    }

    /// Whether a node's data may be lost now.
    func mayLose(_ node: CacheNode) -> Bool { lacking.allSatisfy { $0 == node.id } }

    private func snapshotAgain() {
        for node in nodes.values where node.isUp {
            node.snapshots.append(node.model)
            if node.snapshots.count > 4 { node.snapshots.removeFirst() }
        }
        after(250 * .millisecond) { if !self.isCalm { self.snapshotAgain() } }
    }

    // MARK: The coordinator

    /// Stores what is newer than what is there, and tells what is there then; nil if it is away.
    func publish(_ layout: CacheLayout, from process: CacheProcess, _ then: @escaping (CacheLayout?) -> Void) {
        after(travelTime()) {
            guard self.isCoordinatorUp else {
                return self.after(300 * .millisecond) { process.act { then(nil) } }
            }
            if layout.epoch > self.stored?.epoch ?? 0 {
                self.before = self.stored
                self.stored = layout
                _ = self.map(of: layout)
                if layout.epoch > self.layout.epoch || (layout.epoch == self.layout.epoch && layout != self.layout) {
                    self.note(
                        "\(process.name) publishes \(layout.stamp.text) \(layout.step) "
                            + "\(Self.text(layout.members)) -> \(Self.text(layout.target))"
                    )
                    self.layout = layout
                }
            }
            let current = self.stored
            self.after(self.travelTime()) { process.act { then(current) } }
        }
    }

    func coordinator(
        from process: CacheProcess, offering layout: CacheLayout, _ then: @escaping (CacheLayout?) -> Void
    ) {
        publish(layout, from: process, then)
    }
}
