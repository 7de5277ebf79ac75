// SPDX-License-Identifier: Apache-2.0
//
// Who calls the nodes of a simulated cache: clients that read and write, and repairers. Each is a shell around the real
// machines: it sends what they say and tells them what came of it.
import RingfenceCacheCore
import RingfenceCore
import TestSupport

/// Reads, writes and removes, one call at a time for each of its users.
final class CacheClient: CacheProcess {
    private var clock: HybridClock
    private var map: CacheMap
    /// ms; its wall clock is the true one and this.
    var wallOffset: Int64
    private(set) var isIdle = true

    init(_ world: CacheWorld, name: String, writer: UInt64, map: CacheMap, wallOffset: Int64) {
        clock = HybridClock(writer: writer)
        self.map = map
        self.wallOffset = wallOffset
        super.init(world, name: name)
    }

    private var settings: CacheWorld.Settings { world.settings }

    func begin() {
        watch()
        goOn()
    }

    /// The coordinator tells the layout, and is told it if it knows less.
    private func watch() {
        world.coordinator(from: self, offering: map.layout) { self.adopt($0) }
        after(world.dice(200 * .millisecond...600 * .millisecond)) { self.watch() }
    }

    private func adopt(_ layout: CacheLayout?) {
        guard let layout, layout.epoch > map.stamp.epoch, let map = world.map(of: layout) else { return }
        self.map = map
    }

    /// What a node that refused was told of: another of the same epoch, too.
    private func adopt(refusal json: [UInt8]?) {
        guard let layout = json.flatMap({ CacheLayout(json: $0) }), layout.stamp != map.stamp,
            layout.epoch >= map.stamp.epoch, let map = world.map(of: layout)
        else { return }
        self.map = map
    }

    private func goOn() {
        after(world.dice(5 * .millisecond...world.rest)) {
            guard !self.world.isOver else { return }
            let key = self.world.random.pick(self.world.keys)
            switch self.world.random.pick(0...9) {
            case 0...4: self.read(key) { _ in self.goOn() }
            case 5...7:
                let ttl = self.world.random.chance(25) ? self.world.dice(500 * .millisecond...6 * .second) : nil
                self.write(key, isRemoval: false, ttl: ttl) { _ in self.goOn() }
            default: self.write(key, isRemoval: true, ttl: nil) { _ in self.goOn() }
            }
        }
    }

    private func failed(_ what: String) {
        world.checker.failedOne()
        world.failed(what)
    }

    // MARK: Writing

    func write(_ key: String, isRemoval: Bool, ttl: Nanos?, _ then: @escaping (Bool) -> Void) {
        let write = world.checker.began(key, payload: !isRemoval, ttl: ttl)
        let deadline = world.now + settings.callLimit
        let ttl = write.ttl.map { $0 / .millisecond }
        let life = isRemoval ? settings.life : ttl.map { $0 + settings.life }
        var map = map
        var call = CacheWriteCall(
            map, key: key,
            entry: CacheEntry(
                version: nextVersion(), payload: write.payload, ttlMilliseconds: ttl, lifeMilliseconds: life),
            writes: settings.writes, sloppy: false, deadline: deadline, now: world.now, isSlow: drawSlow())
        func finish(_ isDone: Bool) {
            world.note("\(name) write \(write.number) of \(key) \(isDone ? "is done" : "fails")")
            if isDone { world.checker.completed(write) } else { failed("a write") }
            then(isDone)
        }
        func begin(_ action: CacheWriteCall.Action) {
            if case .send(_, let attempt) = action {
                let version = call.entry.version
                world.checker.sent(write, version)
                world.note(
                    "\(name) write \(write.number) of \(key)\(isRemoval ? " (removal)" : "")"
                        + "\(ttl.map { " ttl \($0)" } ?? "") as \(version.text) in \(map.stamp.text)")
                if call.hasRest {
                    after(CacheWriteCall.patience) {
                        guard call.isCurrent(attempt) else { return }
                        send(to: call.rest(now: self.world.now).nodes, attempt)
                    }
                }
            }
            perform(action)
        }
        func again(_ version: CacheVersion?) {
            let current = self.map
            let action = call.again(current, version: version, now: world.now, isSlow: drawSlow())
            if case .send = action { map = current }
            begin(action)
        }
        func perform(_ action: CacheWriteCall.Action) {
            switch action {
            case .none: break
            case .send(let nodes, let attempt): send(to: nodes, attempt)
            case .succeed: finish(true)
            case .newer(let version):
                clock.saw(version)
                if world.flaws.takesNewerForDone { finish(true) } else { again(nextVersion()) }
            case .outdated(let json):
                adopt(refusal: json)
                // Whoever waits for the coordinator to know more asks again a little later.
                after(map.stamp != self.map.stamp ? 0 : 20 * .millisecond) { again(nil) }
            case .fail: finish(false)
            }
        }
        func send(to nodes: [Int], _ attempt: Int) {
            for node in nodes {
                let notAfter = world.clock(of: map.ids[node], at: deadline)
                // Between two of them it may be paused.
                if world.mishap(.pauseClient, 1) { pause(for: world.dice(100 * .millisecond...world.longestPause)) }
                act { if call.isCurrent(attempt) { put(to: node, notAfter: notAfter, attempt) } }
            }
        }
        func put(to node: Int, notAfter: Int64, _ attempt: Int) {
            let map = map
            self.send(
                .put([CacheItem(key, call.entry)], notAfter: notAfter), to: map.ids[node], stamp: map.stamp,
                deadline: deadline
            ) { result in
                let step = call.heard(node, self.spoiled(result), attempt: attempt, now: self.world.now)
                perform(step.action)
                if !step.missing.isEmpty { self.hint(step.missing, map, key) }
            }
        }
        begin(call.begin())
    }

    private func nextVersion() -> CacheVersion {
        clock.next(wallMilliseconds: world.now / .millisecond + wallOffset + CacheWorld.epochOfClocks)
    }

    /// Which node it holds to be slow.
    private func drawSlow() -> (Int) -> Bool {
        let slow = world.random.chance(30) ? world.random.pick(0...5) : -1
        return { $0 == slow }
    }

    private func spoiled(_ result: Result<CacheAnswer, CacheFailure>) -> Result<CacheAnswer, CacheFailure> {
        guard world.flaws.countsUnwhole else { return result }
        return result.map { answer in
            var answer = answer
            answer.wholeEpoch = .max
            return answer
        }
    }

    private func hint(_ missing: [Int], _ map: CacheMap, _ key: String) {
        guard let keeper = map.hintKeepers(of: key).first(where: { !missing.contains($0) }) else { return }
        for node in missing {
            send(
                .hint(target: map.ids[node], keys: [key]), to: map.ids[keeper], stamp: map.stamp,
                deadline: world.now + settings.callLimit
            ) { _ in }
        }
    }

    // MARK: Reading

    func read(_ key: String, _ then: @escaping (Bool) -> Void) {
        let began = world.now
        let deadline = began + settings.callLimit
        var map = map
        var call = CacheReadCall(map, key: key, reads: settings.reads, deadline: deadline)
        func finish(_ result: CacheEntry??) {
            if let entry = result {
                world.note(
                    "\(name) read of \(key) from \(CacheChecker.time(began)) finds \(entry?.version.text ?? "nothing") "
                        + "\(entry?.payload.map { String(decoding: $0, as: UTF8.self) } ?? "-")")
                if let entry { clock.saw(entry.version) }
                world.checker.read(key, began: began, entry)
            } else {
                world.note("\(name) read of \(key) fails")
                failed("a read")
            }
            then(result != nil)
        }
        func again() {
            let current = self.map
            let action = call.again(current, now: world.now)
            if case .send = action { map = current }
            perform(action)
        }
        func perform(_ action: CacheReadCall.Action) {
            switch action {
            case .none: break
            case .send(let nodes, let attempt): for node in nodes { get(from: node, attempt) }
            case .succeed(let entry): finish(.some(entry))
            case .outdated(let json):
                adopt(refusal: json)
                after(map.stamp != self.map.stamp ? 0 : 20 * .millisecond) { again() }
            case .fail: finish(nil)
            }
        }
        func get(from node: Int, _ attempt: Int) {
            let map = map
            send(.get([key]), to: map.ids[node], stamp: map.stamp, deadline: deadline) { result in
                let step = call.heard(node, self.spoiled(result), attempt: attempt, now: self.world.now)
                perform(step.action)
                self.repair(step.repairs, map, key)
            }
        }
        perform(call.begin())
    }

    private func repair(_ repairs: [CacheReadMachine.Repair], _ map: CacheMap, _ key: String) {
        guard !repairs.isEmpty else { return }
        // It may be paused before it comes to that.
        after(world.mishap(.pauseClient, 10) ? world.dice(0...CacheWorld.latest) : 0) {
            for repair in repairs {
                self.send(
                    .put([CacheItem(key, repair.entry)], notAfter: repair.notAfter), to: map.ids[repair.node],
                    stamp: map.stamp, deadline: self.world.now + self.settings.callLimit
                ) { _ in }
            }
        }
    }
}

/// A process with a repairer in it.
final class CacheRepairer: CacheProcess {
    private(set) var machine: RepairMachine
    private var timer = 0

    init(_ world: CacheWorld, name: String, map: CacheMap, isNew: Bool) {
        machine = RepairMachine(
            map, settings: world.settings.repairer, nonce: name, change: world.random.next(), isNew: isNew,
            now: world.now)
        super.init(world, name: name)
    }

    func begin() {
        watch()
        go { _ in [] }
    }

    private func watch() {
        machine.saw(world.present, now: world.now)
        for id in world.goneForGood { machine.forget(id, now: world.now) }
        world.coordinator(from: self, offering: machine.map.layout) { current in
            guard let current, let map = self.world.map(of: current) else { return }
            self.go { machine in
                machine.adopt(map, now: self.world.now)
                return []
            }
        }
        after(world.dice(200 * .millisecond...500 * .millisecond)) { self.watch() }
    }

    private func go(_ change: (inout RepairMachine) -> [RepairMachine.Action]) {
        for action in change(&machine) + machine.tick(now: world.now) {
            switch action {
            case .call(let id, let node, let stamp, let call):
                if world.mishap(.pauseRepairer, 1) { pause(for: world.dice(200 * .millisecond...world.longestPause)) }
                act {
                    self.send(
                        call, to: node, stamp: stamp, deadline: self.world.now + self.world.settings.callLimit
                    ) { result in
                        self.go { $0.answered(id, result, now: self.world.now) }
                    }
                }
            case .publish(let layout):
                act {
                    self.world.publish(layout, from: self) { current in
                        self.go { $0.published(current, now: self.world.now) }
                    }
                }
            case .tell(let happening):
                world.note("\(name): \(happening)")
                world.heard(happening)
            }
        }
        timer += 1
        let mine = timer
        let wakeAt = machine.wakeAt
        if wakeAt != .never {
            after(max(0, wakeAt - world.now)) { if self.timer == mine { self.go { _ in [] } } }
        }
    }
}
