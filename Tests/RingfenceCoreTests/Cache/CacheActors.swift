// SPDX-License-Identifier: Apache-2.0
//
// Who calls the nodes of a simulated cache: clients that read and write, and stewards. Each is a shell around the real
// machines: it sends what they say and tells them what came of it.
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
        var isOver = false
        func finish(_ isDone: Bool, _ why: String) {
            guard !isOver else { return }
            isOver = true
            world.note("\(name) write \(write.number) of \(key) \(isDone ? "is done" : "fails: \(why)")")
            if isDone { world.checker.completed(write) } else { failed("a write") }
            then(isDone)
        }
        after(settings.callLimit) { finish(false, "time") }
        attempt(write, deadline: deadline, finish)
    }

    private func attempt(
        _ write: CacheChecker.Write, deadline: Nanos, _ finish: @escaping (Bool, String) -> Void
    ) {
        let version = clock.next(wallMilliseconds: world.now / .millisecond + wallOffset + CacheWorld.epochOfClocks)
        let map = map
        world.checker.sent(write, version)
        world.note(
            "\(name) write \(write.number) of \(write.key)\(write.payload == nil ? " (removal)" : "")"
                + "\(write.ttl.map { " ttl \($0 / .millisecond)" } ?? "") as \(version.text) in \(map.stamp.text)")
        let slow = world.random.chance(30) ? world.random.pick(0...5) : -1
        var machine = CacheWriteMachine(map, key: write.key, writes: settings.writes, sloppy: false) { $0 == slow }
        let ttl = write.ttl.map { $0 / .millisecond }
        let life = write.payload == nil ? settings.life : ttl.map { $0 + settings.life }
        let entry = CacheEntry(version: version, payload: write.payload, ttlMilliseconds: ttl, lifeMilliseconds: life)
        var isHinted = false
        func went(_ action: CacheWriteMachine.Action) {
            switch action {
            case .none: break
            case .done: finish(true, "")
            case .again(let above):
                clock.saw(above)
                if world.flaws.takesNewerForDone {
                    finish(true, "")
                } else if world.now < deadline {
                    attempt(write, deadline: deadline, finish)
                }
            case .outdated(let json):
                adopt(refusal: json)
                // Whoever waits for the coordinator to know more asks again a little later.
                after(map.stamp != self.map.stamp ? 0 : 20 * .millisecond) {
                    if self.world.now < deadline { self.attempt(write, deadline: deadline, finish) }
                }
            case .send(let nodes): send(to: nodes)
            case .failed: finish(false, "nodes")
            }
            if machine.isSettled, !isHinted {
                isHinted = true
                hint(machine, map, write.key)
            }
        }
        func send(to nodes: [Int]) {
            for node in nodes {
                let notAfter = world.clock(of: map.ids[node], at: deadline)
                // Between two of them it may be paused.
                if world.mishap(.pauseClient, 1) { pause(for: world.dice(100 * .millisecond...world.longestPause)) }
                act { put(to: node, notAfter: notAfter) }
            }
        }
        func put(to node: Int, notAfter: Int64) {
            self.send(
                .put([CacheItem(write.key, entry)], notAfter: notAfter), to: map.ids[node], stamp: map.stamp,
                deadline: deadline
            ) { result in
                switch result {
                // What comes too late is not counted.
                case .success(var answer) where self.world.now < deadline:
                    if self.world.flaws.countsUnwhole { answer.wholeEpoch = .max }
                    went(machine.answered(node, answer))
                case .success: went(machine.failed(node, .unknown))
                case .failure(let failure): went(machine.failed(node, failure))
                }
            }
        }
        send(to: machine.first)
        after(.millisecond) {
            // Who was away for too long does not send any more.
            if self.world.now < deadline { send(to: machine.rest()) }
        }
    }

    private func hint(_ machine: CacheWriteMachine, _ map: CacheMap, _ key: String) {
        guard !machine.missing.isEmpty, !machine.holders.isEmpty else { return }
        let keepers = map.hintKeepers(of: key)
        for missing in machine.missing {
            guard let keeper = keepers.first(where: { $0 != missing && !machine.missing.contains($0) }) else {
                continue
            }
            send(
                .hint(target: map.ids[missing], keys: [key]), to: map.ids[keeper], stamp: map.stamp,
                deadline: world.now + settings.callLimit
            ) { _ in }
        }
    }

    // MARK: Reading

    func read(_ key: String, _ then: @escaping (Bool) -> Void) {
        let began = world.now
        var isOver = false
        func finish(_ result: CacheEntry??, _ why: String) {
            guard !isOver else { return }
            isOver = true
            if let entry = result {
                world.note(
                    "\(name) read of \(key) from \(CacheChecker.time(began)) finds \(entry?.version.text ?? "nothing") "
                        + "\(entry?.payload.map { String(decoding: $0, as: UTF8.self) } ?? "-")")
                if let entry { clock.saw(entry.version) }
                world.checker.read(key, began: began, entry)
            } else {
                world.note("\(name) read of \(key) fails: \(why)")
                failed("a read")
            }
            then(result != nil)
        }
        after(settings.callLimit) { finish(nil, "time") }
        look(key, deadline: began + settings.callLimit, finish)
    }

    private func look(_ key: String, deadline: Nanos, _ finish: @escaping (CacheEntry??, String) -> Void) {
        let map = map
        var machine = CacheReadMachine(map, key: key, reads: settings.reads)
        var isRepaired = false
        func went(_ action: CacheReadMachine.Action) {
            switch action {
            case .none: break
            case .done(let entry): finish(.some(entry), "")
            case .outdated(let json):
                adopt(refusal: json)
                after(map.stamp != self.map.stamp ? 0 : 20 * .millisecond) {
                    if self.world.now < deadline { self.look(key, deadline: deadline, finish) }
                }
            case .failed: finish(nil, "nodes")
            }
            if machine.isSettled, !isRepaired {
                isRepaired = true
                let repairs = machine.repairs
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
        for node in machine.nodes {
            send(.get([key]), to: map.ids[node], stamp: map.stamp, deadline: deadline) { result in
                switch result {
                case .success(var answer) where self.world.now < deadline:
                    if self.world.flaws.countsUnwhole { answer.wholeEpoch = .max }
                    went(machine.answered(node, answer))
                default: went(machine.failed(node))
                }
            }
        }
    }
}

/// A process with a steward in it.
final class CacheSteward: CacheProcess {
    private(set) var machine: StewardMachine
    private var timer = 0

    init(_ world: CacheWorld, name: String, map: CacheMap, isNew: Bool) {
        machine = StewardMachine(
            map, settings: world.settings.steward, nonce: name, change: world.random.next(), isNew: isNew,
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

    private func go(_ change: (inout StewardMachine) -> [StewardMachine.Action]) {
        for action in change(&machine) + machine.tick(now: world.now) {
            switch action {
            case .call(let id, let node, let stamp, let call):
                if world.mishap(.pauseSteward, 1) { pause(for: world.dice(200 * .millisecond...world.longestPause)) }
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
